"""Generated tasks: splits that share nothing, spaces that are too small, scoring without partial credit."""

import re
import sys
from math import lcm

import pytest

from t2.tasks.form import IN_PROMPT, Form
from t2.tasks.procedural import Procedural

ONE_DIGIT = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
SMALL = {"train_size": 20, "val_size": 5, "test_size": 10}
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def chain_sum(**changes):
    return Procedural(
        **{"dataset": "chain_sum", "name": "sums", "form": IN_PROMPT, "config": ONE_DIGIT, **SMALL, **changes}
    )


def needle(**changes):
    config = {"min_num_statements": 3, "max_num_statements": 3}
    pattern = r"(?:^|[.] )(\S+)"
    return Procedural(
        "needle_haystack", "needle", IN_PROMPT, **SMALL, extract="word", candidates=pattern, config=config, **changes
    )


def test_sizes_are_met_and_no_question_repeats():
    task = chain_sum(train_size=100, val_size=30, test_size=60)
    prompts = [one.prompt for split in ("train", "val", "test") for one in task.split(split)]
    assert len(prompts) == len(set(prompts)) == 190


def test_what_a_split_depends_on():
    first, larger, second = chain_sum(), chain_sum(train_size=150, val_size=30), chain_sum()
    assert first.split("train") is first.split("train")  # generated once
    assert first.split("test") == larger.split("test")  # not on the other sizes
    assert chain_sum(test_size=5).split("test") == first.split("test")[:5]
    assert first.split("train") == second.split("train")  # nor on the order of the calls
    assert chain_sum(seed=1).split("test") != first.split("test")
    drawn = [{one.prompt for one in needle(seed=seed).split("test")} for seed in (0, 1)]
    assert not drawn[0] & drawn[1]  # seeds of reasoning-gym that are close share nearly all items


def test_too_small_a_space_is_an_error_and_no_endless_loop():
    task = chain_sum(train_size=150, val_size=30, test_size=100)
    with pytest.raises(ValueError, match=r"train got 70, asked for 150 .*val_size=30.*Lower a size"):
        task.split("train")


def test_a_number_is_right_only_as_the_last_one():
    task = chain_sum()
    example = next(one for one in task.split("test") if not one.answer.startswith("-"))
    gold = example.answer
    texts = (gold, f"The answer is {gold}.", f"{gold}.0", f"{gold}, or rather 99", f"-{gold}1", "")
    assert [task.score(example, text) for text in texts] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_the_first_name_of_the_question_counts():
    task = needle()
    example = task.split("test")[0]
    gold = example.answer
    names = [sentence.split()[0] for sentence in example.prompt.split(". ")[:3]]
    other = next(one for one in names if one != gold)
    assert task.score(example, f"It is {gold.lower()}, not {other}") == 1.0
    assert task.score(example, f"It is {other}, not {gold}") == 0.0
    assert task.score(example, " ".join(names)) == float(names[0] == gold)


def test_listing_all_candidates_scores_no_better_than_naming_the_first():
    task = Procedural(
        "calendar_arithmetic",
        "days",
        IN_PROMPT,
        **SMALL,
        extract="word",
        candidates=WEEKDAYS,
        config={"tasks": ["weekday_offset"]},
    )
    for example in task.split("train"):
        assert task.score(example, ", ".join(WEEKDAYS)) == task.score(example, WEEKDAYS[0])


def test_a_line_has_to_be_the_answer_and_nothing_else():
    task = Procedural("spell_backward", "spell", IN_PROMPT, **SMALL, extract="line", config={"max_word_len": 4})
    example = task.split("test")[0]
    gold = example.answer
    texts = (f"\n '{gold.upper()}'.\nbye", f"It is {gold}", f"no\n{gold}", "")
    assert [task.score(example, text) for text in texts] == [1.0, 0.0, 0.0, 0.0]


def test_the_instruction_follows_the_question():
    example = chain_sum(instruction="Reply with a number.").split("test")[0]
    assert example.prompt == f"{example.metadata['question']}\nReply with a number."
    assert (example.metadata["gold"], example.metadata["dataset"]) == (example.answer, "chain_sum")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset": "chain_sums"}, "Did you mean 'chain_sum'"),
        ({"config": {"min_term": 2}}, "Did you mean 'min_terms'"), ({"config": {"seed": 2}}, "'seed'; allowed: "),
        ({"config": {"min_terms": 0}}, "config of sums is .*min_terms must be positive"),
        ({"extract": "numbers"}, "Did you mean 'number'"),
        ({"extract": "word"}, "candidates must be given for 'word'"),
        ({"candidates": ["1"]}, "candidates must be given for 'word' and for nothing else"),
        ({"test_size": 0}, "test_size of sums is 0"), ({"seed": -1}, "seed of sums is -1"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_at_once(wrong, message):
    with pytest.raises(ValueError, match=message):
        chain_sum(**wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extract": "number"}, r"extract='number' .* cannot read the gold answer '(Yes|No)'"),
        ({"extract": "word", "candidates": ["Yes"]}, "cannot read the gold answer 'No'"),
    ],
)
def test_gold_answers_that_cannot_be_extracted_are_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        Procedural("syllogism", "logic", IN_PROMPT, **SMALL, **options).split("test")


def test_without_reasoning_gym_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "transformer2\[synthetic\]"'):
        chain_sum()


def test_items_of_a_list_count_whatever_stands_around_them():
    config = {"min_numbers": 3, "max_numbers": 3, "max_decimals": 0, "min_value": 0, "max_value": 99}
    task = Procedural("number_filtering", "kept", IN_PROMPT, **SMALL, extract="list", config=config)
    example = next(one for one in task.split("test") if one.answer.count("'") == 4)
    first, second = example.answer.strip("[]").replace("'", "").split(", ")
    texts = (f"[{first}, {second}]", f"The list is: {first}, {second}.", f"{second}, {first}", first, "", "[]")
    assert [task.score(example, text) for text in texts] == [1, 1, 0, 0, 0, 0]
    assert set(task.chance(example).values()) == {0.0}


def test_the_chances_are_those_of_copying_a_number_of_the_question():
    task = Procedural("lcm", "lcm", IN_PROMPT, **SMALL, config={"max_value": 9})
    seen = set()
    for one in task.split("test"):
        first, last = map(int, re.findall(r"\d+", one.prompt))
        right = [number == lcm(first, last) for number in (first, last)]
        guesses = (sum(right) / 2, right[1], max(first, last) == lcm(first, last), min(first, last) == lcm(first, last))
        assert tuple(task.chance(one).values()) == guesses
        seen.add(guesses)
    assert len(seen) > 2


def test_an_equation_with_another_variable_or_other_words_is_the_same_question():
    same = r"(?:Solve for|value of) (?P<name>[a-z])\b[^:]*: (?P<part>.+)"
    small = {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 4}
    sizes = {"train_size": 60, "val_size": 10, "test_size": 30}
    task = Procedural("simple_equations", "toy", Form(), same=same, config=small, **sizes)
    asked = [one.metadata["canonical"] for split in ("train", "val", "test") for one in task.split(split)]
    assert len(set(asked)) == 100
    assert all(re.search(r"\bx\b", one) and not re.search("[a-wyz]", one) for one in asked)
    with pytest.raises(ValueError, match="same of toy is 'of'"):
        Procedural("simple_equations", "toy", Form(), same="of")
