"""Mean hidden states are those that transformers gives out, of one prompt alone, and cost no block more."""

from __future__ import annotations

import pytest
import torch
from tiny_models import adapted, each_architecture, tiny
from torch import Tensor

from t2.adapters.targets import decoder_blocks
from t2.models.language_model import LanguageModel
from t2.models.tiny import tiny_model
from t2.policy import mean_states as module
from t2.policy.mean_states import mean_states

PROMPTS = ["3 + 4 =", "Who is tall? It is a longer question.", "7"]


def reference(lm: LanguageModel, prompt: str, layer: int) -> Tensor:
    """The mean by transformers' own list of hidden states; its last one is after the final norm."""
    ids = torch.tensor([lm.tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        states = lm.model.base_model(input_ids=ids, output_hidden_states=True).hidden_states
    return states[layer][0, 1:].mean(dim=0)


@each_architecture
def test_means_are_those_of_transformers_hidden_states_without_the_first_token(architecture):
    lm = tiny_model(architecture, layers=3)
    found = mean_states(lm, PROMPTS, [2, 1])
    assert found.shape == (3, 2, 32)
    for row, prompt in zip(found, PROMPTS, strict=True):
        for mean, layer in zip(row, (2, 1), strict=True):
            torch.testing.assert_close(mean, reference(lm, prompt, layer), atol=1e-4, rtol=1e-4)


def test_the_last_layer_is_the_output_of_the_last_block_before_the_final_norm():
    lm = tiny()
    (found,) = mean_states(lm, PROMPTS[:1], [2])
    kept = []
    handle = decoder_blocks(lm.model)[1][1].register_forward_hook(lambda _, __, output: kept.append(output))
    reference(lm, PROMPTS[0], 1)
    handle.remove()
    torch.testing.assert_close(found[0], kept[0][0, 1:].mean(dim=0))


@pytest.mark.parametrize("budget", [1, 60, 2048])
def test_a_prompt_has_the_same_means_alone_and_in_batches_of_any_size(monkeypatch, budget):
    monkeypatch.setattr(module, "BATCH_TOKENS", budget)
    lm = tiny()
    together = mean_states(lm, PROMPTS, [1, 2])
    alone = torch.cat([mean_states(lm, [prompt], [1, 2]) for prompt in PROMPTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_blocks_after_the_last_layer_are_not_computed_and_no_hook_stays():
    lm = tiny()
    blocks = decoder_blocks(lm.model)[1]
    ran = []
    handles = [block.register_forward_hook(lambda *_, at=at: ran.append(at)) for at, block in enumerate(blocks)]
    mean_states(lm, PROMPTS, [1])
    assert set(ran) == {0}
    for handle in handles:
        handle.remove()
    assert not any(block._forward_hooks for block in blocks)


def test_a_prompt_of_one_token_is_its_own_mean():
    lm = tiny()
    lm.tokenizer.backend_tokenizer.post_processor = None  # no BOS
    assert lm.tokenizer("7")["input_ids"] == lm.tokenizer("7", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([lm.tokenizer("7")["input_ids"]])
    with torch.no_grad():
        states = lm.model.base_model(input_ids=ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(mean_states(lm, ["7"], [1])[0, 0], states[1][0, 0])


def test_the_adapter_is_read_in_its_present_mode():
    lm, svf = adapted()
    svf.load({name: torch.full_like(s, 1.5) for name, s in svf.singular_values.items()})
    learned = mean_states(lm, PROMPTS, [1])
    with svf.disabled():
        base = mean_states(lm, PROMPTS, [1])
    torch.testing.assert_close(base, mean_states(tiny(), PROMPTS, [1]))
    assert not torch.allclose(base, learned, atol=1e-3)


@pytest.mark.parametrize(
    ("prompts", "layers", "message"),
    [
        (PROMPTS, [], "no layers to read"),
        (PROMPTS, [0], "layer is 0, and tiny:llama has the decoder blocks 1 to 2"),
        (PROMPTS, [1, 3], "layer is 3, and tiny:llama has the decoder blocks 1 to 2"),
        (["x", " \n"], [1], "The prompt is empty"),
        (["x" * 600], [1], "601 tokens, and the context of tiny:llama is 512"),
    ],
)
def test_what_cannot_be_read_is_refused(prompts, layers, message):
    with pytest.raises(ValueError, match=message):
        mean_states(tiny(), prompts, layers)
