r"""MATH: gold answers, splits, subjects and levels, and the expression that counts as the answer."""

import json
from pathlib import Path

import datasets
import pytest

from tests.tasks.math_cases import FILES, ROWS, asked, task

FILES_500 = {split: str(ROWS / "math500" / f"{split}.jsonl") for split in ("train", "test")}


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def row(solution, **changes):
    return {"problem": "What is it?", "level": "Level 1", "type": "Algebra", "solution": solution, **changes}


def example_of(tmp_path, *rows, **changes):
    path = tmp_path / "test.json"
    path.write_text(json.dumps(rows))
    return task(data_files={"test": str(path)}, **changes).split("test")[0]


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        (r"so $x=\boxed{\frac{1}{4}}$.", r"\frac{1}{4}"), (r"It is $\boxed 5$.", "5"),
        (r"It is $\boxed 5\text{ cm}$.", "5"), (r"It is $\boxed \frac12$ or so.", r"\frac12"),
        (r"It is \fbox{7}.", "7"), (r"\boxed{1}, no: \boxed{2}", "2"), (r"$\boxed{\{1, 2\}}$", r"\{1, 2\}"),
        (r"$\boxed{\text{if } x = \frac{\sqrt{2}}{3}}$", r"\text{if } x = \frac{\sqrt{2}}{3}"),
        (r"$\boxed{-5}$", "-5"), (r"$\boxed{1{,}080}$", "1{,}080"), (r"$\boxed{ 12 }$", "12"),
    ],
)  # fmt: skip
def test_the_gold_is_the_last_box_of_the_solution(tmp_path, solution, gold):
    assert example_of(tmp_path, row(solution)).answer == f"\\boxed{{{gold}}}"


@pytest.mark.parametrize("solution", ["It is 5.", r"\boxed{5", r"\boxed{}", r"\boxed{ }", r"\boxed{\$}", ""])
def test_a_row_whose_gold_could_never_score_is_refused(tmp_path, solution):
    with pytest.raises(ValueError, match=r"must give its answer in .*boxed.*'What is it\?'.*Correct the row"):
        example_of(tmp_path, row(solution))


def test_examples_hold_the_problem_and_the_solution_and_the_system_message_is_verbatim():
    example = task().split("test")[0]
    assert example.prompt == rows_of(FILES["test"])[0]["problem"]
    assert example.metadata["solution"] == rows_of(FILES["test"])[0]["solution"]
    assert example.system == (
        "Solve the question below by reasoning step by step,and put the final answer within \\boxed{}."
    )
    assert example.response_prefix == ""


@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        ({"level": "Level 3"}, {"subject": "Algebra", "level": "3"}),
        ({"level": "Level ?"}, {"subject": "Algebra", "level": "?"}),
        ({"level": 3, "subject": "Number Theory"}, {"subject": "Number Theory", "level": "3"}),
    ],
)
def test_subject_and_level_are_plain_strings(tmp_path, changes, groups):
    assert example_of(tmp_path, row(r"\boxed{1}", **changes)).metadata["groups"] == groups


def test_math500_rows_are_read_and_named():
    examples = task(data_files=FILES_500, test_set="math500").split("test")
    assert [one.metadata["id"] for one in examples] == [one["unique_id"] for one in rows_of(FILES_500["test"])]
    assert examples[1].metadata["groups"] == {"subject": "Algebra", "level": "3"}
    assert "id" not in task().split("test")[0].metadata


def test_a_row_with_neither_type_nor_subject_is_refused(tmp_path):
    broken = {key: cell for key, cell in row(r"\boxed{1}", typ="Algebra").items() if key != "type"}
    with pytest.raises(ValueError, match=r"'type' is missing in row 1.*Did you mean 'typ'"):
        example_of(tmp_path, broken)


def test_val_is_carved_out_of_train_by_the_seed():
    whole = {one["problem"] for one in rows_of(FILES["train"])}
    vals = []
    for seed in range(5):
        train, val = ({one.prompt for one in task(seed=seed).split(split)} for split in ("train", "val"))
        assert len(val) == 2
        assert train | val == whole
        vals.append(frozenset(val))
    assert len(set(vals)) > 1


def test_a_train_problem_of_the_test_set_is_not_learned_from(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(Path(FILES[split]).read_text() for split in ("train", "test")))
    mixed = task(data_files={"train": str(path), "test": FILES["test"]}, val_size=9)
    learned = {one.prompt for split in ("train", "val") for one in mixed.split(split)}
    assert learned <= {one["problem"] for one in rows_of(FILES["train"])}


