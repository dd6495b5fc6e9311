"""easy-VQA: questions about one colored shape in a 64 x 64 image, from the package `easy-vqa` (extra `vision`, MIT).

A synthetic data set of 5,000 images, 48,248 questions and 13 answers that needs no hub. Its files are read from the
package's folder or, with `wheel`, from a wheel that is not installed; neither the package nor the top-level `test`
package that it ships is imported. Questions are templates that are asked about many images, so splits share no image
rather than no question. Three of four answers are yes or no; `kinds` can exclude them.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import PositiveInt

from t2.grading.answers import matching_word
from t2.run.messages import check_choice
from t2.tasks.base import Split
from t2.tasks.form import IN_PROMPT
from t2.tasks.images import FileImage, ZipImage
from t2.tasks.splits import DisjointSplits, ValByImage
from t2.types import Example, Grade, LazyImage

Kind = Literal["shape", "color", "yes_no"]

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
YES_NO = ("yes", "no")
ANSWERS = (*SHAPES, *COLORS, *YES_NO)
_KIND: Mapping[str, Kind] = {
    **dict.fromkeys(SHAPES, "shape"),
    **dict.fromkeys(COLORS, "color"),
    **dict.fromkeys(YES_NO, "yes_no"),
}
_PACKAGE = "easy-vqa"
_DATA = "easy_vqa/data"


class EasyVQA:
    """Asks for a shape or a color; scores a completion 1.0 if the first of the 13 answers that it names is the gold."""

    form = IN_PROMPT

    def __init__(
        self,
        name: str = "easy_vqa",
        kinds: Sequence[Kind] = ("shape", "color", "yes_no"),
        instruction: str | None = None,
        wheel: str | None = None,
        val_images: int = 400,
        seed: int = 0,
        limit: int | None = None,
        max_new_tokens: PositiveInt = 8,
    ) -> None:
        """Locates the package. No question is read yet.

        Args:
            name: name of the task.
            kinds: the questions to include, by the kind of their answers.
            instruction: a line that is appended to each question.
            wheel: path of the package's wheel file; None for the installed package.
            val_images: number of the 4,000 training images that become val, with all their questions.
            seed: seed of that sample.
            limit: maximum number of examples in a split.
            max_new_tokens: length limit of a completion.

        Raises:
            ModuleNotFoundError: the package is not installed, and there is no `wheel`.
            FileNotFoundError: the wheel does not exist.
            ValueError: `kinds` is empty or holds an unknown one, or the file is no wheel.
        """
        for kind in kinds:
            check_choice(f"an entry in kinds of {name}", kind, get_args(Kind))
        if not kinds:
            raise ValueError(f"kinds of {name} is empty; allowed: one or more of {', '.join(get_args(Kind))}.")
        self.name = name
        self.max_new_tokens = max_new_tokens
        self._kinds, self._instruction = tuple(kinds), instruction
        self._data = _Wheel(Path(wheel).expanduser()) if wheel else _Installed(name)
        self._read: dict[str, dict[str, Any]] = {}
        self._splits = DisjointSplits(
            name, ValByImage(self._examples, val_images, seed), limit, lambda one: str(one.metadata["id"])
        )

    def split(self, split: Split) -> Sequence[Example]:
        """Returns the examples of a split; `metadata["groups"]["kind"]` is one of `kinds`."""
        return self._splits(split)

    def score(self, example: Example, text: str) -> float:
        """Returns 1.0 if the answer that `text` names first is the gold answer, else 0.0."""
        return self.grade(example, text).score

    def chance(self, example: Example) -> Mapping[str, float]:
        """Returns nothing: no guess from the form of a question has a chance."""
        return {}

    def grade(self, example: Example, text: str) -> Grade:
        """Returns the score; the reason is `wrong`, or `no answer` for a text that names none of the answers."""
        named = matching_word(text, ANSWERS)
        if named is None:
            return Grade(0.0, "no answer")
        return Grade(1.0, None, named) if named == example.answer else Grade(0.0, "wrong", named)

    def about(self) -> dict[str, Any]:
        """Describes the kinds of questions, and the source, version and fingerprints of the splits read so far."""
        source = {"source": _PACKAGE, "config": None, "version": self._data.version}
        return {"kinds": list(self._kinds), **source, "splits": dict(sorted(self._read.items()))}

    def _examples(self, folder: Literal["train", "test"]) -> list[Example]:
        content = self._data.read(f"{folder}/questions.json")
        rows = json.loads(content)
        self._read[folder] = {"rows": len(rows), "fingerprint": hashlib.sha256(content).hexdigest()}
        images = {image: self._data.image(f"{folder}/images/{image}.png") for image in {image for _, _, image in rows}}
        return [
            self._example(question, answer, f"{folder}/{index}", f"{folder}/{image}", images[image])
            for index, (question, answer, image) in enumerate(rows)
            if _KIND[answer] in self._kinds
        ]

    def _example(self, question: str, answer: str, row_id: str, image_id: str, image: LazyImage) -> Example:
        return Example(
            f"{question}\n{self._instruction}" if self._instruction else question,
            answer,
            metadata={"id": row_id, "question": question, "image_id": image_id, "groups": {"kind": _KIND[answer]}},
            images=(image,),
        )


class _Installed:
    """The data files of the installed package, which is not imported."""

    def __init__(self, task: str) -> None:
        try:
            package = distribution(_PACKAGE)
        except PackageNotFoundError as error:
            raise ModuleNotFoundError(
                f'The task {task!r} needs the data of {_PACKAGE}: pip install "transformer2[vision]", or, to install '
                f"nothing, pip download --no-deps {_PACKAGE}==1.0 and task.wheel=PATH_OF_THE_WHEEL",
                name="easy_vqa",
            ) from error
        self.version: str | None = package.version
        self._folder = Path(str(package.locate_file(_DATA)))

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def image(self, name: str) -> LazyImage:
        return FileImage(self._folder / name)


class _Wheel:
    """The data files in a wheel."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"wheel is {path}, which is not a file. Correct task.wheel.")
        if not zipfile.is_zipfile(path):
            raise ValueError(f"wheel is {path}, which is no wheel file. Correct task.wheel, or download it again.")
        self.version = path.name.split("-")[1] if path.name.count("-") > 1 else None
        self._path = path

    def read(self, name: str) -> bytes:
        with zipfile.ZipFile(self._path) as archive:
            if f"{_DATA}/{name}" not in archive.namelist():
                raise FileNotFoundError(f"{self._path} holds no {_DATA}/{name}; the wheel of {_PACKAGE} is needed.")
            return archive.read(f"{_DATA}/{name}")

    def image(self, name: str) -> LazyImage:
        return ZipImage(self._path, f"{_DATA}/{name}")
