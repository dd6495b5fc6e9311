"""What a training run needs, before anything is downloaded: python estimate.py [what follows train.py] gpu=h100

Printed are bytes by part and phase, seconds by phase, disk, which GPU they fit, and where they do not, what to change.
"""

from __future__ import annotations

import copy
from typing import Any

from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel

from t2.cli.estimate_parts import adapter_of, gpu_of, model_on_meta, placement_of, run_of, shape_under
from t2.cli.main import run
from t2.costs.estimate import IN_PHASE, PHASES, Estimate, estimate
from t2.costs.gpus import GPU, gpus
from t2.evaluation.table import Table
from t2.models.sharding import BALANCED
from t2.run.fetch import cache_root

TIGHT = 0.9  # of the memory, beyond which an estimate cannot promise that a run fits
CHANGES = (
    "base_model.dtype=bfloat16",
    "base_model.quantization=int8 adapter.spectrum=top adapter.rank=16",
    "base_model.quantization=nf4 adapter.spectrum=top adapter.rank=16",
    "recompute_activations=true",
    "generation.mode=factored",
    "generation.batch_rows=16",
    "adapter.layers=0.5",
    "adapter.modules=mlp",
    "adapter.spectrum=top adapter.rank=16",
    "adapter.spectrum=top adapter.rank=16 recompute_activations=true",
    "adapter.spectrum=top adapter.rank=16 recompute_activations=true generation.batch_rows=16",
    "trainer.strategy=fsdp trainer.devices=2",
    "trainer.strategy=fsdp trainer.devices=8 recompute_activations=true",
)  # that need less memory, as they are typed


def show_estimate(cfg: DictConfig) -> dict[str, Estimate]:
    """Print what the run needs; returns it by the name of the processor.

    Raises:
        ValueError, OSError: what is chosen cannot be estimated, or the model's sizes cannot be read.
    """
    if cfg.resume:
        raise ValueError(
            "resume is given, and estimated is a new run: give what its command line gave, without resume."
        )
    model, where = model_on_meta(cfg.base_model)
    gpu = gpu_of(cfg)
    adapter = adapter_of(cfg)
    shape = shape_under(model, adapter)
    wanted = gpus().values() if gpu is None else [gpu]
    found = {one.name: estimate(shape, run_of(cfg, adapter, one, model.config), one) for one in wanted}
    shown = next(iter(found.values()))
    print(about(cfg, model, where))
    print(f"\n{memory_table(shown).text()}")
    print(f"\nDisk, GB: {', '.join(f'{part} {count / 1e9:.2f}' for part, count in shown.disk.items() if count)}")
    print(f"Decompositions, what is converted and files out of wheels lie in {cache_root()} (T2_CACHE).")
    if gpu is None:
        print(f"\nNo GPU is named (gpu=h100) and none is here. Of the table:\n{gpus_table(found, cfg).text()}")
        return found
    print(f"\n{seconds_table(shown, cfg, gpu).text()}\n\n{verdict(shown, gpu)}")
    for warning in warnings(cfg, gpu):
        print(warning)
    if shown.needed > TIGHT * gpu.memory_bytes:
        print(f"\nLess memory, each with what is typed now:\n{changes(cfg, model, gpu).text()}")
    return found


def of(cfg: DictConfig, model: PreTrainedModel, gpu: GPU) -> Estimate:
    """The estimate of a configuration on a processor."""
    adapter = adapter_of(cfg)
    return estimate(shape_under(model, adapter), run_of(cfg, adapter, gpu, model.config), gpu)


def about(cfg: DictConfig, model: PreTrainedModel, where: str) -> str:
    """What is estimated, and what is assumed."""
    adapter = adapter_of(cfg)
    shape, place = shape_under(model, adapter), placement_of(cfg)
    name = cfg.base_model.get("source", type(model).__name__)
    learned = run_of(cfg, adapter, next(iter(gpus().values())), model.config).work
    count = sum(map(learned.learned, shape.adapted))
    several = f", {place.machines} x {place.gpus} GPUs ({place.way})" if place.gpus * place.machines > 1 else ""
    packed = "" if learned.quantization == "none" else f", weights in {learned.quantization}"
    return (
        f"{name}: {shape.parameters / 1e9:.2f} billion numbers in {cfg.base_model.get('dtype', 'float32')}{packed}"
        f"{several}. Sizes: {where}.\n"
        f"Adapted: {len(shape.adapted)} matrices, {count:,} learned numbers.\n"
        f"A step: {learned.prompts} prompts of {learned.prompt_tokens} tokens (prompt_tokens, assumed) with "
        f"{learned.samples} samples of {learned.new_tokens} new tokens, the most that they may be."
    )


