"""MBPP: both split rules, what the prompt shows, which tests are run, and real programs in the sandbox."""

import json
from pathlib import Path

import pytest
from recorder import Recorder
from sandboxes import any_executor

from t2.tasks.mbpp import MBPP, paper_order

ROWS = Path(__file__).parent / "rows" / "mbpp" / "test.jsonl"
SIZES = {"train": 2, "val": 1}
SPLITS = ("train", "val", "test")


def own_rows():
    return [json.loads(line) for line in ROWS.read_text().splitlines()]


def written(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def task(executor=None, **changes):
    choices = {"data_files": {"test": str(ROWS)}, "split_sizes": SIZES, **changes}
    return MBPP(executor if executor is not None else Recorder(), **choices)


def everything(one):
    return {example.metadata["id"]: example for split in ("train", "val", "test") for example in one.split(split)}


@pytest.fixture
def many(tmp_path):
    """312 rows, each with a function and a question of its own."""
    rows = [
        {
            "task_id": number,
            "prompt": f"Write a function to add {number} to a number.",
            "code": f"def add_{number}(x):\n    return x + {number}",
            "test_imports": [],
            "test_list": [f"assert add_{number}(0) == {number}"],
            "test": "",
        }
        for number in range(1000, 1312)
    ]
    return {"test": written(tmp_path / "test.jsonl", rows)}


def test_the_papers_order_is_that_of_its_code():
    assert paper_order()[:10] == [107, 76, 291, 238, 93, 19, 260, 275, 245, 201]
    assert sorted(paper_order()) == list(range(300))


@pytest.mark.parametrize("tests", ["base", "plus"])
def test_the_papers_splits_are_200_and_100_of_the_shuffled_first_300_and_the_rest(many, tests):
    paper = task(splits="paper", tests=tests, data_files=many)
    indices = {split: [int(one.metadata["id"][5:]) - 1000 for one in paper.split(split)] for split in SPLITS}
    assert indices == {"train": paper_order()[:200], "val": paper_order()[200:], "test": list(range(300, 312))}


def test_the_papers_splits_need_more_than_300_rows():
    with pytest.raises(ValueError, match=r"first 300 rows .* only 8"):
        task(splits="paper").split("train")


def test_sampled_splits_have_the_sizes_asked_for_and_all_rows():
    assert [len(task().split(split)) for split in SPLITS] == [2, 1, 5]
    assert len(everything(task())) == 8


def test_another_seed_gives_other_splits(many):
    splits = {tuple(one.prompt for one in task(data_files=many, seed=seed).split("val")) for seed in range(5)}
    assert len(splits) == 5


@pytest.mark.parametrize(
    "sizes", [{"train": 7, "val": 1}, {"train": 0, "val": 1}, {"train": 1}, {"train": 1, "dev": 1}]
)
def test_sizes_that_leave_nothing_are_refused(sizes):
    with pytest.raises(ValueError, match=r"split_sizes of mbpp is .* fewer together than the 8 rows"):
        task(split_sizes=sizes).split("test")


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_other_variants_keep_their_splits_and_columns(tmp_path, split):
    row = {"task_id": 5, "code": "def f(x):\n    return x", "test_list": ["assert f(1) == 1"]}
    sanitized = {**row, "prompt": "Write f", "test_imports": ["import math"]}
    full = {**row, "text": "Write f", "test_setup_code": "import math", "challenge_test_list": []}
    for variant, cells in (("sanitized", sanitized), ("full", full)):
        files = {split: written(tmp_path / f"{variant}.jsonl", [cells])}
        if split == "train":  # what train must not share
            files["validation"] = written(tmp_path / "v.jsonl", [{**cells, "prompt": "val", "text": "val"}])
            files["test"] = written(tmp_path / "t.jsonl", [{**cells, "prompt": "test", "text": "test"}])
        (one,) = task(variant=variant, data_files=files).split(split)
        assert one.prompt.startswith("Write f. Your code")
        assert one.metadata["test"].setup == "import math"


def test_the_messages_are_verbatim():
    one = everything(task())["Mbpp/901"]
    assert one.system == (
        "You are an exceptionally intelligent coding assistant that  consistently delivers accurate and reliable "
        "responses to user instructions."
    )
    assert one.prompt == (
        "Write a function to add up the even numbers of a list. Your code should satisfy the following assertion:\n"
        "```python\nassert even_total([1, 2, 4]) == 6\n```"
    )
    assert one.response_prefix == "```python\n"


def test_the_reference_answer_has_unix_lines_and_blanks():
    answer = everything(task())["Mbpp/901"].answer
    assert answer.startswith("def even_total(numbers):\n    total = 0\n    for number in numbers:\n        if")
    assert not {"\r", "\t"} & set(answer)


@pytest.mark.parametrize("name", ["Mbpp/901", "Mbpp/904"])
def test_one_assert_is_shown_and_all_are_run(name):
    one = everything(task())[name]
    asserts = next(row["test_list"] for row in own_rows() if f"Mbpp/{row['task_id']}" == name)
    assert [line for line in asserts if line in one.prompt] == asserts[:1]
    assert one.metadata["test"].program == "\n".join(asserts)


def test_plus_tests_grade_the_test_split_only_and_the_base_asserts_stay():
    plus = task(tests="plus")
    base = everything(task())
    for split in SPLITS:
        for one in plus.split(split):
            program, asserts = one.metadata["test"].program, base[one.metadata["id"]].metadata["test"].program
            assert program.startswith(asserts)
            assert ("assertion(" in program) == (split == "test")


def test_entry_points_and_setups_are_those_of_the_tests():
    examples = everything(task())
    assert {name: one.metadata["entry_point"] for name, one in examples.items()} == {
        "Mbpp/901": "even_total", "Mbpp/902": "common_letters", "Mbpp/903": "diagonal", "Mbpp/904": "largest_prime",
        "Mbpp/905": "no_digit", "Mbpp/906": "sum", "Mbpp/907": "by_length", "Mbpp/908": "occurrences",
    }  # fmt: skip
    assert examples["Mbpp/903"].metadata["test"].setup == "import math"


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("\ndef f(x):\n    print(x)\n\nf(3)\n```\nIt prints x.", "def f(x):\n    print(x)\n"),
        ("x = 1\n```\nBecause:\n```python\nimport os\n```", "x = 1\n"),
    ],
)
def test_what_stands_around_the_program_is_not_run(many, text, program):
    recorder = Recorder()
    one = task(recorder, data_files=many)
    example = one.split("test")[0]
    name = example.metadata["entry_point"]
    grade = one.grade(example, text.replace("f(", f"{name}("))
    assert recorder.programs == [grade.extracted] == [program.replace("f(", f"{name}(")]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"splits": "papr"}, "Did you mean 'paper'"),
        ({"variant": "sanitised"}, "Did you mean 'sanitized'"),
        ({"tests": "both"}, "allowed: base, plus"),
        ({"splits": "paper", "variant": "full"}, "are indices into variant=plus; got variant=full"),
        ({"tests": "plus", "variant": "full"}, "needs variant=plus"),
    ],
)
def test_choices_that_do_not_go_together_are_refused_at_once(choices, message):
    with pytest.raises(ValueError, match=message):
        task(**choices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code": "def g(x):\n    return x"}, "code of Mbpp/901 does not define even_total"),
        ({"code": "def even_total("}, "code of Mbpp/901 does not define even_total"),
        ({"test_list": ["assert True"]}, "Mbpp/901: No function is called by name"),
        ({"test_list": []}, "Mbpp/901: No function is called by name"),
        ({"test_list": ["assert f("]}, "Mbpp/901: The test 'assert f\\(' is not Python"),
        ({"test_list": None}, "Column 'test_list' is missing"),
        ({"test": None}, "Column 'test' is missing"),
    ],
)
def test_a_row_that_cannot_be_graded_is_refused_by_name(tmp_path, changes, message):
    row = {key: cell for key, cell in {**own_rows()[0], **changes}.items() if cell is not None}
    files = {"test": written(tmp_path / "test.jsonl", [{**row, "prompt": f"question {n}"} for n in range(4)])}
    with pytest.raises(ValueError, match=message):
        task(tests="plus", data_files=files).split("test")


