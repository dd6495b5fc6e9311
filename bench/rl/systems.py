"""The systems that bench/rl_step.py compares, each taking whole policy-gradient steps while a meter runs.

    t2_hf      `ExpertTraining` on a Lightning Trainer and in a process as in train.py: SVF on all linears of the
               decoder blocks, RLOO, prompts shared, rollouts by t2's own decode loop under merged weights
    t2_vllm    the same with rollouts by vLLM
    trl_lora   TRL's `GRPOTrainer` on a transformers Trainer, rollouts by `model.generate`; PEFT's LoRA, r = 16,
               alpha 32, no dropout, on the same linears

Equal for all: weights in float32, prompts (their ids are compared), samples, temperature 1, grading, one optimizer step
per rollout, no KL, no gradient checkpoints, no logs, no files; and at most `micro_batch_tokens` prompt and completion
tokens, padding included, in one forward and backward. (TRL takes a fixed number of rows: the largest that divides the
batch and fits.) All completions have one length: t2 and its vLLM ignore end tokens, TRL may not sample them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from typing import Any

import lightning as L
from hydra.utils import instantiate
from measure import ROOT, resident
from models import endless_vllm, expert_metadata, inject_svf, load
from omegaconf import OmegaConf

from rl.grpo import run_trl
from rl.job import SEED, Grading, Job, Meter
from t2.models.language_model import LanguageModel
from t2.policy.hf import HFGenerator
from t2.run.allocator import keep_freed_memory
from t2.run.grouped_attention import group_attention
from t2.run.launch import quiet_libraries
from t2.training.data import PromptData
from t2.training.module import ExpertTraining
from t2.training.optimizer import OptimizerSettings
from t2.types import Sampling

NEEDS = {"t2_hf": "t2", "t2_vllm": "vllm", "trl_lora": "trl"}  # the package that an environment may lack


def run_system(name: str, job: Job) -> dict[str, Any]:
    """One system's timings and memory, in this process.

    Raises RuntimeError where its prompts or the lengths of its completions are not those of the job, and OSError where
    there is no /proc to read the memory from.
    """
    if importlib.util.find_spec(NEEDS[name]) is None:
        return {"system": name, "status": "not installed"}
    quiet_libraries()
    if job.settings == "same" or (job.settings == "each" and name != "trl_lora"):
        keep_freed_memory()
        group_attention()
    grading, meter = Grading(job), Meter(job.warmup)
    lm = load(job.model)
    trainable = run_trl(lm, grading, job, meter) if name == "trl_lora" else run_t2(name, lm, grading, job, meter)
    peak = resident("VmHWM")
    prompts = [lm.encode(example) for example in grading.examples for _ in range(job.samples)]
    meter.check(name, prompts, job.new_tokens)
    return {
        "system": name,
        "status": "measured",
        "steps": meter.steps[job.warmup :],
        "warmup": meter.steps[: job.warmup],
        "tokens_per_step": job.prompts * job.samples * job.new_tokens,
        "trainable_parameters": trainable,
        "mean_score": sum(grading.given) / len(grading.given),
        "prompts_sha256": hashlib.sha256(json.dumps(meter.prompts).encode()).hexdigest(),
        "memory": {"held_bytes": meter.held_bytes, "peak_bytes": peak},
    }


class T2Timer(L.Callback):
    """Runs the meter around each step of ExpertTraining, which measures its phases itself."""

    def __init__(self, meter: Meter) -> None:
        """Keep the meter."""
        self.meter = meter

    def on_train_batch_start(self, *_: Any) -> None:
        """Start."""
        self.meter.begin()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Stop, and note the completions."""
        assert isinstance(module, ExpertTraining), f"got {type(module).__name__}"
        self.meter.charge("rollout", module.phases.step_seconds["rollout"])
        self.meter.charge("reward", module.phases.step_seconds["score"])
        self.meter.end()
        assert module.last_step is not None, "a step was taken"
        for completion in (one for group in module.last_step.completions for one in group):
            self.meter.completed(completion.prompt_ids, len(completion.token_ids))


def run_t2(name: str, lm: LanguageModel, grading: Grading, job: Job, meter: Meter) -> int:
    """Train with t2 for all steps of the job; returns the number of trainable parameters."""
    lm.end_ids = frozenset()  # no completion ends before its last token
    adapter = inject_svf(lm)
    training = ExpertTraining(
        lm=lm,
        adapter=adapter,
        task=grading,
        objective=instantiate(OmegaConf.load(ROOT / "conf" / "objective" / "rloo.yaml")),
        generator=HFGenerator(lm, adapter) if name == "t2_hf" else endless_vllm(lm, adapter),
        metadata=expert_metadata(lm, adapter, grading.name),
        sampling=Sampling(max_new_tokens=job.new_tokens, temperature=1.0, samples=job.samples),
        optimizer=OptimizerSettings(),
        total_steps=job.all_steps,
        micro_batch_tokens=job.micro_batch_tokens,
        kl_every=0,
        score_workers=1,  # the grading counts calls
        seed=SEED,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=job.all_steps,
        max_epochs=-1,
        logger=False,
        callbacks=[T2Timer(meter)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(training, PromptData(grading, prompts_per_step=job.prompts, steps=job.all_steps, seed=SEED))
    return sum(parameter.numel() for parameter in adapter.trainable())