def test_chosen_subjects_are_taken_out_of_a_file(tmp_path):
    chosen = task(configs=["geometry", "counting_and_probability"], val_size=1).split("test")
    subjects = [one.metadata["groups"]["subject"] for one in chosen]
    assert subjects == ["Counting & Probability", "Geometry", "Geometry"]
    with pytest.raises(ValueError, match=r"has no row of geometry; its subjects are Algebra\."):
        example_of(tmp_path, row(r"\boxed{1}"), configs=["geometry"])


def hub(monkeypatch):
    """A hub whose every config has the rows of its subject; the list of what it was asked for comes back."""
    calls = []

    def load_dataset(hub_id, config, *, split):
        calls.append((hub_id, config, split))
        if hub_id == "HuggingFaceH4/MATH-500":
            return datasets.Dataset.from_list(rows_of(FILES_500[split]))
        subject = config.replace("_", " ").title().replace("And", "&")
        return datasets.Dataset.from_list([one for one in rows_of(FILES[split]) if one["type"] == subject])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_the_configs_of_the_hub_are_concatenated_in_order_and_all_by_default(monkeypatch):
    calls = hub(monkeypatch)
    whole = task(data_files=None, configs=["prealgebra", "algebra"])
    assert [one.metadata["groups"]["subject"] for one in whole.split("test")] == [*["Prealgebra"] * 3, "Algebra"]
    assert calls == [("EleutherAI/hendrycks_math", config, "test") for config in ("prealgebra", "algebra")]
    calls.clear()
    assert len(task(data_files=None).split("test")) == len(rows_of(FILES["test"]))
    assert len({config for _, config, _ in calls}) == 7


def test_math500_tests_on_its_own_set_and_trains_on_math(monkeypatch):
    calls = hub(monkeypatch)
    small = task(data_files=None, test_set="math500")
    assert [one.prompt for one in small.split("test")] == [one["problem"] for one in rows_of(FILES_500["test"])]
    assert calls == [("HuggingFaceH4/MATH-500", None, "test")]
    assert len(small.split("train")) + len(small.split("val")) == len(rows_of(FILES["train"]))
    assert {hub_id for hub_id, _, split in calls if split == "train"} == {"EleutherAI/hendrycks_math"}


def test_about_describes_each_source(monkeypatch):
    hub(monkeypatch)
    small = task(data_files=None, test_set="math500", configs=["algebra", "geometry"])
    small.split("test")
    about = small.about()
    assert about["configs"] == ["algebra", "geometry"]
    assert [(one["source"], one["splits"]["test"]["rows"]) for one in about["sources"]] == [
        ("HuggingFaceH4/MATH-500", 3)
    ]
    small.split("val")
    assert [(one["source"], one["config"]) for one in small.about()["sources"]] == [
        ("EleutherAI/hendrycks_math", "algebra"),
        ("EleutherAI/hendrycks_math", "geometry"),
        ("HuggingFaceH4/MATH-500", None),
    ]


@pytest.mark.parametrize(
    ("text", "extracted"),
    [
        (r"\boxed{1} or \boxed{2}", "2"), (r"So it is $\boxed 2$.", "2"), ("The answer is: 2.\nQuite sure.", "2"),
        ("The answer is: 1.\nNo. The answer is: 2.\n", "2"), ("The answer is 2.", "2"),
        ("the answer is: $2$. Done.", "2"), ("**The final answer is: 2**", "2"),
        ("The answer is: 1.\nIt is \\boxed{2}", "2"), ("The answer is 2.5. So there.", "2.5"), (r"\boxed{2", None),
        (r"The answer is 3: \boxed{2", r"3: \boxed{2"), ("The answer is", None), ("The answer is: ", None),
        ("2", None), ("", None),
    ],
)  # fmt: skip
def test_the_answer_that_is_extracted(symbolic, text, extracted):
    assert task().grade(asked("7"), text).extracted == extracted


@pytest.mark.parametrize(
    ("gold", "answer", "score"),
    [
        (r"\frac{1}{4}", "0.25", 1.0), (r"\frac{1}{4}", r"\dfrac14", 1.0), ("1{,}080", "1080", 1.0),
        ("1080", "1,080", 1.0), ("-5", "5", 0.0), ("-5", "-5.0", 1.0), ("50", "0.50", 0.0),
        ("(x+1)^2", "x^2+2x+1", 1.0), ("5", "6", 0.0), ("5", "five", 1.0),
    ],
)  # fmt: skip
def test_equivalent_expressions_are_right(symbolic, gold, answer, score):
    assert task().score(asked(gold), f"\\boxed{{{answer}}}") == score
