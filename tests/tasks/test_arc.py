"""ARC: labels, options, both split rules, and the letter that counts as the answer."""

import json
from pathlib import Path

import datasets
import pytest

from t2.tasks.arc import ARC
from t2.types import Example

ROWS = Path(__file__).parent / "rows" / "arc_easy"
FILES = {path.stem: str(path) for path in ROWS.glob("*.jsonl")}


def task(**changes):
    return ARC(**{"data_files": FILES, **changes})


def row_of(tmp_path, **changes):
    row = {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A", **changes}
    path = tmp_path / "test.json"
    path.write_text(json.dumps([row]))
    return task(data_files={"test": str(path)}).split("test")[0]


def test_labels_become_the_letters_shown():
    examples = task().split("test")
    assert examples[0].prompt == "Which planet do we live on?\nOptions:\nA. Mars\nB. Earth\nC. Venus\nD. Saturn\n"
    assert {len(one.metadata["options"]): one.answer for one in examples} == {4: "B", 3: "A", 5: "E"}
    assert examples[0].response_prefix == ""
    assert examples[0].system == (
        "The following are multiple choice questions (with answers). Think step by step and then finish your "
        'answer with "the answer is (X)" where X is the correct letter choice.'
    )


@pytest.mark.parametrize("index", [0, 1, 2])
def test_only_the_gold_letter_is_right_whatever_the_labels_and_their_number(index):
    example = task().split("test")[index]
    scores = {letter: task().score(example, f"The answer is ({letter}).") for letter in "ABCDEF12345"}
    assert scores == {letter: float(letter == example.answer) for letter in scores}


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("The answer is (C). No, the answer is (B).", "B"), ("the answer is Because", None),
        ("answer: A Answer: D", "D"), ("B or C", "C"), ("A plant", None), ("", None),
    ],
)  # fmt: skip
def test_the_letter_that_a_text_chooses(text, chosen):
    asked = {letter: Example("q", letter, metadata={"options": ("o",) * 4}) for letter in "ABCD"}
    assert {one: task().score(asked[one], text) for one in "ABCD"} == {one: float(one == chosen) for one in "ABCD"}


def test_a_letter_beyond_the_options_is_wrong():
    assert task().score(Example("q", "C", metadata={"options": ("o",) * 3}), "the answer is (D)") == 0.0


def test_the_id_of_a_row_is_kept(tmp_path):
    ids = [json.loads(line)["id"] for line in Path(FILES["test"]).read_text().splitlines()]
    assert [one.metadata["id"] for one in task().split("test")] == ids
    assert "id" not in row_of(tmp_path).metadata


def test_the_split_rules():
    whole, paper = task(), task(splits="paper")
    assert [one.answer for one in whole.split("val")] == ["A", "C"]
    assert len(whole.split("train")) == 4
    assert list(paper.split("train")) == list(whole.split("train")[::2])
    assert list(paper.split("val")) == list(whole.split("train")[1::2])
    assert paper.split("test") == whole.split("test")


@pytest.mark.parametrize("splits", ["t2", "paper"])
def test_about_describes_what_was_read(splits):
    one = task(splits=splits)
    one.split("test")
    about = one.about()
    assert (about["split_rule"], about["source"], about["config"]) == (splits, "test.jsonl", "ARC-Easy")
    assert about["splits"]["test"]["rows"] == 3


def test_rows_of_the_hub_read_like_local_ones(monkeypatch):
    rows = [json.loads(line) for line in Path(FILES["test"]).read_text().splitlines()]
    calls = []

    def load_dataset(hub_id, config, *, split):
        calls.append((hub_id, config, split))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(ARC("ARC-Challenge").split("test")) == list(task().split("test"))
    assert calls == [("allenai/ai2_arc", "ARC-Challenge", "test")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answerKey": "C"}, "answerKey is 'C'; the labels are"),
        ({"choices": {"text": ["a", "b"], "label": ["A"]}}, "entries each is needed"),
        ({"choices": {"text": [], "label": []}}, "entries each is needed"),
        ({"choices": ["a", "b"]}, "entries each is needed"),
    ],
)
def test_a_broken_row_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        row_of(tmp_path, **changes)


def test_missing_validation_rows_are_an_error():
    with pytest.raises(ValueError, match="'validation'; allowed: test, train"):
        task(data_files={split: FILES[split] for split in ("train", "test")}).split("val")


@pytest.mark.parametrize("wrong", [{"config": "ARC-easy"}, {"splits": "papre"}])
def test_an_unknown_choice_is_refused_at_once(wrong):
    with pytest.raises(ValueError, match="Did you mean"):
        task(**wrong)


def test_the_name_follows_the_config():
    assert (task().name, task(config="ARC-Challenge").name) == ("arc_easy", "arc_challenge")
