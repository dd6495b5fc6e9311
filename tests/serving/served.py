"""A service of the tiny model with a pool of two experts, in memory."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from starlette.testclient import TestClient
from tiny_pool import pooled

from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.strategy import PooledModel, Strategy
from t2.adapters.svf import SVF
from t2.experts.mixture import Mixture
from t2.policy.hf import HFGenerator
from t2.serving.app import Service, make_app
from t2.serving.applied import Applied, Unmerged
from t2.serving.catalog import Catalog, by_name
from t2.serving.engine import Engine
from t2.serving.job import Ask, Event, Failed, Token
from t2.serving.local import LocalEngine
from t2.serving.metrics import Metrics
from t2.serving.settings import Settings
from t2.types import Example, Sampling

BASE, MATH, LETTERS, BOTH = Mixture.of(0, 0), Mixture.of(1, 0), Mixture.of(0, 1), Mixture.of(0.5, -0.3)
LOCAL = "http://127.0.0.1"


def tiny_pooled(*, ends: bool = False) -> PooledModel:
    """The tiny model with experts for math, letters and dispatch; `ends`: one token in twelve ends an answer."""
    model = pooled(dispatch=True, layers=2)
    model.lm.end_ids = frozenset(range(0, len(model.lm.tokenizer), 12)) if ends else frozenset()
    return model


def strategies() -> list[Strategy]:
    return [PromptDispatch(), PromptDispatch(expert="dispatch", calibrate=False, name="classifier")]


def make_service(
    model: PooledModel | None = None,
    chosen: Sequence[Strategy] | None = None,
    merged_copies: int = 0,
    **limits: float,
) -> Service:
    model = model or tiny_pooled()
    assert isinstance(model.adapter, SVF)
    settings, metrics = Settings(**limits), Metrics()  # type: ignore[arg-type]
    served = PooledModel(HFGenerator(model.lm, Unmerged(model.adapter)), model.pool)
    catalog = Catalog(model.lm, served, by_name(strategies() if chosen is None else chosen))
    applied = Applied(model.adapter, model.pool, model.lm.index_device, merged_copies)
    engine = LocalEngine(model.lm, served, applied, settings, metrics)
    return Service(catalog, engine, settings, metrics, {"math": ["What is 3 + 4?"]})


@contextmanager
def running(service: Service) -> Iterator[Engine]:
    """The engine of a service, without HTTP."""
    service.engine.start()
    try:
        yield service.engine
    finally:
        service.engine.stop(30)


@contextmanager
def client(service: Service | None = None, key: str | None = None) -> Iterator[TestClient]:
    """A client of a service, in this process."""
    with TestClient(make_app(service or make_service(), key), base_url=LOCAL, raise_server_exceptions=False) as made:
        yield made


def ask(service: Service, prompt: str, by: Mixture | Strategy = BASE, **sampling: object) -> Ask:
    example = Example(prompt)
    how = Sampling(**{"max_new_tokens": 12, **sampling})  # type: ignore[arg-type]
    return Ask(example, tuple(service.catalog.lm.encode(example)), how, by)


def outcome(events: queue.Queue[Event], timeout_s: float = 30) -> list[Event]:
    """The events of a job up to its last one; `timeout_s` is for each."""
    seen: list[Event] = []
    while not seen or not (isinstance(seen[-1], Failed) or type(seen[-1]).__name__ == "Ended"):
        seen.append(events.get(timeout=timeout_s))
    return seen


def answers(engine: Engine, asks: Sequence[Ask], timeout_s: float = 30) -> list[list[tuple[int, ...]]]:
    """The token ids of each sample of each ask, all submitted at once."""
    queues: list[queue.Queue[Event]] = [queue.Queue() for _ in asks]
    for one, events in zip(asks, queues, strict=True):
        engine.submit(one, events.put)
    return [tokens(outcome(events, timeout_s), one.sampling.samples) for one, events in zip(asks, queues, strict=True)]


def tokens(events: Sequence[Event], samples: int = 1) -> list[tuple[int, ...]]:
    made = [event for event in events if isinstance(event, Token)]
    return [tuple(event.token_id for event in made if event.sample == g) for g in range(samples)]


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
