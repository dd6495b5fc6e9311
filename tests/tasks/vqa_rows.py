"""Rows and tasks for the tests of TextVQA and OK-VQA."""

import json
from pathlib import Path

from t2.tasks.vqa import VQA

ROWS = Path(__file__).parent / "rows"
TEMPLATE = "{question}\nAnswer the question using a single word or phrase."


def task(name="textvqa", **changes):
    files = {split: str(ROWS / name / f"{split}.jsonl") for split in ("train", "test")}
    given = {"name": name, "template": TEMPLATE, "hub_ids": "org/set", "test_split": "validation", "val_images": 2}
    return VQA(**{**given, "data_files": files, **changes})


def okvqa(**changes):
    return task("okvqa", image_key="question_id", **changes)


def a_row(image_id="a", question="what?", answers=("x",) * 10, **more):
    row = {"image_id": image_id, "question_id": 1, "question": question, "answers": list(answers), "image": "no.png"}
    return {**row, **more}


def with_rows(folder, test, train=None, **changes):
    rows = {"train": train or [a_row("t1"), a_row("t2"), a_row("t3")], "test": test}
    for split in rows:
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[split]))
    files = {split: str(folder / f"{split}.jsonl") for split in rows}
    return task(**{"val_images": 1, "data_files": files, **changes})
