"""SVF in PEFT's method comparison, with a tiny random llama and made-up rows: the record, the numbers, forgetting."""

import json

import pytest
import torch
import torch.nn.functional as F
from metamath.data import Sample

from examples.metamath_svf.run import main
from t2.experts.expert import Expert
from t2.models.tiny import tiny_model

# The keys of `log_results`, of the metrics and of `TrainConfig` in huggingface/peft, method_comparison/MetaMathQA.
RUN_INFO = "created_at total_time experiment_name peft_branch peft_worktree_is_dirty train_config peft_config error_msg"
TRAIN_CONFIG = (
    "model_id dtype max_seq_length batch_size batch_size_eval max_steps eval_steps compile use_gc query_template seed "
    "grad_norm_clip optimizer_type optimizer_kwargs lr_scheduler use_amp autocast_adapter_dtype generation_kwargs "
    "attn_implementation init_kv_cache_prefix"
)
TRAIN_INFO = (
    "accelerator_memory_reserved_avg accelerator_memory_max accelerator_memory_reserved_99th train_time file_size "
    "num_trainable_params num_total_params status metrics"
)
META_INFO = "model_info dataset_info package_info system_info pytorch_info"
VALIDATED = (
    "step,valid accuracy,train loss,train samples,train time,eval time,tokens / sec,mem allocated avg,mem reserved avg,"
    "elapsed time"
)
TESTED = "step,test accuracy,train loss,train samples,train total tokens,forgetting"
SMALL = {
    "dtype": "float32", "batch_size": 2, "batch_size_eval": 3, "max_steps": 4, "eval_steps": 2,
    "generation_kwargs": {"max_length": 100, "max_new_tokens": 3}, "query_template": "Q: {query}\nA:",
}  # fmt: skip
ROWS = [Sample(f"What is {n} + {n}?", f"{'It is easy. ' * (n % 7)}The answer is: {2 * n}") for n in range(20)]
TEXTS = [f"{name} is a town of {count} people." for name, count in (("Ulm", 5), ("Bath", 900), ("Rome", 31))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the tiny model and the four files."""
    folder = tmp_path_factory.mktemp("metamath")
    lm = tiny_model(chat_template=False)
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    asked = [{"question": one.query, "answer": f"So #### {2 * n}"} for n, one in enumerate(ROWS)]
    rows = {
        "train": [{"query": "too long", "response": "x" * 1300}, *map(vars, ROWS)],
        "valid": asked[:4],
        "test": asked[4:9],
        "wiki": [{"text": text} for text in TEXTS],
    }
    for name, content in rows.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def run(folder, out, adapter, lr=0.05, **train):
    """The script's JSON and the folder of the expert."""
    place = out / "experiments" / "svf" / "tiny"
    place.mkdir(parents=True)
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "SVF", "cache": False, **adapter}))
    own = {"model_id": str(folder / "model"), "optimizer_kwargs": {"lr": lr, "weight_decay": 0.0}, **SMALL, **train}
    (place / "training_params.json").write_text(json.dumps(own))
    files = [
        word for name in ("train", "valid", "test", "wiki") for word in (f"--{name}-file", f"{folder}/{name}.json")
    ]
    path = main([str(place), "--out", str(out), "--device", "cpu", *files])
    assert path == out / "results" / "svf--tiny.json"
    return json.loads(path.read_text()), out / "svf" / "tiny"


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    return run(folder, tmp_path_factory.mktemp("out"), {"spectrum": "top", "rank": 4})


def test_the_record_has_the_keys_of_pefts_results(trained):
    content, _ = trained
    assert list(content) == ["run_info", "train_info", "meta_info"]
    assert list(content["run_info"]) == RUN_INFO.split()
    assert list(content["run_info"]["train_config"]) == TRAIN_CONFIG.split()
    assert list(content["train_info"]) == TRAIN_INFO.split()
    assert list(content["meta_info"]) == META_INFO.split()
    assert set(content["meta_info"]["dataset_info"]) == {"metamath", "gsm8k"}
    packages = ("transformers", "peft", "datasets", "bitsandbytes", "torch")
    wanted = {f"{name}-{what}" for name in packages for what in ("version", "commit-hash")}
    assert set(content["meta_info"]["package_info"]) == wanted
    system = {"system", "release", "version", "machine", "processor", "accelerator"}
    assert set(content["meta_info"]["system_info"]) == system
    *validated, tested = content["train_info"]["metrics"]
    assert [list(one) for one in validated] == 2 * [VALIDATED.split(",")]
    assert list(tested) == TESTED.split(",")
    assert content["run_info"]["peft_config"]["peft_type"] == "SVF"
    assert content["run_info"]["experiment_name"] == "svf/tiny"