def test_an_unreachable_hub_names_the_local_alternative(monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no way out")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(ConnectionError, match=r"evalplus/mbppplus.*task.data_files="):
        task(data_files=None).split("test")


def test_about_describes_the_data_and_the_tests():
    one = task()
    one.split("test")
    about = one.about()
    assert (about["split_rule"], about["variant"], about["tests"]) == ("t2", "plus", "base")
    assert (about["source"], about["splits"]["test"]["rows"]) == ("test.jsonl", 8)
    assert task(splits="paper").about()["split_rule"] == "paper"


@pytest.fixture(scope="module")
def executor():
    """Nothing that these tests run is hostile, so that they can do with whatever sandbox there is."""
    return any_executor(numpy=True)


@pytest.mark.parametrize("tests", ["base", "plus"])
def test_reference_answers_pass_in_the_sandbox(executor, tests):
    one = task(executor, tests=tests)
    assert {name: one.grade(example, example.answer).reason for name, example in everything(one).items()} == {
        f"Mbpp/{number}": None for number in range(901, 909)
    }


def test_a_program_that_only_satisfies_the_assert_it_was_shown_is_wrong(executor):
    one = task(executor)
    grade = one.grade(everything(one)["Mbpp/901"], "def even_total(numbers):\n    return 6\n```")
    assert (grade.score, grade.reason) == (0.0, "wrong")


def test_a_program_that_passes_the_base_asserts_may_fail_the_plus_tests(executor):
    text = "def even_total(numbers):\n    return sum(n for n in numbers if n in (2, 4))\n```"
    sizes = {"train": 1, "val": 1}
    base, plus = (task(executor, tests=tests, split_sizes=sizes) for tests in ("base", "plus"))
    scores = [{one.metadata["id"]: one for one in each.split("test")}["Mbpp/901"] for each in (base, plus)]
    assert (base.score(scores[0], text), plus.score(scores[1], text)) == (1.0, 0.0)
