"""Generation: transformers' own greedy answers, samples that depend on seed and place alone, exact log-probs."""

import copy
import functools
from collections.abc import Iterator, Sequence

import pytest
import torch

import t2.policy.hf as hf
from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.models.tiny import ARCHITECTURES, END, EOS, tiny_model
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.types import Completion, Example, Sampling

each_architecture = pytest.mark.parametrize("architecture", list(ARCHITECTURES))
EXAMPLES = [Example(prompt="x" * n) for n in (3, 40, 11, 1, 25)]

original = functools.cache(tiny_model)


def stopping(architecture: str = "llama", share: int = 12) -> LanguageModel:
    """A model whose answers end after some `share` random tokens; it never says the real end token."""
    lm = copy.deepcopy(original(architecture))
    lm.end_ids = frozenset(range(0, len(lm.tokenizer), share))
    return lm


def adapted(lm: LanguageModel, spread: float = 0.2) -> SVF:
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(s.shape, generator=generator) for name, s in svf.singular_values.items()}
    svf.load({name: 1 + spread * values for name, values in noise.items()})
    return svf


def ids(answers: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in row] for row in answers]


def scripted(monkeypatch: pytest.MonkeyPatch, *answers: Sequence[int]) -> None:
    """Make the sampler say these ids, one answer per row; rows must all stay alive or be alone."""

    def steps() -> Iterator[tuple[int, ...]]:
        yield from zip(*answers, strict=True)

    script = steps()

    def say(logits, uniforms, sampling):
        tokens = torch.tensor(next(script))
        return tokens, torch.zeros(len(tokens))

    monkeypatch.setattr(hf, "choose", say)


def tokens_of(lm: LanguageModel, text: str) -> list[int]:
    return lm.tokenizer(text, add_special_tokens=False)["input_ids"]


# Against transformers


@each_architecture
def test_greedy_is_transformers_greedy(architecture):
    lm = stopping(architecture)
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
        end = next((place for place, token in enumerate(row) if token in lm.end_ids), len(row))
        expected.append([tuple(row[: end + 1])])
    assert ids(HFGenerator(lm).generate(EXAMPLES, Sampling(max_new_tokens=20))) == expected


@pytest.mark.parametrize("architecture", ["mistral", "gemma2", "gemma3"])
def test_greedy_is_transformers_greedy_beyond_the_sliding_window(architecture):
    lm = copy.deepcopy(original(architecture))
    config = copy.deepcopy(lm.model.config)
    config.sliding_window = 8
    state = lm.model.state_dict()
    lm.model = type(lm.model)(config).eval()
    lm.model.load_state_dict(state)
    generator = HFGenerator(lm)
    for example, (answer,) in zip(EXAMPLES, generator.generate(EXAMPLES, Sampling(max_new_tokens=20)), strict=True):
        prompt = torch.tensor([lm.encode(example)])
        alone = lm.model.generate(prompt, do_sample=False, max_new_tokens=20, eos_token_id=None)
        assert answer.token_ids == tuple(alone[0, prompt.shape[1] :].tolist())


# A sample depends on seed and place


@pytest.fixture(scope="module")
def reference() -> list[list[Completion]]:
    return HFGenerator(stopping()).generate(EXAMPLES, SAMPLED)


SAMPLED = Sampling(max_new_tokens=24, temperature=1.0, samples=3, seed=5)


def test_the_reference_is_worth_comparing_with(reference):
    lengths = {len(completion.token_ids) for row in reference for completion in row}
    assert len(lengths) > 5  # rows end at different steps, so they were compacted
    assert len({completion.token_ids for row in reference for completion in row}) == 15


@pytest.mark.parametrize("batch_rows", [1, 3, 7, 64])
def test_samples_do_not_depend_on_the_batch(reference, batch_rows):
    assert ids(HFGenerator(stopping(), batch_rows=batch_rows).generate(EXAMPLES, SAMPLED)) == ids(reference)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_samples_do_not_depend_on_compaction(reference, monkeypatch, share):
    monkeypatch.setattr(hf, "COMPACT_SHARE", share)
    again = HFGenerator(stopping()).generate(EXAMPLES, SAMPLED)
    assert ids(again) == ids(reference)
    for row, other in zip(again, reference, strict=True):
        for one, two in zip(row, other, strict=True):
            assert one.log_probs == pytest.approx(two.log_probs, abs=1e-4)


