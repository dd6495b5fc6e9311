"""Greedy answers that are kept, so that the same weights are not asked the same question twice.

Strategies often choose what another system has answered with already: the base, a single expert, the mixture that an
earlier search found. Its answers are then taken from here. So an evaluation takes less time, and systems with the same
weights have the same answers, which in half precision differ by rounding where questions are batched in another way.
An answer's share of the call that made it, in seconds and tokens, is charged to each system that has it, so that no
system looks free in a table. By itself a system that asks a few of the questions takes more for each: it merges weights
for them alone. `keep_answers=false` measures that.

Not kept: sampled answers, those of a state per example, of an adapter that is being trained, and of other engines.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from t2.models.forward_tokens import charge_forward_tokens, count_forward_tokens
from t2.models.language_model import LanguageModel
from t2.run.phases import charge_seconds
from t2.types import Completion, Example, Sampling

Stream = Iterator[tuple[int, list[Completion]]]


@dataclass(frozen=True)
class _Kept:
    """An answer, and its share of what its call took: the same for each answer of a call."""

    answer: Completion
    seconds: float
    forward_tokens: int


class Answers:
    """The answers of one model by weights, question, length and stop strings.

    `reused` counts those that were taken from here, `saved_s` are their seconds.
    """

    def __init__(self) -> None:
        """Start without any."""
        self.reused, self.saved_s = 0, 0.0
        self._kept: dict[Hashable, _Kept] = {}

    def stream(
        self,
        lm: LanguageModel,
        weights: Hashable,
        examples: Sequence[Example],
        sampling: Sampling,
        decode: Callable[[Sequence[Example]], Stream],
    ) -> Stream:
        """Yield (index, answer) of each example, those that are known first; `decode` makes the others.

        Args:
            lm: the model that `decode` uses.
            weights: what tells them from all others that are used with these answers.
            examples: to be answered.
            sampling: greedy, and one sample.
            decode: examples -> (index among them, answer).
        """
        keys = [(weights, _question(example), sampling.max_new_tokens, sampling.stop) for example in examples]
        left = []
        for index, key in enumerate(keys):
            if key in self._kept:
                yield index, [self._again(lm, key)]
            else:
                left.append(index)
        if not left:
            return
        found: dict[int, Completion] = {}
        start = time.perf_counter()
        with count_forward_tokens(lm) as tokens:
            for position, (answer,) in decode([examples[index] for index in left]):
                found[left[position]] = answer
                yield left[position], [answer]
        seconds = (time.perf_counter() - start) / len(left)
        each, more = divmod(tokens.count, len(left))
        for number, (index, answer) in enumerate(found.items()):
            self._kept[keys[index]] = _Kept(answer, seconds, each + (number < more))

    def _again(self, lm: LanguageModel, key: Hashable) -> Completion:
        kept = self._kept[key]
        charge_seconds(kept.seconds)
        charge_forward_tokens(lm, kept.forward_tokens)
        self.reused += 1
        self.saved_s += kept.seconds
        return kept.answer


def is_kept(sampling: Sampling) -> bool:
    """Whether an answer depends on nothing but weights, question, length and stop strings."""
    return sampling.temperature == 0.0 and sampling.samples == 1


def name_state(state: Mapping[str, Tensor]) -> str:
    """A hash of a state, module -> (R,): others have other names."""
    digest = hashlib.sha256()
    for module, z in sorted(state.items()):
        digest.update(f"{module} {tuple(z.shape)} {z.dtype} ".encode())
        digest.update(z.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def _question(example: Example) -> Hashable:
    """All that the model reads of an example."""
    return example.prompt, example.system, example.response_prefix, example.shots, example.images
