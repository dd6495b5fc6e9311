"""Multiple choice: options of a column, the letter or the text, rows without a gold option."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from test_one_file import FORM, written

from t2.tasks.multiple_choice import MultipleChoice

CONF = Path(__file__).parents[2] / "conf"
ROW = {"passage": "Kim is ill.", "question": "What now? ", "options": "\nA. a walk \nB. a long walk\nC. bed"}


def asked(tmp_path, ask, **changes):
    fillers = [{**ROW, "passage": f"p{index}", "answer": "C. bed"} for index in range(3)]
    files = written(tmp_path, [*fillers, {**ROW, "answer": "B. a long walk", **changes}])
    task = MultipleChoice("toy", FORM, files, ask, val_size=1, test_size=1)
    examples = [one for split in ("train", "val", "test") for one in task.split(split)]
    return task, next((one for one in examples if one.prompt.startswith("Kim")), None)


def test_the_letter_is_asked_for(tmp_path):
    task, one = asked(tmp_path, "letter")
    assert one.prompt == "Kim is ill.\nWhat now?\nOptions:\nA. a walk\nB. a long walk\nC. bed"
    scores = {text: task.score(one, text) for text in ("B", "The answer is (B).", "A", "D", "a long walk", "")}
    assert [text for text, score in scores.items() if score] == ["B", "The answer is (B)."]
    assert task.chance(one) == {"random option": 1 / 3, "first option": 0.0, "last option": 0.0}


def test_the_text_is_asked_for_and_the_option_named_first_counts(tmp_path):
    task, one = asked(tmp_path, "text")
    assert one.prompt == "Kim is ill.\nWhat now?\nOptions:\n- a walk\n- a long walk\n- bed"
    texts = ("A long walk.", "Kim takes a long walk, not bed", "bed, not a long walk", "a walk", "B", "")
    assert [task.score(one, text) for text in texts] == [1, 1, 0, 0, 0, 0]


def test_a_full_stop_is_no_part_of_an_option(tmp_path):
    options = {"options": "A. a walk.\nB. a long walk.\nC. bed", "answer": "B. a long walk."}
    task, one = asked(tmp_path, "text", **options)
    texts = ("a long walk", "A long walk.", "It is a long walk, I think.", "a walk", "bed.")
    assert [task.score(one, text) for text in texts] == [1, 1, 1, 0, 0]
    same = {"options": "A. a long walk.\nB. a long walk", "answer": "B. a long walk"}
    assert asked(tmp_path, "text", **same)[1] is None
    assert asked(tmp_path, "letter", **same)[1] is not None


@pytest.mark.parametrize(
    "changes",
    [{"answer": "D. none"}, {"options": "A. a long walk"}, {"options": "A. a long walk\nB. A long walk"}],
)
def test_a_row_whose_options_do_not_hold_one_gold_answer_is_left_out(tmp_path, changes):
    assert asked(tmp_path, "letter", **changes)[1] is None


def test_an_unknown_way_to_ask_is_refused():
    with pytest.raises(ValueError, match=r"ask of toy is 'letters'.*Did you mean 'letter'"):
        MultipleChoice("toy", FORM, {"all": "none.jsonl"}, "letters")


@pytest.mark.parametrize(("ask", "said"), [("letter", "letter of an option"), ("text", "one of the options")])
@pytest.mark.parametrize("name", ["commonsense_qa", "mmlu"])
def test_the_instruction_says_what_is_graded(name, ask, said):
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(overrides=[f"+task={name}", f"task.ask={ask}"]).task
    assert said in instantiate(config).form.instruction
