"""A training step of a mixture of experts: SVF on the experts' matrices against PEFT's LoRA on the same parameters.

    python bench/moe_step.py                       a Qwen3-MoE of 0.1B random weights
    python bench/moe_step.py hidden=1024 layers=12 experts=16 width=768     0.5B

Forward and backward of one micro-batch on the CPU, the systems by turns, in seconds of this process, which other
processes do not add to. Not done here: rollouts, dense models (`bench/step.py`).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from t2.adapters.svf import SVF

SHAPE = {
    "hidden": 512,
    "layers": 4,
    "experts": 16,
    "width": 384,
    "per_token": 4,
    "tokens": 1024,
    "rank": 16,
    "turns": 7,
}
EXPERTS = r".*experts\.(gate_up|down)_proj"


def model_of(shape: dict[str, int]) -> nn.Module:
    """A random Qwen3-MoE, frozen."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3_moe",
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_experts=shape["experts"],
        num_experts_per_tok=shape["per_token"],
        moe_intermediate_size=shape["width"],
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=shape["hidden"] // 8,
        vocab_size=1024,
    )
    model: nn.Module = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    return model


def svf_of(shape: dict[str, int], rank: int | None) -> tuple[nn.Module, list[nn.Parameter]]:
    """The model with SVF on its experts, of the `rank` largest singular values or of all."""
    model = model_of(shape)
    part = {} if rank is None else {"spectrum": "top", "rank": rank}
    svf = SVF(EXPERTS, cache=False, progress=False, **part)  # type: ignore[arg-type]
    svf.inject(model, "bench")
    return model, svf.trainable()


def lora_of(shape: dict[str, int], rank: int) -> tuple[nn.Module, list[nn.Parameter]]:
    """The model with PEFT's LoRA on the same parameters."""
    from peft import LoraConfig, get_peft_model

    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    model = get_peft_model(model_of(shape), LoraConfig(r=rank, target_modules=[], target_parameters=targets))
    return model, [parameter for parameter in model.parameters() if parameter.requires_grad]


def step_of(model: nn.Module, learned: list[nn.Parameter], ids: Tensor) -> Callable[[], None]:
    """A function that takes the gradients of one micro-batch."""

    def step() -> None:
        for parameter in learned:
            parameter.grad = None
        model(input_ids=ids).logits.square().mean().backward()

    return step


def main(arguments: list[str]) -> None:
    """Measure, and print seconds and what they are to LoRA's."""
    given = dict(one.split("=") for one in arguments)
    shape = SHAPE | {key: int(value) for key, value in given.items()}
    unknown = sorted(shape.keys() - SHAPE.keys())
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no setting; allowed: {', '.join(SHAPE)}.")
    ids = torch.randint(1024, (4, shape["tokens"] // 4), generator=torch.Generator().manual_seed(0))
    rank = shape["rank"]
    systems = {
        f"LoRA r={rank}": lora_of(shape, rank),
        f"SVF top {rank}": svf_of(shape, rank),
        "SVF all": svf_of(shape, None),
    }
    steps = {name: step_of(model, learned, ids) for name, (model, learned) in systems.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(shape["turns"] + 1):
        for name, step in steps.items():
            begun = time.process_time()
            step()
            if turn:  # the first warms up
                seconds[name].append(time.process_time() - begun)
    first = next(iter(seconds))
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, seconds[first], strict=True))
        count = sum(number.numel() for number in systems[name][1])
        print(f"{name:12} {statistics.median(values):7.3f} CPU s   {ratio:5.2f} of LoRA   {count:10,} numbers")


if __name__ == "__main__":
    main(sys.argv[1:])
