"""PEFT's training loop with SVF in the place of a PEFT method, and its three measurements.

    validation   every `eval_steps` steps: accuracy on 50 questions
    test         after training: accuracy on GSM8K's test split
    forgetting   loss per token of Wikipedia texts after training, minus that of the base model

The adapter is factored throughout: nothing is merged, as PEFT's methods are not. The loss is that of whole texts, the
question included, so that t2's SFT (`t2.training.objectives`), which learns answers alone, is not used.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import GenerationConfig, get_cosine_schedule_with_warmup

from metamath.answers import accuracy
from metamath.data import Data, Sample, encoded, labels_of, padded, train_batches
from metamath.settings import TrainConfig
from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.training.optimizer import clipped_step

log = logging.getLogger(__name__)
WARMUP_SHARE = 0.1  # of the steps
EMPTY_CACHE_STEPS = 10
WIKI_TOKENS = 768  # of each text


@dataclass
class Memory:
    """What CUDA's allocator holds, in bytes, beyond what it held at the start; None on a CPU, which has no such one."""

    device: torch.device
    start: int = field(init=False, default=0)
    reserved: list[int] = field(init=False, default_factory=list)  # by step
    allocated: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Begin with a new peak."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.start = torch.cuda.max_memory_reserved(self.device)

    def log_step(self, step: int) -> None:
        """Note what is held after a step; every few steps what is cached is given back, as in PEFT's runner."""
        if self.device.type != "cuda":
            return
        self.allocated.append(torch.cuda.memory_allocated(self.device) - self.start)
        self.reserved.append(torch.cuda.memory_reserved(self.device) - self.start)
        if step % EMPTY_CACHE_STEPS == 0:
            torch.cuda.empty_cache()

    @property
    def peak(self) -> int | None:
        """The most that was ever reserved."""
        is_gpu = self.device.type == "cuda"
        return torch.cuda.max_memory_reserved(self.device) - self.start if is_gpu else None


