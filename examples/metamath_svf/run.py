"""SVF in PEFT's method comparison: python examples/metamath_svf/run.py EXPERIMENT [--out FOLDER] [--device cuda].

Trains on MetaMathQA, tests on GSM8K and measures forgetting step by step as method_comparison/MetaMathQA of
huggingface/peft does, whose runner takes PEFT's own methods only. EXPERIMENT is a folder as theirs are, such as
examples/metamath_svf/experiments/svf/llama-3.2-3B-top64. Written are

    OUT/results/svf--llama-3.2-3B-top64.json     the keys of PEFT's results
    OUT/svf/llama-3.2-3B-top64/expert.safetensors

README.md says what differs from PEFT's runner. Not done here: resuming a run.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from metamath.data import Files, read_data
from metamath.record import Finished, save_expert, save_record
from metamath.settings import Experiment
from metamath.training import Memory, Run
from transformers import set_seed

from t2.experts.expert import EXPERT_FILE
from t2.models.loading import load_model, parse_device
from t2.run.launch import quiet_libraries

log = logging.getLogger(__name__)


def compare(options: argparse.Namespace) -> Path:
    """Run an experiment; returns the path of its JSON file."""
    start = time.perf_counter()
    created = datetime.datetime.now(tz=datetime.UTC).replace(microsecond=0).isoformat()
    experiment, files = Experiment.load(options.experiment), files_of(options)
    svf, config = experiment.build(), experiment.train
    set_seed(config.seed)
    memory = Memory(parse_device(options.device))
    data_start = time.perf_counter()
    data = read_data(files)  # first, since the hub may not be there
    data_seconds = time.perf_counter() - data_start
    torch.manual_seed(0)  # as PEFT's runner does, whatever the seed
    lm = load_model(
        config.model_id,
        dtype=config.dtype,
        device=str(memory.device),
        attn_implementation=config.attn_implementation,
    )
    svd_start = time.perf_counter()
    svf.inject(lm.model, lm.source)
    svd_seconds = time.perf_counter() - svd_start
    log.info("%d matrices, %d numbers", len(svf.sizes), sum(one.numel() for one in svf.trainable()))
    run = Run(lm, svf, config, data, memory)
    run.train(spent=data_seconds)
    saved = save_expert(run, options.out / experiment.name / EXPERT_FILE)
    seconds = time.perf_counter() - start
    finished = Finished(experiment, run, created, svd_seconds, seconds, saved, from_hub=files is None)
    path = save_record(finished.record(), options.out / "results")
    log.info("%s", path)
    return path


def files_of(options: argparse.Namespace) -> Files | None:
    """The local files; None where none is given. ValueError where some are."""
    given = {name: getattr(options, f"{name}_file") for name in ("train", "valid", "test", "wiki")}
    missing = [f"--{name}-file" for name, path in given.items() if path is None]
    if missing and len(missing) < len(given):
        raise ValueError(f"{', '.join(missing)} is missing; allowed: all four files, or none for the hub.")
    return None if missing else Files(**given)


def main(arguments: Sequence[str] | None = None) -> Path:
    """The command line."""
    first = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python examples/metamath_svf/run.py", description=first)
    parser.add_argument("experiment", type=Path, help="a folder experiments/METHOD/NAME")
    parser.add_argument("--out", type=Path, default=Path("outputs/metamath_svf"), help="the folder to write")
    parser.add_argument("--device", default="auto", help="cuda, cuda:N, cpu, or auto for a GPU if there is one")
    parser.add_argument("--train-file", type=Path, help="MetaMathQA: columns query and response")
    parser.add_argument("--valid-file", type=Path, help="GSM8K's train split: columns question and answer")
    parser.add_argument("--test-file", type=Path, help="GSM8K's test split: columns question and answer")
    parser.add_argument("--wiki-file", type=Path, help="FineWiki: column text")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet_libraries()
    return compare(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