@each_architecture
def test_compaction_is_right_in_every_architecture(monkeypatch, architecture):
    answers = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(hf, "COMPACT_SHARE", share)
        answers.append(ids(HFGenerator(stopping(architecture)).generate(EXAMPLES, SAMPLED)))
    assert answers[0] == answers[1]


def test_samples_do_not_depend_on_their_neighbors(reference):
    others = [Example(prompt="y" * 60)] * 5
    mixed = [EXAMPLES[0], others[1], EXAMPLES[2], *others[3:]]
    again = ids(HFGenerator(stopping()).generate(mixed, SAMPLED))
    assert [again[0], again[2]] == [ids(reference)[0], ids(reference)[2]]


def test_greedy_answers_follow_their_prompts():
    generator = HFGenerator(stopping(), batch_rows=2)
    forward = generator.generate(EXAMPLES, Sampling(max_new_tokens=12))
    backward = generator.generate(EXAMPLES[::-1], Sampling(max_new_tokens=12))
    assert ids(backward) == ids(forward)[::-1]


def test_answers_stand_with_their_own_prompts(reference):
    lm = stopping()
    for example, row in zip(EXAMPLES, reference, strict=True):
        assert [completion.prompt_ids for completion in row] == [tuple(lm.encode(example))] * 3


def test_the_same_seed_says_the_same_whatever_torchs_seed_is(reference):
    torch.manual_seed(123)
    assert ids(HFGenerator(stopping()).generate(EXAMPLES, SAMPLED)) == ids(reference)


def test_another_seed_says_something_else(reference):
    other = Sampling(**{**vars(SAMPLED), "seed": 6})
    answers = ids(HFGenerator(stopping()).generate(EXAMPLES, other))
    assert all(a != b for row, old in zip(answers, ids(reference), strict=True) for a, b in zip(row, old, strict=True))


def test_torchs_own_generator_is_left_alone():
    state = torch.get_rng_state()
    HFGenerator(stopping()).generate(EXAMPLES[:1], SAMPLED)
    assert torch.equal(torch.get_rng_state(), state)


# Log-probs


@each_architecture
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_at_sampling_are_those_in_training(architecture, temperature):
    lm = stopping(architecture)
    svf = adapted(lm)
    sampling = Sampling(max_new_tokens=16, temperature=temperature, samples=2)
    answers = HFGenerator(lm, svf).generate(EXAMPLES, sampling)  # merged, left-padded, cached
    completions = [completion for row in answers for completion in row]
    with torch.no_grad():  # factored, right-padded, in one pass
        token = token_log_probs(lm, completions, temperature=temperature)
    for row, completion in enumerate(completions):
        trained = token.log_probs[row, : len(completion.token_ids)].tolist()
        assert completion.log_probs == pytest.approx(trained, abs=1e-3)


def test_greedy_log_probs_are_those_of_temperature_one():
    lm = stopping()
    ((answer,),) = HFGenerator(lm).generate(EXAMPLES[:1], Sampling(max_new_tokens=8))
    expected = token_log_probs(lm, [answer]).log_probs[0].tolist()
    assert answer.log_probs == pytest.approx(expected, abs=1e-4)


# Worn


def test_base_is_the_base_after_z_changed():
    lm = stopping()
    svf = adapted(lm)
    expected = HFGenerator(stopping()).generate(EXAMPLES, SAMPLED)
    assert HFGenerator(lm, svf, weights="base").generate(EXAMPLES, SAMPLED) == expected
    assert ids(HFGenerator(lm, svf).generate(EXAMPLES, SAMPLED)) != ids(expected)


def test_merged_follows_a_z_that_changes_between_calls():
    lm = stopping()
    svf = adapted(lm)
    generator = HFGenerator(lm, svf)
    before = ids(generator.generate(EXAMPLES, SAMPLED))
    svf.load({})
    assert ids(generator.generate(EXAMPLES, SAMPLED)) == ids(HFGenerator(stopping()).generate(EXAMPLES, SAMPLED))
    assert before != ids(generator.generate(EXAMPLES, SAMPLED))


def test_generation_leaves_the_adapter_learning():
    lm = stopping()
    svf = adapted(lm)
    HFGenerator(lm, svf).generate(EXAMPLES, SAMPLED)
    lm.model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert all(p.grad is not None for p in svf.trainable())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"batch_rows": 0}, "batch_rows is 0"), ({"weights": "factored"}, "allowed: adapted, base")],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HFGenerator(original("llama"), **settings)


