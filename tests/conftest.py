"""Fixtures of several test files: scripts run in process, a pool, a task that a random model can learn, quiet W&B."""

from __future__ import annotations

import importlib
import logging
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hypothesis import settings
from skips import pytest_addoption, pytest_make_collect_report, pytest_runtest_makereport
from tiny_pool import make_expert

from t2.cli.main import ANSWERS, BODIES
from t2.experts.pool import ExpertPool
from t2.run.ask import ask
from t2.run.launch import launch
from t2.tasks.base import Split
from t2.tasks.form import Form
from t2.types import Example

__all__ = ["pytest_addoption", "pytest_make_collect_report", "pytest_runtest_makereport"]  # hooks

ROOT = Path(__file__).resolve().parents[1]


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bytes by their number: two processes must collect the same names, and gzip writes the time."""
    return f"{len(val)}_bytes" if isinstance(val, bytes) else None


settings.register_profile("t2", deadline=None)  # a busy machine is no failing property
settings.load_profile("t2")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny models gain nothing from threads, and two test runs beside each other would spin."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _wandb_stays_out_of_the_home_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "DATA", "CONFIG"):
            patch.setenv(f"WANDB_{name}_DIR", str(tmp_path_factory.mktemp("wandb")))
        patch.setenv("WANDB_SILENT", "true")
        yield


@dataclass(frozen=True)
class LetterTask:
    """The more of the answer is lower-case letters, the better: a reward that a random byte model can climb."""

    name: str = "letters"
    max_new_tokens: int = 6
    form = Form("Reply with small letters.", "abc")

    def split(self, split: Split) -> Sequence[Example]:
        numbers = {"train": range(40), "val": range(40, 48), "test": range(48, 60)}[split]
        return [Example(prompt=f"number {n}", answer="abc") for n in numbers]

    def score(self, example: Example, text: str) -> float:
        return sum("a" <= letter <= "z" for letter in text) / max(1, len(text))

    def chance(self, example: Example) -> Mapping[str, float]:
        return {}


@pytest.fixture(scope="session")
def pool() -> ExpertPool:
    """Three experts of hand-made sizes, for tests without a model."""
    return ExpertPool({"math": make_expert(1), "code": make_expert(2), "logic": make_expert(3)})


@pytest.fixture
def letter_task() -> LetterTask:
    return LetterTask()


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run `train`, `evaluate`, `adapt` or `export` in this process with a command line; SystemExit comes through."""

    def run(name: str, *arguments: str) -> None:
        body = getattr(importlib.import_module(f"t2.cli.{name}"), BODIES[name])
        monkeypatch.setattr(sys, "argv", [str(ROOT / f"{name}.py"), *arguments])
        state, handlers = random.getstate(), list(logging.getLogger().handlers)
        try:
            (ask if name in ANSWERS else launch)(body, conf=ROOT / "conf", name=name)
        finally:
            GlobalHydra.instance().clear()
            logging.getLogger().handlers = handlers  # Hydra replaces them
            random.setstate(state)

    return run
