"""TextVQA and OK-VQA: questions about an image with the answers of ten people, graded by soft accuracy.

TextVQA (arXiv 1904.08920, hub `lmms-lab-encoder/textvqa`, CC-BY-4.0) asks about text in images, OK-VQA
(arXiv 1906.00067, hub `lmms-lab-encoder/OK-VQA`, COCO images) for knowledge that is not in them. The paper's code has
no vision part, so prompts and test splits are those of lmms-eval: TextVQA is tested on the hub's validation split, as
the answers of its test split are withheld, and OK-VQA on val2014. val is carved out of train; splits share no image.

`t2.grading.vqa` grades the first line of a completion (lmms-eval joins all lines): n of ten people who gave the same
answer make min(0.3 n, 1). Images are not decoded here.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import PositiveInt

from t2.grading.vqa import compared_form, soft_accuracy
from t2.run.messages import check_choice
from t2.tasks.base import Split
from t2.tasks.form import IN_PROMPT
from t2.tasks.images import RowImage
from t2.tasks.row_source import Row, RowSource
from t2.tasks.splits import DisjointSplits, ValByImage
from t2.types import Example, Grade

ImageKey = Literal["image_id", "question_id"]

IMAGE = "image"
_FIELDS = ("question", "ocr_tokens")
_GROUPS = ("question_type", "answer_type")


class VQA:
    """Questions about images, scored by the soft accuracy of the completion's first line."""

    form = IN_PROMPT

    def __init__(
        self,
        name: str,
        template: str,
        hub_ids: str | Sequence[str],
        test_split: str,
        train_hub_ids: str | Sequence[str] | None = None,
        image_key: ImageKey = "image_id",
        capitalize: bool = False,
        data_files: Mapping[str, str] | None = None,
        val_images: int = 500,
        seed: int = 0,
        limit: int | None = None,
        max_new_tokens: PositiveInt = 16,
    ) -> None:
        """Configures the task. Nothing is read yet.

        Args:
            name: name of the task.
            template: the prompt, with {question} and optionally {ocr_tokens}, which are joined by ", ".
            hub_ids: data sets on the hub, of which the first that is available is read.
            test_split: the hub's split to test on.
            train_hub_ids: data sets of the hub's `train` split; None for `hub_ids`.
            image_key: the column that identifies the image: `image_id`, or a COCO `question_id`, which is the id of the
                image and one more digit.
            capitalize: apply `str.capitalize` to the question, which makes its other letters lower case.
            data_files: paths for `train` and `test`, read instead of the hub. Images are bytes, or paths relative to
                the folder of the file.
            val_images: number of train images that become val, with all their questions.
            seed: seed of that sample.
            limit: maximum number of examples in a split.
            max_new_tokens: length limit of a completion.

        Raises:
            ValueError: the template lacks {question} or has another field, `image_key` is unknown, or there is no data.
        """
        check_choice(f"image_key of {name}", image_key, get_args(ImageKey))
        self.name = name
        self.max_new_tokens = max_new_tokens
        self._template, self._capitalize, self._image_key = template, capitalize, image_key
        self._fields = _template_fields(template, name)
        self._data_files, self._test_split = data_files, test_split
        self._test_source = self._train_source = RowSource(hub_ids, None, data_files, name, splits=("train", "test"))
        if train_hub_ids and data_files is None:
            self._train_source = RowSource(train_hub_ids, None, None, name)
        self._splits = DisjointSplits(
            name, ValByImage(self._examples, val_images, seed), limit, lambda one: str(one.metadata["image_id"])
        )

    def split(self, split: Split) -> Sequence[Example]:
        """Returns the examples of a split; `metadata["answers"]` are all reference answers, `answer` the most frequent.

        Raises:
            ValueError: the split is unknown or empty, or a row lacks a column or has no answer.
        """
        return self._splits(split)

    def score(self, example: Example, text: str) -> float:
        """Returns the soft accuracy of the first line of `text`.

        `example.answer` itself scores 1.0 if at least 4 of 10 people gave it, and 0.3 for each of fewer.
        """
        return self.grade(example, text).score

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns nothing: no guess from the form of a question has a chance."""
        return {}

    def grade(self, example: Example, text: str) -> Grade:
        """Returns the soft accuracy; the reason is `partial`, `wrong`, or `empty` for a text without words."""
        prediction = next(iter(text.strip().splitlines()), "").strip()
        if not prediction:
            return Grade(0.0, "empty")
        score = soft_accuracy(prediction, example.metadata["answers"])
        return Grade(score, None if score == 1.0 else "partial" if score > 0.0 else "wrong", prediction)

    def about(self) -> dict[str, Any]:
        """Describes the metric, the prompt, and the source, version and fingerprint of the splits read so far."""
        about: dict[str, Any] = {"metric": "soft accuracy, answers normalized as by EvalAI"}
        about |= {"template": self._template, "capitalize": self._capitalize, **self._test_source.describe()}
        if self._train_source is not self._test_source:
            about["train"] = self._train_source.describe()
        return about

    def _examples(self, part: Literal["train", "test"]) -> list[Example]:
        source = self._train_source if part == "train" else self._test_source
        split = part if part == "train" or self._data_files is not None else self._test_split
        rows = source.rows(split, (*self._fields, "answers", self._image_key, IMAGE))
        file = self._data_files[part] if self._data_files is not None else None
        where = f"split {split!r} of {file or source.describe()['source']}"
        images = _images_of_rows(rows, Path(file).expanduser().parent if file else Path())
        return [
            self._example(row, RowImage(images, index, where, IMAGE), f"row {index} of {where}")
            for index, row in enumerate(_texts(rows, {*_FIELDS, *_GROUPS, "answers", "image_id", "question_id"}))
        ]

    def _example(self, row: Row, image: RowImage, where: str) -> Example:
        question, answers = str(row["question"]), _answers(row, where)
        shown = {"question": question.capitalize() if self._capitalize else question}
        if "ocr_tokens" in self._fields:
            shown["ocr_tokens"] = ", ".join(row["ocr_tokens"] or ())
        groups = {group: str(row[group]) for group in _GROUPS if row.get(group)}
        return Example(
            self._template.format(**shown),
            most_frequent(answers),
            metadata={
                "id": str(row.get("question_id", image.index)),
                "question": question,
                "image_id": _image_id(row, self._image_key, where),
                "answers": answers,
            }
            | ({"groups": groups} if groups else {}),
            images=(image,),
        )


def most_frequent(answers: Sequence[str]) -> str:
    """Returns the most frequent answer as it was written first; the first of several. Blank answers are ignored.

    Answers are counted by the form in which `soft_accuracy` compares them.
    """
    forms = [(compared_form(answer), answer) for answer in answers if answer.strip()]
    (best, _), *_ = Counter(form for form, _ in forms).most_common(1)
    return " ".join(next(answer for form, answer in forms if form == best).split())


def _template_fields(template: str, name: str) -> tuple[str, ...]:
    """Returns the columns that a template uses.

    Raises:
        ValueError: it does not parse, has an unknown field, or lacks {question}.
    """
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ValueError(f"template of {name} is {template!r}: {error}. Write {{{{ and }}}} for braces.") from error
    for field in fields:
        check_choice(f"a field in template of {name}", field, _FIELDS)
    if "question" not in fields:
        raise ValueError(f"template of {name} is {template!r}; it must hold {{question}}.")
    return tuple(dict.fromkeys(fields))


def _answers(row: Row, where: str) -> tuple[str, ...]:
    answers = row["answers"]
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"answers of {where} is {str(answers)[:120]}; a list of strings, one per person, is needed.")
    if not any(answer.strip() for answer in answers):
        raise ValueError(
            f"{where[0].upper()}{where[1:]} has no answer, so it cannot be graded: {str(row['question'])[:80]!r}. "
            "Leave the row out; where a whole split has none (TextVQA's test), take another split."
        )
    return tuple(answers)


def _image_id(row: Row, key: ImageKey, where: str) -> str:
    value = str(row[key])
    if key == "image_id":
        return value
    if not (value.isascii() and value.isdigit() and len(value) > 1):
        raise ValueError(
            f"question_id of {where} is {value!r}; COCO's has at least two digits, the image's id and one more. "
            "Give rows with an image_id, and image_key=image_id."
        )
    return value[:-1]


def _texts(rows: Sequence[Row], columns: set[str]) -> Iterable[Row]:
    """Drops the column of images of a data set, which would decode them."""
    import datasets

    if isinstance(rows, datasets.Dataset):
        texts: Iterable[Row] = rows.select_columns([name for name in rows.column_names if name in columns])
        return texts
    return rows


def _images_of_rows(rows: Sequence[Row], folder: Path) -> Sequence[Row]:
    """Returns the column of images, with paths relative to `folder`. No image is decoded or read."""
    import datasets

    if isinstance(rows, datasets.Dataset):
        feature = rows.features[IMAGE]
        if not (isinstance(feature, datasets.Value) and feature.dtype.endswith("string")):
            images: Sequence[Row] = rows.select_columns([IMAGE])
            return images
        rows = [{IMAGE: path} for path in rows[IMAGE]]
    return [{IMAGE: _relative_to(folder, row[IMAGE])} for row in rows]


def _relative_to(folder: Path, image: object) -> object:
    path = image.get("path") if isinstance(image, Mapping) and not image.get("bytes") else image
    return str(folder / path) if isinstance(path, str) else image
