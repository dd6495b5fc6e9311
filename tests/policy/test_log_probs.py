"""Token log-probs against the naive way: every logit of every row, one completion at a time."""

import weakref
from collections.abc import Sequence

import pytest
import torch
from tiny_models import adapted as at_one
from tiny_models import each_architecture
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

import t2.policy.log_probs
from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.policy.log_probs import TokenLogProbs, token_log_probs
from t2.types import Completion

each_direction = pytest.mark.parametrize("kl", ["policy_base", "base_policy"])


def completion(prompt: int, tokens: int, seed: int = 0) -> Completion:
    generator = torch.Generator().manual_seed(100 * prompt + tokens + seed)
    ids = torch.randint(256, (prompt + tokens,), generator=generator).tolist()
    return Completion(tuple(ids[:prompt]), tuple(ids[prompt:]), (0.0,) * tokens, "", "stop")


def adapted(architecture: str = "llama", spread: float = 0.2) -> tuple[LanguageModel, SVF]:
    return at_one(architecture, spread=spread)


COMPLETIONS = [completion(5, 7), completion(1, 1), completion(20, 3), completion(2, 16), completion(9, 1)]


def naive_logits(lm: LanguageModel, c: Completion) -> Tensor:
    """The model's own logits that predict each completion token, (T, V) in float64."""
    ids = torch.tensor([c.prompt_ids + c.token_ids])
    return lm.model(input_ids=ids).logits[0, len(c.prompt_ids) - 1 : -1].double()


def naive(lm: LanguageModel, c: Completion, temperature: float = 1.0) -> Tensor:
    """Log-probs of one completion (T,)."""
    log_probs = torch.log_softmax(naive_logits(lm, c) / temperature, dim=-1)
    return log_probs[torch.arange(len(c.token_ids)), torch.tensor(c.token_ids)]


def unpadded(values: Tensor, completions: Sequence[Completion] = COMPLETIONS) -> list[Tensor]:
    return [row[: len(c.token_ids)].double() for row, c in zip(values, completions, strict=True)]


def gradients(svf: SVF, loss: Tensor) -> list[Tensor]:
    return [grad.double() for grad in torch.autograd.grad(loss, svf.trainable())]


def assert_close(got: Sequence[Tensor], expected: Sequence[Tensor], share: float = 1e-4) -> None:
    """Differences are small beside the largest entry of all: single entries may be almost zero."""
    scale = max(float(e.detach().abs().max()) for e in expected)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=share * scale)


@each_architecture
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_entropy_are_those_of_the_models_own_logits(architecture, temperature):
    lm, _ = adapted(architecture)
    token = token_log_probs(lm, COMPLETIONS, temperature=temperature)
    assert_close(unpadded(token.log_probs), [naive(lm, c, temperature) for c in COMPLETIONS])
    expected = [Categorical(logits=naive_logits(lm, c) / temperature).entropy() for c in COMPLETIONS]
    assert_close(unpadded(token.entropy), [e.detach() for e in expected])
    assert not token.entropy.requires_grad


@each_architecture
def test_gradients_are_those_of_naive_autograd(architecture):
    lm, svf = adapted(architecture)
    weights = [torch.linspace(-1, 2, len(c.token_ids), dtype=torch.float64) for c in COMPLETIONS]
    got = unpadded(token_log_probs(lm, COMPLETIONS, temperature=0.7).log_probs)
    expected = [naive(lm, c, 0.7) for c in COMPLETIONS]
    losses = [sum((w * row).sum() for w, row in zip(weights, rows, strict=True)) for rows in (got, expected)]
    assert_close(*(gradients(svf, loss) for loss in losses), share=1e-3)


@each_architecture
def test_a_batch_is_its_rows_one_by_one_in_any_order(architecture):
    lm, svf = adapted(architecture)
    together = token_log_probs(lm, COMPLETIONS, kl="policy_base", adapter=svf)
    backward = unpadded(token_log_probs(lm, COMPLETIONS[::-1]).log_probs, COMPLETIONS[::-1])
    assert_close(backward[::-1], unpadded(together.log_probs))
    for row, c in enumerate(COMPLETIONS):
        alone = token_log_probs(lm, [c], kl="policy_base", adapter=svf)
        for name in ("log_probs", "entropy", "kl"):
            ours = getattr(together, name)[row : row + 1, : len(c.token_ids)]
            torch.testing.assert_close(ours, getattr(alone, name), rtol=1e-4, atol=1e-4)


