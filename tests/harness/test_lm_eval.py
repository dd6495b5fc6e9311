"""lm-evaluation-harness: a request is answered as t2 answers the same prompt, under the mixture the prompt chooses."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import pytest
from tiny_models import adapt, tiny
from tiny_pool import tiny_pool

from t2.adaptation.strategy import Choice
from t2.adaptation.two_pass import TwoPass
from t2.experts.mixture import Mixture
from t2.policy.continuations import score_continuations
from t2.policy.hf import HFGenerator
from t2.types import Example, Sampling

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed: make test-harness"
)
QUESTIONS = ["aaaa", "bb", "a", "bbbbbbb", "c"]
A, B, BASE = Mixture.of(1, 0), Mixture.of(0.5, 0.5), Mixture.base(2)


class ByLetter:
    """Chooses by the first letter of the prompt, and remembers the prompts."""

    name, wants_support = "by_letter", False

    def __init__(self) -> None:
        self.seen: list[str] = []

    def fit(self, model, task, support) -> None: ...

    def choose(self, model, examples) -> list[Choice]:
        self.seen += [one.prompt for one in examples]
        return [Choice({"a": A, "b": B}.get(one.prompt[0], BASE)) for one in examples]


def instances(*arguments):
    return [SimpleNamespace(args=one) for one in arguments]


@pytest.fixture
def parts():
    from t2.harness.lm_eval import MixtureLM
    from t2.harness.plain_text import PlainText

    lm = tiny(ends=True)
    svf = adapt(lm)
    generator, plain = HFGenerator(lm, svf), HFGenerator(PlainText.of(lm), svf)
    pool, strategy = tiny_pool(generator, ("x", "y")), ByLetter()
    return MixtureLM(generator, plain, pool=pool, strategy=strategy), generator, pool, strategy


def test_chats_are_answered_as_evaluate_answers_them(parts) -> None:
    harness, generator, pool, strategy = parts
    wanted = TwoPass(generator, pool, ByLetter()).generate([Example(q) for q in QUESTIONS], Sampling(max_new_tokens=12))
    asked = [harness.apply_chat_template([{"role": "user", "content": question}]) for question in QUESTIONS]
    keywords = {"max_gen_toks": 12, "do_sample": False, "until": []}
    assert harness.generate_until(instances(*((text, keywords) for text in asked))) == [one.text for [one] in wanted]
    assert strategy.seen == QUESTIONS  # not the marks of the template
    assert len({one.text for [one] in wanted}) > 1


def test_likelihoods_are_under_the_mixture_of_the_context(parts) -> None:
    harness, generator, pool, _ = parts
    got = harness.loglikelihood(instances(("aaa", " xy"), ("bbb", " xy"), ("c", " xy"), ("aaa", " z")))
    for (context, continuation, mixture), (score, _) in zip(
        [("aaa", " xy", A), ("bbb", " xy", B), ("c", " xy", BASE), ("aaa", " z", A)], got, strict=True
    ):
        ids, more = harness.tok_encode(context), harness.tok_encode(continuation, add_special_tokens=False)
        with generator.with_state(pool.state(mixture)).applied():
            [(wanted, _)] = score_continuations(generator.lm, [(ids, more)])
        assert score == pytest.approx(wanted, abs=1e-4)


def test_a_long_text_is_scored_once_a_token_in_windows(parts) -> None:
    harness, generator, pool, _ = parts
    harness.lm.context_length = 16
    text = "a" + "hello there " * 4
    ids = harness.lm.ids(text, special=False)
    pairs = [([harness.prefix_token_id], ids[:16])]
    pairs += [(ids[n - 1 : n], ids[n : n + 16]) for n in range(16, len(ids) - 16, 16)]
    last = len(ids) % 16 or 16
    pairs.append((ids[-17:-last], ids[-last:]))
    with generator.with_state(pool.state(A)).applied():
        wanted = sum(score for score, _ in score_continuations(generator.lm, pairs))
    assert harness.loglikelihood_rolling(instances((text,))) == [pytest.approx(wanted, abs=1e-3)]


def test_stop_words_end_a_text_and_unknown_keywords_are_refused(parts) -> None:
    harness, *_ = parts
    [whole] = harness.generate_until(instances(("aa", {"max_gen_toks": 12, "until": []})))
    [cut] = harness.generate_until(instances(("aa", {"max_gen_toks": 12, "until": [whole[3]]})))
    assert cut == whole[: whole.index(whole[3])]
    with pytest.raises(ValueError, match="no generation keyword num_beams"):
        harness.generate_until(instances(("aa", {"num_beams": 2})))


def test_a_conversation_keeps_its_turns() -> None:
    from t2.harness.lm_eval import _example

    chat = [("system", "be brief"), ("user", "1?"), ("assistant", "one"), ("user", "2?"), ("assistant", "It is")]
    found = _example([{"role": role, "content": content} for role, content in chat])
    assert found == Example("2?", system="be brief", response_prefix="It is", shots=(("1?", "one"),))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "hi"}, "--model_args has prompt"),
        ({"base_model": "tiny", "strategy": "uniform"}, "experts=POOL is not given"),
        ({"base_model": "tinyy"}, "tiny"),
        ({"base_model": "tiny", "experts": "smollm2_135m", "strategy": "few_shot"}, "adapt.py"),
        ({"base_model": "tiny", "base_model.device": "cuda:7"}, "device"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_with_a_sentence(arguments, message) -> None:
    from t2.cli.lm_eval_model import T2, ModelArgsError

    with pytest.raises(ModelArgsError, match=message):
        T2(batch_size=1, **arguments)


TASK = {
    "task": "numbers", "dataset_path": "json", "test_split": "test", "output_type": "generate_until",
    "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
    "generation_kwargs": {"max_gen_toks": 16, "do_sample": False, "until": []},
    "filter_list": [{"name": "number", "filter": [
        {"function": "regex", "regex_pattern": "(-?[0-9]+)", "group_select": -1}, {"function": "take_first"}]}],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip


ASK = "State the final answer to the following arithmetic problem: {} + {} ="


@pytest.mark.embedded
@pytest.mark.slow
def test_the_command_scores_what_evaluate_scores(run_script, tmp_path, monkeypatch) -> None:
    """The experts that ship, on sums in a file: the same texts, and the same share of right numbers."""
    from t2.cli.lm_eval import main

    sums = [(17, 48), (12, 31), (25, 50), (40, 9), (66, 27), (3, 5)]
    rows = [{"passage": "", "question": ASK.format(a, b), "answer": str(a + b)} for a, b in sums]
    file, asked, config = tmp_path / "rows.jsonl", tmp_path / "asked.jsonl", tmp_path / "numbers.yaml"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [f"task.data_files.all={file}", "task.val_size=1", "task.test_size=4"]
    model = "base_model=smollm2_135m,experts=smollm2_135m,strategy=classifier"
    run_script("evaluate", "task=asdiv", *data, "task.max_new_tokens=16", *model.split(","),
               "singles=false", "uniform=false", "all_at_1=false", "controls=null", "logger=none",
               f"hydra.run.dir={tmp_path / 'run'}")  # fmt: skip
    ours = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    ours = {one["prompt"]: one for one in ours if one["system"] == "classifier"}
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows if row["question"] in ours))
    config.write_text(json.dumps({**TASK, "dataset_kwargs": {"data_files": {"test": str(asked)}}}))
    monkeypatch.setattr("sys.argv", [])
    main(["--model", "t2", "--model_args", model, "--tasks", str(config), "--apply_chat_template",
          "--output_path", str(tmp_path / "out"), "--log_samples"])  # fmt: skip
    [results], [samples] = (tmp_path / "out").rglob("results_*.json"), (tmp_path / "out").rglob("samples_*.jsonl")
    theirs = [json.loads(line) for line in samples.read_text().splitlines()]
    assert {one["doc"]["question"]: one["resps"][0][0] for one in theirs} == {
        question: one["answer"] for question, one in ours.items()
    }
    score = json.loads(results.read_text())["results"]["numbers"]["exact_match,number"]
    assert score == sum(one["score"] for one in ours.values()) / len(ours) > 0


def test_a_chat_has_the_variables_of_the_base_models_template() -> None:
    """It fails where the template's variables, such as enable_thinking of qwen3, are left out."""
    from t2.harness.lm_eval import MixtureLM
    from t2.harness.plain_text import PlainText

    lm = tiny()
    lm.tokenizer.chat_template = "{{ messages[0]['content'] }}{% if not thinks %}<think></think>{% endif %}"
    lm.chat_template_kwargs = {"thinks": True}
    harness = MixtureLM(HFGenerator(lm), HFGenerator(PlainText.of(lm)))
    text = harness.apply_chat_template([{"role": "user", "content": "2 + 3"}])
    assert lm.tokenizer(text, add_special_tokens=False)["input_ids"] == lm.encode(Example("2 + 3"))
