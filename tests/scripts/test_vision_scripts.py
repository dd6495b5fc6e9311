"""TextVQA and OK-VQA on local rows through all three scripts, with a model that has M-RoPE and its own processor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_every_task import SCRIPTS, SMALL, configuration
from test_tasks_contract import config_of
from zoo_vision_models import tiny_vision

from t2.run.metrics_file import read_metrics

pytestmark = pytest.mark.commands
SIZES = [(40, 64), (64, 40), (32, 32), (48, 80), (33, 50), (90, 20)]  # width and height, of six images
QUESTIONS = ["what is it?", "which color?", "is it large?"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The overrides that load a tiny Qwen2.5-VL as the real one is loaded."""
    lm, folder = tiny_vision("qwen2_5_vl"), tmp_path_factory.mktemp("qwen")
    lm.model.save_pretrained(folder)
    lm.processor.save_pretrained(folder)
    small = (f"base_model.source={folder}", "base_model.dtype=float32", "base_model.device=cpu")
    return ("base_model=qwen2_5_vl_3b", *small)


def rows_of(folder: Path) -> dict[str, str]:
    """Files of rows for training and test, which share no image; images are paths beside them."""
    files = {}
    for split, numbers in {"train": range(4), "test": range(4, 6)}.items():
        rows = []
        for number in numbers:
            width, height = SIZES[number]
            noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{number}.png")
            shown = {"image_id": f"i{number}", "image": f"{number}.png", "question_id": f"{number + 1}7"}
            rows.append({**shown, "question": QUESTIONS[number % 3], "answers": ["red"] * 6 + ["blue"] * 4})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[split] = str(folder / f"{split}.jsonl")
    return files


@pytest.mark.parametrize("name", ["textvqa", "okvqa"])
def test_local_rows_are_trained_on_evaluated_and_adapted_to(name: str, model: tuple[str, ...], tmp_path: Path) -> None:
    task = config_of(name)
    task.data_files, task.val_images = rows_of(tmp_path), 1

    def run(script: str, *more: str, **values: str) -> Path:
        (tmp_path / script).mkdir()
        cfg = configuration(script, tmp_path / script, task, *model, *SMALL[script], *more)
        cfg.merge_with_dotlist([f"{key}={value}" for key, value in values.items()])
        SCRIPTS[script](cfg)
        return tmp_path / script

    trained = run("train", "objective=sft", "sampling.samples=1")  # no answer of a random model is rewarded
    metrics = read_metrics(trained / "metrics.csv")
    assert set(metrics) == {0, 1, 2}
    assert float(metrics[1]["train/grad_norm"]) > 0
    scored = json.loads((run("evaluate", expert=str(trained)) / "results.json").read_text())
    assert scored["scores"][name].keys() >= {"base", "expert"}
    adapted = json.loads((run("adapt", **{"experts.experts.only": str(trained)}) / "results.json").read_text())
    assert adapted["task"] == name
