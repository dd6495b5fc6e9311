"""What is looked at of one architecture: coverage, exactness in every mode, prompts, generation, and a step of RL.

A row says yes or no, by tolerances that rounding stays well below, so that it is the same on every machine. Not done
here: which architectures (`bench/zoo_models.py`, `bench/zoo_vision_models.py`), the table (`bench/zoo.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from zoo_models import NotBuilt, tiny_architecture
from zoo_vision_models import tiny_vision

from t2.adapters.svf import SVF
from t2.models.checks import check_model, own_inputs
from t2.models.language_model import LanguageModel
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.policy.prompt_sharing import why_not_shared
from t2.training.objectives import RLOO
from t2.types import Completion, Example, PixelImage, Sampling

TOLERANCE = 2e-4  # of logits, relative to the largest
SAMPLED_TOLERANCE = 2e-3  # between log-probs at sampling and in training
BROKEN = (RuntimeError, AttributeError, TypeError, KeyError, AssertionError, IndexError)
GREEDY = Sampling(max_new_tokens=8)
SAMPLES = Sampling(max_new_tokens=24, temperature=1.0, samples=4)


@dataclass(frozen=True)
class Row:
    """One architecture; the fields are the columns of the table."""

    architecture: str
    adapted: str  # share of the blocks' weights
    left: str
    base: bool  # z = 1 gives the base's logits
    off: bool  # `disabled()` gives them bit for bit
    merged: bool  # merged weights give the factored mode's logits
    prompts: str  # shared, or plain rows and why
    states: bool | None  # examples of a batch with a state each have the logits that it gives them alone; None: refused
    generation: bool  # the tokens of transformers' `generate`, and at sampling the log-probs of training
    step: str  # which z a step of RL moves

    @property
    def is_green(self) -> bool:
        """Whether everything holds; an indexer's z, of which a loss knows nothing, need not move."""
        still = [name for name in self.step.partition(": not ")[2].split(", ") if name and ".indexer." not in name]
        return self.base and self.off and self.merged and self.states is not False and self.generation and not still


@torch.no_grad()
def _logits(lm: LanguageModel, examples: Sequence[Example]) -> Tensor:
    return torch.cat([lm.model(**own_inputs(lm, example)).logits.flatten() for example in examples])


def examine(architecture: str, *, vision: bool = False) -> Row | str:
    """The row of an architecture, or why it has none; with `vision` of one that takes images."""
    try:
        lm = tiny_vision(architecture) if vision else tiny_architecture(architecture)
        check_model(lm)
    except NotBuilt as error:
        return f"not built: {error}"
    except ValueError as error:
        return f"refused: {_short(str(error))}"
    except BROKEN as error:
        return f"not built: no tiny configuration is known ({type(error).__name__})"
    try:
        return _examine(architecture, lm, _examples(lm))
    except (ValueError, *BROKEN) as error:
        return f"fails ({type(error).__name__}): {str(error)[:60].strip(' :')}".replace("`", "").removesuffix(": ")


def _short(message: str) -> str:
    """The reason in a message of t2, without the name of the model."""
    first = message.partition(". ")[0]
    return re.sub(r"^\w+ takes", "it takes", first.rpartition(": ")[2]).rstrip(".").replace("`", "")


def _examine(architecture: str, lm: LanguageModel, examples: Sequence[Example]) -> Row:
    before = _logits(lm, examples)
    allowed = TOLERANCE * float(before.abs().max())
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    assert svf.coverage is not None, "inject sets it"
    base = float((_logits(lm, examples) - before).abs().max()) <= allowed
    draw = torch.Generator().manual_seed(0)
    svf.load({name: 1 + 0.1 * torch.randn(z.shape, generator=draw) for name, z in svf.state().items()})
    factored = _logits(lm, examples)
    with svf.merged():
        merged = float((_logits(lm, examples) - factored).abs().max()) <= allowed
    with svf.disabled():
        off = torch.equal(_logits(lm, examples), before)
    fault = why_not_shared(lm)
    same, step = _generates_alike(lm, svf, examples), _step(lm, svf, examples, shared=fault is None)
    return Row(
        architecture=architecture,
        adapted=f"{100 * svf.coverage.share:.1f} %",
        left=", ".join(svf.coverage.left) or "nothing",
        base=base,
        off=off,
        merged=merged,
        states=_states(lm, svf, allowed),
        prompts="shared" if fault is None else f"plain: {re.split(r', | [(]', fault)[0]}",
        generation=same and step is not None,
        step=step or "log-probs differ",
    )


