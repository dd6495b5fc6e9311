"""Generated questions of many kinds, from reasoning-gym (the extra `synthetic`), for runs without the hub.

Splits are drawn from seeds far apart and share no question; test is drawn first, so it does not depend on how
much is trained on. An answer is right or wrong: reasoning-gym's own scorers give partial credit to a gold
answer buried in text, and are not used. Questions that differ in form only ("3 * 4", "4 * 3") count as
different.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, get_args

from t2.grading.answers import first_line, last_number, matching_word
from t2.run.messages import check_choice
from t2.tasks.base import SPLITS, Split
from t2.tasks.splits import same_text
from t2.types import Example

Extract = Literal["number", "word", "line"]

# Item i of a reasoning-gym data set is drawn from Random(seed + i), so near seeds share nearly all items.
_SPAN = 10_000_000
_PATIENCE = 2_000  # draws without a new question after which the space counts as used up


class Procedural:
    """One reasoning-gym data set with one configuration, right if the extracted answer equals the gold."""

    def __init__(
        self,
        dataset: str,
        name: str,
        train_size: int = 2000,
        val_size: int = 100,
        test_size: int = 200,
        seed: int = 0,
        extract: Extract = "number",
        candidates: Sequence[str] | str | None = None,
        instruction: str | None = None,
        config: Mapping[str, Any] | None = None,
        max_new_tokens: int = 24,
    ) -> None:
        """What to ask, how much of it, and how an answer is read.

        Args:
            dataset: a name of reasoning-gym's registry, with its own options in `config`.
            extract: `number` reads the last number, `word` the candidate named first, `line` the first line.
            candidates: for `word`: the words, or a regular expression whose group finds them in the question.
            instruction: a line put below each question.

        Raises:
            ModuleNotFoundError: reasoning-gym is not installed.
            ValueError: an unknown data set or option, or values that do not fit.
        """
        self.name = name
        self.max_new_tokens = max_new_tokens
        self._dataset, self._config = dataset, dict(config or {})
        self._extract, self._candidates, self._instruction = extract, candidates, instruction
        self._sizes: dict[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        self._seed = seed
        self._cache: dict[Split, tuple[Example, ...]] = {}
        self._check()

    def _check(self) -> None:
        check_choice(f"extract of {self.name}", self._extract, get_args(Extract))
        if (self._extract == "word") != bool(self._candidates):
            raise ValueError(
                f"{self.name}: extract is {self._extract!r} and candidates is {self._candidates!r}; "
                "candidates must be given for 'word' and for nothing else."
            )
        for split, size in self._sizes.items():
            if size < 1:
                raise ValueError(f"{split}_size of {self.name} is {size}; allowed: at least 1.")
        if self._seed < 0:
            raise ValueError(f"seed of {self.name} is {self._seed}; allowed: 0 or above.")
        self._source("test")

    def split(self, split: Split) -> Sequence[Example]:
        """The examples of a split, generated when first asked for.

        Raises:
            ValueError: an unknown split, too few different questions, or golds that `extract` cannot read.
        """
        check_choice(f"split of {self.name}", split, SPLITS)
        if split not in self._cache:
            earlier: dict[Split, tuple[Split, ...]] = {"test": (), "val": ("test",), "train": ("test", "val")}
            others = [one for other in earlier[split] for one in self.split(other)]
            self._cache[split] = tuple(self._draw(split, {_key(one) for one in others}))
        return self._cache[split]

    def score(self, example: Example, text: str) -> float:
        """1.0 if the extracted answer equals the gold, else 0.0."""
        gold = str(example.answer)
        if self._extract == "number":
            number = last_number(text)
            return float(number is not None and number == last_number(gold))
        if self._extract == "line":
            return float(first_line(text).casefold() == first_line(gold).casefold())
        named = matching_word(text, self._words(example))
        return float(named is not None and named.casefold() == gold.casefold())

    def _words(self, example: Example) -> Sequence[str]:
        if isinstance(self._candidates, str):
            return re.findall(self._candidates, str(example.metadata["question"]))
        return self._candidates or ()

    def _draw(self, split: Split, seen: set[str]) -> list[Example]:
        source, wanted = self._source(split), self._sizes[split]
        examples: list[Example] = []
        fruitless = 0
        for index in range(_SPAN):
            if len(examples) == wanted:
                break
            if fruitless == _PATIENCE:
                sizes = ", ".join(f"{name}_size={size}" for name, size in self._sizes.items())
                raise ValueError(
                    f"{self.name} has too few different questions: {split} got {len(examples)}, asked for "
                    f"{wanted} ({sizes}; test is filled first, then val, then train). "
                    "Lower a size or widen `config`."
                )
            example = self._example(source[index])
            fruitless = fruitless + 1 if _key(example) in seen else 0
            if not fruitless:
                seen.add(_key(example))
                examples.append(example)
        return examples

    def _example(self, item: Mapping[str, Any]) -> Example:
        question, answer = item["question"], str(item["answer"])
        example = Example(
            prompt=f"{question}\n{self._instruction}" if self._instruction else question,
            answer=answer,
            metadata={"question": question, "gold": answer, "dataset": self._dataset},
        )
        if self.score(example, answer) != 1.0:
            raise ValueError(
                f"{self.name}: extract={self._extract!r} (candidates {self._candidates!r}) cannot read the "
                f"gold answer {answer!r} of {question[:80]!r}; change `extract` or `candidates`."
            )
        return example

    def _source(self, split: Split) -> Sequence[Mapping[str, Any]]:
        try:
            from reasoning_gym.factory import DATASETS, create_dataset
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'The task {self.name!r} needs reasoning-gym: pip install "t2[synthetic]"', name=error.name
            ) from error

        check_choice(f"dataset of {self.name}", self._dataset, DATASETS)
        options = {field.name for field in fields(DATASETS[self._dataset][1])} - {"seed", "size"}
        for option in self._config:
            check_choice(f"an option in config of {self.name}", option, options)
        start = (self._seed * len(SPLITS) + SPLITS.index(split)) * _SPAN
        try:
            source: Sequence[Mapping[str, Any]] = create_dataset(self._dataset, seed=start, size=_SPAN, **self._config)
        except (AssertionError, ValueError) as error:  # how its configs refuse a value
            raise ValueError(f"config of {self.name} is {self._config}: {error}") from error
        return source


def _key(example: Example) -> str:
    return same_text(str(example.metadata["question"]))
