"""`results.json`: the record that the three scripts write into a run folder, and that tables and studies read back.

It is the contract with dashboards and other programs. Keys are the fields of `Results`, in their order; parts that were
not measured are left out, and NaN and infinities are written as null. A reader passes over keys that it does not know,
so that a field may be added. How the parts are computed: `t2.evaluation.report`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from t2.evaluation.statistics import Counts, Paired
from t2.run.files import atomic_path, parse_json
from t2.run.results import RESULTS_FILE, own_commit, peak_memory_bytes, versions

Seen = dict[str, dict[str, int | None]]  # by what has seen them, and task; None where it is unknown


@dataclass(frozen=True)
class Statistic:
    """Mean of n scores with its standard error, None for a single score."""

    mean: float
    stderr: float | None
    n: int


@dataclass(frozen=True)
class Score(Statistic):
    """The score of a system on a task; `majority` is that of always giving the most frequent reference answer."""

    majority: float | None


@dataclass(frozen=True)
class Confusion:
    """How often each label was chosen (columns) for prompts of each true domain (rows)."""

    labels: tuple[str, ...]
    counts: Counts

    def __add__(self, other: Confusion) -> Confusion:
        """The matrix of both; ValueError where they have different labels, so that they are of different pools."""
        if self.labels != other.labels:
            mine, others = ", ".join(self.labels), ", ".join(other.labels)
            raise ValueError(
                f"Confusion matrices of different pools: one run chose among {mine}, another among {others}. Join runs "
                "of one pool."
            )
        rows = zip(self.counts, other.counts, strict=True)
        return Confusion(self.labels, tuple(tuple(map(sum, zip(*pair, strict=True))) for pair in rows))


@dataclass(frozen=True)
class Null:
    """The best guess, and the score that it is expected to have."""

    guess: str
    score: float


@dataclass(frozen=True)
class Selection:
    """What was chosen on n examples of `split`: the best of the base and its form controls, and of the single experts.

    `scores` are those of all that could be chosen, by system. The split is the scored one where a task has no other:
    the choice is then the best on the test itself, which favours the control.
    """

    split: str
    n: int
    form: str
    single: str | None  # a system, None without a pool
    scores: dict[str, float]


@dataclass(frozen=True)
class Contrasted:
    """The first system minus the second on one task; `p_holm` is corrected for the whole family (Holm 1979)."""

    contrast: str  # as it was named
    task: str
    first: str
    second: str
    paired: Paired
    p_holm: float


@dataclass(frozen=True)
class HeldOut:
    """How a system predicts held-out texts, in nats per token (`t2.evaluation.held_out`)."""

    texts: int
    tokens: int  # of each
    loss: float
    increase: Paired | None  # over the base
    kl: float | None  # KL(base || system)


@dataclass(frozen=True)
class Support:
    """The solved examples that a mixture was found on, and its fitness there."""

    n: int
    split: str
    fitness: float


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a run measured. Mappings are by task, then by system, where nothing else is said."""

    command: Literal["train", "evaluate", "adapt"]
    base_model: str
    adapter: str | None
    task: str | list[str]
    strategy: str | list[str]
    split: str | None = None
    expert: str | None = None  # as it was given
    expert_sha256: str | None = None  # of its file
    experts: list[str] | None = None  # domains of the pool
    shots: int | None = None
    data: dict[str, Any] = field(default_factory=dict)  # by task: source, version and fingerprint of its examples
    trainable_parameters: int
    headline: float | None = None  # the one score that a sweep compares runs by, and a search maximises
    best_step: int | None = None  # of a training run: the validated step whose expert is saved
    scores: dict[str, dict[str, Score]]
    paired: dict[str, dict[str, Paired]]
    selection: dict[str, Selection] | None = None  # by task
    paired_form: dict[str, dict[str, Paired]] | None = None  # to the best form control
    null: dict[str, Null] | None = None  # by task
    truncated: dict[str, dict[str, float]] | None = None  # share of completions that the token budget cut off
    contrasts: list[Contrasted] | None = None
    seen: Seen | None = None  # questions known
    reasons: dict[str, dict[str, dict[str, int]]] | None = None
    by_group: dict[str, dict[str, dict[str, dict[str, Statistic]]]] | None = None
    pass_at_k: dict[str, dict[str, dict[str, float]]] | None = None
    mixing_weights: dict[str, dict[str, dict[str, float]]] | None = None
    pass_seconds: dict[str, dict[str, dict[str, float]]] | None = None
    tokens: dict[str, dict[str, dict[str, int]]] | None = None
    confusion: dict[str, Confusion] | None = None  # by system
    support: Support | None = None
    held_out: dict[str, dict[str, HeldOut]] | None = None  # by name of the texts
    seconds: dict[str, float]  # by phase; `saved`: what phases count of answers that were kept, and `total` does not
    seed: int
    peak_memory_bytes: int | None = None  # this and the next two: `write` fills them in
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None

    def write(self, folder: Path) -> Results:
        """Write `results.json` into `folder`; returns the record with memory, versions and commit filled in."""
        full = replace(
            self,
            peak_memory_bytes=peak_memory_bytes(),
            versions=versions(),
            git_commit=own_commit(),
        )
        known = json.loads(SCHEMA.dump_json(full))
        kept = {key: value for key, value in known.items() if value is not None or key not in PARTS}
        with atomic_path(folder / RESULTS_FILE) as partial:
            partial.write_text(json.dumps(kept, indent=2, allow_nan=False) + "\n")
        return full

    @classmethod
    def read(cls, folder: Path) -> Results:
        """The record of a finished run.

        Raises:
            FileNotFoundError: `folder` holds no results.json.
            ValueError: the file is damaged, or it is not one that this version of t2 writes.
        """
        path = folder / RESULTS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no {RESULTS_FILE}; give folders that a script of t2 finished in.")
        text = path.read_bytes()
        content = parse_json(text, f"{path} is damaged: it", "Run the script again.")
        if isinstance(content, dict) and "weights" in content:
            raise ValueError(
                f"{path} is of an older t2: its key 'weights' is called 'mixing_weights' now. Rename it in the file."
            )
        try:
            return SCHEMA.validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole file"
            raise ValueError(
                f"{path} is not a results file of this t2: {where}: {first['msg']}. Give the folder of another run, or "
                "run the script again."
            ) from None


SCHEMA = TypeAdapter(Results)
PARTS = (
    *("expert_sha256", "headline", "best_step", "selection", "paired_form", "null", "truncated", "contrasts", "seen"),
    *("reasons", "by_group", "pass_at_k", "mixing_weights", "pass_seconds", "tokens", "confusion", "support"),
    "held_out",
)


def seen_text(seen: Seen) -> str:
    """A line per count that is not 0, one for all that are, and one for what is unknown."""
    lines = [f"{name}: {count} of {task}" for name, tasks in seen.items() for task, count in tasks.items() if count]
    for what, wanted in (("none", 0), ("unknown", None)):
        names = [name for name, tasks in seen.items() if wanted in tasks.values()]
        if names:
            lines.append(f"{what}: {', '.join(names)}")
    return "\n".join(lines)
