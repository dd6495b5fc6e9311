"""Generation: transformers' own greedy completions, samples that depend on seed and index alone, exact log-probs."""

from collections.abc import Sequence

import pytest
import torch
from tiny_models import adapt, adapted, each_architecture, original, tiny
from tiny_models import token_ids as ids

import t2.policy.decode as decode
from t2.models.language_model import LanguageModel
from t2.models.tiny import END, EOS
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.types import Completion, Example, Sampling

EXAMPLES = [Example(prompt="x" * n) for n in (3, 40, 11, 1, 25)]


def scripted(monkeypatch: pytest.MonkeyPatch, *answers: Sequence[int]) -> None:
    """Make the sampler say these ids, an answer per row until its end."""
    script = iter([[one[step] for one in answers if step < len(one)] for step in range(max(map(len, answers)))])

    def say(logits, uniforms, sampling):
        tokens = torch.tensor(next(script))
        return tokens, torch.zeros(len(tokens))

    monkeypatch.setattr(decode, "choose", say)


def tokens_of(lm: LanguageModel, text: str) -> list[int]:
    return lm.tokenizer(text, add_special_tokens=False)["input_ids"]


# Against transformers


@each_architecture
def test_greedy_is_transformers_greedy(architecture):
    lm = tiny(architecture, ends=True)
    prompts = [lm.encode(example) for example in EXAMPLES]
    width = max(map(len, prompts))
    generated = lm.model.generate(
        input_ids=torch.tensor([[lm.pad_id] * (width - len(p)) + p for p in prompts]),
        attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
        do_sample=False,
        max_new_tokens=20,
        eos_token_id=sorted(lm.end_ids),
        pad_token_id=lm.pad_id,
    )[:, width:].tolist()
    expected = []
    for row in generated:
        end = next((index for index, token in enumerate(row) if token in lm.end_ids), len(row))
        expected.append([tuple(row[: end + 1])])
    assert ids(HFGenerator(lm).generate(EXAMPLES, Sampling(max_new_tokens=20))) == expected


# A sample depends on its seed and index


@pytest.fixture(scope="module")
def reference() -> list[list[Completion]]:
    return HFGenerator(tiny(ends=True)).generate(EXAMPLES, SAMPLED)


SAMPLED = Sampling(max_new_tokens=24, temperature=1.0, samples=3, seed=5)


def test_the_reference_is_worth_comparing_with(reference):
    lengths = {len(completion.token_ids) for row in reference for completion in row}
    assert len(lengths) > 5  # rows end at different steps, so they were compacted
    assert len({completion.token_ids for row in reference for completion in row}) == 15
    for example, row in zip(EXAMPLES, reference, strict=True):
        assert [completion.prompt_ids for completion in row] == [tuple(original().encode(example))] * 3


@pytest.mark.parametrize(("batch_rows", "share"), [(1, 0.25), (3, 0.25), (7, 0.25), (64, 0.0), (64, 0.5), (64, 1.0)])
def test_samples_do_not_depend_on_the_batch_compaction_or_torchs_seed(reference, monkeypatch, batch_rows, share):
    monkeypatch.setattr(decode, "COMPACT_SHARE", share)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = HFGenerator(tiny(ends=True), batch_rows=batch_rows).generate(EXAMPLES, SAMPLED)
    assert torch.equal(torch.get_rng_state(), state)
    assert ids(again) == ids(reference)
    for row, other in zip(again, reference, strict=True):
        for one, two in zip(row, other, strict=True):
            assert one.log_probs == pytest.approx(two.log_probs, abs=1e-4)


def test_no_more_rows_are_decoded_at_once_than_are_allowed(monkeypatch):
    rows, choose = [], decode.choose
    monkeypatch.setattr(decode, "choose", lambda logits, *rest: rows.append(len(logits)) or choose(logits, *rest))
    HFGenerator(tiny(ends=True), batch_rows=2).generate(EXAMPLES, SAMPLED)  # three samples each
    assert max(rows) == 2


@each_architecture
def test_compaction_is_right_in_every_architecture(monkeypatch, architecture):
    answers = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(decode, "COMPACT_SHARE", share)
        answers.append(ids(HFGenerator(tiny(architecture, ends=True)).generate(EXAMPLES, SAMPLED)))
    assert answers[0] == answers[1]


def test_samples_do_not_depend_on_their_neighbors(reference):
    others = [Example(prompt="y" * 60)] * 5
    mixed = [EXAMPLES[0], others[1], EXAMPLES[2], *others[3:]]
    again = ids(HFGenerator(tiny(ends=True)).generate(mixed, SAMPLED))
    assert [again[0], again[2]] == [ids(reference)[0], ids(reference)[2]]


def test_greedy_answers_follow_their_prompts():
    generator = HFGenerator(tiny(ends=True), batch_rows=2)
    forward = generator.generate(EXAMPLES, Sampling(max_new_tokens=12))
    backward = generator.generate(EXAMPLES[::-1], Sampling(max_new_tokens=12))
    assert ids(backward) == ids(forward)[::-1]


def test_another_seed_says_something_else(reference):
    other = Sampling(**{**vars(SAMPLED), "seed": 6})
    answers = ids(HFGenerator(tiny(ends=True)).generate(EXAMPLES, other))
    assert all(a != b for row, old in zip(answers, ids(reference), strict=True) for a, b in zip(row, old, strict=True))


# Log-probs


