"""What stands around the body of each script: checked overrides, resuming, and errors a user can act on.

A script is `launch(body, conf, name)`: Hydra composes the configuration, the body runs, and an error made by the user
is one message instead of a traceback (HYDRA_FULL_ERROR=1 shows both). Nothing here reads a configuration.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
)
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from t2.run.renamed import old_targets, renamed_override, renamed_target, target_in

log = logging.getLogger(__name__)
TEXT_KEYS = ("prompt", "system", "description")  # values that are prose
USER_ERRORS = (ValueError, OSError, ImportError, MisconfigurationException, OmegaConfBaseException)


def launch(body: Callable[[DictConfig], Any], *, conf: Path, name: str) -> None:
    """Run `body` with the configuration `conf/name.yaml` and the overrides of the command line."""
    arguments = sys.argv[1:] = quote_text(sys.argv[1:])
    resumed = resume_arguments(arguments)
    if resumed is None:
        try:
            check_overrides(conf, name, arguments)
        except ValueError as error:
            raise SystemExit(f"error: {error}") from None
    else:
        sys.argv[1:] = resumed
    hydra.main(version_base="1.3", config_path=str(conf), config_name=name)(_plain_errors(body))()


def _plain_errors(body: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """The body with user errors shown as one message and exit code 1."""

    @functools.wraps(body)
    def guarded(cfg: DictConfig) -> Any:
        try:
            return body(cfg)
        except (*USER_ERRORS, InstantiationException) as error:
            cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
            target = target_in(str(error))
            if target is not None and renamed_target(target) is not None:
                log.error("The configuration names %s, which is now %s. Correct it.", target, renamed_target(target))
                raise SystemExit(1) from None
            if os.environ.get("HYDRA_FULL_ERROR") or not isinstance(cause, USER_ERRORS):
                raise
            log.error("%s", cause)
            raise SystemExit(1) from None

    return guarded


def quote_text(arguments: Sequence[str]) -> list[str]:
    """Quote free text, so that a prompt may hold the signs that mean something in Hydra's grammar.

    `prompt=7 + 8 =` becomes `prompt="7 + 8 ="`; what is quoted already is left alone.
    """
    quoted = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key in TEXT_KEYS and equals and value[:1] not in ("'", '"') and value != "null":
            # Hydra reads backslashes literally, except before a quote.
            escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ("\\" + found[2]) * bool(found[2]), value)
            argument = f'{key}="{escaped}"'
        quoted.append(argument)
    return quoted


def resume_arguments(arguments: Sequence[str]) -> list[str] | None:
    """The command line that goes on with the run named by `resume=RUN`, or None where there is none.

    The run's own configuration is read back from `RUN/.hydra`, further overrides come on top, and the run folder
    stays RUN.
    """
    runs = [argument.partition("=")[2] for argument in arguments if argument.startswith("resume=")]
    if not runs or runs[-1] in ("null", ""):
        return None
    run = Path(runs[-1]).resolve()
    try:
        check_run(run)
        check_targets(run)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    others = [argument for argument in arguments if not argument.startswith("resume=")]
    return [
        *(f"--config-path={run / '.hydra'}", "--config-name=config"),
        *(f"hydra.run.dir={run}", "hydra.output_subdir=null", f"resume={run}"),
        *others,
    ]


def check_run(run: Path) -> None:
    """Raise ValueError unless `run` is the folder of a training run that can go on."""
    for needed, what in (
        (".hydra/config.yaml", "its configuration"),
        ("checkpoints/last.ckpt", "a checkpoint"),
    ):
        if not (run / needed).is_file():
            raise ValueError(
                f"resume={run}: there is no {needed} ({what}), so this is not the folder of an interrupted training "
                "run. Give the folder that train.py printed, e.g. outputs/train/DATE/TIME."
            )


def check_targets(run: Path) -> None:
    """Raise ValueError if the configuration of `run` names parts of an older t2."""
    old = next(old_targets(OmegaConf.to_container(OmegaConf.load(run / ".hydra/config.yaml"), resolve=False)), None)
    if old is not None:
        raise ValueError(
            f"resume={run}: an older t2 started this run: its configuration names {old}, which is now "
            f"{renamed_target(old)}. Go on with that version, or train anew; the run's expert can be used as it is "
            f"(expert={run})."
        )


def check_overrides(conf: Path, name: str, arguments: Sequence[str]) -> None:
    """Compose the configuration once beforehand, to say what was probably meant.

    Raises:
        ValueError: an unknown group choice or key, or an override that does not parse.
    """
    texts = [argument for argument in arguments if not argument.startswith("-") and "=" in argument]
    for text in texts:
        if (now := renamed_override(text)) is not None:
            raise ValueError(f"{text!r}: that was renamed. Write {now}.")
    try:
        overrides = [_first_of_sweep(text) for text in texts]
        with hydra.initialize_config_dir(str(conf), version_base="1.3"):
            known = list(_keys(OmegaConf.to_container(hydra.compose(name), resolve=False)))
            try:
                hydra.compose(name, overrides=[text for text in overrides if text])
            except MissingConfigException as error:
                choice = (error.missing_cfg_file or "").rpartition("/")[2]
                raise ValueError(f"{error}{_did_you_mean(choice, error.options or [])}") from None
            except ConfigCompositionException as error:
                key = str(error).partition("'")[2].partition("'")[0]
                groups = [path.name for path in conf.iterdir() if path.is_dir()]
                raise ValueError(
                    f"{error}{_did_you_mean(key, [*known, *groups])} `python {name}.py --help` lists every key."
                ) from None
    except HydraException as error:
        raise ValueError(str(error)) from None


def _first_of_sweep(text: str) -> str | None:
    """One value of a sweep such as `task=a,b`; None for what cannot be told here: globs, intervals, Hydra keys."""
    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ValueError(f"The override {text!r} does not parse: {error}") from None
    if text.lstrip("+~").startswith("hydra"):
        return None
    if parsed.value_type in (ValueType.GLOB_CHOICE_SWEEP, ValueType.INTERVAL_SWEEP):
        return None
    if parsed.is_sweep_override():
        value = next(iter(parsed.sweep_string_iterator()))
        return f"{parsed.get_key_element()}={value}"
    return text


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")


def _did_you_mean(got: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(got, allowed, n=1, cutoff=0.5)
    return f"\nDid you mean {near[0]!r}?" if near else ""


def quiet_libraries() -> None:
    """Leave out what libraries say at every start and nobody needs twice."""
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.pytorch.accelerators",
        "lightning.fabric",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # batches are lists of text
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")  # Lightning 2.6 on torch 2.13
