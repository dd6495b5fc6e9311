"""The engine: its answers are those of `TwoPass`, whatever is decoded beside them, and places are freed."""

from __future__ import annotations

import queue
import threading

import pytest
import torch
from served import (
    BASE,
    BOTH,
    LETTERS,
    MATH,
    answers,
    ask,
    make_service,
    outcome,
    running,
    strategies,
    tiny_pooled,
    tokens,
)
from tiny_models import token_ids

from t2.adaptation.confidence import Confidence
from t2.adaptation.fixed import Fixed
from t2.adaptation.strategy import Choice, PooledModel
from t2.adaptation.two_pass import TwoPass
from t2.policy.sampling import choose
from t2.serving import batch
from t2.serving.engine import INTERNAL, QueueFull, Stopping
from t2.serving.job import Chosen, Ended, Event, Failed, Job
from t2.types import Example, Sampling

PROMPTS = ["What is 3 + 4?", "How many e are in tree?", "x", "A longer question, to be padded " * 3, "Spell this: sun"]


def in_two_passes(model: PooledModel, strategy, prompts=PROMPTS, **sampling) -> list[list[tuple[int, ...]]]:
    sampling = Sampling(**{"max_new_tokens": 12, **sampling})
    return token_ids(TwoPass(model.generator, model.pool, strategy).generate([Example(p) for p in prompts], sampling))


@pytest.mark.parametrize("name", ["prompt", "classifier", "confidence"])
def test_a_strategy_answers_as_in_two_passes(name: str) -> None:
    """Catches: pass 1 under another expert, a mixture that is given to another row, another length of what decides."""
    model = tiny_pooled(ends=True)
    service = make_service(model, [*strategies(), Confidence(measure="sum")])
    strategy = service.catalog.strategies[name]
    expected = in_two_passes(model, strategy)
    with running(service) as engine:
        assert answers(engine, [ask(service, prompt, strategy) for prompt in PROMPTS]) == expected


def test_an_answer_does_not_depend_on_what_is_decoded_beside_it() -> None:
    """Catches: masks, positions or states mixed up where rows join or leave."""
    model = tiny_pooled(ends=True)
    service = make_service(model, max_concurrent=3, prefill_tokens=60)  # so that they join one after the other
    mixtures = [MATH, BASE, BOTH, LETTERS, MATH]
    alone = [
        in_two_passes(model, Fixed(weights=dict(zip(model.pool.domains, m.means, strict=True))), [p])[0]
        for p, m in zip(PROMPTS, mixtures, strict=True)
    ]
    assert len({len(one) for (one,) in alone}) > 1, "rows leave at different steps"
    with running(service) as engine:
        asks = [ask(service, prompt, mixture) for prompt, mixture in zip(PROMPTS, mixtures, strict=True)]
        for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
            found = answers(engine, [asks[index] for index in order])
            assert found == [alone[index] for index in order]


def test_samples_are_those_of_the_seed() -> None:
    model = tiny_pooled(ends=True)
    service = make_service(model)
    how = {"samples": 3, "temperature": 0.9, "top_p": 0.8, "seed": 5}
    expected = in_two_passes(model, Fixed(weights={"math": 1.0}), PROMPTS[:1], **how)
    with running(service) as engine:
        asks = [ask(service, PROMPTS[1]), ask(service, PROMPTS[0], MATH, **how)]  # of two temperatures
        assert answers(engine, asks)[1:] == expected
    assert len(set(expected[0])) > 1


def test_a_stop_string_ends_a_row() -> None:
    service = make_service()
    with running(service) as engine:
        ((plain,),) = answers(engine, [ask(service, "x")])
        word = service.catalog.lm.decode(plain[4:5])
        ((stopped,),) = answers(engine, [ask(service, "x", stop=(word,))])
    assert stopped == plain[: plain.index(plain[4]) + 1]


def test_a_cancelled_job_frees_its_place() -> None:
    """Catches: rows of a client that has left are decoded to their end."""
    service = make_service(max_concurrent=1)
    left: queue.Queue[Event] = queue.Queue()
    with running(service) as engine:
        job = engine.submit(ask(service, "x", max_new_tokens=400), left.put)
        assert isinstance(left.get(timeout=30), Chosen)
        job.cancel()
        assert len(answers(engine, [ask(service, "y", max_new_tokens=2)])[0][0]) == 2
    assert left.qsize() < 300