def memory_table(shown: Estimate) -> Table:
    """GB by part and phase."""
    others = {name for names in IN_PHASE.values() for name in names}
    rows = []
    for part, count in shown.parts.items():
        if count:
            there = [part not in others or part in IN_PHASE[phase] for phase in PHASES]
            rows.append([part, *(_gb(count) if is_there else "" for is_there in there)])
    rows.append(["together", *(_gb(shown.phases[phase]) for phase in PHASES)])
    return Table(["GB of each device", *PHASES], rows)


def seconds_table(shown: Estimate, cfg: DictConfig, gpu: GPU) -> Table:
    """Seconds by phase, of which those of a run are the last."""
    per = {"decomposition": "once per model", "step": "of all three", "validations": "all of a run"}
    per["run"] = f"{cfg.steps} steps"
    return Table(
        [f"seconds ({gpu.name})", "", ""],
        [[name, f"{s:,.2f}" if s < 100 else f"{s:,.0f}", per.get(name, "")] for name, s in shown.seconds.items()],
    )


def verdict(shown: Estimate, gpu: GPU) -> str:
    """Whether it fits."""
    share = shown.needed / gpu.memory_bytes
    phase = max(shown.phases, key=lambda name: shown.phases[name])
    said = "It fits" if share <= TIGHT else "It may fit, barely" if share <= 1 else "It does not fit"
    return (
        f"{said}: {_gb(shown.needed)} of {gpu.memory_bytes / 1e9:.0f} GB ({share:.0%}) of {gpu.name}, the most in "
        f"{phase}."
    )


def warnings(cfg: DictConfig, gpu: GPU) -> list[str]:
    """What the processor does not do as it is configured."""
    found = []
    if cfg.gpu is not None and cfg.base_model.get("device") == "cpu":
        found.append(f"base_model.device is cpu: add base_model.device=cuda for {gpu.name}.")
    if cfg.base_model.get("dtype") == "bfloat16" and not gpu.has_bfloat16:
        found.append(f"{gpu.name} has no bfloat16: set base_model.dtype=float16.")
    return found


def changes(cfg: DictConfig, model: PreTrainedModel, gpu: GPU) -> Table:
    """What may be added to the command line, what it then needs, and whether that fits."""
    rows = []
    now = of(cfg, model, gpu)
    for words in CHANGES:
        try:
            other = of(changed(cfg, words), model, gpu)
        except ValueError:  # a combination that is refused is no advice
            continue
        if other.needed < 0.99 * now.needed:
            fits = "fits" if other.needed <= TIGHT * gpu.memory_bytes else ""
            rows.append([_typed(words), _gb(other.needed), f"{other.seconds['step']:,.1f}", fits])
    return Table(["add", "GB", "s a step", ""], rows)


def changed(cfg: DictConfig, words: str) -> DictConfig:
    """The configuration with further overrides; ValueError for one that it has already."""
    other: DictConfig = copy.deepcopy(cfg)
    before: Any = [OmegaConf.select(cfg, word.partition("=")[0]) for word in words.split()]
    if all(str(value).lower() == word.partition("=")[2] for value, word in zip(before, words.split(), strict=True)):
        raise ValueError(f"{words} is what there is.")
    for word in words.split():
        key, _, value = word.partition("=")
        OmegaConf.update(other, key, OmegaConf.create(f"value: {value}").value, force_add=True)
    if other.trainer.get("strategy") == "fsdp" and other.base_model.get("device") == BALANCED:
        other.base_model.device = "cuda"
    return other


def gpus_table(found: dict[str, Estimate], cfg: DictConfig) -> Table:
    """Each GPU of the table: whether the run fits, and its seconds."""
    rows = []
    for gpu in gpus().values():
        one = found[gpu.name]
        share = one.needed / gpu.memory_bytes
        fits = "fits" if share <= TIGHT else "barely" if share <= 1 else "no"
        about_time = [f"{one.seconds['step']:,.1f}", f"{one.seconds['run'] / 60:,.0f}"] if share <= 1 else ["", ""]
        rows.append([gpu.name, f"{gpu.memory_bytes / 1e9:.0f}", _gb(one.needed), fits, *about_time])
    return Table(["GPU", "GB", "needed", "", "s a step", f"minutes of {cfg.steps} steps"], rows)


def _typed(words: str) -> str:
    return words.replace("trainer.strategy=fsdp", "trainer=fsdp")


def _gb(count: float) -> str:
    return f"{count / 1e9:,.2f}" if count < 1e11 else f"{count / 1e9:,.0f}"


if __name__ == "__main__":
    run("estimate")
