"""Generation with a transformers model, under the adapter's merged weights or in its factored mode.

A decode loop (`t2.policy.decode`) instead of `model.generate`, for four things that a policy gradient needs: what
completions have in common is computed once, the beginning of all prompts (`t2.policy.prefix`), a prompt and what its G
samples begin with; finished rows leave the batch; the log-prob of every sampled token is kept without (T, N, V) scores;
and a sample depends on its seed and index alone, not on how prompts were batched (one uniform number per token, drawn
beforehand, inverts the cumulative distribution).

Not done here: beam search, speculative decoding, paged caches (see vLLM).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import get_args

import torch
from torch import Tensor
from tqdm import tqdm

from t2.adapters.base import Adapter, NamedAdapter, PerExampleAdapter
from t2.adapters.named_parameters import ActiveParameters
from t2.models.language_model import LanguageModel
from t2.models.precision import Precision, RolloutMode, dtype_name, is_half, parse_dtype
from t2.policy.answers import Answers, is_kept, name_state
from t2.policy.decode import decode
from t2.policy.generator import PerExampleScales, Weights
from t2.policy.prefix import prefill
from t2.policy.rows import Row
from t2.run.messages import check_choice
from t2.run.ranks import no_bar
from t2.types import Completion, Example, Sampling


class HFGenerator:
    """Generates with `lm` under the weights that the adapter makes (`weights="adapted"`), or those of the base."""

    def __init__(
        self,
        lm: LanguageModel,
        adapter: Adapter | None = None,
        *,
        weights: Weights = "adapted",
        batch_rows: int = 64,
        mode: RolloutMode = "auto",
        dtype: str | None = None,
        progress: bool = False,
    ) -> None:
        """`batch_rows` bounds the rows (prompts * samples) that are decoded at once; a prompt with more samples is read
        as often as they take.

        `mode` is the adapter's: `merged`, or `factored` as in training; `auto` is factored where the model is in
        bfloat16 and no `dtype` is given, or the base is quantized (why: `t2.models.precision.Precision`), else merged.
        A state that is given (`with_state`) is merged where the adapter cannot give every example its own. `dtype`
        (bfloat16) rounds the adapted weights while they are merged: faster where the processor has it, at a cost in
        exactness that training logs as `train/log_prob_drift`. None keeps the model's own, as `auto` does where
        nothing is merged or the processor has no products in bfloat16.

        Raises:
            ValueError: values outside what is allowed, a dtype where no weights are merged that it would round, or a
                factored mode that the adapter does not have.
        """
        if batch_rows < 1:
            raise ValueError(f"generation.batch_rows is {batch_rows}; allowed: at least 1.")
        check_choice("weights", weights, get_args(Weights))
        if dtype not in (None, "auto") and adapter is None:
            raise ValueError(
                f"generation.dtype={dtype} rounds merged weights, and here none are merged; set base_model.dtype."
            )
        factors = isinstance(adapter, PerExampleAdapter | NamedAdapter)
        if mode == "factored" and adapter is not None and not factors:
            raise ValueError(f"{type(adapter).__name__} has no factored mode; use generation.mode=merged.")
        model = dtype_name(lm.dtype) if is_half(lm.dtype) else "float32"
        precision = Precision(model=model, rollout_mode=mode, rollout_dtype=dtype, quantization=lm.quantization)
        self.merges = not factors or precision.merges
        self.lm, self.adapter, self.weights = lm, adapter, weights
        self.batch_rows, self.progress = batch_rows, progress
        nothing = adapter is None or (dtype == "auto" and isinstance(adapter, ActiveParameters))  # to merge
        rounded = None if nothing else precision.rollout_dtype
        self.dtype = None if rounded is None else parse_dtype(rounded)
        self._state: Mapping[str, Tensor] | None = None  # None: what the adapter has learned
        self._rows: tuple[PerExampleScales, Sequence[int]] | None = None
        self._draws: Sequence[int] | None = None  # None: of its own for each example
        self.answers: Answers | None = None  # where greedy ones are kept; set by who wants that

    def with_state(self, state: Mapping[str, Tensor]) -> HFGenerator:
        """The same generator under the weights of `state` (module -> (R,)); z = 1 where it says nothing.

        An empty state is the base, for which nothing is merged.
        """
        return self._derive(state, None)

    def with_per_example_scales(
        self, scales: PerExampleScales, index: Sequence[int], draws: Sequence[int] | None = None
    ) -> HFGenerator:
        """The same generator for `len(index)` examples, of which example b gets state index[b].

        `scales` gives the states with the numbers it is asked for, module -> (D, R); it is asked once a batch. Nothing
        is merged, so `dtype` says nothing here. Example b is sampled with the random numbers of example draws[b].

        Raises:
            ValueError: the adapter cannot give every example its own state.
        """
        if not isinstance(self.adapter, PerExampleAdapter):
            raise ValueError(
                f"{type(self.adapter).__name__} cannot give every example its own state; use pass2=merged."
            )
        other = self._derive(None, (scales, index))
        other._draws = draws
        return other

    def _derive(
        self, state: Mapping[str, Tensor] | None, rows: tuple[PerExampleScales, Sequence[int]] | None
    ) -> HFGenerator:
        if self.adapter is None:
            raise ValueError("This generator has no adapter to apply a state with.")
        other = copy.copy(self)
        other.weights, other._state, other._rows = "base" if state == {} else "adapted", state, rows
        return other

    def for_rows(self, numbers: range, total: int) -> HFGenerator:
        """The same generator for the examples with these numbers of a batch of `total`, sampled as among them."""
        other = copy.copy(self)
        other._draws = numbers
        return other

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        """B examples -> B lists of G completions, in the order of the examples.

        Raises:
            ValueError: a prompt and its new tokens do not fit the model's context.
        """
        done = dict(self.stream(examples, sampling))
        return [done[index] for index in range(len(examples))]

    def stream(self, examples: Sequence[Example], sampling: Sampling) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (index, G completions) of each example as soon as its last completion ends.

        Between two of them the adapter stays in the mode of the generation: do not use the model before the end.

        Raises:
            ValueError: a prompt and its new tokens do not fit the model's context.
        """
        fixed = self.weights == "base" or bool(self._state)  # what the adapter has learned may change, rows differ
        if self.answers is None or not fixed or not is_kept(sampling):
            return self._stream(examples, sampling)
        name = "base" if self.weights == "base" else name_state(self._state or {})
        weights = (name, self.dtype, self.merges)
        return self.answers.stream(self.lm, weights, examples, sampling, lambda left: self._stream(left, sampling))

    @torch.no_grad()
    def _stream(self, examples: Sequence[Example], sampling: Sampling) -> Iterator[tuple[int, list[Completion]]]:
        if self._rows is not None and len(self._rows[1]) != len(examples):
            raise ValueError(f"{len(self._rows[1])} states were given for {len(examples)} examples.")
        if self._state and not self.merges and isinstance(self.adapter, PerExampleAdapter):  # factored, one for all
            yield from self._derive(None, (self._one_state, [0] * len(examples)))._stream(examples, sampling)
            return
        prompts = [tuple(self.lm.encode(example, reserve=sampling.max_new_tokens)) for example in examples]
        samples, steps = sampling.samples, sampling.max_new_tokens
        noise = torch.Generator().manual_seed(sampling.seed)
        draws = range(len(prompts)) if self._draws is None else self._draws
        uniforms = torch.rand(max(draws, default=-1) + 1, samples, steps, generator=noise, dtype=torch.float64)
        uniforms = uniforms[list(draws)].flatten(0, 1)  # (N, T)
        off = no_bar(self.progress)
        bar = tqdm(total=len(uniforms), desc="generate", unit="completion", leave=False, disable=off)
        with self._mode(), bar:
            for batch in self._batches(prompts, samples):
                done: dict[int, list[Row]] = {b: [] for b in batch}
                with self._selecting(batch, samples) as select:
                    for first in range(0, samples, self.batch_rows):
                        some = range(first, min(first + self.batch_rows, samples))
                        groups = [[Row(b * samples + g, prompts[b], examples[b].images) for g in some] for b in batch]
                        for group in self._decode(groups, sampling, uniforms, select):
                            bar.update(len(group))
                            done[b := group[0].index // samples] += group
                            if len(done[b]) == samples:
                                yield b, [row.completion(self.lm, sampling) for row in done[b]]

    def _mode(self) -> AbstractContextManager[object]:
        if self.adapter is None or self._rows is not None:
            return nullcontext()
        if self.weights == "base" and self.dtype is None:
            return self.adapter.disabled()
        if not self.merges and self.weights != "base" and self._state is None:
            return nullcontext()  # the adapter's own: factored
        return self.adapter.merged({} if self.weights == "base" else self._state, dtype=self.dtype)

    @contextmanager
    def applied(self) -> Iterator[Callable[[int], None]]:
        """Within the block the model has the weights of this generator, for other forwards than its own.

        Call the yielded function with the number of rows before each forward. Not for states per example.
        """
        if not self._state or self.merges or not isinstance(self.adapter, PerExampleAdapter):
            with self._mode():
                yield lambda rows: None
            return
        with self.adapter.per_example(self._one_state([0])) as choose_states:
            yield lambda rows: choose_states(torch.zeros(rows, dtype=torch.long, device=self.lm.index_device))

    def _one_state(self, _: Sequence[int]) -> Mapping[str, Tensor]:
        """The given state as the only one of `with_per_example_scales`, module -> (1, R)."""
        assert self.adapter is not None, "with_state checked it"
        assert self._state is not None, "stream checked it"
        ones = {name: torch.ones_like(z) for name, z in self.adapter.state().items()}
        return {name: z[None] for name, z in (ones | dict(self._state)).items()}

    @contextmanager
    def _selecting(self, batch: Sequence[int], samples: int) -> Iterator[Callable[[Sequence[Row]], None]]:
        """Yield the function that tells the adapter which rows come next; it does nothing where all have the same
        state."""
        if self._rows is None:
            yield lambda rows: None
            return
        assert isinstance(self.adapter, PerExampleAdapter), "with_per_example_scales checked it"
        scales, index = self._rows
        distinct = sorted({index[b] for b in batch})
        row_of = {state: row for row, state in enumerate(distinct)}
        with self.adapter.per_example(scales(distinct)) as choose_states:
            yield lambda rows: choose_states(
                torch.tensor([row_of[index[row.index // samples]] for row in rows], device=self.lm.index_device)
            )

    def _batches(self, prompts: Sequence[tuple[int, ...]], samples: int) -> Iterator[list[int]]:
        """Indices of prompts, longest first: little padding, and memory runs out at once if at all."""
        order = sorted(range(len(prompts)), key=lambda b: -len(prompts[b]))
        size = max(1, self.batch_rows // samples)
        yield from (order[start : start + size] for start in range(0, len(order), size))

    def _decode(
        self,
        groups: list[list[Row]],
        sampling: Sampling,
        uniforms: Tensor,
        select: Callable[[Sequence[Row]], None],
    ) -> Iterator[list[Row]]:
        """Read the prompts of one batch and complete their rows; yields a prompt's rows when its last one ends."""
        asked = [group[0] for group in groups]
        prompts = prefill(
            self.lm,
            [row.prompt for row in asked],
            [0 if self._rows is None else self._rows[1][row.index // sampling.samples] for row in asked],
            lambda prompts: select([asked[index] for index in prompts]),
            [row.images for row in asked],
            new_tokens=sampling.max_new_tokens,
        )
        yield from decode(self.lm, groups, prompts, sampling, uniforms.to(self.lm.device), select)
