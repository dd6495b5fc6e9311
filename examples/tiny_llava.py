"""Build a small LLaVA and align it with a frozen language model: python examples/tiny_llava.py [--out FOLDER].

LLaVA's stage 1 (arXiv 2304.08485): a vision encoder and a projector are trained so that SmolLM2-135M-Instruct, which
stays as it is bit for bit, can name handwritten digits, one in an image or two side by side. Training has two phases:

    1  the encoder and the projector alone learn to turn an image into the embeddings of its answer's words, the first
       patches into the first word; cheap, since the language model does not run (skipped with --align-steps 0, or where
       images have several answers)
    2  both learn the reference answers by next-token prediction through the language model

The model is written to FOLDER/llava for `base_model=llava_smollm2`, and experts can then be trained on it. Ten minutes
and 3 GB on 2 CPU cores; 13 to 89 % of 100 validation images before and after (LOG.md). The paper has no counterpart:
it takes a LLaVA that is trained already. LLaVA's second stage, which trains the language model too, is not done here.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hydra
import lightning as L
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from tqdm import tqdm

from t2.evaluation.report import describe_data, summarize
from t2.evaluation.results import Results
from t2.evaluation.scoring import evaluate
from t2.evaluation.system_names import BASE
from t2.evaluation.tables import results_table
from t2.models.image_inputs import read_images
from t2.models.language_model import LanguageModel
from t2.models.llava import VisionShape, build_llava, save_llava
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.policy.reference import encode_reference
from t2.run.launch import quiet_libraries
from t2.run.metrics_csv import MetricsCSV
from t2.training.data import PromptData
from t2.training.device import trainer_placement
from t2.training.optimizer import OptimizerSettings
from t2.types import Example, LazyImage, Sampling

log = logging.getLogger(__name__)
CONF = Path(__file__).resolve().parents[1] / "conf"
SHARPNESS = 20.0  # of the softmax over cosines with words' embeddings


@dataclass(frozen=True)
class Alignment:
    """The vision encoder to build in front of a language model, and the settings of phase 1."""

    shape: VisionShape = field(default_factory=VisionShape)
    align_steps: int = 1000
    align_batch: int = 64
    align_lr: float = 1e-3

    def build(self, text: LanguageModel, examples: Sequence[Example], *, source: str, seed: int) -> LanguageModel:
        """The LLaVA, with phase 1 done on `examples`.

        Raises:
            ValueError: a number is too small, an answer has more tokens than an image, or `text` reads images already.
        """
        if self.align_steps < 0 or self.align_batch < 1:
            given = f"align_steps={self.align_steps}, align_batch={self.align_batch}"
            raise ValueError(f"{given}; allowed: at least 0 and 1.")
        lm = build_llava(text, self.shape, source=source, seed=seed)
        answers = answers_by_image(examples)
        if answers is None:
            log.info("Phase 1 is skipped: some images have several answers, or none.")
        elif self.align_steps:
            accuracy = self._align(lm, answers, seed)
            log.info("Phase 1: %.1f %% of the last batches' patches are nearest to their word.", 100 * accuracy)
        match_scale(lm, [one.images[0] for one in examples if one.images][: self.align_batch])
        return lm

    def _align(self, lm: LanguageModel, answers: dict[LazyImage, str], seed: int) -> float:
        """Phase 1; returns the share of patches nearest to their word over its last tenth."""
        pixels = read_images(lm.processor, lm.model, [(one,) for one in answers])["pixel_values"]  # (n, 3, H, W)
        words = [_ids(lm, answer) for answer in answers.values()]
        known = sorted({token for ids in words for token in ids})
        patches = (self.shape.image_size // self.shape.patch_size) ** 2
        if max(map(len, words)) > patches:
            raise ValueError(
                f"An answer has {max(map(len, words))} tokens and an image {patches}. Lower patch_size, or set "
                "align_steps=0."
            )
        index = {token: number for number, token in enumerate(known)}
        targets = torch.tensor(
            [[index[ids[at * len(ids) // patches]] for at in range(patches)] for ids in words], device=lm.device
        )  # (n, patches): the word whose embedding each patch should become
        embeddings = F.normalize(lm.model.get_input_embeddings().weight[known].float(), dim=-1)  # (words, D)
        parameters = vision_parameters(lm, trained=True)
        adamw, schedule = OptimizerSettings(lr=self.align_lr, warmup_steps=10).build(parameters, self.align_steps)
        generator, right = torch.Generator().manual_seed(seed), []
        for _ in tqdm(range(self.align_steps), desc="align", leave=False, disable=None):
            rows = torch.randint(len(words), (self.align_batch,), generator=generator).to(lm.device)
            logits = SHARPNESS * F.normalize(image_features(lm, pixels[rows]).float(), dim=-1) @ embeddings.T
            adamw.zero_grad()
            F.cross_entropy(logits.flatten(0, 1), targets[rows].flatten()).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            adamw.step()
            schedule.step()
            right.append(float((logits.argmax(dim=-1) == targets[rows]).float().mean()))
        vision_parameters(lm, trained=False)
        last = right[-max(1, len(right) // 10) :]
        return sum(last) / len(last)


def vision_parameters(lm: LanguageModel, *, trained: bool) -> list[nn.Parameter]:
    """The weights of the vision encoder and the projector, made trainable or frozen."""
    parts = [lm.model.get_submodule(f"model.{name}") for name in ("vision_tower", "multi_modal_projector")]
    return [parameter for part in parts for parameter in part.requires_grad_(trained).parameters()]


def image_features(lm: LanguageModel, pixels: Tensor) -> Tensor:
    """The image features that the language model reads: (n, 3, H, W) -> (n, patches, D)."""
    read = lm.model.get_submodule("model").get_image_features(pixel_values=pixels)
    return torch.stack(list(read.pooler_output))


@torch.no_grad()
def match_scale(lm: LanguageModel, images: Sequence[LazyImage]) -> None:
    """Scale the projector's last layer so that image features have the standard deviation of word embeddings.

    Without it features are forty times as large as SmolLM2's embeddings, which drowns what its layers add to them, and
    little is learned (LOG.md).
    """
    if not images:
        return
    features = image_features(
        lm, read_images(lm.processor, lm.model, [(one,) for one in images])["pixel_values"]
    )  # (n, patches, D)
    last = lm.model.get_submodule("model.multi_modal_projector.linear_2")
    factor = lm.model.get_input_embeddings().weight.std() / features.std()
    for parameter in last.parameters():
        parameter.mul_(factor)


class AlignmentTraining(L.LightningModule):
    """Phase 2: next-token prediction of the reference answers; the encoder and the projector are trained."""

    def __init__(self, lm: LanguageModel, optimizer: OptimizerSettings, total_steps: int) -> None:
        """Unfreeze the encoder and the projector; the language model stays frozen."""
        super().__init__()
        self.lm, self.settings, self.total_steps = lm, optimizer, total_steps
        self.trained = vision_parameters(lm, trained=True)  # a list: the trainer would move submodules
        self.losses: list[float] = []

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW over the encoder and the projector, with the schedule stepped once per step."""
        adamw, schedule = self.settings.build(self.trained, self.total_steps)
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: list[Example], batch_idx: int) -> Tensor:
        """Mean negative log-prob of the answers' tokens."""
        token = token_log_probs(self.lm, [encode_reference(self.lm, one, end_of_turn=True) for one in batch])
        loss = -(token.log_probs * token.mask).sum() / token.mask.sum()
        self.losses.append(float(loss.detach()))
        for logger in self.loggers:
            logger.log_metrics({"train/loss": self.losses[-1]}, step=self.global_step)
        if len(self.losses) % 10 == 0:
            log.info("step %d/%d: loss %.3f", len(self.losses), self.total_steps, sum(self.losses[-10:]) / 10)
        return loss

    def on_train_end(self) -> None:
        """Freeze everything again: experts are trained on a frozen model."""
        vision_parameters(self.lm, trained=False)