@dataclass
class Run:
    """A training run: the injected adapter, its data, and what has been measured so far."""

    lm: LanguageModel
    svf: SVF
    config: TrainConfig
    data: Data
    memory: Memory
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of each step
    tokens: list[int] = field(default_factory=list)  # of each step, an EOS of each sample included
    samples: int = 0
    eval_seconds: float = 0.0
    train_seconds: float = 0.0
    metrics: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check that one pass is enough, and pad with EOS."""
        wanted, rows = self.config.max_steps * self.config.batch_size, len(self.data.train)
        if wanted > rows:
            raise ValueError(f"max_steps x batch_size is {wanted}, and there are {rows} training rows. Lower one.")
        self.lm.tokenizer.pad_token = self.lm.tokenizer.eos_token

    @property
    def pad_id(self) -> int:
        """The id of EOS."""
        return int(self.lm.tokenizer.pad_token_id)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of plain texts."""
        return encoded(self.lm.tokenizer, texts, self.config.max_seq_length)

    def train(self, spent: float = 0.0) -> None:
        """Train, validate, test, and measure what was forgotten; fills `metrics`.

        `spent` seconds count as training, as those of reading the data do in PEFT's runner.
        """
        start, config = time.perf_counter() - spent, self.config
        with self.svf.disabled():
            loss_before = self.wiki_loss()
        log.info("Loss of the base model on Wikipedia: %.4f", loss_before)
        optimizer = getattr(torch.optim, config.optimizer_type)(self.svf.trainable(), **config.optimizer_kwargs)
        schedule = self._schedule(optimizer)
        batches = train_batches(self.data.train, self.encode, config.query_template, config.batch_size)
        self.lm.model.train()
        for step, rows in zip(tqdm(range(1, config.max_steps + 1), disable=None), batches, strict=False):
            self._step(rows, optimizer, schedule)
            self.memory.log_step(step)
            if step % config.eval_steps == 0:
                self._validate(step, start)
        self.lm.model.eval()
        test = self.accuracy(self.data.test)
        forgetting = self.wiki_loss() - loss_before
        self.metrics.append(
            {
                "step": config.max_steps,
                "test accuracy": test,
                "train loss": sum(self.losses[-config.eval_steps :]) / config.eval_steps,
                "train samples": self.samples,
                "train total tokens": sum(self.tokens),
                "forgetting": forgetting,
            }
        )
        self.train_seconds = time.perf_counter() - start - self.eval_seconds
        log.info("Test accuracy %.4f, forgetting %+.4f", test, forgetting)

    def _schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        if self.config.lr_scheduler is None:
            return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        steps = self.config.max_steps
        return get_cosine_schedule_with_warmup(optimizer, int(WARMUP_SHARE * steps), steps)

    def _step(self, rows: list[list[int]], optimizer: torch.optim.Optimizer, schedule: Any) -> None:
        start = time.perf_counter()
        ids, mask = padded(rows, self.pad_id)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels_of(ids, mask)}
        optimizer.zero_grad()
        loss = self.lm.model(
            **{name: one.to(self.lm.device) for name, one in batch.items()}, num_items_in_batch=int(mask.sum())
        ).loss
        loss.backward()
        clipped_step(optimizer, schedule, self.svf.trainable(), self.config.grad_norm_clip or math.inf)
        self.losses.append(float(loss.detach()))
        self.samples += len(rows)
        self.tokens.append(sum(map(len, rows)) + len(rows))
        self.seconds.append(time.perf_counter() - start)

    def _validate(self, step: int, start: float) -> None:
        begun, last = time.perf_counter(), self.config.eval_steps
        self.lm.model.eval()
        right = self.accuracy(self.data.valid)
        self.lm.model.train()
        took, seconds = time.perf_counter() - begun, sum(self.seconds[-last:])
        self.eval_seconds += took
        self.metrics.append(
            {
                "step": step,
                "valid accuracy": right,
                "train loss": sum(self.losses[-last:]) / last,
                "train samples": self.samples,
                "train time": seconds,
                "eval time": took,
                "tokens / sec": sum(self.tokens[-last:]) / seconds,
                "mem allocated avg": mean(self.memory.allocated[-last:]),
                "mem reserved avg": mean(self.memory.reserved[-last:]),
                "elapsed time": time.perf_counter() - start,
            }
        )
        log.info("step %d: loss %.4f, validation %.3f", step, self.metrics[-1]["train loss"], right)

    @torch.inference_mode()
    def accuracy(self, samples: Sequence[Sample]) -> float:
        """The share of questions whose answer is right; the prompt is read with the answer, as PEFT's runner does."""
        predictions: list[str] = []
        for at in tqdm(range(0, len(samples), self.config.batch_size_eval), disable=None, leave=False):
            part = samples[at : at + self.config.batch_size_eval]
            rows = self.encode([self.config.query_template.format(query=one.query) for one in part])
            ids, mask = padded(rows, self.pad_id, left=True)
            written = self.lm.model.generate(
                input_ids=ids.to(self.lm.device),
                attention_mask=mask.to(self.lm.device),
                generation_config=generation_config(self.config, ids.shape[1], self.pad_id),
            )
            predictions += self.lm.tokenizer.batch_decode(written, skip_special_tokens=True)
        return accuracy(predictions, [one.response for one in samples])

    @torch.inference_mode()
    def wiki_loss(self) -> float:
        """The mean loss per token of the Wikipedia texts, with whatever is applied now; rounded as the logits are."""
        losses = []
        for at in range(0, len(self.data.wiki), self.config.batch_size):
            rows = encoded(self.lm.tokenizer, self.data.wiki[at : at + self.config.batch_size], WIKI_TOKENS)
            ids, mask = (one.to(self.lm.device) for one in padded(rows, self.pad_id, left=True))
            logits = self.lm.model(input_ids=ids, attention_mask=mask).logits  # (N, S, V)
            for row, target, length in zip(logits, ids, mask.sum(1).tolist(), strict=True):
                own, next_ids = row[-length:-1], target[-length:][1:]
                losses.append(F.cross_entropy(own, next_ids, reduction="none").float().cpu())
        return float(torch.cat(losses).mean())


def generation_config(config: TrainConfig, prompt_length: int, pad_id: int) -> GenerationConfig:
    """The settings of generation; what they leave open is the checkpoint's own, sampling included.

    Of `max_length` and `max_new_tokens` the shorter one holds.
    """
    given = {name: value for name, value in config.generation_kwargs.items() if value is not None}
    if "max_length" in given and "max_new_tokens" in given:
        given["max_length"] = min(given["max_length"], given.pop("max_new_tokens") + prompt_length)
    return GenerationConfig(pad_token_id=pad_id, **given)


def mean(numbers: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(numbers) / len(numbers) if numbers else None
