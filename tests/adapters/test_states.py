"""Which token has which state: blocks that flatten their tokens, and batches of another size."""

from __future__ import annotations

import pytest
import torch
from tiny_models import IDS, adapt, logits, random_state, stacked
from torch import Tensor
from zoo_models import tiny_architecture

from t2.adapters.low_rank import LowRank
from t2.adapters.states import by_token

FLATTENING = ("qwen2_moe", "ernie4_5_moe", "opt")  # shared experts, and OPT's feed-forward


@pytest.mark.parametrize("architecture", FLATTENING)
@pytest.mark.parametrize("settings", [{}, {"spectrum": "top", "rank": 3}], ids=str)
def test_examples_of_a_block_that_flattens_tokens_have_their_own_states(architecture: str, settings: dict) -> None:
    """Each with a LoRA of its own weight beside z."""
    lm = tiny_architecture(architecture)
    svf = adapt(lm, **settings)
    states = [{name: z.where(svf.learnable()[name], 1.0) for name, z in random_state(svf, s).items()} for s in range(3)]
    draw = torch.Generator().manual_seed(9)
    for name, layer in svf.layers.items():
        sizes = (layer.output_factor.shape[0], 2), (2, layer.input_factor.shape[1])
        factors = (0.2 * torch.randn(size, generator=draw) for size in sizes)
        svf.low_rank.attach({f"{name} lora": LowRank(name, *factors)}, svf.layers)
        for number, state in enumerate(states):
            state[f"{name} lora"] = torch.tensor([1.0 + number])
    ids, alone = IDS[:3], []
    for row, state in enumerate(states):
        with svf.merged(state):
            alone.append(logits(lm, ids[row : row + 1])[0])
    with svf.per_example(stacked(*states)) as select:
        torch.testing.assert_close(logits(lm, ids), torch.stack(alone), rtol=0, atol=2e-3)
        select(torch.tensor([2, 0]))
        torch.testing.assert_close(logits(lm, ids[[2, 0]]), torch.stack([alone[2], alone[0]]), rtol=0, atol=2e-3)
    assert (alone[0] - alone[1]).abs().max() > 0.1


@pytest.mark.parametrize(("shape", "expected"), [((2, 5, 7), [[[1.0]], [[2.0]]]), ((2, 7), [[1.0], [2.0]])])
def test_a_batch_has_a_state_for_each_row(shape: tuple[int, ...], expected: list) -> None:
    assert by_token(torch.tensor([[1.0], [2.0]]), torch.Size(shape)).tolist() == expected


def test_flattened_tokens_lie_example_by_example() -> None:
    flat: Tensor = by_token(torch.tensor([[1.0], [2.0]]), torch.Size((6, 7)))
    assert flat[:, 0].tolist() == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("shape", [(3, 5, 7), (5, 7), (7,)])
def test_a_batch_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"states of 2 examples, .* Use pass2=merged"):
        by_token(torch.ones(2, 1), torch.Size(shape))