def test_too_many_waiting_are_refused_and_the_stopped_takes_none() -> None:
    service = make_service(max_waiting=1)
    engine = service.engine
    engine.start()
    with engine._changed:  # so that the thread takes none
        engine.submit(ask(service, "x", max_new_tokens=1, samples=20), lambda _: None)
        with pytest.raises(QueueFull, match="no more than 1 may"):
            engine.submit(ask(service, "x"), lambda _: None)
    engine.stop(30)
    with pytest.raises(Stopping):
        engine.submit(ask(service, "x"), lambda _: None)


class Refusing:
    """Refuses one prompt, and gives the others to math."""

    name, wants_support = "refusing", False

    def fit(self, model, task, support) -> None: ...

    def choose(self, model, examples) -> list[Choice]:
        if any(example.prompt == "bad" for example in examples):
            raise ValueError("bad is no question.")
        return [Choice(MATH, "math")] * len(examples)


def test_a_prompt_that_pass_1_refuses_fails_alone() -> None:
    service = make_service(chosen=[Refusing()])
    strategy = service.catalog.strategies["refusing"]
    good, bad = queue.Queue(), queue.Queue()
    with running(service) as engine:
        engine.submit(ask(service, "bad", strategy), bad.put)
        engine.submit(ask(service, "good", strategy, max_new_tokens=3), good.put)
        assert outcome(bad) == [Failed("bad is no question.", asked_wrong=True)]
        assert len(tokens(outcome(good))[0]) == 3


def test_numbers_that_are_not_finite_fail_their_job_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_where_sampled(logits, uniforms, sampling):
        found, log_probs = choose(logits, uniforms, sampling)
        return found, log_probs * float("nan") if sampling.temperature else log_probs

    monkeypatch.setattr(batch, "choose", broken_where_sampled)
    service = make_service()
    broken, fine = queue.Queue(), queue.Queue()
    with running(service) as engine:
        engine.submit(ask(service, "x"), fine.put)
        engine.submit(ask(service, "x", temperature=1.0), broken.put)
        last = outcome(broken)[-1]
        assert isinstance(last, Failed)
        assert "is nan" in last.message
        assert isinstance(outcome(fine)[-1], Ended)


def test_the_thread_survives_a_failure(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    service = make_service()
    lm, events = service.catalog.lm, queue.Queue()
    with running(service) as engine:
        with monkeypatch.context() as broken:
            broken.setattr(type(lm), "next_logits", lambda *_, **__: torch.zeros(1)[5])
            engine.submit(ask(service, "x"), events.put)
            assert outcome(events)[-1] == Failed(INTERNAL)
        assert len(answers(engine, [ask(service, "x")])[0][0]) == 12
    assert "IndexError" in caplog.text


def out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("out of memory")


def test_where_memory_ends_as_a_job_leaves_the_others_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    service, events = make_service(), queue.Queue()
    engine = service.engine
    job = Job(ask(service, "x"), events.put)
    engine._running[job.number] = job
    with monkeypatch.context() as broken:
        broken.setattr(engine._batch, "drop", out_of_memory)
        engine._tidy()  # what the thread does between two steps, outside of them
    assert outcome(events) == [Failed(INTERNAL)]
    with running(service):
        assert len(answers(engine, [ask(service, "x")])[0][0]) == 12


def test_what_ends_the_thread_is_told_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    service, events = make_service(), queue.Queue()
    engine = service.engine
    monkeypatch.setattr(engine, "_step", out_of_memory)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    engine.start()
    engine.submit(ask(service, "x"), events.put)
    assert outcome(events)[-1] == Failed(INTERNAL)
    engine._thread.join(30)
    with pytest.raises(Stopping):
        engine.submit(ask(service, "x"), events.put)


def test_who_cannot_join_for_want_of_memory_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    service, first, second = make_service(), queue.Queue(), queue.Queue()
    calls = []

    def widened(states: torch.Tensor, width: int) -> torch.Tensor:
        calls.append(width)
        return honest(states, width) if len(calls) != 7 else out_of_memory()

    honest = batch._widened
    monkeypatch.setattr(batch, "_widened", widened)
    with running(service) as engine:
        (expected,) = answers(engine, [ask(service, "x", max_new_tokens=100)])
        engine.submit(ask(service, "x", max_new_tokens=100), first.put)
        found = [first.get(timeout=30) for _ in range(3)]
        engine.submit(ask(service, "a longer question than the first", max_new_tokens=3), second.put)
        assert outcome(second)[-1] == Failed(INTERNAL)
        assert tokens([*found, *outcome(first)]) == expected
    assert len(calls) == 7, "the second job has come to the cache"


def test_who_stops_lets_running_jobs_end() -> None:
    service, events = make_service(), queue.Queue()
    with running(service) as engine:
        engine.submit(ask(service, "x", max_new_tokens=60), events.put)
    assert isinstance(outcome(events)[-1], Ended)
