"""The policy gradient of one rollout, accumulated over micro-batches (paper §3.1, Eq. 1).

    rollout -> completions with an advantage -> micro-batches by tokens -> log-probs -> loss -> backward

Where the KL to the base is in the loss, all completions take part. Where it is only logged, it is estimated on a few,
in passes of its own, so that the log changes no gradient and costs a fraction of the update. Sampling, grading,
clipping and the optimizer step are in `t2.training.module`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from t2.adapters.base import Adapter, PerExampleAdapter
from t2.models.language_model import LanguageModel
from t2.models.precision import NonFiniteError, dtype_name, is_half
from t2.policy.kl_floor import kl_floor
from t2.policy.log_probs import KLDirection, TokenLogProbs, token_log_probs
from t2.policy.packing import group_by_prompt, micro_batches, row_tokens
from t2.policy.prompt_sharing import exceeds_window
from t2.run.ranks import no_bar
from t2.training.objectives import Objective
from t2.training.ranks import ALONE, Ranks
from t2.training.rollout import Rollout
from t2.training.update_sums import UpdateSums

log = logging.getLogger(__name__)
KL_SHARE = 0.15  # of the update's tokens: those of the completions that a KL for the log is estimated on


def accumulate_gradient(
    lm: LanguageModel,
    adapter: Adapter,
    objective: Objective,
    rollout: Rollout,
    *,
    with_kl: bool,
    share_prompts: bool,
    micro_batch_tokens: int,
    backward: Callable[[Tensor], None],
    seed: int = 0,
    kept: dict[int, Tensor] | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Call `backward` with the loss of each micro-batch, and return metrics of the update.

    Completions without an advantage add nothing to the policy gradient and are left out, unless the objective uses the
    KL to the base. A rollout without any advantage calls `backward` only there. `with_kl` adds `train/kl`, the mean
    over all completions of their KL as the loss weighs it: exact where the objective uses it, else an unbiased estimate
    on completions that are drawn at random by `seed`. `kept` gets log-probs for `Rollout.after_update`.

    Each of several `ranks` takes a part of the prompts that have a gradient, and the same in another update on the
    rollout. Afterwards gradients of `adapter` and metrics are those of the whole on every rank; `kept` has its part.

    In float16 the loss is multiplied by about N, so that no gradient of a large rollout falls below what float16 holds,
    and the gradients of `adapter` are divided by it afterwards. They have to be None or 0 before.

    Raises:
        NonFiniteError: a log-prob or divergence that is NaN or infinite; the numbers are those of the rollout.
        AnotherRankFailed: see `Ranks.exchange`.
    """
    in_loss = objective.kl_coefficient > 0
    shared = share_prompts and not exceeds_window(lm, rollout.completions)
    if shared != share_prompts:
        log.warning("Prompts are not shared in this step: completions reach beyond the model's sliding window.")
    # Zero gradients would still move z by AdamW's momentum, so a step without a signal has none at all.
    used = [n for n in range(len(rollout.completions)) if in_loss or rollout.advantages[n] != 0]
    passes = _Passes(lm, adapter, rollout, shared=shared, micro_batch_tokens=micro_batch_tokens)
    scale = float(2 ** int(math.log2(rollout.total_samples))) if lm.dtype == torch.float16 else 1.0
    kl_seed = seed if with_kl and not in_loss else None
    own = partial(_own_part, passes, objective, used, ranks, backward=backward, scale=scale, kept=kept, kl_seed=kl_seed)
    sums = UpdateSums.total(ranks.exchange(own))
    ranks.sum_gradients(adapter.trainable(), sums.present)
    for parameter in adapter.trainable():
        if scale != 1.0 and parameter.grad is not None:
            parameter.grad /= scale
    metrics = sums.metrics(on_policy=objective.on_policy)
    if in_loss or with_kl:
        metrics["train/kl"] = sums.kl
    return metrics


def accumulate_last_of(
    updates: int,
    accumulate: Callable[..., dict[str, float]],
    rollout: Rollout,
    *,
    with_kl: bool,
    step: Callable[[], object],
) -> dict[str, float]:
    """Accumulate the gradient of the last of several updates on a rollout, and return their metrics.

    `accumulate` is `accumulate_gradient` of all but its rollout, `with_kl` and `kept`. `step` makes an optimizer step
    and clears gradients; the step after the last update is the caller's. Metrics are those of the first update, whose
    policy sampled the completions; `train/clipped_share` is that of the last, which is farthest from it.
    """
    if updates == 1:
        return accumulate(rollout, with_kl=with_kl)
    kept: dict[int, Tensor] = {}
    metrics = accumulate(rollout, with_kl=with_kl, kept=kept)
    later = rollout.after_update(kept)
    for _ in range(updates - 1):
        step()
        last = accumulate(later, with_kl=False)
        metrics |= {name: share for name, share in last.items() if name == "train/clipped_share"}
    return metrics


def warn_of_kl_floor(lm: LanguageModel, adapter: Adapter, objective: Objective) -> None:
    """Say in the log what rounding alone makes of the KL, where it is in the loss and the model in half precision."""
    if not objective.kl_coefficient > 0 or not is_half(lm.dtype) or not isinstance(adapter, PerExampleAdapter):
        return
    log.warning(
        "objective.kl_coefficient is %g and the base model is in %s, where the KL of a policy that is the base is "
        "%.1g nats per token by rounding alone, and so is a part of its gradient. For a KL that means something below "
        "that, set base_model.dtype=float32.",
        objective.kl_coefficient,
        dtype_name(lm.dtype),
        kl_floor(lm, adapter, objective.kl_direction),
    )


