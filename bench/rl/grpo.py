"""TRL's side of bench/rl_step.py: `GRPOTrainer` with PEFT's LoRA, its phases timed; the only file that imports trl.

TRL generates once per optimizer step here (its steps per generation are the accumulated micro-batches), so it computes
no log-probs of an older policy. Its trainer reports no end of a rollout: two of its methods are wrapped.
"""

from __future__ import annotations

import tempfile
from typing import Any

from step_systems import lora_config
from transformers import PrinterCallback, TrainerCallback

from rl.job import SEED, Grading, Job, Meter
from t2.models.language_model import LanguageModel
from t2.types import Example


class TRLTimer(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Runs the meter around each optimizer step with its gradient accumulation."""

    def __init__(self, meter: Meter) -> None:
        """Keep the meter."""
        self.meter = meter

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.meter.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.meter.end()


def run_trl(lm: LanguageModel, grading: Grading, job: Job, meter: Meter) -> int:
    """Train with TRL for all steps of the job; returns the number of trainable parameters."""
    from datasets import Dataset
    from trl import GRPOTrainer

    def reward(completions: list[Any], index: list[int], **_: Any) -> list[float]:
        texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
        return [grading.score(grading.examples[i], text) for i, text in zip(index, texts, strict=True)]

    def generate_and_note(prompts: list[Any]) -> Any:
        found = generate(prompts)
        for prompt, completion in zip(found[0], found[1], strict=True):
            meter.completed(prompt, len(completion))
        return found

    longest = max(len(lm.encode(example)) for example in grading.examples) + job.new_tokens
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=lm.model,
            processing_class=lm.tokenizer,
            reward_funcs=reward,
            train_dataset=Dataset.from_list([_row(lm, one) | {"index": i} for i, one in enumerate(grading.examples)]),
            peft_config=lora_config(lm, "all", task_type="CAUSAL_LM"),
            args=_settings(job, longest, folder),
            callbacks=[TRLTimer(meter)],
        )
        trainer.remove_callback(PrinterCallback)
        generate = meter.charging("rollout", trainer._generate)
        trainer._generate = generate_and_note
        trainer._calculate_rewards = meter.charging("reward", trainer._calculate_rewards)
        trainer.train()
    return sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)


def _settings(job: Job, longest: int, folder: str) -> Any:
    """The job in TRL's terms; `longest` is the number of tokens of the longest row."""
    from trl import GRPOConfig

    rows = job.prompts * job.samples
    fitting = [n for n in range(1, rows + 1) if rows % n == 0 and n * longest <= job.micro_batch_tokens]
    micro = max(fitting, default=1)
    return GRPOConfig(
        output_dir=folder,
        max_steps=job.all_steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rows // micro,  # also the steps of one generation: the whole batch
        num_generations=job.samples,
        num_iterations=1,
        beta=0.0,
        max_completion_length=job.new_tokens,
        generation_kwargs={"min_new_tokens": job.new_tokens},
        temperature=1.0,
        mask_truncated_completions=False,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
    )


def _row(lm: LanguageModel, example: Example) -> dict[str, Any]:
    """The example as a conversation, which TRL puts into the chat template as t2 does.

    One whose answer is begun is the text that t2 reads: TRL begins no answer. `Meter.check` compares the tokens.
    """
    if example.response_prefix:
        tokens = lm.encode(example)
        added = lm.tokenizer("")["input_ids"]  # such as one for the beginning of a text
        return {"prompt": lm.tokenizer.decode(tokens[len(added) :] if tokens[: len(added)] == added else tokens)}
    system = [] if example.system is None else [{"role": "system", "content": example.system}]
    return {"prompt": [*system, {"role": "user", "content": example.prompt}]}
