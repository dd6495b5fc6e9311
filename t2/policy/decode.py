"""The decode loop: completions of one batch, those that are alike so far in one row of the cache.

    prompt p, samples a b c d       step 1         step 2         step 3
    one row: p                      p 4 (a b c)    p 4 7 (a b)    p 4 7 . (a b)
                                    p 5 (d)        p 4 2 (c)      p 4 2 0 (c)
                                                   p 5 1 (d)      p 5 1 . (d)

Samples of a prompt share its row until they differ, so that a beginning that several have is computed and kept once.
Each sample has its own uniform number at each step, so the tokens are those that it would have alone. Finished rows
leave the batch. Once samples differ, their prompt's keys and values are still held once (`t2.policy.prompt_cache`);
those of prompts with one sample each grow in place (`t2.policy.growing_cache`).
Not done here: what is sampled from the logits (`t2.policy.sampling`), reading prompts (`t2.policy.prefix`), batches
(`t2.policy.hf`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2.models.language_model import LanguageModel
from t2.policy.growing_cache import leave_room
from t2.policy.prefix import Prompts
from t2.policy.prompt_cache import share_prompts
from t2.policy.rows import Row
from t2.policy.sampling import choose
from t2.types import Sampling

COMPACT_SHARE = 0.25  # finished rows are dropped at this share of the batch: a drop copies what the others generated


@dataclass
class Branch:
    """Completions that have the same tokens so far, and the next token that they have in common."""

    rows: list[Row]  # never empty
    token: int = 0  # of an ended branch that waits in the batch: any

    @property
    def ended(self) -> bool:
        """Whether its completions have; equal tokens end alike."""
        return self.rows[0].stopped


def decode(
    lm: LanguageModel,
    groups: Sequence[list[Row]],
    prompts: Prompts,
    sampling: Sampling,
    uniforms: Tensor,
    select: Callable[[Sequence[Row]], None],
) -> Iterator[list[Row]]:
    """Complete the rows of each prompt; yields a prompt's rows when its last one ends.

    Args:
        lm: the model, in the adapter's mode of the generation.
        groups: the B prompts' rows, all of one group with one prompt.
        prompts: as they were read; their cache is used up.
        sampling: when a completion ends, and how its tokens are chosen.
        uniforms: a number in [0, 1) for each row's index and step, (N, T).
        select: is told one completion of each row of the next forward pass, whose state is to be applied.
    """
    cache, logits, mask, shift = prompts.cache, prompts.logits, prompts.mask, prompts.shift
    prepare = share_prompts if any(len(group) > 1 for group in groups) else leave_room
    prepare(cache, sampling.max_new_tokens)
    branches, waiting = [Branch(list(group)) for group in groups], list(groups)
    select([branch.rows[0] for branch in branches])
    for step in range(sampling.max_new_tokens):
        parents, following = _split(branches, logits, uniforms[:, step], lm, sampling)
        last = step + 1 == sampling.max_new_tokens or not following
        done = [group for group in waiting if last or all(row.stopped for row in group)]
        waiting = [group for group in waiting if not any(group is one for one in done)]
        yield from done
        if last:
            return
        splits = len(set(parents)) < len(parents)
        if splits or len(parents) <= (1 - COMPACT_SHARE) * len(branches):
            index = torch.tensor(parents, device=lm.index_device)
            cache.reorder_cache(index)  # which layers with a running state know, too
            mask, shift, branches = mask[index], shift[index], following
            select([branch.rows[0] for branch in branches])
        else:  # ended branches wait where they are
            for parent, branch in zip(parents, following, strict=True):
                branches[parent] = branch
        mask = torch.cat([mask, mask.new_ones(len(branches), 1)], dim=1)
        logits = lm.next_logits(
            input_ids=torch.tensor([[branch.token] for branch in branches], device=lm.device),
            attention_mask=mask,
            position_ids=(mask.sum(dim=1) - 1 + shift)[:, None],
            past_key_values=cache,
            use_cache=True,
        )


def _split(
    branches: Sequence[Branch], logits: Tensor, uniforms: Tensor, lm: LanguageModel, sampling: Sampling
) -> tuple[list[int], list[Branch]]:
    """Give every row its next token, from logits (n, V) of the branches and uniform numbers (N,) by row index.

    Returns the branches that go on, and the index of each one's parent.
    """
    of = [(parent, row) for parent, branch in enumerate(branches) if not branch.ended for row in branch.rows]
    if not of:
        return [], []
    at = [parent for parent, _ in of]
    if at != list(range(len(logits))):  # a copy of (n, V), which as long as no row ends or splits is for nothing
        logits = logits[torch.tensor(at, device=logits.device)]
    draws = uniforms[torch.tensor([row.index for _, row in of], device=uniforms.device)]
    tokens, log_probs = choose(logits, draws, sampling)  # (n',), (n',)
    children: dict[tuple[int, int], Branch] = {}
    for (parent, row), token, log_prob in zip(of, tokens.tolist(), log_probs.tolist(), strict=True):
        row.record(token, log_prob, lm, sampling)
        children.setdefault((parent, token), Branch([], token)).rows.append(row)
    going = {key: branch for key, branch in children.items() if not branch.ended}
    return [parent for parent, _ in going], list(going.values())
