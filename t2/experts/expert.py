"""An expert: one multiplier z per singular value of each adapted matrix, its metadata, and its file.

The vector z of Transformer² (arXiv 2501.06252, section 3.1) is stored as the *effective* multiplier of each singular
value (1 = unchanged), whatever parametrization trained it. Files are safetensors with string metadata and a checksum;
nothing is unpickled. Not done here: mixing experts (`t2.experts.pool`), running a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from t2.adapters.spectrum import learned_count
from t2.experts.content import check_is_svf, check_modules, check_range, check_scales, check_score, why_no_expert
from t2.experts.fingerprint import adapter_fingerprint, same_weights, weights_note
from t2.run.messages import did_you_mean
from t2.run.places import located
from t2.run.tensor_files import read_tensors, save_tensors

FORMAT_VERSION = 1
EXPERT_FILE = "expert.safetensors"  # its name in the folder of a training run


@dataclass(frozen=True)
class ExpertMetadata:
    """How an expert was trained: base model, task, objective, scores; `fingerprint` is that of `fingerprint_of`.

    `prompts` are hashes (`t2.tasks.prompt_hash`) of the questions that it was trained and validated on; None: unknown.
    `learned` says which singular values have a number of their own, as `t2.adapters.spectrum.Spectrum` writes it;
    None: every one. `adapter` holds the settings of another adapter than SVF, as JSON (`t2.experts.adapter_weights`).
    `coverage` says how much of the blocks' weights was adapted, and what was left (`t2.adapters.coverage`). `start` is
    the SHA-256 of the file that training began with, whose questions are among `prompts`; None: it began with the base.
    """

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
    prompts: frozenset[str] | None = None
    learned: str | None = None
    adapter: str | None = None
    coverage: str | None = None
    start: str | None = None
    format_version: int = FORMAT_VERSION

    def to_strings(self) -> dict[str, str]:
        """The metadata of a safetensors file; fields that are None are left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.prompts is not None:
            values["prompts"] = " ".join(sorted(self.prompts))
        return {name: str(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> ExpertMetadata:
        """Parse the metadata of a safetensors file, the inverse of `to_strings`.

        Raises:
            ValueError: the format version is missing or unknown, a field is missing, unknown or not a number.
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
        optional = {f.name for f in fields(cls) if f.default is None}
        missing = [f.name for f in fields(cls) if f.name not in strings and f.name not in optional]
        if missing:
            raise ValueError(f"its metadata lacks {', '.join(missing)}. Save it again with Expert.save.")
        unknown = sorted(strings.keys() - {f.name for f in fields(cls)})
        if unknown:
            near = did_you_mean(unknown[0], (f.name for f in fields(cls)))
            raise ValueError(f"its metadata has {unknown[0]!r}, which no expert has.{near} Save it with Expert.save.")
        step = _number(strings, "step")
        if step < 0 or step != int(step):
            raise ValueError(f"its metadata has step = {strings['step']!r}; expected a whole number, at least 0.")
        before, after = (_number(strings, name) if name in strings else None for name in ("val_before", "val_after"))
        check_score("val_before", before)
        check_score("val_after", after)
        texts: dict[str, Any] = {f.name: strings.get(f.name) for f in fields(cls) if str(f.type).startswith("str")}
        prompts = frozenset(strings["prompts"].split()) if "prompts" in strings else None
        return cls(**texts, step=int(step), val_before=before, val_after=after, prompts=prompts)


@dataclass(frozen=True)
class Expert:
    """An expert; `scales` maps a module to the effective multipliers z of its singular values, fp32 (R,)."""

    scales: Mapping[str, Tensor]
    metadata: ExpertMetadata

    def __post_init__(self) -> None:
        """Raise ValueError unless every scale is a finite, non-empty fp32 vector."""
        check_scales(self.scales)

    def save(self, path: Path) -> Path:
        """Write the expert to `path` and return it; what was there stays intact if writing fails.

        The same expert gives the same bytes.

        Raises:
            ValueError: a multiplier is not above 0 and below `t2.experts.content.MAX_MULTIPLIER`.
            OSError: the file cannot be written, a full disk included.
        """
        check_range(self.scales)
        save_tensors(path, self.scales, self.metadata.to_strings())
        return path

    @classmethod
    def load(cls, path: Path | str) -> Expert:
        """Read an expert file; `check` tells whether the expert fits a model.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no expert, or its content is damaged.
        """
        path = Path(path)
        if not path.is_file():
            found = sorted(other.name for other in path.parent.glob("*.safetensors"))
            hint = did_you_mean(path.name, found)
            raise FileNotFoundError(f"No expert file at {path}.{hint} Give the path of a *.safetensors file.")
        scales, strings = read_tensors(path)
        try:
            check_is_svf(strings)
            expert = cls(scales, ExpertMetadata.from_strings(strings))
            check_range(scales)
            check_modules(scales, expert.metadata.fingerprint)
            return expert
        except ValueError as error:
            raise ValueError(f"{path} cannot be used as an expert: {error}") from error

    @staticmethod
    def find(path: Path | str) -> Path:
        """The expert file in the folder of a training run; any other path is returned as it is.

        Raises:
            FileNotFoundError: the folder holds no expert.
        """
        path = located(path)
        if not path.is_dir():
            return path
        if not (path / EXPERT_FILE).is_file():
            raise FileNotFoundError(f"{path} holds no {EXPERT_FILE}: {why_no_expert(path)}")
        return path / EXPERT_FILE

    @property
    def learned_nothing(self) -> bool:
        """Whether every z is 1, as in training that never got better than the base."""
        return all(bool((z == 1).all()) for z in self.scales.values())

    @property
    def parameter_count(self) -> int:
        """How many numbers were learned: the multipliers of all modules, or what `metadata.learned` leaves of them."""
        return learned_count(self.metadata.learned, self.scales)

    def check(self, *, base_model: str, fingerprint: str, shapes: Mapping[str, int], transfer: bool = False) -> None:
        """Raise ValueError unless the expert was trained on the loaded model and its adapted modules.

        Args:
            base_model: source of the loaded model.
            fingerprint: `fingerprint_of` the loaded model's singular values.
            shapes: adapted module of the loaded model -> R.
            transfer: accept an expert of another model whose modules and sizes fit.
        """
        models = f"The expert was trained for {self.metadata.base_model}; the loaded model is {base_model}."
        unknown = [module for module in self.scales if module not in shapes]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of the expert's {len(self.scales)} modules are not adapted in this model, "
                f"{unknown[0]} for one.{did_you_mean(unknown[0], shapes)} {models} "
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
    """An adapter that experts can be applied with: it knows the singular values of its matrices, such as SVF."""

    singular_values: dict[str, Tensor]  # module -> (R,), NaN for those that were not computed
    frobenius_norms: dict[str, float]  # module -> that of the matrix

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Apply effective multipliers, module -> (R,)."""
        ...


def apply_expert(adapter: SingularValueAdapter, expert: Expert, *, source: str, transfer: bool = False) -> None:
    """Apply an expert: check that it fits the model from `source` adapted with `adapter`, and load its scales.

    Raises:
        ValueError: the expert is of another model (unless `transfer`), or its modules or sizes do not fit.
    """
    values = adapter.singular_values
    expert.check(
        base_model=source,
        fingerprint=adapter_fingerprint(adapter),
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