def _log_probs_by_number(numbers: Sequence[int], token: TokenLogProbs) -> dict[int, Tensor]:
    """The log-probs (T_n,) of each completion, without a gradient."""
    rows = zip(numbers, token.log_probs.detach(), token.mask, strict=True)
    return {number: log_probs[mask] for number, log_probs, mask in rows}


def _own_part(
    passes: _Passes,
    objective: Objective,
    used: Sequence[int],
    ranks: Ranks,
    *,
    backward: Callable[[Tensor], None],
    scale: float,
    kept: dict[int, Tensor] | None,
    kl_seed: int | None,
) -> UpdateSums:
    """Call `backward` with `scale` times the loss of each micro-batch of this rank's part of the update.

    `kl_seed` draws the completions on which a KL for the log is estimated; None: it is in the loss, or not wanted.
    """
    sums = UpdateSums()
    numbers, direction = _part_of(used, passes.rollout, ranks), objective.kl_direction
    for chosen, part, token in passes.over(numbers, direction if objective.kl_coefficient > 0 else None):
        if kept is not None:
            kept |= _log_probs_by_number(chosen, token)
        loss = objective.loss(token, part)
        with ranks.backward():
            backward(loss.total * scale)
        sums.add(loss, token)
    if ranks.lockstep is not None:
        _fill_up(passes, used, ranks, direction if objective.kl_coefficient > 0 else None, backward)
    if kl_seed is not None:
        sums.kl = _estimate_kl(passes, objective, used, kl_seed, ranks)
    sums.present = [parameter.grad is not None for parameter in passes.adapter.trainable()]
    return sums


def _fill_up(
    passes: _Passes, used: Sequence[int], ranks: Ranks, kl: KLDirection | None, backward: Callable[[Tensor], None]
) -> None:
    """Have as many micro-batches on this rank as on the one with most; those that are missing add 0 to the gradient."""
    parts = [_part_of(used, passes.rollout, replace(ranks, rank=rank)) for rank in range(ranks.size)]
    counts = [len(passes.split(part)) for part in parts]
    for _ in range(max(counts) - counts[ranks.rank]):
        for _, _, token in passes.over([0], kl):
            with ranks.backward():
                backward((token.log_probs.sum() + (0.0 if token.kl is None else token.kl.sum())) * 0.0)


def _part_of(used: Sequence[int], rollout: Rollout, ranks: Ranks) -> list[int]:
    """The numbers of this rank's part of the completions with these numbers: whole prompts."""
    groups = group_by_prompt([rollout.completions[n] for n in used])
    return sorted(used[at] for number in ranks.part(len(groups)) for at in groups[number])


@torch.no_grad()
def _estimate_kl(passes: _Passes, objective: Objective, used: Sequence[int], seed: int, ranks: Ranks) -> float:
    """This rank's part of the loss's KL term on m of the N completions, drawn without replacement, times N / m.

    Its expectation over the draw is the term on all of them. m is what KL_SHARE of the update's tokens hold, at least
    1, so the estimate of one step is rough; those of many steps average out. The parts of all ranks add up to it.
    """
    rollout = passes.rollout
    every = range(rollout.total_samples)
    row = sum(row_tokens(rollout.completions, [n]) for n in every) / rollout.total_samples
    count = min(max(1, int(KL_SHARE * passes.tokens(used) / row)), rollout.total_samples)
    drawn = torch.randperm(rollout.total_samples, generator=torch.Generator().manual_seed(seed))[:count]
    kl = sum(
        objective.loss(token, part).parts["kl"]
        for _, part, token in passes.over(sorted(drawn.tolist())[ranks.rank :: ranks.size], objective.kl_direction)
    )
    return kl * rollout.total_samples / count


@dataclass(frozen=True)
class _Passes:
    """Forward passes over parts of a rollout."""

    lm: LanguageModel
    adapter: Adapter
    rollout: Rollout
    shared: bool
    micro_batch_tokens: int

    def over(
        self, numbers: Sequence[int], kl: KLDirection | None
    ) -> Iterator[tuple[list[int], Rollout, TokenLogProbs]]:
        """Micro-batches of the completions with these numbers: their numbers, they, and what was computed for them."""
        for rows in tqdm(self.split(numbers), desc="update", unit="micro-batch", leave=False, disable=no_bar()):
            chosen_numbers = [numbers[row] for row in rows]
            part = self.rollout.select(chosen_numbers)
            try:
                token = token_log_probs(
                    self.lm,
                    part.completions,
                    temperature=self.rollout.temperature,
                    kl=kl,
                    adapter=self.adapter,
                    shared=self.shared,
                )
            except NonFiniteError as error:
                completion = chosen_numbers[error.completion]
                groups = group_by_prompt(self.rollout.completions)
                prompt = next(number for number, group in enumerate(groups) if completion in group)
                raise error.at(prompt=prompt, completion=completion) from None
            yield chosen_numbers, part, token

    def split(self, numbers: Sequence[int]) -> list[list[int]]:
        """The micro-batches of the completions with these numbers, as indices of `numbers`."""
        chosen = [self.rollout.completions[n] for n in numbers]
        return micro_batches(chosen, self.micro_batch_tokens, shared=self.shared)

    def tokens(self, numbers: Sequence[int]) -> int:
        """The tokens of a pass over these completions, without padding."""
        chosen = [self.rollout.completions[n] for n in numbers]
        rows = group_by_prompt(chosen) if self.shared else [[n] for n in range(len(chosen))]
        return sum(row_tokens(chosen, row) for row in rows)
