"""Teaching a vision encoder and a projector to speak to a frozen language model (LLaVA's stage 1, arXiv 2304.08485).

    1  encoder and projector alone learn to turn an image into what lies near the embeddings of its answer's words, the
       first patches the first word; cheap, since the language model does not run, and it need only copy what it then
       sees (skipped with align_steps=0, or where images have several answers)
    2  both learn the reference answers through the language model, which stays as it is

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

from t2.models.language_model import LanguageModel
from t2.models.llava import VisionShape, build_llava
from t2.policy.log_probs import token_log_probs
from t2.policy.reference import encode_reference
from t2.training.optimizer import OptimizerSettings
from t2.types import Example, LazyImage

log = logging.getLogger(__name__)
SHARPNESS = 20.0  # of the softmax over cosines with words' embeddings


@dataclass(frozen=True)
class Alignment:
    """What is built in front of the language model, and how it begins."""

    shape: VisionShape = field(default_factory=VisionShape)
    align_steps: int = 1000
    align_batch: int = 64
    align_lr: float = 1e-3

    def build(self, text: LanguageModel, examples: Sequence[Example], *, source: str, seed: int) -> LanguageModel:
        """The model that sees, which has had its first stage on `examples`.

        Raises:
            ValueError: a number below its least, an answer of more tokens than an image has, or `text` sees already.
        """
        if self.align_steps < 0 or self.align_batch < 1:
            raise ValueError(
                f"align_steps={self.align_steps}, align_batch={self.align_batch}; allowed: at least 0 and 1."
            )
        lm = build_llava(text, self.shape, source=source, seed=seed)
        answers = answers_by_image(examples)
        if answers is None:
            log.info("The first stage is skipped: some images have several answers, or none.")
        elif self.align_steps:
            accuracy = self._align(lm, answers, seed)
            log.info("Of the last batches' patches %.1f %% lie nearest to their word.", 100 * accuracy)
        match_scale(lm, [one.images[0] for one in examples if one.images][: self.align_batch])
        return lm

    def _align(self, lm: LanguageModel, answers: dict[LazyImage, str], seed: int) -> float:
        """Stage 1; returns the share of patches nearest to their word over its last tenth."""
        pixels = lm.pixels(list(answers))["pixel_values"]  # (n, 3, H, W)
        words = [_ids(lm, answer) for answer in answers.values()]
        known = sorted({token for ids in words for token in ids})
        patches = (self.shape.image_size // self.shape.patch_size) ** 2
        if max(map(len, words)) > patches:
            raise ValueError(
                f"An answer has {max(map(len, words))} tokens and an image {patches}. Lower patch_size, or set "
                "align_steps=0."
            )
        number = {token: place for place, token in enumerate(known)}
        targets = torch.tensor(
            [[number[ids[at * len(ids) // patches]] for at in range(patches)] for ids in words], device=lm.device
        )  # (n, patches): the word that each patch is to lie near
        embeddings = F.normalize(lm.model.get_input_embeddings().weight[known].float(), dim=-1)  # (words, D)
        parameters = [parameter for part in bridge_of(lm) for parameter in part.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(True)
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
        for parameter in parameters:
            parameter.requires_grad_(False)
        last = right[-max(1, len(right) // 10) :]
        return sum(last) / len(last)


def bridge_of(lm: LanguageModel) -> list[nn.Module]:
    """The vision encoder and the projector."""
    return [lm.model.get_submodule(f"model.{name}") for name in ("vision_tower", "multi_modal_projector")]


def image_features(lm: LanguageModel, pixels: Tensor) -> Tensor:
    """What the language model gets for images: (n, 3, H, W) -> (n, patches, D)."""
    read = lm.model.get_submodule("model").get_image_features(pixel_values=pixels)
    return torch.stack(list(read.pooler_output))


@torch.no_grad()
def match_scale(lm: LanguageModel, images: Sequence[LazyImage]) -> None:
    """Scale the projector's last layer so that features are as large as the embeddings of words.

    The encoder's states have no such scale. Features of forty times the size, which is what SmolLM2 then gets, drown
    what its layers add to them, and little is learned (LOG.md).
    """
    if not images:
        return
    features = image_features(lm, lm.pixels(images)["pixel_values"])  # (n, patches, D)
    last = lm.model.get_submodule("model.multi_modal_projector.linear_2")
    factor = lm.model.get_input_embeddings().weight.std() / features.std()
    for parameter in last.parameters():
        parameter.mul_(factor)


class AlignmentTraining(L.LightningModule):
    """Stage 2: next-token training of the reference answers, with the encoder and projector as its parameters."""

    def __init__(self, lm: LanguageModel, optimizer: OptimizerSettings, total_steps: int) -> None:
        """Make the bridge trainable; the language model's weights stay frozen."""
        super().__init__()
        self.lm, self.settings, self.total_steps = lm, optimizer, total_steps
        self.bridge = nn.ModuleList(bridge_of(lm))
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


def answers_by_image(examples: Sequence[Example]) -> dict[LazyImage, str] | None:
    """The answer to each image, or None where one has several, or none, or an example has not exactly one image."""
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
        raise ValueError(f"The answer {answer!r} has no token, so no image can be near it.")
    return ids
