"""GSM8K: both split rules, gold answers and the number that counts as the answer."""

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


def prompts(one, split):
    return [example.prompt for example in one.split(split)]


def test_examples_hold_the_question_the_gold_answer_and_the_solution():
    examples = task().split("test")
    assert [one.prompt for one in examples] == questions(FILES["test"])
    assert [one.answer for one in examples] == ["30", "3600", "-6"]  # with the sign, without the comma
    assert examples[0].metadata["solution"] == "5*6 = <<5*6=30>>30\n#### 30"
    assert examples[0].system == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    )


def test_val_is_carved_out_of_train_by_the_seed():
    vals = set()
    for seed in range(6):
        train, val = (prompts(task(seed=seed), split) for split in ("train", "val"))
        assert len(val) == 2
        assert sorted(train + val) == sorted(questions(FILES["train"]))
        vals.add(tuple(val))
    assert len(vals) > 1


def test_the_papers_splits_are_even_and_odd_rows_of_train():
    paper, rows = task(splits="paper"), questions(FILES["train"])
    assert (prompts(paper, "train"), prompts(paper, "val")) == (rows[::2], rows[1::2])
    assert paper.split("test") == task().split("test")


@pytest.mark.parametrize(
    ("answer", "text", "score"),
    [
        ("72", "It is 72.0", 1.0), ("72", "#### 72\nin 5 days", 1.0), ("72", "\\boxed{72} in 5 days", 1.0),
        ("72", "\\boxed 72, in 5 days", 1.0), ("72", "73", 0.0), ("72", "no number", 0.0), ("1,080", "1080", 1.0),
        ("1,080", "80", 0.0), ("1080", "1,080 in all", 1.0), ("-5", "5", 0.0), ("-5", "-5", 1.0),
    ],
)  # fmt: skip
def test_the_final_number_counts(answer, text, score):
    assert task().score(Example("q", answer), text) == score


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
    assert {*prompts(mixed, "train"), *prompts(mixed, "val")} <= set(questions(FILES["train"]))


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"val_size is 8, .* 8 distinct training questions; allowed: 1 to 7"):
        task(val_size=8).split("val")
    with pytest.raises(ValueError, match=r"splits of gsm8k is 'papr'.*Did you mean 'paper'"):
        task(splits="papr")


@pytest.mark.parametrize("splits", ["t2", "paper"])
def test_about_describes_what_was_read(splits):
    one = task(splits=splits)
    one.split("test")
    about = one.about()
    assert (about["split_rule"], about["source"], about["config"]) == (splits, "test.jsonl", "main")
    assert about["splits"].keys() == {"test"}