@each_direction
def test_chunking_changes_nothing(monkeypatch, kl):
    lm, svf = adapted()
    results = []
    for tokens in (512, 3, 1):
        monkeypatch.setattr(t2.policy.log_probs, "CHUNK_TOKENS", tokens)
        token = token_log_probs(lm, COMPLETIONS, temperature=0.7, kl=kl, adapter=svf)
        loss = token.log_probs.sum() + 0.3 * token.kl.sum()
        results.append([token.log_probs, token.entropy, token.kl, *gradients(svf, loss)])
    for other in results[1:]:
        for got, expected in zip(other, results[0], strict=True):
            assert_close([got], [expected], share=1e-5)


def test_no_tensor_of_all_logits_is_kept_for_the_backward_pass(monkeypatch):
    lm, _ = adapted()
    monkeypatch.setattr(t2.policy.log_probs, "CHUNK_TOKENS", 4)
    vocabulary = lm.model.config.vocab_size
    rows: list[int] = []
    seen: list[weakref.ref[Tensor]] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.shape[-1:] == (vocabulary,):
            kept = tensor.clone()  # what the graph holds from now on
            rows.append(len(kept))
            seen.append(weakref.ref(kept))
            return kept
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        token = token_log_probs(lm, COMPLETIONS)
    assert token.log_probs.requires_grad
    assert set(rows) - {lm.model.config.hidden_size} <= {1, 2, 3, 4}  # the head's own weight is seen as well
    assert [one for one in seen if one() is not None] == []


def naive_kl(lm: LanguageModel, svf: SVF, kl: str) -> list[Tensor]:
    divergences = []
    for c in COMPLETIONS:
        policy = Categorical(logits=naive_logits(lm, c))
        with svf.disabled(), torch.no_grad():
            base = Categorical(logits=naive_logits(lm, c))
        pair = (policy, base) if kl == "policy_base" else (base, policy)
        divergences.append(kl_divergence(*pair))
    return divergences


@each_direction
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kl_and_its_gradients_are_the_untempered_closed_form(architecture, kl, temperature):
    lm, svf = adapted(architecture)
    token = token_log_probs(lm, COMPLETIONS, temperature=temperature, kl=kl, adapter=svf)
    expected = naive_kl(lm, svf, kl)
    assert min(e.min().item() for e in expected) > 1e-3
    assert_close(unpadded(token.kl), expected)
    assert_close(gradients(svf, token.kl.sum()), gradients(svf, torch.cat(expected).sum()), share=1e-3)


@each_architecture
@each_direction
def test_kl_at_one_is_zero(architecture, kl):
    lm, svf = adapted(architecture, spread=0.0)
    token = token_log_probs(lm, COMPLETIONS, kl=kl, adapter=svf)
    assert token.kl.abs().max().item() < 1e-5


def test_kl_leaves_the_adapter_as_it_is_and_without_it_the_model_runs_once(monkeypatch):
    lm, svf = adapted()
    before = token_log_probs(lm, COMPLETIONS).log_probs
    one, other = (token_log_probs(lm, COMPLETIONS, kl=kl, adapter=svf) for kl in ("policy_base", "base_policy"))
    assert torch.equal(one.log_probs, before)
    assert svf.mode.name == "factored"
    assert not torch.allclose(one.kl, other.kl, rtol=0.05)
    with pytest.raises(AssertionError, match="needs the adapter"):
        token_log_probs(lm, COMPLETIONS, kl="policy_base")
    runs, inner = [], type(lm).hidden_states
    monkeypatch.setattr(type(lm), "hidden_states", lambda *args: runs.append(1) or inner(*args))
    with torch.no_grad():
        token = token_log_probs(lm, COMPLETIONS, adapter=svf)
    assert (token.kl, len(runs), token.log_probs.requires_grad) == (None, 1, False)


