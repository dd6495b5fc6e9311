"""Continuous batching: rows of different requests are decoded together, and join and leave between two steps.

    step      1    2    3    4    5             cache, left-padded; a column that no row uses is dropped
    row a     p a  a  a  a  end
    row b     p b  b  end
    row c             p c  c  c  ...            its prompt is read by itself, then its cache is put beside the others

Each row has its own mixture, sampling and random numbers, so that its tokens are those that it would have alone, up to
rounding. Keys and values of every token are kept, also in models with a sliding window, whose mask leaves out the old.

Not done here: choosing which rows join (`t2.serving.engine`), paged caches, chunks of prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from t2.experts.mixture import Mixture
from t2.models.language_model import LanguageModel
from t2.models.precision import NonFiniteError
from t2.policy.prefix import has_running_state, prefill
from t2.policy.sampling import choose
from t2.serving.applied import Applied
from t2.serving.job import Failed, Job, ServedRow, Token, rows_of


class Batch:
    """The rows that are being decoded."""

    def __init__(self, lm: LanguageModel, applied: Applied) -> None:
        """An empty batch; ValueError for a model that remembers more than keys and values."""
        if has_running_state(DynamicCache(config=lm.model.config)):
            raise ValueError(
                f"{lm.source} keeps running states ({type(lm.model).__name__}), and rows that join and leave a batch "
                "have keys and values alone. Complete prompts with adapt.py, or serve a model that attends."
            )
        self._lm, self._applied = lm, applied
        self.rows: list[ServedRow] = []
        self._cache: DynamicCache | None = None
        self._mask = torch.empty(0, 0, dtype=torch.long)  # (n, S)

    @torch.no_grad()
    def join(self, jobs: Sequence[Job]) -> None:
        """Read the prompts of jobs whose mixtures are chosen, sample their first tokens, and put them beside the rest.

        The batch has not changed where this raises.
        """
        mixtures = [_mixture(job) for job in jobs]
        kept = [_mixture(row.job) for row in self.rows]
        states = {mixture: number for number, mixture in enumerate(dict.fromkeys(mixtures))}

        def select(indices: Iterable[int]) -> None:
            inside.close()
            inside.enter_context(self._applied.rows([mixtures[index] for index in indices], keep=[*mixtures, *kept]))

        with ExitStack() as inside:
            read = prefill(
                self._lm,
                [job.ask.prompt_ids for job in jobs],
                [states[mixture] for mixture in mixtures],
                select,
                cache=DynamicCache(),
                new_tokens=max(job.ask.sampling.max_new_tokens for job in jobs),
            )
        rows = [row for job in jobs for row in rows_of(job)]
        of = torch.tensor([index for index, job in enumerate(jobs) for _ in range(job.ask.sampling.samples)])
        self._sample(rows, read.logits[of.to(read.logits.device)])
        going = [index for index, row in enumerate(rows) if row.going]
        if not going:
            return
        chosen = of[going].to(self._lm.index_device)
        read.cache.batch_select_indices(chosen)
        self._put(read.cache, read.mask[chosen], [rows[index] for index in going])

    @torch.no_grad()
    def step(self) -> None:
        """Give every row its next token; those that have ended leave."""
        self.drop()
        if not self.rows:
            return
        assert self._cache is not None, "there are rows"
        mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=1)
        with self._applied.rows([_mixture(row.job) for row in self.rows]):
            logits = self._lm.next_logits(
                input_ids=torch.tensor([[row.row.tokens[-1]] for row in self.rows], device=self._lm.device),
                attention_mask=mask,
                position_ids=mask.sum(dim=1, keepdim=True) - 1,
                past_key_values=self._cache,
                use_cache=True,
            )
        self._mask = mask
        self._sample(self.rows, logits)
        self.drop()

    def drop(self) -> None:
        """Let the rows leave that want no other token, and columns that no row has used."""
        stay = [index for index, row in enumerate(self.rows) if row.going]
        if len(stay) == len(self.rows):
            return
        if not stay:
            self.clear()
            return
        assert self._cache is not None, "there are rows"
        index = torch.tensor(stay, device=self._lm.index_device)
        self._cache.batch_select_indices(index)
        self._mask = self._mask[index]
        self.rows = [self.rows[one] for one in stay]
        unused = int(self._mask.any(dim=0).long().argmax())
        if unused:
            self._mask = self._mask[:, unused:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[..., unused:, :], layer.values[..., unused:, :]

    def clear(self) -> None:
        """Let all rows go."""
        self.rows, self._cache = [], None
        self._mask = torch.empty(0, 0, dtype=torch.long)

    def _put(self, cache: DynamicCache, mask: Tensor, rows: list[ServedRow]) -> None:
        """Put rows beside those that are there, padding the shorter ones on the left."""
        if self._cache is None:
            self._cache, self._mask, self.rows = cache, mask, rows
            return
        before = self._mask.shape  # (n, S)
        width = max(mask.shape[1], before[1])
        try:
            for ours, theirs in zip(self._cache.layers, cache.layers, strict=True):
                ours.keys = torch.cat([_widened(ours.keys, width), _widened(theirs.keys, width)])
                ours.values = torch.cat([_widened(ours.values, width), _widened(theirs.values, width)])
        except (
            BaseException
        ):  # memory may end in the middle; to widen all before any is let go would take twice as much
            for layer in self._cache.layers:
                layer.keys, layer.values = (_narrowed(states, *before) for states in (layer.keys, layer.values))
            raise
        self._mask = torch.cat([F.pad(one, (width - one.shape[1], 0)) for one in (self._mask, mask)])
        self.rows = [*self.rows, *rows]

    def _sample(self, rows: Sequence[ServedRow], logits: Tensor) -> None:
        """Record the next token of each row from logits (n, V), and tell its job; a job whose numbers are NaN fails."""
        kinds: dict[tuple[float, float], list[int]] = {}
        for index, row in enumerate(rows):
            kinds.setdefault((row.job.ask.sampling.temperature, row.job.ask.sampling.top_p), []).append(index)
        for indices in kinds.values():
            some = [rows[index] for index in indices]
            uniforms = torch.stack([row.uniforms[len(row.row.tokens)] for row in some]).to(logits.device)
            sampling = some[0].job.ask.sampling
            tokens, log_probs = choose(logits if len(kinds) == 1 else logits[indices], uniforms, sampling)
            for row, token, log_prob in zip(some, tokens.tolist(), log_probs.tolist(), strict=True):
                self._record(row, token, log_prob)

    def _record(self, row: ServedRow, token: int, log_prob: float) -> None:
        try:
            row.row.record(token, log_prob, self._lm, row.job.ask.sampling)
        except NonFiniteError as error:
            row.job.finish(Failed(str(error)))
            return
        finish = "stop" if row.row.stopped else "length" if row.is_full else None
        row.job.tell(Token(row.sample, token, log_prob, finish))  # type: ignore[arg-type]


def _widened(states: Tensor, width: int) -> Tensor:
    """Keys or values (n, H, S, D) with zeros on the left, (n, H, width, D)."""
    return F.pad(states, (0, 0, width - states.shape[-2], 0))


def _narrowed(states: Tensor, rows: int, width: int) -> Tensor:
    """The first rows and last columns of keys or values, of which both may be more than there were, (n, H, S, D)."""
    return states[:rows, :, states.shape[-2] - width :]


def _mixture(job: Job) -> Mixture:
    assert job.mixture is not None, "pass 1 comes before"
    return job.mixture