# How answers end


@pytest.mark.parametrize("end", [EOS, END])
def test_the_end_token_belongs_to_the_tokens_but_not_to_the_text(monkeypatch, end):
    lm = original("llama")
    token = lm.tokenizer.convert_tokens_to_ids(end)
    scripted(monkeypatch, [*tokens_of(lm, "ok"), token, 0])
    ((answer,),) = HFGenerator(lm).generate(EXAMPLES[:1], Sampling(max_new_tokens=4))
    assert answer.token_ids == (*tokens_of(lm, "ok"), token)
    assert (answer.text, answer.finish) == ("ok", "stop")


def test_an_answer_without_an_end_is_cut_off(monkeypatch):
    lm = original("llama")
    scripted(monkeypatch, tokens_of(lm, "abcd"))
    ((answer,),) = HFGenerator(lm).generate(EXAMPLES[:1], Sampling(max_new_tokens=4))
    assert (answer.text, answer.finish, len(answer.token_ids)) == ("abcd", "length", 4)


def test_an_end_at_the_last_token_is_an_end(monkeypatch):
    lm = original("llama")
    scripted(monkeypatch, [*tokens_of(lm, "abc"), lm.tokenizer.eos_token_id])
    ((answer,),) = HFGenerator(lm).generate(EXAMPLES[:1], Sampling(max_new_tokens=4))
    assert answer.finish == "stop"


def test_a_stop_string_cuts_the_text_but_not_the_tokens(monkeypatch):
    lm = original("llama")
    scripted(monkeypatch, tokens_of(lm, "yes\n\nQ: more"))
    ((answer,),) = HFGenerator(lm).generate(EXAMPLES[:1], Sampling(max_new_tokens=12, stop=("\n\nQ",)))
    assert answer.token_ids == tuple(tokens_of(lm, "yes\n\nQ"))
    assert (answer.text, answer.finish) == ("yes", "stop")


def test_the_earliest_of_several_stop_strings_cuts(monkeypatch):
    lm = original("llama")
    scripted(monkeypatch, tokens_of(lm, "a#b##"))
    ((answer,),) = HFGenerator(lm).generate(EXAMPLES[:1], Sampling(max_new_tokens=5, stop=("##", "b##", "#b#")))
    assert answer.text == "a"


def test_a_stop_string_in_the_prompt_does_not_end_the_answer(monkeypatch):
    lm = original("llama")
    scripted(monkeypatch, tokens_of(lm, "abc"))
    example = Example(prompt="stop", response_prefix="stop")
    ((answer,),) = HFGenerator(lm).generate([example], Sampling(max_new_tokens=3, stop=("stop",)))
    assert (answer.text, answer.finish) == ("abc", "length")


def test_rows_that_ended_wait_without_growing(monkeypatch):
    lm = original("llama")
    end = lm.tokenizer.eos_token_id
    long, short = tokens_of(lm, "abcdef"), [*tokens_of(lm, "x"), end, *tokens_of(lm, "yyyy")]
    monkeypatch.setattr(hf, "COMPACT_SHARE", 1.0)
    scripted(monkeypatch, long, short, long)
    ((_, answer, _),) = HFGenerator(lm).generate(EXAMPLES[:1], Sampling(max_new_tokens=6, samples=3))
    assert (answer.text, answer.token_ids[-1], len(answer.log_probs)) == ("x", end, 2)


def test_one_new_token():
    answers = HFGenerator(original("llama")).generate(EXAMPLES, Sampling(max_new_tokens=1, temperature=1.0, samples=3))
    assert [len(row) for row in answers] == [3] * 5
    assert all(len(completion.token_ids) == 1 for row in answers for completion in row)


def test_no_examples_no_answers():
    assert HFGenerator(original("llama")).generate([], Sampling()) == []


def test_a_prompt_that_does_not_fit_is_refused_before_anything_is_generated(monkeypatch):
    lm = original("llama")
    room = lm.context_length - len(lm.encode(EXAMPLES[0]))
    generator = HFGenerator(lm)
    assert generator.generate(EXAMPLES[:1], Sampling(max_new_tokens=room))
    monkeypatch.setattr(lm.model, "forward", None)
    with pytest.raises(ValueError, match=rf"{room + 1} are kept for the answer, but the context .* is 512"):
        generator.generate(EXAMPLES[:1], Sampling(max_new_tokens=room + 1))
