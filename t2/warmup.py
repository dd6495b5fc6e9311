"""Teaching a vision encoder and a projector to speak to a frozen language model (LLaVA's stage 1, arXiv 2304.08485).

    1  the encoder alone learns to tell the answers apart by their pictures, under a linear head that is then dropped;
       cheap, since the language model does not run (skipped with encoder_steps=0, or where pictures have several
       answers)
    2  encoder and projector learn the reference answers through the language model, which stays as it is

What comes out is a model that sees, for experts to be trained on: the language model's matrices are those of the text
model, bit for bit, so its experts fit. Not done here: LLaVA's second stage, which trains the language model as well.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from t2.generation.reference import encode_reference
from t2.images import LazyImage
from t2.language_model import LanguageModel
from t2.llava import VisionShape, build_llava
from t2.logprobs import token_log_probs
from t2.optimizer import OptimizerSettings
from t2.types import Example

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Warmup:
    """What is built in front of the language model, and how its encoder begins."""

    shape: VisionShape = field(default_factory=VisionShape)
    encoder_steps: int = 300
    encoder_batch: int = 64
    encoder_lr: float = 1e-3

    def build(self, text: LanguageModel, examples: Sequence[Example], *, source: str, seed: int) -> LanguageModel:
        """The model that sees, with an encoder that has had its first stage on `examples`.

        Raises:
            ValueError: a number below its least, or `text` sees already.
        """
        if self.encoder_steps < 0 or self.encoder_batch < 1:
            raise ValueError(
                f"encoder_steps={self.encoder_steps}, encoder_batch={self.encoder_batch}; allowed: at least 0 and 1."
            )
        lm = build_llava(text, self.shape, source=source, seed=seed)
        answers = answers_by_picture(examples)
        if answers is None:
            log.info("The encoder skips its first stage: some pictures have several answers, or none.")
        elif self.encoder_steps:
            accuracy = self._teach_encoder(lm, answers, seed)
            log.info("The encoder alone tells %.1f %% of its last batches' pictures apart.", 100 * accuracy)
        match_scale(lm, [one.images[0] for one in examples if one.images][: self.encoder_batch])
        return lm

    def _teach_encoder(self, lm: LanguageModel, answers: dict[LazyImage, str], seed: int) -> float:
        """Stage 1; returns the training accuracy over its last tenth."""
        names = {name: number for number, name in enumerate(sorted(set(answers.values())))}
        labels = torch.tensor([names[answer] for answer in answers.values()], device=lm.device)  # (n,)
        pixels = lm.pixels(list(answers))["pixel_values"]  # (n, 3, H, W)
        tower = lm.model.get_submodule("model.vision_tower")
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Linear(self.shape.hidden_size, len(names)).to(lm.device, lm.dtype)
        parameters = [*tower.parameters(), *head.parameters()]
        tower.requires_grad_(True)
        adamw, schedule = OptimizerSettings(lr=self.encoder_lr, warmup_steps=10).build(parameters, self.encoder_steps)
        right: list[float] = []
        for _ in tqdm(range(self.encoder_steps), desc="encoder", leave=False, disable=None):
            rows = torch.randint(len(labels), (self.encoder_batch,), generator=generator).to(lm.device)
            # What the projector will read: the last hidden states of the patches, without CLS.
            patches = tower(pixels[rows], output_hidden_states=True).hidden_states[-1][:, 1:]  # (b, patches, D)
            logits = head(patches.mean(dim=1))
            adamw.zero_grad()
            F.cross_entropy(logits, labels[rows]).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            adamw.step()
            schedule.step()
            right.append(float((logits.argmax(dim=1) == labels[rows]).float().mean()))
        tower.requires_grad_(False)
        last = right[-max(1, len(right) // 10) :]
        return sum(last) / len(last)


@torch.no_grad()
def match_scale(lm: LanguageModel, images: Sequence[LazyImage]) -> None:
    """Scale the projector's last layer so that features are as large as the embeddings of words.

    The encoder's states have no such scale. Features of forty times the size, which is what SmolLM2 then gets, drown
    what its layers add to them, and little is learned (LOG.md).
    """
    if not images:
        return
    features: Tensor = torch.cat(
        list(lm.model.get_submodule("model").get_image_features(**lm.pixels(images)).pooler_output)
    )  # (n * patches, D)
    last = lm.model.get_submodule("model.multi_modal_projector.linear_2")
    factor = lm.model.get_input_embeddings().weight.std() / features.std()
    for parameter in last.parameters():
        parameter.mul_(factor)


class BridgeTraining(L.LightningModule):
    """Stage 2: next-token training of the reference answers, with the encoder and projector as its parameters."""

    def __init__(self, lm: LanguageModel, optimizer: OptimizerSettings, total_steps: int) -> None:
        """Make the bridge trainable; the language model's weights stay frozen."""
        super().__init__()
        self.lm, self.settings, self.total_steps = lm, optimizer, total_steps
        self.bridge = nn.ModuleDict(
            {name: lm.model.get_submodule(f"model.{name}") for name in ("vision_tower", "multi_modal_projector")}
        )
        self.bridge.requires_grad_(True)
        self.losses: list[float] = []

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW over the bridge, with the schedule stepped once per step."""
        adamw, schedule = self.settings.build(list(self.bridge.parameters()), self.total_steps)
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip to the settings' norm."""
        self.clip_gradients(optimizer, self.settings.clip_norm, "norm")

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
        """Freeze the bridge again: experts are trained in front of a model that stays as it is."""
        self.bridge.requires_grad_(False)
        self.bridge.eval()


def answers_by_picture(examples: Sequence[Example]) -> dict[LazyImage, str] | None:
    """The answer to each picture, or None where one has several, or none, or an example has not exactly one picture."""
    found: dict[LazyImage, str] = {}
    for example in examples:
        if len(example.images) != 1 or example.answer is None:
            return None
        if found.setdefault(example.images[0], example.answer) != example.answer:
            return None
    return found or None
