"""Rows join and leave in every kind of cache that the models here have."""

from __future__ import annotations

import pytest
from tiny_models import adapt, random_state, tiny
from transformers import Mamba2Config

from t2.experts.mixture import Mixture
from t2.policy.hf import HFGenerator
from t2.serving.applied import Applied
from t2.serving.batch import Batch
from t2.serving.job import Ask, Job, Token
from t2.types import Example, Sampling


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_rows_that_join_later_are_decoded_as_alone(architecture: str) -> None:
    """Catches: a sliding window's cache that forgets what another row needs, a wrong padding, wrong positions."""
    lm = tiny(architecture, ends=False)
    lm.end_ids = frozenset()
    prompts = ["a long prompt that reaches beyond a window " * 2, "x", "of middle length, this one"]
    lengths = [20, 6, 14]
    examples = [Example(prompt) for prompt in prompts]
    alone = [
        HFGenerator(lm).generate([example], Sampling(max_new_tokens=n))[0][0].token_ids
        for example, n in zip(examples, lengths, strict=True)
    ]
    found: list[list[int]] = [[], [], []]
    batch = Batch(lm, Applied(None, None, lm.index_device))
    for number, (example, n) in enumerate(zip(examples, lengths, strict=True)):
        job = Job(
            Ask(example, tuple(lm.encode(example)), Sampling(max_new_tokens=n), Mixture.base(1)),
            lambda event, number=number: found[number].append(event.token_id) if isinstance(event, Token) else None,
        )
        job.mixture = Mixture.base(1)
        batch.join([job])
        batch.step()
        batch.step()
    while batch.rows:
        batch.step()
    assert [tuple(one) for one in found] == alone


def test_columns_that_no_row_uses_are_dropped() -> None:
    lm = tiny()
    lm.end_ids = frozenset()
    batch = Batch(lm, Applied(None, None, lm.index_device))
    jobs = []
    for prompt, n in (("a much longer prompt " * 4, 3), ("x", 8)):
        example = Example(prompt)
        job = Job(Ask(example, tuple(lm.encode(example)), Sampling(max_new_tokens=n), Mixture.base(1)), lambda _: None)
        job.mixture = Mixture.base(1)
        jobs.append(job)
    batch.join(jobs)
    for _ in range(3):
        batch.step()
    assert len(batch.rows) == 1
    assert batch._mask.shape[1] == len(jobs[1].ask.prompt_ids) + 3
    assert bool(batch._mask.all())


def test_scales_are_made_once_for_the_mixtures_in_use() -> None:
    """Catches: scales computed at every step."""
    lm = tiny()
    svf = adapt(lm)
    calls = []

    class Pool:
        def scales(self, mixtures):
            calls.append(list(mixtures))
            return {name: z[None].expand(len(mixtures), -1) for name, z in random_state(svf).items()}

    applied = Applied(svf, Pool(), lm.index_device)  # type: ignore[arg-type]
    one, other = Mixture.of(1, 0), Mixture.of(0, 1)
    for rows in ([one, other], [other], [other, one, one]):
        with applied.rows(rows):
            assert svf.mode.per_example
    assert len(calls) == 1
    with applied.rows([Mixture.of(0, 0)]):
        assert svf.mode.name == "off"
    applied.close()
    assert not svf.mode.per_example


def test_a_model_that_keeps_running_states_is_refused() -> None:
    lm = tiny()
    sizes = {"vocab_size": 261, "hidden_size": 32, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1}
    lm.model.config = Mamba2Config(**sizes, num_hidden_layers=1, expand=2)
    with pytest.raises(ValueError, match=r"keeps running states.*adapt.py"):
        Batch(lm, Applied(None, None, lm.index_device))
