"""Loads the processor of a vision-language model, without its part for videos where torchvision is missing.

transformers builds a processor whole: where one reads videos as well (Qwen2.5-VL, InternVL), that part needs
torchvision, for which images have no use. t2 reads no videos, so that such a processor is put together without it. Not
done here: what a processor makes of an image (`t2.models.image_inputs`).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import (
    PROCESSOR_MAPPING,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import BaseVideoProcessor

log = logging.getLogger(__name__)
MAKERS = {"tokenizer": AutoTokenizer, "image_processor": AutoImageProcessor, "feature_extractor": AutoFeatureExtractor}


class NoVideos(dict[str, Any]):
    """Stands for a processor's part for videos, and keeps its settings, so that a saved processor has them."""

    _auto_class = None  # as transformers asks each part of a processor for, on saving


def load_processor(location: str, config: PreTrainedConfig, **options: Any) -> Any:
    """The processor of a model in a folder or on the hub.

    Raises:
        OSError: a file of it cannot be found or fetched.
        ValueError: a part of it needs a package that is not installed, or code of its own from the hub.
    """
    kind = PROCESSOR_MAPPING.get(type(config), None)
    try:
        if kind is None or "video_processor" not in kind.get_attributes() or is_torchvision_available():
            return AutoProcessor.from_pretrained(location, trust_remote_code=False, **options)
        log.info("%s is loaded without its part for videos, which needs torchvision.", kind.__name__)
        return _in_parts(kind, location, options)
    except ImportError as error:
        raise ValueError(f"The processor of {location} cannot be made: {_line(error)} Install that package.") from error
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"The processor of {location} is code of its own on the hub, which t2 does not run. Give a model whose "
            "processor transformers has."
        ) from error
    except OSError as error:
        if not Path(location).is_dir():
            raise
        raise FileNotFoundError(
            f"The folder {location} has the weights of a vision-language model and no whole processor: {_line(error)} "
            "Save it there, as processor.save_pretrained does (processor_config.json or preprocessor_config.json, and "
            "the tokenizer)."
        ) from error


def _in_parts(kind: Any, location: str, options: dict[str, Any]) -> Any:
    if missing := {*kind.get_attributes()} - {*MAKERS, "video_processor"}:
        raise ValueError(
            f"The processor of {location} ({kind.__name__}) has parts of its own ({', '.join(sorted(missing))}) and is "
            "loaded only whole, for which transformers needs torchvision. Install torchvision."
        )
    settings, _ = kind.get_processor_dict(location, **options)
    of_videos, _ = BaseVideoProcessor.get_video_processor_dict(location, **options)
    parts = {
        name: maker.from_pretrained(location, **options)
        for name, maker in MAKERS.items()
        if name in kind.get_attributes()
    }
    parts["video_processor"] = NoVideos(of_videos)
    return without_videos(kind).from_args_and_dict([parts[name] for name in kind.get_attributes()], settings)


def _line(error: Exception) -> str:
    """The first sentence of a message, on one line."""
    return " ".join(str(error).split()).partition(". ")[0].rstrip(".") + "."


def without_videos(kind: type[Any]) -> type[Any]:
    """A class of processors that takes `NoVideos` for its part for videos; it has the same name, which is saved."""

    def check(self: Any, name: str, part: Any) -> Any:
        return NoVideos if isinstance(part, NoVideos) else kind.check_argument_for_proper_class(self, name, part)

    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": check, "__module__": kind.__module__})