def answers_by_image(examples: Sequence[Example]) -> dict[LazyImage, str] | None:
    """The answer to each image; None where an image has several or none, or an example has not exactly one image."""
    found: dict[LazyImage, str] = {}
    for example in examples:
        if len(example.images) != 1 or example.answer is None:
            return None
        if found.setdefault(example.images[0], example.answer) != example.answer:
            return None
    return found or None


def _ids(lm: LanguageModel, answer: str) -> list[int]:
    ids: list[int] = lm.tokenizer(answer, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ValueError(f"The answer {answer!r} has no token, so no image can be aligned with it.")
    return ids


def align(options: argparse.Namespace) -> Results:
    """Build, align, score and save the model; `results.json` and `metrics.csv` are written beside it."""
    start, folder = time.perf_counter(), options.out / "llava"
    L.seed_everything(options.seed, verbose=False)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("train", [f"task={options.task}", f"base_model={options.base_model}"])
    task = instantiate(cfg.task)
    data = PromptData(task, prompts_per_step=options.batch, steps=options.steps, seed=options.seed)
    examples, greedy = task.split("val")[: options.limit], Sampling(max_new_tokens=task.max_new_tokens)
    alignment = Alignment(VisionShape(hidden_size=options.hidden_size), options.align_steps)
    lm = alignment.build(instantiate(cfg.base_model), task.split("train"), source=str(folder), seed=options.seed)
    module = AlignmentTraining(lm, OptimizerSettings(lr=1e-3, warmup_steps=10), options.steps)
    reports = {BASE: evaluate(HFGenerator(lm), task, examples, greedy, system=BASE)}
    trainer = L.Trainer(
        max_steps=options.steps, max_epochs=-1, gradient_clip_val=1.0, log_every_n_steps=1, enable_checkpointing=False,
        logger=MetricsCSV(str(options.out)), enable_progress_bar=False, enable_model_summary=False,
        **trainer_placement(lm.device),
    )  # fmt: skip
    trainer.fit(module, data)
    save_llava(lm, folder)  # before anything else can fail
    reports["aligned"] = evaluate(HFGenerator(lm), task, examples, greedy, system="aligned")
    scores, paired = summarize({s: one.scores for s, one in reports.items()}, majority=reports[BASE].majority)
    results = Results(
        command="train", base_model=lm.source, adapter=None, task=task.name, strategy="fixed", split="val",
        trainable_parameters=sum(p.numel() for p in module.trained), data=describe_data([task]),
        scores={task.name: scores}, paired={task.name: paired},
        seconds={"total": time.perf_counter() - start}, seed=options.seed,
    ).write(options.out)  # fmt: skip
    log.info("Validation, before and after phase 2:\n%s", results_table(results).text())
    log.info("Next: python train.py base_model=llava_smollm2 base_model.source=%s", folder)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python examples/tiny_llava.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/tiny_llava"), help="the folder to write")
    for group, default in (("base_model", "smollm2_135m"), ("task", "digits_read")):
        choices = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        name, text = f"--{group.replace('_', '-')}", f"a choice of conf/{group} (default: {default})"
        parser.add_argument(name, default=default, choices=choices, metavar="NAME", help=text)
    parser.add_argument("--hidden-size", type=int, default=192, help="of the vision encoder")
    parser.add_argument("--align-steps", type=int, default=1000, help="of phase 1; 0 skips it")
    parser.add_argument("--steps", type=int, default=150, help="of phase 2")
    parser.add_argument("--batch", type=int, default=16, help="images in a step of phase 2")
    parser.add_argument("--limit", type=int, default=100, help="validation images that are scored")
    parser.add_argument("--seed", type=int, default=0)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet_libraries()
    align(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
