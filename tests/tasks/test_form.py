"""What a form makes of an example: only what the model reads changes, never the reference or the question."""

import pytest

from t2.tasks.form import Form, with_shots
from t2.types import Example

SUM = Example("State the answer to the problem: 3 * 10 =", "30", metadata={"question": "the problem: 3 * 10 ="})


def test_the_instruction_is_a_line_after_the_prompt():
    told = Form("Reply with the number only.").with_instruction(SUM)
    assert told.prompt == f"{SUM.prompt}\nReply with the number only."
    assert (told.answer, told.metadata, told.response_prefix) == (SUM.answer, SUM.metadata, "")


def test_the_prefix_repeats_the_group_of_the_pattern():
    form = Form(prefix="{0}", pattern="problem: (.*=)")
    assert form.with_prefix(SUM).response_prefix == "3 * 10 ="
    assert form.with_prefix(Example("Say something else.")) == Example("Say something else.")
    assert Form(prefix="It is {0}").with_prefix(SUM).response_prefix == "It is {0}"  # no pattern, no placeholder


def test_shots_are_solved_questions_in_turns_of_their_own():
    shots = [Example("1 + 1 =", "2"), Example("2 + 2 =", "4", response_prefix="2 + 2 =")]
    told = with_shots(SUM, shots)
    assert told.shots == (("1 + 1 =", "2"), ("2 + 2 =", "2 + 2 = 4"))
    assert told.prompt == SUM.prompt
    assert with_shots(SUM, ()) == SUM
    worked = Example("3 apples and 4?", "7", metadata={"solution": "3 + 4 = 7\n#### 7"})
    assert with_shots(SUM, [worked]).shots == (("3 apples and 4?", "3 + 4 = 7\n#### 7"),)


@pytest.mark.parametrize(
    ("prefix", "pattern"), [("{0}", "(unclosed"), ("{0}", "no group"), ("{0}", "(two) (groups)"), ("unused", "(one)")]
)
def test_a_pattern_that_cannot_serve_is_refused(prefix, pattern):
    with pytest.raises(ValueError, match=r"form\.pattern is"):
        Form(prefix=prefix, pattern=pattern)