@each_architecture
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
def test_log_probs_at_sampling_are_those_in_training(architecture, temperature):
    lm, svf = adapted(architecture, ends=True, spread=0.2)
    sampling = Sampling(max_new_tokens=16, temperature=temperature, samples=2 if temperature else 1)
    answers = HFGenerator(lm, svf).generate(EXAMPLES, sampling)  # merged, left-padded, cached
    completions = [completion for row in answers for completion in row]
    with torch.no_grad():  # factored, right-padded, in one pass; greedy ones are of temperature 1
        token = token_log_probs(lm, completions, temperature=temperature or 1.0)
    for row, completion in enumerate(completions):
        trained = token.log_probs[row, : len(completion.token_ids)].tolist()
        assert completion.log_probs == pytest.approx(trained, abs=1e-3)


# Weights


def test_base_is_the_base_and_merged_follows_a_z_that_changes_between_calls():
    lm = tiny(ends=True)
    expected = HFGenerator(tiny(ends=True)).generate(EXAMPLES, SAMPLED)
    svf = adapt(lm, spread=0.2)
    generator = HFGenerator(lm, svf)
    assert ids(generator.generate(EXAMPLES, SAMPLED)) != ids(expected)
    assert HFGenerator(lm, svf, weights="base").generate(EXAMPLES, SAMPLED) == expected
    svf.load({})
    assert ids(generator.generate(EXAMPLES, SAMPLED)) == ids(expected)
    lm.model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()  # the adapter still learns
    assert all(p.grad is not None for p in svf.trainable())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"batch_rows": 0}, "batch_rows is 0"), ({"weights": "factored"}, "allowed: adapted, base")],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HFGenerator(original(), **settings)


# How answers end


@pytest.mark.parametrize(
    ("said", "limit", "stop", "kept", "text", "finish"),
    [
        ("ok" + EOS + "a", 4, (), "ok" + EOS, "ok", "stop"),  # the end token belongs to the tokens alone
        ("ok" + END + "a", 4, (), "ok" + END, "ok", "stop"),
        ("abcd", 4, (), "abcd", "abcd", "length"),
        ("abc" + EOS, 4, (), "abc" + EOS, "abc", "stop"),  # an end at the last token is an end
        ("yes\n\nQ: more", 12, ("\n\nQ",), "yes\n\nQ", "yes", "stop"),  # a stop string cuts the text alone
        ("a#b##", 5, ("##", "b##", "#b#"), "a#b#", "a", "stop"),  # the earliest of several
        ("abc", 3, ("stop",), "abc", "abc", "length"),  # one in the prompt does not count
    ],
)
def test_how_a_completion_ends(monkeypatch, said, limit, stop, kept, text, finish):
    lm = original()
    scripted(monkeypatch, tokens_of(lm, said))
    example = Example(prompt="stop", response_prefix="stop")
    ((answer,),) = HFGenerator(lm).generate([example], Sampling(max_new_tokens=limit, stop=stop))
    assert answer.token_ids == tuple(tokens_of(lm, kept))
    assert (answer.text, answer.finish) == (text, finish)


def test_rows_that_ended_wait_without_growing(monkeypatch):
    lm = original()
    end = lm.tokenizer.eos_token_id
    long, short, other = tokens_of(lm, "abcdef"), [*tokens_of(lm, "x"), end], tokens_of(lm, "ghijkl")
    monkeypatch.setattr(decode, "COMPACT_SHARE", 1.0)
    scripted(monkeypatch, long, short, other)
    ((_, answer, _),) = HFGenerator(lm).generate(EXAMPLES[:1], Sampling(max_new_tokens=6, samples=3))
    assert (answer.text, answer.token_ids[-1], len(answer.log_probs)) == ("x", end, 2)


def test_one_new_token_and_no_examples():
    generator = HFGenerator(original())
    answers = generator.generate(EXAMPLES, Sampling(max_new_tokens=1, temperature=1.0, samples=3))
    assert [len(row) for row in answers] == [3] * 5
    assert all(len(completion.token_ids) == 1 for row in answers for completion in row)
    assert generator.generate([], Sampling()) == []


def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_generated(monkeypatch):
    lm = original()
    room, generator = lm.context_length - len(lm.encode(EXAMPLES[0])), HFGenerator(lm)
    assert generator.generate(EXAMPLES[:1], Sampling(max_new_tokens=room))
    monkeypatch.setattr(lm.model.base_model, "forward", None)
    with pytest.raises(ValueError, match=rf"{room + 1} are kept for the answer, but the context .* is 512"):
        generator.generate(EXAMPLES[:1], Sampling(max_new_tokens=room + 1))


@pytest.mark.parametrize(("temperature", "named"), [(0.0, "3"), (1.0, "[345]")])
def test_logits_that_are_no_numbers_end_the_generation_and_are_named(monkeypatch, temperature, named):
    lm, calls = tiny(), []
    honest = type(lm).next_logits

    def second_token_fails(model, *args, **inputs):
        calls.append(1)
        logits = honest(model, *args, **inputs).clone()
        if len(calls) == 3:  # after the prompts' common beginning and their ends
            logits[-1] = float("nan")
        return logits

    monkeypatch.setattr(type(lm), "next_logits", second_token_fails)
    examples = [Example(prompt="x" * 9), Example(prompt="x" * 4)]
    sampling = Sampling(max_new_tokens=6, temperature=temperature, samples=3, seed=1)
    with pytest.raises(ArithmeticError, match=rf"sampling of token 1 in completion {named} \(prompt 1\) is nan"):
        HFGenerator(lm).generate(examples, sampling)
