"""An expert: one scale per singular value of each adapted matrix, the file it lives in, and its checks.

The vector z of Transformer² (arXiv 2501.06252, section 3.1) is kept as the *effective* multiplier of each
singular value (1 = unchanged), whatever parametrization trained it. Files are safetensors with string
metadata. Nothing here mixes experts or runs a model, and nothing is ever unpickled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from t2.experts.fingerprint import fingerprint_of, same_weights, weights_note
from t2.run.files import save_tensors

FORMAT_VERSION = 1
EXPERT_FILE = "expert.safetensors"  # its name in the folder of a training run


@dataclass(frozen=True)
class ExpertMetadata:
    """What an expert was trained on, for and by. `fingerprint` is made by `fingerprint_of`."""

    base_model: str
    fingerprint: str
    parametrization: str
    task: str
    domain: str
    description: str
    objective: str
    step: int
    t2_version: str
    val_before: float | None = None
    val_after: float | None = None
    git_commit: str | None = None
    format_version: int = FORMAT_VERSION

    def to_strings(self) -> dict[str, str]:
        """The metadata of a safetensors file; what is None is left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> ExpertMetadata:
        """The inverse of `to_strings`.

        Raises:
            ValueError: the format version is missing or unknown, or a field is missing or not a number.
        """
        version = strings.get("format_version")
        if version is None:
            raise ValueError(
                "its metadata has no format_version, so it was not saved as an expert. "
                "Give the expert.safetensors of a training run."
            )
        if version != str(FORMAT_VERSION):
            raise ValueError(
                f"its format_version is {version!r}; this t2 reads {FORMAT_VERSION}. Use the t2 that saved it"
                f" ({strings.get('t2_version', 'version unknown')}), or train the expert again."
            )
        optional = {"val_before", "val_after", "git_commit"}
        missing = [f.name for f in fields(cls) if f.name not in strings and f.name not in optional]
        if missing:
            raise ValueError(f"its metadata lacks {', '.join(missing)}. Save it again with Expert.save.")
        return cls(
            base_model=strings["base_model"],
            fingerprint=strings["fingerprint"],
            parametrization=strings["parametrization"],
            task=strings["task"],
            domain=strings["domain"],
            description=strings["description"],
            objective=strings["objective"],
            step=int(_number(strings, "step")),
            t2_version=strings["t2_version"],
            val_before=_number(strings, "val_before") if "val_before" in strings else None,
            val_after=_number(strings, "val_after") if "val_after" in strings else None,
            git_commit=strings.get("git_commit"),
        )


