"""A generator that adds up the tokens it generates, whatever it wears meanwhile. Nothing else of it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from t2.adapters.base import Adapter
from t2.models.language_model import LanguageModel
from t2.policy.generator import AdaptableGenerator, Generator, RowGenerator, RowScales
from t2.types import Completion, Example, Sampling


class TokenCount:
    """A sum that several generators share."""

    def __init__(self) -> None:
        """Start at zero."""
        self.generated = 0

    def add(self, answers: Sequence[Sequence[Completion]]) -> None:
        """Count the completions' tokens, stop tokens included."""
        self.generated += sum(len(completion.token_ids) for group in answers for completion in group)


def counted(generator: AdaptableGenerator, count: TokenCount) -> AdaptableGenerator:
    """The same generator, whose tokens go to `count`; it can do rows where `generator` can."""
    if isinstance(generator, RowGenerator):
        return _CountedRows(generator, count)
    return _CountedAdaptable(generator, count)


class _Counted:
    def __init__(self, inner: Generator, count: TokenCount) -> None:
        self._inner, self._count = inner, count

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        """B examples -> B lists of G completions."""
        answers = self._inner.generate(examples, sampling)
        self._count.add(answers)
        return answers


class _CountedAdaptable(_Counted):
    def __init__(self, inner: AdaptableGenerator, count: TokenCount) -> None:
        super().__init__(inner, count)
        self._adaptable = inner
        self.lm: LanguageModel = inner.lm
        self.adapter: Adapter | None = inner.adapter

    def with_state(self, state: Mapping[str, Tensor]) -> Generator:
        """The same generator under the weights merged with `state`."""
        return _Counted(self._adaptable.with_state(state), self._count)


class _CountedRows(_CountedAdaptable):
    def __init__(self, inner: RowGenerator, count: TokenCount) -> None:
        super().__init__(inner, count)
        self._rows = inner

    def with_rows(self, scales: RowScales, index: Sequence[int]) -> Generator:
        """The same generator for `len(index)` examples, each under its own state."""
        return _Counted(self._rows.with_rows(scales, index), self._count)
