"""ARC under both protocols: labels, options, splits and what counts as right."""

import json
import random
from pathlib import Path

import datasets
import pytest

from t2.tasks.arc import ARC
from t2.types import Example

ROWS = Path(__file__).parent / "rows" / "arc_easy"
FILES = {path.stem: str(path) for path in ROWS.glob("*.jsonl")}


def task(**changes):
    return ARC(**{"data_files": FILES, **changes})


def asked(options=4, answer="B"):
    return Example("q", answer, metadata={"options": ("o",) * options})


def test_digit_keys_become_the_letters_shown():
    example = task().split("test")[0]
    assert example.prompt == "Which planet do we live on?\nOptions:\nA. Mars\nB. Earth\nC. Venus\nD. Saturn\n"
    assert example.answer == "B"


def test_three_and_five_options_are_read():
    answers = {len(one.metadata["options"]): one.answer for one in task().split("test")}
    assert answers == {4: "B", 3: "A", 5: "E"}


@pytest.mark.parametrize("index", [0, 1, 2])
def test_only_the_gold_letter_is_right_whatever_the_labels_and_their_number(index):
    example = task().split("test")[index]
    scores = {letter: task().score(example, f"The answer is ({letter}).") for letter in "ABCDEF12345"}
    assert scores == {letter: float(letter == example.answer) for letter in scores}


def test_the_id_of_the_row_is_kept():
    assert [one.metadata["id"] for one in task().split("test")] == [
        json.loads(line)["id"] for line in Path(FILES["test"]).read_text().splitlines()
    ]


def test_rows_without_ids_have_none(tmp_path):
    path = tmp_path / "test.json"
    path.write_text(
        json.dumps([{"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}])
    )
    assert "id" not in task(data_files={"test": str(path)}).split("test")[0].metadata


@pytest.mark.parametrize("protocol", ["fixed", "official"])
def test_it_says_what_was_read(protocol):
    about = task(protocol=protocol)
    about.split("test")
    described = about.about()
    assert (described["protocol"], described["source"], described["config"]) == (protocol, "test.jsonl", "ARC-Easy")
    assert described["splits"]["test"]["rows"] == 3


def test_the_system_message_is_verbatim():
    assert task().split("test")[0].system == (
        "The following are multiple choice questions (with answers). Think step by step and then finish your "
        'answer with "the answer is (X)" where X is the correct letter choice.'
    )


def test_fixed_uses_the_validation_split():
    assert [one.answer for one in task().split("val")] == ["A", "C"]
    assert len(task().split("train")) == 4


def test_official_splits_are_even_and_odd_rows_of_train():
    whole, official = task().split("train"), task(protocol="official")
    assert [one.prompt for one in official.split("train")] == [one.prompt for one in whole[::2]]
    assert [one.prompt for one in official.split("val")] == [one.prompt for one in whole[1::2]]


def test_official_prefills_the_models_turn_and_fixed_does_not():
    assert task(protocol="official").split("test")[0].response_prefix == "Let's think step by step"
    assert task().split("test")[0].response_prefix == ""


def test_official_keeps_the_raw_key_so_digit_rows_are_never_right():
    official = task(protocol="official")
    example = official.split("test")[0]
    assert example.answer == "2"
    assert all(official.score(example, text) == 0.0 for text in ("2", "the answer is (B)", ""))


@pytest.mark.parametrize(
    ("text", "fixed", "official"),
    [
        ("the answer is (B)", "B", "B"),
        ("The answer is (C). No, the answer is (B).", "B", "C"),  # official takes the first statement
        ("the answer is Because", None, "B"),  # and the first letter of a word
        ("answer: A Answer: D", "D", "D"),
        ("Answer: C\nAnswer: D", "D", "C"),  # the last on the first line that has one
        ("Answer: Answer: D", "D", "D"),
        ("B or C", "C", "C"),
        ("A plant", None, "A"),  # the article
        ("", None, "A"),  # the seeded random option
    ],
)
def test_letters_read_by_each_protocol(text, fixed, official):
    for protocol, chosen in (("fixed", fixed), ("official", official)):
        scores = {letter: task(protocol=protocol).score(asked(answer=letter), text) for letter in "ABCD"}
        assert scores == {letter: float(letter == chosen) for letter in "ABCD"}


@pytest.mark.parametrize(("options", "letter"), [(3, "C"), (4, "A"), (5, "A")])
def test_official_random_option_is_that_of_the_official_code(options, letter):
    assert task(protocol="official").score(asked(options, letter), "none") == 1.0


def test_official_scoring_leaves_the_global_random_state_alone():
    before = random.getstate()
    task(protocol="official").score(asked(), "none")
    assert random.getstate() == before


def test_official_scoring_takes_linear_time():
    text = "answer " * 30_000  # `.*[aA]nswer:` as written would take minutes
    assert task(protocol="official").score(asked(answer="A"), text) == 1.0


def test_a_letter_beyond_the_options_is_wrong():
    assert task().score(asked(3, "C"), "the answer is (D)") == 0.0


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
    ("choices", "key", "message"),
    [
        ({"text": ["a", "b"], "label": ["A", "B"]}, "C", "answerKey is 'C'; the labels are"),
        ({"text": ["a", "b"], "label": ["A"]}, "A", "entries each is needed"),
        ({"text": [], "label": []}, "A", "entries each is needed"),
        (["a", "b"], "A", "entries each is needed"),
    ],
)
def test_a_broken_row_is_refused(tmp_path, choices, key, message):
    path = tmp_path / "test.json"
    path.write_text(json.dumps([{"question": "q", "choices": choices, "answerKey": key}]))
    with pytest.raises(ValueError, match=message):
        task(data_files={"test": str(path)}).split("test")


def test_fixed_without_validation_rows_says_so():
    with pytest.raises(ValueError, match="'validation'; allowed: test, train"):
        task(data_files={split: FILES[split] for split in ("train", "test")}).split("val")


@pytest.mark.parametrize("wrong", [{"config": "ARC-easy"}, {"protocol": "fix"}])
def test_an_unknown_choice_is_refused_at_once(wrong):
    with pytest.raises(ValueError, match="Did you mean"):
        task(**wrong)


def test_the_name_follows_the_config():
    assert (task().name, task(config="ARC-Challenge").name) == ("arc_easy", "arc_challenge")
