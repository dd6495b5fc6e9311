"""One training step of an expert: rollout -> score -> advantages -> gradient -> step (paper §3.1, Eq. 1).

Manual optimization, because one step is one rollout and then as many micro-batches as fit: the Trainer's own
accumulation and clipping stay unset. Everything random is a function of (seed, step), so a run that was killed and
resumed ends with the same z, number for number. Checkpoints hold the adapter's parameters, the optimizer, its schedule
and the loop, never the frozen weights.

The model and the adapter are no submodules: they stay where the model was loaded, and Lightning sees an optimizer
(`t2.training.device`).

Not here: where prompts come from (`t2.training.data`), the gradient of a rollout (`t2.training.policy_gradient`, or
without a backward pass `t2.training.es`), validation and early stopping (`t2.training.callbacks`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

from t2.evaluation.scoring import check_workers
from t2.experts.expert import ExpertMetadata
from t2.experts.trained import Trained, origin, trained
from t2.models.language_model import LanguageModel
from t2.policy.generator import Generator
from t2.policy.prompt_sharing import prompts_can_be_shared
from t2.policy.reference import ReferenceAnswers
from t2.run.phases import Phases
from t2.tasks.base import Task
from t2.training.ahead import Sampled, ahead_of, sampled
from t2.training.change import change_statistics
from t2.training.checkpoint import TrainableAdapter, check_identity, identity_of
from t2.training.data import PromptData
from t2.training.device import AdapterModule
from t2.training.es import PopulationObjective
from t2.training.lockstep import keep_in_step
from t2.training.objectives import Objective
from t2.training.optimizer import OptimizerSettings, clipped_step
from t2.training.policy_gradient import accumulate_gradient, accumulate_last_of, warn_of_kl_floor
from t2.training.ranks import Ranks
from t2.training.rollout import Rollout, StepRecord, as_rollout, rollout_metrics, rollout_seed, warn_of_flat_steps
from t2.training.sharded import shard
from t2.training.throughput import UpdateMeter, time_metrics
from t2.types import Example, Sampling

FLAT_STEPS_BEFORE_WARNING = 5


class ExpertTraining(AdapterModule):
    """Trains an adapter on a task's own reward.

    Args:
        lm, adapter: the frozen model and the adapter injected into it.
        generator: generates with the adapter's present state (where the objective is off-policy, only in validation).
        metadata: what the expert's file will say of its origin.
        sampling: how completions are sampled in training; its seed is replaced by one per step.
        total_steps: length of the learning-rate schedule.
        micro_batch_tokens: bound on prompt + completion tokens of one forward and backward.
        share_prompts: let the samples of one prompt share its computation, where the architecture allows it.
        kl_every: estimate the KL to the base for the log every so many steps where its coefficient is 0 (0: never).
        score_workers: threads that grade completions while others are generated.
        seed: the source of every random choice, together with the step.
        shards: inject the adapter and shard the model among ranks (`t2.training.sharded`), once they are connected.
    """

    def __init__(
        self,
        *,
        lm: LanguageModel,
        adapter: TrainableAdapter,
        task: Task,
        objective: Objective | PopulationObjective,
        generator: Generator,
        metadata: ExpertMetadata,
        sampling: Sampling,
        optimizer: OptimizerSettings,
        total_steps: int,
        micro_batch_tokens: int = 1024,
        share_prompts: bool = True,
        kl_every: int = 10,
        score_workers: int = 2,
        seed: int = 0,
        shards: bool = False,
    ) -> None:
        """Keep the parts; nothing is computed. ValueError where an objective cannot use the adapter or generator."""
        super().__init__(adapter)
        if isinstance(objective, PopulationObjective):
            objective.check_parts(adapter, generator)
        self.automatic_optimization = False
        self.lm, self.task, self.objective, self.generator = lm, task, objective, generator
        self.metadata, self.sampling, self.settings, self.total_steps = metadata, sampling, optimizer, total_steps
        check_workers(score_workers)
        self.micro_batch_tokens, self.kl_every, self.seed = micro_batch_tokens, kl_every, seed
        self.score_workers, self.shards = score_workers, shards
        self.share_prompts = share_prompts  # settled by a self-check when training starts
        self.phases = Phases()
        self.last_step: StepRecord | None = None
        self.metrics: dict[str, float] = {}  # of the latest step
        self.ahead = ahead_of(generator, objective, self._sample_ahead, adapter.state)
        self.meter = UpdateMeter(lm)
        self.flat_steps = 0  # steps in a row whose advantages were all zero
        self.generated_tokens = 0  # of all steps

    def expert(self, *, step: int, val_before: float | None, val_after: float | None) -> Trained:
        """The adapter's present state as what a run saves: an expert where it is SVF."""
        return trained(self.adapter, replace(self.metadata, step=step, val_before=val_before, val_after=val_after))

    def configure_model(self) -> None:
        """Shard the model where it is to be, ValueError where it cannot be; else ranks move by themselves."""
        if not self.shards:
            keep_in_step(None)
        elif not self.lm.sharded:
            with self.phases("svd"):
                keep_in_step(shard(self.lm, self.adapter, machine=self.trainer.num_devices))
            self.metadata = replace(self.metadata, **origin(self.adapter))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW over the adapter's parameters, with the schedule stepped once per training step."""
        adamw, schedule = self.settings.build(self.adapter.trainable(), self.total_steps)
        return {"optimizer": adamw, "lr_scheduler": schedule}

    def on_train_start(self) -> None:
        """Set device and rate of the optimizer, check whether prompts can be shared, warn of a KL's floor."""
        self.return_state()
        self.settings.set_rate(self.the_optimizer, self.global_step, self.total_steps)
        if isinstance(self.objective, PopulationObjective):
            return
        self.share_prompts = self.share_prompts and prompts_can_be_shared(self.lm)
        warn_of_kl_floor(self.lm, self.adapter, self.objective)

    def on_train_end(self) -> None:
        """End the thread that samples ahead, if there is one; for train.py to call after an error, too."""
        if self.ahead is not None:
            self.ahead.close()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Stop before this step where a callback (early stopping) asked for it."""
        return -1 if self.trainer.should_stop else None

    def training_step(self, batch: list[Example], batch_idx: int) -> None:
        """One rollout of `batch` and one optimizer step on it."""
        step = self.global_step
        self.phases.start_step()
        self.metrics = {}
        start = time.perf_counter()
        rollout, seconds = self._rollout(batch, step)
        with self.phases("update"):
            self._update(rollout, with_kl=self.kl_every > 0 and step % self.kl_every == 0)
        self._warn_if_flat(rollout)
        self.metrics |= time_metrics(seconds, self.phases.step_seconds, rollout.total_tokens, start=start)
        for logger in self.trainer.loggers:  # not self.log, which repeats old values of what a step left out
            logger.log_metrics(self.metrics, step=step)

    def _sample_ahead(self, generator: Generator, step: int) -> Sampled | None:
        """What a step will learn from, in another thread; None beyond the last step."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, PromptData), "the prompts of a step that is not there yet are asked for"
        return self.sample(generator, data.schedule.at(step), step, Phases()) if step < data.steps else None

    def sample(self, generator: Generator, batch: Sequence[Example], step: int, phases: Phases) -> Sampled:
        """Graded completions of a step's batch by a generator; `phases` has no seconds of this step so far."""
        sampling = replace(self.sampling, seed=rollout_seed(self.seed, step))
        return sampled(generator, self.task, batch, sampling, workers=self.score_workers, phases=phases)

    def _rollout(self, batch: list[Example], step: int) -> tuple[Rollout, Mapping[str, float]]:
        """Generate and grade completions of the batch, and log their statistics; with the seconds that they took."""
        generator = self.generator if self.objective.on_policy else ReferenceAnswers(self.lm)
        if isinstance(self.objective, PopulationObjective):
            population = self.objective.population(self.adapter, seed=self.seed, step=step)
            generator, batch = self.objective.completing(generator, population), batch * population.size
        if self.ahead is not None:
            done = self.ahead.take(step, self.phases)
        else:
            done = self.sample(generator, batch, step, self.phases)
        completions, scores, grades = done.scored.completions, done.scored.scores, done.scored.grades
        truncated = torch.tensor([[c.finish == "length" for c in group] for group in completions])  # (B, G)
        rewards = self.objective.rewards(scores, truncated)
        advantages = self.objective.advantages(rewards, truncated)
        flat = tuple(c for group in completions for c in group)
        tokens = sum(len(c.token_ids) for c in flat)
        self.generated_tokens += tokens if self.objective.on_policy else 0
        self.last_step = StepRecord(step, batch, completions, scores, grades)
        self.metrics |= rollout_metrics(self.last_step, rewards, advantages, truncated)
        self.metrics["rollout/tokens_total"] = float(self.generated_tokens)
        return as_rollout(flat, rewards, advantages, self.sampling), done.seconds

    def _update(self, rollout: Rollout, *, with_kl: bool) -> None:
        """Compute the gradient, clip it, step; several times where the objective says so."""
        optimizer, schedule = self.the_optimizer, self.lr_schedulers()
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR), "one schedule is configured"
        optimizer.zero_grad()
        if isinstance(self.objective, PopulationObjective):
            population = self.objective.population(self.adapter, seed=self.seed, step=self.global_step)
            self.metrics |= self.objective.estimate_gradient(population, rollout)
        else:
            accumulate = partial(
                accumulate_gradient,
                self.lm,
                self.adapter,
                self.objective,
                share_prompts=self.share_prompts,
                micro_batch_tokens=self.micro_batch_tokens,
                backward=self.manual_backward,
                seed=rollout_seed(self.seed, self.global_step),
                ranks=Ranks.here(),
            )
            with self.meter():
                self.metrics |= accumulate_last_of(
                    self.objective.updates_per_rollout, accumulate, rollout, with_kl=with_kl, step=self._step_within
                )
            self.metrics |= self.meter.metrics()
        self.metrics |= clipped_step(optimizer, schedule, self.adapter.trainable(), self.settings.clip_norm)
        self.metrics |= change_statistics(self.adapter)

    def _step_within(self) -> None:
        """A step between two updates on one rollout: the trainer and the schedule count only the last."""
        inside = self.the_optimizer.optimizer
        clipped_step(inside, None, self.adapter.trainable(), self.settings.clip_norm)
        inside.zero_grad()

    def _warn_if_flat(self, rollout: Rollout) -> None:
        self.flat_steps = 0 if bool((rollout.advantages != 0).any()) else self.flat_steps + 1
        if self.flat_steps and self.flat_steps % FLAT_STEPS_BEFORE_WARNING == 0:
            warn_of_flat_steps(self.flat_steps, rollout, members=isinstance(self.objective, PopulationObjective))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the identity that a resumed run has to match, and counters and random states."""
        checkpoint["t2"] = identity_of(self.lm, self.adapter) | {
            "flat_steps": self.flat_steps,
            "generated_tokens": self.generated_tokens,
            "seconds": self.phases.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "ahead": self.ahead.states if self.ahead is not None else {},
        }

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Raise ValueError where the checkpoint is of another model or adapter."""
        saved = checkpoint.get("t2")
        check_identity(saved, identity_of(self.lm, self.adapter))
        assert saved is not None, "it was checked"
        self.flat_steps, self.generated_tokens = saved["flat_steps"], saved["generated_tokens"]
        self.phases.load_state_dict(saved["seconds"])
        torch.set_rng_state(saved["torch_rng"])
        if self.ahead is not None:
            self.ahead.states = dict(saved["ahead"])