@dataclass(frozen=True)
class Expert:
    """Module name in the model -> effective multiplier of each singular value, fp32 (R,); 1 = unchanged."""

    scales: Mapping[str, Tensor]
    metadata: ExpertMetadata

    def __post_init__(self) -> None:
        """Raise ValueError unless every scale is a finite, non-empty fp32 vector."""
        if not self.scales:
            raise ValueError("the expert is empty: it scales no module. An expert has at least one.")
        for module, scale in self.scales.items():
            if scale.ndim != 1 or scale.numel() == 0 or scale.dtype != torch.float32:
                raise ValueError(
                    f"the scale of {module} is {scale.dtype} of shape {tuple(scale.shape)}; "
                    "an expert holds one float32 vector (R,) per module."
                )
            bad = int((~scale.isfinite()).sum())
            if bad:
                raise ValueError(
                    f"the scale of {module} has {bad} of {scale.numel()} values that are NaN or infinite. "
                    "The training diverged: lower the learning rate or take an earlier checkpoint."
                )

    def save(self, path: Path) -> Path:
        """Write the expert to `path` and return it; what was there stays intact if writing fails.

        Raises:
            OSError: the file cannot be written, a full disk included.
        """
        # Cloned because safetensors refuses tensors that share memory.
        scales = {module: scale.detach().clone() for module, scale in self.scales.items()}
        save_tensors(path, scales, self.metadata.to_strings())
        return path

    @classmethod
    def load(cls, path: Path | str) -> Expert:
        """Read an expert; whether it fits a model is for `check` to say.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no expert, or its content is damaged.
        """
        path = Path(path)
        if not path.is_file():
            found = sorted(other.name for other in path.parent.glob("*.safetensors"))
            near = _did_you_mean(path.name, found)
            raise FileNotFoundError(f"No expert file at {path}.{near} Give the path of a *.safetensors file.")
        try:
            with safe_open(path, framework="pt") as file:
                strings: dict[str, str] = file.metadata() or {}
                # Cloned because the tensors are maps of the file and would change with it.
                modules = file.keys()
                scales = {module: file.get_tensor(module).clone() for module in modules}
        except SafetensorError as error:
            raise ValueError(f"{path} {_why_unreadable(path)} ({error}).") from error
        try:
            return cls(scales, ExpertMetadata.from_strings(strings))
        except ValueError as error:
            raise ValueError(f"{path} cannot be used as an expert: {error}") from error

    @staticmethod
    def find(place: Path | str) -> Path:
        """The expert file of a training run's folder, or the file itself.

        Raises:
            FileNotFoundError: the folder holds no expert.
        """
        path = Path(place)
        if not path.is_dir():
            return path
        if not (path / EXPERT_FILE).is_file():
            raise FileNotFoundError(
                f"{path} holds no {EXPERT_FILE}: it is not the folder of a training run that has validated yet."
            )
        return path / EXPERT_FILE

    @property
    def parameter_count(self) -> int:
        """How many numbers the expert is."""
        return sum(scale.numel() for scale in self.scales.values())

    def check(self, *, base_model: str, fingerprint: str, shapes: Mapping[str, int], transfer: bool = False) -> None:
        """Raise ValueError unless this expert belongs to the loaded model.

        Args:
            base_model: source of the loaded model.
            fingerprint: `fingerprint_of` the loaded model's singular values.
            shapes: adapted module of the loaded model -> R.
            transfer: accept an expert of another model, as long as its modules and their sizes fit.
        """
        models = f"The expert was trained for {self.metadata.base_model}; the loaded model is {base_model}."
        unknown = [module for module in self.scales if module not in shapes]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of the expert's {len(self.scales)} modules are not adapted in this model, "
                f"{unknown[0]} for one.{_did_you_mean(unknown[0], list(shapes))} {models} "
                "Load that model, with the adapter on the modules it had in training."
            )
        for module, scale in self.scales.items():
            if scale.numel() != shapes[module]:
                raise ValueError(
                    f"The expert's scale of {module} has {scale.numel()} values, expected {shapes[module]}, "
                    f"one per singular value of that matrix. {models} Sizes must agree, transfer=true or not."
                )
        if transfer:
            return
        same = same_weights(self.metadata.fingerprint, fingerprint)
        if same and self.metadata.base_model == base_model:
            return
        raise ValueError(
            f"{models} {weights_note(self.metadata.fingerprint, fingerprint)} "
            "Load the model it was trained for, or set transfer=true to use it on this one."
        )


class SingularValueAdapter(Protocol):
    """What an expert can be worn by: an adapter that knows its matrices' singular values."""

    singular_values: dict[str, Tensor]

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Wear the given multipliers."""
        ...


def apply_expert(adapter: SingularValueAdapter, expert: Expert, *, source: str, transfer: bool = False) -> None:
    """Check that the expert fits the model from `source` that wears `adapter`, and load it.

    Raises:
        ValueError: the expert is of another model (unless `transfer`), or of other shapes.
    """
    values = adapter.singular_values
    expert.check(
        base_model=source,
        fingerprint=fingerprint_of(values),
        shapes={module: len(s) for module, s in values.items()},
        transfer=transfer,
    )
    adapter.load(expert.scales)


def _number(strings: Mapping[str, str], name: str) -> float:
    try:
        number = float(strings[name])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"its metadata has {name} = {strings[name]!r}; expected a finite number.")
    return number


def _did_you_mean(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _why_unreadable(path: Path) -> str:
    # Looked at only now: a safetensors file may start with the same bytes, which give its header's length.
    with path.open("rb") as file:
        magic = file.read(4)
    pickled = magic[:1] == b"\x80" and magic[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if pickled or magic == b"PK\x03\x04":
        return "is a pickle or a zip archive under another name, which could run code; t2 never opens those"
    return "is truncated or no safetensors file; copy it again or use another expert"
