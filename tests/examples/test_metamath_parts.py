"""The parts of the MetaMathQA example: answers, batches and labels, settings of an experiment, the table."""

import json

import numpy as np
import pytest
import torch
from beside import main as show
from conftest import ROOT
from metamath.answers import accuracy, final_answer, is_right
from metamath.data import (
    IGNORED,
    Data,
    Files,
    Sample,
    labels_of,
    padded,
    read_data,
    train_batches,
    valid_indices,
)
from metamath.settings import Experiment
from metamath.training import Memory, Run, generation_config
from tiny_models import adapt, tiny

from examples.metamath_svf.run import main

EXPERIMENTS = ROOT / "examples" / "metamath_svf" / "experiments"


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("Q: ?\nA: 2 + 2 = 4. The answer is: 4", "so 4\n#### 4", True),
        ("The answer is: 4.0", "#### 4", True),
        ("The answer is: 20/35", "#### 0.5714285714285714", True),
        ("The answer is: $50%.", "#### 50", True),  # GSM8K leaves out units
        ("The answer is 3. No. The answer is 4!", "#### 4", True),  # the last one
        ("The answer is: 4\nQuestion: 2? The answer is 2", "#### 4", True),  # the first delimiter that occurs at all
        ("The answer is: 1,080", "#### 1,080", True),  # as text
        ("The answer is: 1080", "#### 1,080", False),
        ("The answer is: 5", "#### 4", False),
        ("The answer is: 4 apples", "#### 4", False),
        ("The answer is: 1/0", "#### 4", False),
        ("2 + 2 = 4", "#### 4", False),  # states none
        ("", "#### 4", False),
    ],
)
def test_answers_are_read_as_pefts_runner_reads_them(prediction, reference, right):
    assert is_right(prediction, reference) is right


def test_no_stated_answer_is_none_and_a_reference_without_one_is_refused():
    assert final_answer("It is 4.") is None
    with pytest.raises(ValueError, match="states no answer"):
        is_right("The answer is: 4", "4")


def test_accuracy_is_the_share_of_right_ones():
    assert accuracy(["The answer is: 1", "2", "The answer is: 3"], ["#### 1", "#### 2", "#### 4"]) == pytest.approx(
        1 / 3
    )


def test_buckets_are_in_order_and_sorted_inside_longest_first():
    samples = [Sample("a" * n, "b") for n in (1, 3, 2, *[1] * 37, 9, 8)]  # batches of 2: a bucket has 40

    def encode(texts):
        return [list(range(len(text))) for text in texts]

    lengths = [[len(row) for row in rows] for rows in train_batches(samples, encode, "{query}", 2)]
    assert len(lengths) == 21
    assert lengths[:2] == [[4, 3], [2, 2]]
    assert lengths[-1] == [10, 9]  # the longest of all, in the second bucket


def test_labels_end_with_one_padding_and_padding_is_on_the_side_that_is_wanted():
    ids, mask = padded([[5, 6, 7, 8], [5, 6], [5, 6, 7]], pad_id=9)
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert labels_of(ids, mask).tolist() == [[5, 6, 7, 8], [5, 6, 9, IGNORED], [5, 6, 7, 9]]
    ids, mask = padded([[5, 6], [7]], pad_id=9, left=True)
    assert (ids.tolist(), mask.tolist()) == ([[5, 6], [9, 7]], [[1, 1], [0, 1]])


def test_the_validation_questions_are_those_of_numpys_legacy_generator():
    state = np.random.get_state()
    try:
        np.random.seed(0)
        indices = np.arange(7473)
        np.random.shuffle(indices)
    finally:
        np.random.set_state(state)
    assert valid_indices(7473) == indices[:50].tolist()


@pytest.mark.parametrize(("prompt", "longest"), [(100, 400), (700, 800)])
def test_of_two_limits_the_shorter_one_holds(prompt, longest):
    config = Experiment.load(EXPERIMENTS / "svf" / "llama-3.2-3B-top64").train
    settings = generation_config(config, prompt, pad_id=3)
    assert (settings.max_length, settings.max_new_tokens, settings.pad_token_id) == (longest, None, 3)
    assert settings.do_sample is None  # left to the checkpoint


