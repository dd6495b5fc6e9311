"""GSM8K under both protocols: splits, golds and what counts as right."""

import json
from pathlib import Path

import pytest

from t2.tasks.gsm8k import GSM8K
from t2.types import Example

ROWS = Path(__file__).parent / "rows" / "gsm8k"
FILES = {split: str(ROWS / f"{split}.jsonl") for split in ("train", "test")}


def task(**changes):
    return GSM8K(**{"data_files": FILES, "val_size": 2, **changes})


def questions(path):
    return [json.loads(line)["question"] for line in Path(path).read_text().splitlines()]


def test_golds_keep_the_sign_and_lose_the_comma():
    assert [one.answer for one in task().split("test")] == ["30", "3600", "-6"]


def test_the_worked_solution_is_kept():
    assert task().split("test")[0].metadata["solution"] == "5*6 = <<5*6=30>>30\n#### 30"


def test_the_prompt_is_the_question_and_the_system_message_is_verbatim():
    example = task().split("test")[0]
    assert example.prompt == questions(FILES["test"])[0]
    assert example.system == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    )


def test_val_is_carved_out_of_train():
    train, val = ({one.prompt for one in task().split(split)} for split in ("train", "val"))
    assert len(val) == 2
    assert train | val == set(questions(FILES["train"]))


def test_another_seed_carves_another_val():
    vals = {tuple(one.prompt for one in task(seed=seed).split("val")) for seed in range(6)}
    assert len(vals) > 1


def test_official_splits_are_even_and_odd_rows():
    official, all_questions = task(protocol="official"), questions(FILES["train"])
    assert [one.prompt for one in official.split("train")] == all_questions[::2]
    assert [one.prompt for one in official.split("val")] == all_questions[1::2]


@pytest.mark.parametrize(
    ("answer", "text", "fixed", "official"),
    [
        ("72", "It is 72.0", 1.0, 1.0),
        ("72", "#### 72\nin 5 days", 1.0, 0.0),
        ("72", "\\boxed{72} in 5 days", 1.0, 0.0),
        ("72", "73", 0.0, 0.0),
        ("72", "no number", 0.0, 0.0),
        ("1,080", "1080", 1.0, 0.0),  # the official code reads the gold as 80
        ("1,080", "80", 0.0, 1.0),
        ("1,080", "1,080 in all", 1.0, 1.0),
        ("1080", "1,080", 1.0, 0.0),
        ("72", "\\boxed 72, in 5 days", 1.0, 0.0),
        ("-5", "5", 0.0, 1.0),  # and loses the sign
        ("-5", "-5", 1.0, 1.0),
        ("10,000", "0", 0.0, 1.0),
    ],
)
def test_protocols_differ_where_the_official_code_errs(answer, text, fixed, official):
    example = Example("q", answer)
    assert (task().score(example, text), task(protocol="official").score(example, text)) == (fixed, official)


def test_official_scoring_survives_a_number_beyond_float():
    assert task(protocol="official").score(Example("q", "1"), "9" * 5000) == 0.0


@pytest.mark.parametrize("answer", ["72", "#### ", "#### none"])
def test_an_answer_without_a_number_is_refused(tmp_path, answer):
    path = tmp_path / "test.json"
    path.write_text(json.dumps([{"question": "q", "answer": answer}]))
    with pytest.raises(ValueError, match="must end in '#### NUMBER'"):
        task(data_files={"test": str(path)}).split("test")


def test_a_train_question_of_the_test_set_is_dropped(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(Path(FILES["train"]).read_text() + Path(FILES["test"]).read_text())
    mixed = task(data_files={"train": str(path), "test": FILES["test"]})
    learned = {one.prompt for split in ("train", "val") for one in mixed.split(split)}
    assert learned <= set(questions(FILES["train"]))


def test_too_large_a_val_is_refused():
    with pytest.raises(ValueError, match=r"val_size is 8, .* 8 distinct training questions; allowed: 1 to 7"):
        task(val_size=8).split("val")


def test_an_unknown_protocol_is_refused_at_once():
    with pytest.raises(ValueError, match="Did you mean 'official'"):
        task(protocol="oficial")


@pytest.mark.parametrize("protocol", ["fixed", "official"])
def test_it_says_what_was_read(protocol):
    about = task(protocol=protocol)
    about.split("test")
    described = about.about()
    assert (described["protocol"], described["source"], described["config"]) == (protocol, "test.jsonl", "main")
    assert described["splits"].keys() == {"test"}