@pytest.mark.parametrize("kl", [None, "policy_base"])
def test_equal_neighbors_are_computed_once_and_count_as_often_as_they_are(monkeypatch, kl):
    lm, svf = adapted()
    one, other = (
        COMPLETIONS[0],
        Completion(COMPLETIONS[0].prompt_ids, COMPLETIONS[0].token_ids[:4], (0.0,) * 4, "", "stop"),
    )
    repeated, weights = [one, other, one, one, COMPLETIONS[2]], torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0])
    widths, hidden_states = [], lm.hidden_states
    monkeypatch.setattr(
        lm, "hidden_states", lambda ids, *a, **k: widths.append(ids.shape) or hidden_states(ids, *a, **k)
    )

    def summed(found: TokenLogProbs, weights: Tensor) -> Tensor:
        return (weights[:, None] * (found.log_probs - (0 if found.kl is None else found.kl))).sum()

    found = token_log_probs(lm, repeated, kl=kl, adapter=svf, shared=True)
    tokens = [len(c.prompt_ids) + len(c.token_ids) - 1 for c in (one, other, COMPLETIONS[2])]
    longest = max(tokens[0] + len(other.token_ids) - 1, tokens[2])
    assert set(widths) == {(2, longest)}
    alone = [token_log_probs(lm, [c], kl=kl, adapter=svf) for c in repeated]
    assert_close(unpadded(found.log_probs, repeated), [one.log_probs[0].double() for one in alone])
    assert_close(unpadded(found.entropy, repeated), [one.entropy[0].double() for one in alone])
    together = sum(summed(one, weight[None]) for one, weight in zip(alone, weights, strict=True))
    assert_close(gradients(svf, summed(found, weights)), gradients(svf, together))


def test_padding_is_zero_outside_the_mask():
    lm, svf = adapted()
    token: TokenLogProbs = token_log_probs(lm, COMPLETIONS, kl="policy_base", adapter=svf)
    lengths = [len(c.token_ids) for c in COMPLETIONS]
    expected = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    assert torch.equal(token.mask, expected)
    for values in (token.log_probs, token.entropy, token.kl):
        assert values.shape == expected.shape
        assert bool((values[~expected] == 0).all())


def test_the_pad_id_within_a_completion_is_a_token_like_any_other():
    lm, _ = adapted()
    odd = Completion((1, lm.pad_id, 2), (3, lm.pad_id, 4), (0.0,) * 3, "", "stop")
    got = token_log_probs(lm, [odd, COMPLETIONS[2]]).log_probs
    assert_close([got[0, :3].double()], [naive(lm, odd)])
    lm.model.to(torch.bfloat16)
    assert token_log_probs(lm, COMPLETIONS).log_probs.dtype == torch.float32


@pytest.mark.parametrize("shared", [False, True])
def test_a_number_that_is_none_is_named_and_not_trained_on(monkeypatch, shared):
    lm, svf = adapted()
    ids = tuple(range(3, 10))
    two = [Completion(ids[:4], ids[4:], (0.0,) * 3, "", "stop"), Completion(ids[:4], ids[3:], (0.0,) * 4, "", "stop")]
    honest, odd = type(lm).logits, torch.tensor([float("nan"), float("inf"), 0.0])

    def one_bad_row(model: LanguageModel, hidden: Tensor) -> Tensor:
        logits = honest(model, hidden).clone()
        if len(logits) > 20:  # COMPLETIONS and two: the row of token 2 in the second of two
            logits[-2, :3] = odd
        return logits

    monkeypatch.setattr(type(lm), "logits", one_bad_row)
    with pytest.raises(ArithmeticError, match=r"log-prob of token 2 in completion 6 \(prompt 5\) is nan") as found:
        token_log_probs(lm, [*COMPLETIONS, *two], shared=shared)
    assert (found.value.completion, found.value.token) == (6, 2)
    monkeypatch.setattr(
        type(lm), "logits", lambda lm, hidden: honest(lm, hidden) * (1 if hidden.requires_grad else odd[0])
    )
    with pytest.raises(ArithmeticError, match="KL to the base of token 0 in completion 0"):
        token_log_probs(lm, COMPLETIONS, kl="policy_base", adapter=svf)
