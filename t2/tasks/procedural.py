"""Generated questions of many kinds, from reasoning-gym (extra `synthetic`), which need no hub.

The seeds of the splits are far apart, and the splits share no question; test is generated first, so that it does not
depend on the size of train. Scores are 0 or 1: the scorers of reasoning-gym, which give partial credit to a gold answer
inside a longer text, are not used. Where a task says that operands commute, "3 * 4" and "4 * 3" are one question, of
which the splits hold one order; where it says what of a question counts, other words and names make no other question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, get_args

from pydantic import PositiveInt

from t2.grading.answers import all_numbers, first_line, last_number, listed_items, matching_word
from t2.run.messages import check_choice
from t2.tasks.base import SPLITS, Split
from t2.tasks.form import Form
from t2.tasks.guesses import copied_items, copied_numbers, named_candidates
from t2.tasks.prompt_hash import canonical_question, sorted_numbers
from t2.tasks.splits import EARLIER_SPLITS, same_text
from t2.types import Example

Extract = Literal["number", "word", "line", "list"]

# reasoning-gym generates item i from Random(seed + i), so that close seeds share nearly all items.
_SPAN = 10_000_000
_PATIENCE = 2_000  # items in a row without a new question after which the space counts as exhausted


class Procedural:
    """One configured reasoning-gym data set; scores a completion 1.0 if the extracted answer equals the gold answer."""

    def __init__(
        self,
        dataset: str,
        name: str,
        form: Form,
        train_size: int = 2000,
        val_size: int = 100,
        test_size: int = 200,
        seed: int = 0,
        extract: Extract = "number",
        candidates: Sequence[str] | str | None = None,
        instruction: str | None = None,
        begun: bool = False,
        commutes: str | None = None,
        same: str | None = None,
        matching: str | None = None,
        config: Mapping[str, Any] | None = None,
        max_new_tokens: PositiveInt = 24,
    ) -> None:
        """Configures the task. No question is generated yet.

        Args:
            dataset: name in reasoning-gym's registry.
            name: name of the task.
            form: how an answer is to look.
            train_size: number of questions; likewise `val_size` and `test_size`.
            val_size: see `train_size`.
            test_size: see `train_size`.
            seed: seed of the questions.
            extract: the last `number`, the `word` of candidates named first, the first `line`, the items of the `list`.
            candidates: for `word`, the words or a regular expression whose group matches them in the question.
            instruction: a line that is appended to each question.
            begun: begin the model's turn of every example with the form's prefix.
            commutes: regular expression of the questions whose numbers may change places, such as sums.
            same: regular expression with the groups `part`, all that makes a question, and `name`, its variable.
            matching: regular expression of the questions that belong to the task; the others are left out.
            config: options of the data set.
            max_new_tokens: length limit of a completion.

        Raises:
            ModuleNotFoundError: reasoning-gym is not installed.
            ValueError: the data set or an option is unknown, or its value is not allowed.
        """
        self.name, self.form, self.max_new_tokens = name, form, max_new_tokens
        self._dataset, self._config, self._same = dataset, dict(config or {}), re.compile(same) if same else None
        self._extract, self._candidates, self._instruction = extract, candidates, instruction
        self._sizes: dict[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        self._seed, self._begun, self._commutes, self._matching = seed, begun, commutes, matching
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
        if self._same is not None and {"part", "name"} - self._same.groupindex.keys():
            raise ValueError(
                f"same of {self.name} is {self._same.pattern!r}; it needs the groups (?P<part>) and (?P<name>)."
            )
        self._source("test")

    def split(self, split: Split) -> Sequence[Example]:
        """Returns the examples of a split, which are generated at the first call.

        Raises:
            ValueError: the split is unknown, there are too few distinct questions, or `extract` misreads a gold answer.
        """
        check_choice(f"split of {self.name}", split, SPLITS)
        if split not in self._cache:
            earlier = [one for other in EARLIER_SPLITS[split] for one in self.split(other)]
            self._cache[split] = tuple(self._generate(split, {_key(one) for one in earlier}))
        return self._cache[split]

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if the answer extracted from `text` equals the gold answer, else 0.0."""
        gold = str(example.answer)
        if self._extract == "number":
            number = last_number(text)
            return float(number is not None and number == last_number(gold))
        if self._extract == "line":
            return float(first_line(text).casefold() == first_line(gold).casefold())
        if self._extract == "list":
            return float(listed_items(text) == (listed_items(gold) or ()))
        named = matching_word(text, self._words(example))
        return float(named is not None and named.casefold() == gold.casefold())

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns the scores of guesses that take an answer out of the question."""
        question, gold = str(example.metadata["question"]), str(example.answer)
        if self._extract == "line":
            return {}
        if self._extract == "list":
            return copied_items(question, listed_items(gold) or ())
        if self._extract == "word":
            words = self._words(example)
            if isinstance(self._candidates, str):  # words of the question, which have a place there
                return named_candidates(words, gold)
            return {"random candidate": 1 / len(words)}
        return copied_numbers(question, all_numbers(gold)[-1])

    def _words(self, example: Example) -> Sequence[str]:
        if isinstance(self._candidates, str):
            return re.findall(self._candidates, str(example.metadata["question"]))
        return self._candidates or ()

    def _generate(self, split: Split, seen: set[str]) -> list[Example]:
        source, wanted = self._source(split), self._sizes[split]
        examples: list[Example] = []
        repeats = 0
        for index in range(_SPAN):
            if len(examples) == wanted:
                break
            if repeats == _PATIENCE:
                sizes = ", ".join(f"{name}_size={size}" for name, size in self._sizes.items())
                raise ValueError(
                    f"{self.name} has too few different questions: {split} got {len(examples)}, asked for "
                    f"{wanted} ({sizes}; test is filled first, then val, then train). "
                    "Lower a size or widen `config`."
                )
            item = source[index]
            new = self._matching is None or bool(re.search(self._matching, item["question"]))
            example = self._example(item) if new else None
            if example is not None and _key(example) not in seen:
                seen.add(_key(example))
                examples.append(example)
                repeats = 0
            else:
                repeats += 1
        return examples

    def _example(self, item: Mapping[str, Any]) -> Example:
        question, answer = item["question"], str(item["answer"])
        canonical = {}
        if self._same is not None and (found := self._same.search(question)):
            canonical = {"canonical": re.sub(rf"\b{re.escape(found['name'])}\b", "x", found["part"])}
        elif self._commutes is not None and re.search(self._commutes, question):
            canonical = {"canonical": sorted_numbers(question)}
        example = Example(
            prompt=f"{question}\n{self._instruction}" if self._instruction else question,
            answer=answer,
            metadata={"question": question, "gold": answer, "dataset": self._dataset, **canonical},
        )
        if self._begun:
            example = self.form.with_prefix(example)
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
                f'The task {self.name!r} needs reasoning-gym: pip install "transformer2[synthetic]"', name=error.name
            ) from error

        check_choice(f"dataset of {self.name}", self._dataset, DATASETS)
        options = {field.name for field in fields(DATASETS[self._dataset][1])} - {"seed", "size"}
        for option in self._config:
            check_choice(f"an option in config of {self.name}", option, options)
        start = (self._seed * len(SPLITS) + SPLITS.index(split)) * _SPAN
        try:
            source: Sequence[Mapping[str, Any]] = create_dataset(self._dataset, seed=start, size=_SPAN, **self._config)
        except (AssertionError, ValueError) as error:  # raised by the checks of its configs
            raise ValueError(f"config of {self.name} is {self._config}: {error}") from error
        return source


def _key(example: Example) -> str:
    return same_text(canonical_question(example))
