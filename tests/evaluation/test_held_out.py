"""The loss on held-out texts: against the model's own, and against divergences of whole distributions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny_pool import tiny_generator

from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.fixed import Fixed
from t2.evaluation.held_out import HeldOutText
from t2.evaluation.results import Results
from t2.evaluation.systems import pool_systems
from t2.evaluation.tables import results_text
from t2.experts.mixture import Mixture
from t2.policy.hf import HFGenerator

TOKENS = 12
LINES = [f"The {number}th text tells of {number * 7} ships and a harbour." for number in range(9)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    rows = [*LINES, LINES[0], "Short."]  # one twice, one too short
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in rows))
    return path


def held_out(file: Path, **changes: object) -> HeldOutText:
    settings = {"texts": 5, "tokens": TOKENS, "batch_rows": 2} | changes
    return HeldOutText("lines", "text", "all", data_files={"all": str(file)}, **settings)


def logits_of(generator: HFGenerator, ids: torch.Tensor, adapted: bool) -> torch.Tensor:
    lm, svf = generator.lm, generator.adapter
    with torch.no_grad(), svf.merged() if adapted else svf.disabled():
        return lm.model(input_ids=ids).logits.double()  # (N, T, V)


def test_loss_and_divergence_are_those_of_the_whole_distributions(generator, pool, file) -> None:
    texts = held_out(file)
    ids = torch.tensor([(*one.prompt_ids, *one.token_ids) for one in texts.encode(generator.lm)])
    assert ids.shape == (5, TOKENS)
    assert len({tuple(row) for row in ids.tolist()}) == 5
    half = pool.state(Mixture.of(0.5, 0.5))
    systems = {"base": generator.with_state({})} | pool_systems(generator, pool, {}, singles=False)
    found = texts.measure(systems)["lines"]
    assert list(found) == ["base", "uniform", "all"]
    before = generator.adapter.state()
    generator.adapter.load(half)
    base, mixed = (logits_of(generator, ids, adapted) for adapted in (False, True))
    generator.adapter.load(before)
    losses = [
        F.cross_entropy(one[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(dim=1) for one in (base, mixed)
    ]
    kl = F.kl_div(mixed.log_softmax(-1), base.log_softmax(-1), log_target=True, reduction="none").sum(-1)[:, :-1].mean()
    assert found["base"].loss == pytest.approx(losses[0].mean().item(), abs=1e-5)
    assert found["uniform"].loss == pytest.approx(losses[1].mean().item(), abs=1e-5)
    assert found["uniform"].increase.difference == pytest.approx((losses[1] - losses[0]).mean().item(), abs=1e-5)
    assert found["uniform"].kl == pytest.approx(kl.item(), rel=1e-3)
    assert (found["base"].increase, found["base"].kl) == (None, None)
    assert abs(found["uniform"].increase.difference) > 1e-3  # else nothing was compared


def test_an_adapter_at_its_start_forgets_nothing(generator, file) -> None:
    found = held_out(file).measure({"base": generator.with_state({}), "expert": generator})["lines"]["expert"]
    assert found.increase.difference == pytest.approx(0, abs=1e-6)
    assert found.kl == pytest.approx(0, abs=1e-6)


def test_factored_weights_lose_what_merged_ones_do(pool, file) -> None:
    losses = []
    for mode in ("merged", "factored"):
        made = tiny_generator()
        generator = HFGenerator(made.lm, made.adapter, mode=mode)
        systems = {"base": generator.with_state({})} | pool_systems(generator, pool, {}, uniform=False, all_at_1=False)
        found = held_out(file).measure(systems)["lines"]
        losses.append([value for one in found.values() for value in (one.loss, one.kl or 0.0)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len(losses[0]) == 6


def test_what_chooses_by_the_prompt_is_left_out(generator, pool, file, caplog) -> None:
    caplog.set_level("INFO")
    strategies = {"asked": PromptDispatch(mode="score"), "half": Fixed(weights={"math": 0.5})}
    systems = {"base": generator.with_state({})} | pool_systems(generator, pool, strategies, singles=False)
    assert list(held_out(file).measure(systems)["lines"]) == ["base", "uniform", "all", "half"]
    assert "lines, asked: left out" in caplog.text


def test_the_draw_depends_on_the_seed_alone(generator, file) -> None:
    draws = [[one.text for one in held_out(file, seed=seed).encode(generator.lm)] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": 10}, r"held_out.texts is 10, and 9 texts of lines have 12 tokens"),
        ({"tokens": 10_000}, r"held_out.tokens is 10000; .* reads at most"),
        ({"texts": 1}, r"held_out.texts is 1; allowed: at least 2"),
        ({"batch_rows": 0}, r"held_out.batch_rows is 0; allowed: at least 1"),
    ],
)
def test_bad_input(generator, file, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        held_out(file, **changes).measure({"base": generator})


def test_a_hub_that_is_not_there_and_a_file_name_the_key(generator, tmp_path, monkeypatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    hub = HeldOutText("wikitext", "text", "test", hub_id="org/texts")
    with pytest.raises(ConnectionError, match=r"same columns: held_out\.data_files=\{test: PATH") as refused:
        hub.measure({"base": generator})
    assert "task." not in str(refused.value)
    with pytest.raises(FileNotFoundError, match=r"Correct held_out\.data_files"):
        held_out(tmp_path / "none.jsonl").measure({"base": generator})


def test_another_engine_is_refused(file) -> None:
    with pytest.raises(ValueError, match="held_out needs generation=hf: SimpleNamespace"):
        held_out(file).measure({"base": SimpleNamespace()})


def test_evaluate_writes_and_prints_it(file: Path, tmp_path: Path, run_script: Callable[..., None]) -> None:
    run = tmp_path / "run"
    run_script(
        "evaluate", "base_model=tiny", "task=chain_sum", "limit=2", "controls=null", "logger=none",
        "sampling.max_new_tokens=2", "held_out=wikipedia", "held_out.column=text", "held_out.texts=3",
        f"held_out.data_files.all={file}", f"held_out.tokens={TOKENS}", f"hydra.run.dir={run}",
    )  # fmt: skip
    results = Results.read(run)
    assert list(results.held_out["wikipedia"]) == ["base"]
    assert results.held_out["wikipedia"]["base"].loss > 0
    assert results.seconds["held_out"] > 0
    assert "KL(base || system)" in results_text(results)