@pytest.mark.parametrize("folder", sorted(EXPERIMENTS.glob("*/*")), ids=lambda folder: folder.name)
def test_the_experiments_that_are_here_can_be_built(folder):
    experiment = Experiment.load(folder)
    assert experiment.build().modules_spec == experiment.adapter["modules"]
    assert experiment.train.optimizer_kwargs["weight_decay"] == 0.0  # it would draw z to 0, and the base is at 1
    assert (experiment.train.max_steps, experiment.train.batch_size) == (5000, 4)


@pytest.mark.parametrize(
    ("adapter", "train", "message"),
    [
        ({"peft_type": "LORA"}, {}, "peft_type is 'LORA'; allowed: SVF"),
        ({"peft_type": "SVF", "rnak": 4}, {}, "key 'rnak'.*Did you mean 'rank'"),
        ({"peft_type": "SVF"}, {"max_step": 3}, "key 'max_step'.*Did you mean 'max_steps'"),
        ({"peft_type": "SVF"}, {"compile": True}, "compile is True; allowed here: False"),
        ({"peft_type": "SVF"}, {"eval_steps": 5001}, "eval_steps is 5001; allowed: at most 5000"),
        ({"peft_type": "SVF"}, {"optimizer_type": "lora+"}, "optimizer_type is 'lora\\+'"),
        ({"peft_type": "SVF"}, {"query_template": "Q"}, "must hold {query}"),
    ],
)
def test_what_an_experiment_cannot_say_is_refused(tmp_path, adapter, train, message):
    folder = tmp_path / "experiments" / "svf" / "one"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    (folder / "training_params.json").write_text(json.dumps(train))
    with pytest.raises(ValueError, match=message):
        Experiment.load(folder)


def test_a_folder_that_is_no_experiment_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be experiments/METHOD/NAME"):
        Experiment.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="in that folder: nothing"):
        Experiment.load(tmp_path / "experiments" / "svf" / "one")


def test_files_are_all_or_none(tmp_path):
    folder = str(EXPERIMENTS / "svf" / "llama-3.2-3B-top64")
    with pytest.raises(ValueError, match="--valid-file, --test-file, --wiki-file is missing"):
        main([folder, "--train-file", "x.json"])
    with pytest.raises(FileNotFoundError, match="--train-file is "):
        Files(*[tmp_path / "x.json"] * 4)


def test_long_rows_are_left_out(tmp_path):
    rows = [{"query": "q" * 1000, "response": "r" * length} for length in (299, 300)]  # a space stands between
    asked = [{"question": "?", "answer": "#### 1"}]
    for name, content in {"train": rows, "asked": asked, "wiki": 101 * [{"text": "a"}]}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    data = read_data(Files(*[tmp_path / f"{name}.json" for name in ("train", "asked", "asked", "wiki")]))
    assert [len(one.response) for one in data.train] == [299]
    assert (len(data.valid), len(data.test), len(data.wiki)) == (1, 1, 100)


def test_more_than_one_pass_is_refused():
    lm = tiny()
    config = Experiment.load(EXPERIMENTS / "svf" / "llama-3.2-3B-top64").train
    data = Data([Sample("a", "b")] * 19_999, [], [], [])
    with pytest.raises(ValueError, match="is 20000, and there are 19999 training rows"):
        Run(lm, adapt(lm), config, data, Memory(torch.device("cpu")))


def test_the_table_has_the_best_first_and_can_leave_out_the_large(tmp_path, capsys):
    for name, numbers, right, status in (
        ("lora", 9_000_000, 0.5, "success"), ("ia3", 630_784, 0.4, "success"), ("svf", 12_544, 0.45, "success"),
        ("vera", 1, 0.9, "canceled"),
    ):  # fmt: skip
        last = {"test accuracy": right, "train total tokens": 4_198_051, "forgetting": 0.3144}
        info = {"num_trainable_params": numbers, "accelerator_memory_max": 2**31, "train_time": 1059.8}
        info |= {"status": status, "metrics": [{}, last]}
        (tmp_path / f"{name}.json").write_text(json.dumps({"run_info": {"experiment_name": name}, "train_info": info}))
    show(["--most-numbers", "650000", *map(str, sorted(tmp_path.glob("*.json")))])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [line[0] for line in lines] == ["svf", "ia3"]
    assert lines[1] == ["ia3", "630,784", "40.0", "1.3", "0.314", "2.0", "1,060", "4,198,051"]