@pytest.mark.parametrize(
    ("adapter", "numbers"),
    [
        # Two blocks of q (32, 32), k and v (16, 32), o (32, 32), gate and up (48, 32), down (32, 48).
        ({}, 2 * (5 * 32 + 2 * 16)),
        ({"modules": "mlp"}, 2 * 3 * 32),
        ({"spectrum": "top", "share": 0.3}, 2 * (5 * 10 + 2 * 5)),
    ],
)
def test_the_count_of_numbers_is_the_closed_form(folder, tmp_path, adapter, numbers):
    content, expert = run(folder, tmp_path, adapter, max_steps=1, eval_steps=1)
    info = content["train_info"]
    assert info["num_trainable_params"] == numbers
    base = sum(one.numel() for one in tiny_model().model.parameters())
    assert info["num_total_params"] == base + numbers
    assert info["file_size"] == (expert / "expert.safetensors").stat().st_size


@pytest.mark.parametrize("train", [{}, {"dtype": "bfloat16"}])
def test_nothing_is_forgotten_where_z_stays_1(folder, tmp_path, train):
    spectrum = {} if train else {"spectrum": "top", "rank": 4}  # all of fp32 rounds: U s Vh is not W
    content, expert = run(folder, tmp_path, spectrum, lr=0.0, **train)
    assert all(bool((z == 1).all()) for z in Expert.load(expert / "expert.safetensors").scales.values())
    assert content["train_info"]["metrics"][-1]["forgetting"] == 0.0


def loss_of(model, tokenizer):
    """The mean loss of the texts' tokens, one text at a time, without padding."""
    losses = []
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        losses.append(F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none"))
    return float(torch.cat(losses).mean())


@torch.no_grad()
def test_forgetting_is_what_the_expert_does_to_the_base(trained):
    content, folder = trained
    expert, lm = Expert.load(folder / "expert.safetensors"), tiny_model(chat_template=False)
    before = loss_of(lm.model, lm.tokenizer)
    for module, z in expert.scales.items():
        weight = lm.model.get_submodule(module).weight
        u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
        weight.copy_(u @ torch.diag(s * z) @ vh)
    forgetting = content["train_info"]["metrics"][-1]["forgetting"]
    assert abs(forgetting) > 1e-3
    assert forgetting == pytest.approx(loss_of(lm.model, lm.tokenizer) - before, abs=1e-5)


def test_the_loss_is_that_of_whole_texts_and_one_end_of_shorter_ones(folder, tmp_path):
    content, _ = run(folder, tmp_path, {}, max_steps=1, eval_steps=1)
    lm = tiny_model(chat_template=False)
    order = sorted(ROWS, key=lambda one: -len(one.query + one.response))[:2]  # of the one bucket, the longest
    rows = [lm.tokenizer(f"Q: {one.query}\nA:{one.response}")["input_ids"] for one in order]
    assert len(rows[0]) > len(rows[1])
    lost = 0.0
    for row, end in zip(rows, ([], [lm.tokenizer.eos_token_id]), strict=True):
        ids = torch.tensor([row + end])
        lost += float(F.cross_entropy(lm.model(ids).logits[0, :-1], ids[0, 1:], reduction="sum"))
    first = content["train_info"]["metrics"][0]
    assert first["train loss"] == pytest.approx(lost / sum(map(len, rows)), rel=1e-5)
    assert first["train samples"] == 2
    assert content["train_info"]["metrics"][1]["train total tokens"] == sum(map(len, rows)) + 2


def test_training_lowers_the_loss(folder, tmp_path):
    content, _ = run(folder, tmp_path, {}, max_steps=10, eval_steps=5, lr=0.02)
    first, second, _ = content["train_info"]["metrics"]
    assert second["train loss"] < first["train loss"]