@torch.no_grad()
def _states(lm: LanguageModel, svf: SVF, allowed: float) -> bool | None:
    """Whether rows of a batch with a state each have the logits of the row alone; None where the adapter refuses it."""
    before, draw = svf.state(), torch.Generator().manual_seed(2)
    ones = {name: torch.ones_like(z) for name, z in before.items()}
    states = [before, ones, {name: 1 + 0.1 * torch.randn(z.shape, generator=draw) for name, z in before.items()}]
    tokens = torch.tensor(lm.encode(Example("the quick brown fox")))  # (T,)
    rows = torch.stack([tokens, tokens.flip(0), tokens.roll(3)])  # (3, T)
    alone = []
    for row, state in zip(rows, states, strict=True):
        svf.load(state)
        alone.append(lm.model(input_ids=row[None]).logits)  # (1, T, V)
    svf.load(before)
    try:
        with svf.per_example({name: torch.stack([state[name] for state in states]) for name in before}) as choose:
            choose(torch.arange(len(rows)))
            together = lm.model(input_ids=rows).logits  # (3, T, V)
    except ValueError as refusal:
        if "pass2=merged" not in str(refusal):
            raise
        return None
    return float((together - torch.cat(alone)).abs().max()) <= allowed


def _examples(lm: LanguageModel) -> list[Example]:
    """Prompts of different lengths; where there is a processor, with images of different sizes, two, one and none."""
    draw = torch.Generator().manual_seed(0)
    letters = [torch.randint(97, 123, (length,), generator=draw).tolist() for length in (3, 20, 11)]
    prompts = ["".join(map(chr, codes)) for codes in letters]
    if lm.processor is None:
        return [Example(prompt) for prompt in prompts]
    sizes = [((48, 80), (64, 40)), ((33, 32),), ()]
    noise = [[torch.randint(256, (*size, 3), generator=draw, dtype=torch.uint8) for size in row] for row in sizes]
    return [
        Example(prompt, images=tuple(PixelImage.of(one.numpy()) for one in row))
        for prompt, row in zip(prompts, noise, strict=True)
    ]


def _generates_alike(lm: LanguageModel, svf: SVF, examples: Sequence[Example]) -> bool:
    """Whether a batch of prompts of different lengths is completed as transformers completes each alone."""
    found = HFGenerator(lm, svf, mode="factored", progress=False).generate(examples, GREEDY)
    ends = sorted(lm.end_ids)
    for example, (answer,) in zip(examples, found, strict=True):
        inputs = own_inputs(lm, example)
        expected = lm.model.generate(
            **inputs,
            do_sample=False,
            suppress_tokens=list(lm.placeholder_ids) or None,
            max_new_tokens=GREEDY.max_new_tokens,
            eos_token_id=ends,
            pad_token_id=lm.pad_id,
        )
        if tuple(expected[0, inputs["input_ids"].shape[1] :].tolist()) != answer.token_ids:
            return False
    return True


def _step(lm: LanguageModel, svf: SVF, examples: Sequence[Example], *, shared: bool) -> str | None:
    """Which z one step of RLOO on random rewards moves; None where log-probs are not those at sampling."""
    groups = HFGenerator(lm, svf, mode="factored", progress=False).generate(examples, SAMPLES)
    completions: list[Completion] = [completion for group in groups for completion in group]
    rewards = torch.randn(len(groups), SAMPLES.samples, generator=torch.Generator().manual_seed(1))
    weights = RLOO().advantages(rewards, torch.zeros_like(rewards, dtype=torch.bool)).flatten()
    token = token_log_probs(lm, completions, shared=shared)
    if float(((token.log_probs.detach() - token.sampled) * token.mask).abs().max()) > SAMPLED_TOLERANCE:
        return None
    before = svf.state()
    optimizer = torch.optim.AdamW(svf.trainable(), lr=1e-2, weight_decay=0.0)
    (-(weights[:, None] * token.log_probs * token.mask)).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    after = svf.state()
    moved = {name: int(((z != before[name]) & z.isfinite()).sum()) for name, z in after.items()}
    total = sum(len(z) for z in after.values())
    still = sorted({_kind(name) for name, count in moved.items() if count < len(after[name])})
    return "all" if not still else f"{sum(moved.values())} of {total}: not {', '.join(still)}"


def _kind(name: str) -> str:
    """The name of a matrix within its block, without the number of its expert."""
    within = name.split(".layers.", 1)[-1].partition(".")[2]
    return within.partition("[")[0]
