"""Reference answers as completions."""

from __future__ import annotations

import pytest
from tiny_models import original

from t2.policy.reference import ReferenceAnswers, encode_reference
from t2.types import Example, Sampling


def test_the_answer_and_on_request_the_end_of_the_turn_follow_the_prompt() -> None:
    lm = original()
    example = Example("What is 2 + 2?", answer="four")
    ((one,),) = ReferenceAnswers(lm).generate([example], Sampling())
    assert list(one.prompt_ids) == lm.encode(example)
    assert lm.decode(one.token_ids[:-1]) == one.text == "four"
    assert one.token_ids[-1] == lm.end_of_turn_id
    assert one.token_ids[-1] in lm.end_ids
    assert one.log_probs == (0.0,) * len(one.token_ids)
    plain = encode_reference(lm, example)
    assert one.token_ids == (*plain.token_ids, lm.end_of_turn_id)
    assert not set(plain.token_ids) & lm.end_ids


@pytest.mark.parametrize(("response_prefix", "text"), [("Category:", " four"), ("Category: ", "four"), ("", "four")])
def test_a_space_parts_it_from_the_response_prefix(response_prefix: str, text: str) -> None:
    lm = original()
    one = encode_reference(lm, Example("Which?", answer="four", response_prefix=response_prefix))
    assert one.text == text
    assert lm.decode(one.prompt_ids).endswith(response_prefix)
    assert lm.decode(one.token_ids) == text


@pytest.mark.parametrize("answer", [None, ""])
def test_an_example_without_an_answer_is_refused(answer: str | None) -> None:
    with pytest.raises(ValueError, match="no reference answer"):
        encode_reference(original(), Example("Which?", answer=answer))
