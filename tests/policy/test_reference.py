"""Reference answers as completions."""

from __future__ import annotations

import string

import pytest
from tiny_models import original
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from t2.models.language_model import LanguageModel
from t2.policy.reference import ReferenceAnswers, continuation_ids, encode_reference
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


def sentence_piece(layout: str) -> PreTrainedTokenizerFast:
    """A tokenizer of letters that puts a space before a text, as Llama 2's and Mistral's do."""
    letters = ["<s>", "</s>", "<unk>", "\u2581", *sorted(set(string.printable) - set(" \t\r\x0b\x0c"))]
    tokenizer = Tokenizer(models.BPE({one: number for number, one in enumerate(letters)}, [], unk_token="<unk>"))
    if layout == "prepend":
        spaces = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        tokenizer.normalizer = normalizers.Sequence(spaces)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("layout", ["prepend", "metaspace"])
@pytest.mark.parametrize("text", ["42", " 42", "[4, 2]", "    return 1", "\n    return 1"])
def test_what_follows_gets_no_space_that_nobody_wrote(monkeypatch: pytest.MonkeyPatch, layout: str, text: str) -> None:
    lm = original()
    monkeypatch.setattr(lm, "tokenizer", sentence_piece(layout))
    assert lm.tokenizer.decode(continuation_ids(lm, text)) == text


@pytest.mark.parametrize(("prefix", "expected"), [("", "\u2581"), ("[", "4")])
def test_an_answer_that_begins_a_turn_has_the_space_of_the_templates(
    monkeypatch: pytest.MonkeyPatch, prefix: str, expected: str
) -> None:
    lm = original()
    monkeypatch.setattr(lm, "tokenizer", sentence_piece("prepend"))
    monkeypatch.setattr(LanguageModel, "encode", lambda *_, reserve: [0])  # what the template makes is not asked here
    one = encode_reference(lm, Example("Which?", answer=f"{prefix}42", response_prefix=prefix))
    assert lm.tokenizer.convert_ids_to_tokens(one.token_ids)[0] == expected


@pytest.mark.parametrize("text", ["42", " 42", "\n  x", "\n", "  x"])
def test_a_tokenizer_without_such_a_space_encodes_as_ever(text: str) -> None:
    lm = original()
    assert continuation_ids(lm, text) == lm.tokenizer(text, add_special_tokens=False)["input_ids"]
