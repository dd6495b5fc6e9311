"""Language models: prompts are what the template says, within the context, and every end counts."""

import pytest
from tiny_models import original, tiny

from t2.models.language_model import LanguageModel
from t2.models.tiny import BOS, byte_tokenizer, tiny_model
from t2.types import Example

HELLO = Example(prompt="hello")


@pytest.fixture(scope="module")
def llama() -> LanguageModel:
    return original()


@pytest.mark.parametrize(
    ("chat_template", "example", "text"),
    [
        (True, HELLO, "<|bos|><|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"),
        (
            True,
            Example(prompt="p", system="s", response_prefix="A:"),
            "<|bos|><|im_start|>system\ns<|im_end|>\n<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\nA:",
        ),
        (False, Example(prompt="p", system="s", response_prefix="A"), "<|bos|>s\n\np\nA"),
        (
            True,
            Example(prompt="p", shots=(("q", "a"),)),
            "<|bos|><|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
            "<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\n",
        ),
        (False, Example(prompt="p", system="s", shots=(("q", "a"),)), "<|bos|>s\n\nq\na\n\np\n"),
    ],
)
def test_the_prompt_is_the_template_or_plain_up_to_the_response(chat_template: bool, example: Example, text: str):
    lm = original(chat_template=chat_template)
    assert lm.tokenizer.decode(lm.encode(example)) == text


@pytest.mark.parametrize("chat_template", [True, False])
def test_bos_stands_once_and_without_a_template_only_the_end_of_text_ends_a_response(chat_template: bool):
    lm = original(chat_template=chat_template)
    assert lm.encode(HELLO).count(lm.tokenizer.convert_tokens_to_ids(BOS)) == 1
    ends = ["<|eos|>", "<|im_end|>"] if chat_template else ["<|eos|>"]
    assert lm.end_ids == set(lm.tokenizer.convert_tokens_to_ids(ends))
    assert lm.end_of_turn_id == lm.tokenizer.convert_tokens_to_ids(ends[-1])


def test_without_a_template_bos_is_only_put_where_the_tokenizer_puts_it():
    lm = tiny_model(chat_template=False)
    lm.tokenizer.backend_tokenizer.post_processor = None
    assert lm.decode(lm.encode(HELLO)) == "hello\n"
    assert lm.tokenizer.bos_token_id not in lm.encode(HELLO)


def test_a_template_without_system_messages_says_what_to_do():
    lm = tiny()
    lm.tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(ValueError, match=r"no system role.*leave `system` out"):
        lm.encode(Example(prompt="p", system="s"))


@pytest.mark.parametrize("text", ["7 * 8 = 56", " two  spaces , kept !", "naïve ² 漢字\n"])
def test_decode_undoes_the_tokenizer(llama: LanguageModel, text: str):
    ids = llama.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert llama.decode([*ids, *llama.end_ids]) == text


def test_a_prompt_may_fill_the_context_but_not_exceed_it_with_what_is_reserved(llama: LanguageModel):
    room = llama.context_length - len(llama.encode(Example(prompt="")))
    assert len(llama.encode(Example(prompt="x" * room))) == llama.context_length
    with pytest.raises(ValueError, match=r"has 513 tokens .* is 512\. Shorten the prompt"):
        llama.encode(Example(prompt="x" * (room + 1)))
    with pytest.raises(ValueError, match="1 are kept for the answer"):
        llama.encode(Example(prompt="x" * room), reserve=1)


def test_every_end_of_the_generation_config_counts_and_pads_where_there_is_no_padding(llama: LanguageModel):
    model, tokenizer = tiny().model, byte_tokenizer()
    model.generation_config.eos_token_id = [7, 9]
    tokenizer.pad_token = None
    lm = LanguageModel(model, tokenizer, "x")
    assert lm.end_ids == llama.end_ids | {7, 9}
    assert lm.pad_id in lm.end_ids


def test_rows_are_not_filled_with_the_token_whose_embedding_may_be_zeros() -> None:
    """A norm's root has no gradient at zeros: in Gemma 3n every multiplier became NaN by its first step."""
    model, tokenizer = tiny().model, byte_tokenizer()
    model.get_input_embeddings().padding_idx = tokenizer.pad_token_id
    lm = LanguageModel(model, tokenizer, "x")
    assert tokenizer.pad_token_id not in lm.end_ids  # else nothing is shown here
    assert lm.pad_id in lm.end_ids
