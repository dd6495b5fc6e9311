"""From a configuration of train.py to the plain settings of `t2.costs`; what cannot be estimated is refused here."""

from __future__ import annotations

import math
from typing import Any

from hydra.utils import get_method, instantiate
from omegaconf import DictConfig
from transformers import PretrainedConfig, PreTrainedModel

from t2.adapters.svf import SVF
from t2.costs.configurations import configuration
from t2.costs.estimate import Run
from t2.costs.gpus import GPU, cpu_at_hand, find_gpu, gpu_at_hand
from t2.costs.placement import Placement, Way
from t2.costs.shapes import ModelShape, on_meta, shape_of
from t2.costs.step import Work
from t2.models.loading import load_model
from t2.models.precision import Precision, is_half, parse_dtype
from t2.models.quantized_checkpoints import method_of
from t2.models.sharding import BALANCED
from t2.policy.vllm import VLLMGenerator
from t2.policy.vllm_server import VLLMServerGenerator
from t2.run.configuration.trainer import DIVIDED, FSDP
from t2.training.es import ES

BALANCED_GPUS = 8  # where nothing says how many
ASSUMED_EXAMPLES = 100  # of a validation, where neither the command line nor the task says how many


def model_on_meta(base_model: DictConfig) -> tuple[PreTrainedModel, str]:
    """The model of `base_model` without its numbers, and in words where its sizes were read.

    Raises:
        ValueError, OSError: as of `t2.costs.configurations.configuration`.
    """
    if get_method(base_model._target_) is not load_model:
        dense = {"quantization": "none"} if "quantization" in base_model else {}
        model: PreTrainedModel = instantiate(base_model, device="cpu", **dense).model
        return model, "the model, which is made in memory"
    config, where = configuration(base_model.source, base_model.get("sha256"))
    return on_meta(config), where


def adapter_of(cfg: DictConfig) -> SVF:
    """The adapter, not yet in a model; ValueError unless it is SVF."""
    adapter = instantiate(cfg.adapter)
    if not isinstance(adapter, SVF):
        raise ValueError(
            f"adapter is {type(adapter).__name__}; estimated is SVF (adapter=svf, adapter=svf_top16). The weights, the "
            "cache and the logits are the same with another adapter, and its factors are fewer."
        )
    return adapter


def shape_under(model: PreTrainedModel, adapter: SVF) -> ModelShape:
    """The sizes of a model with the adapter's choice of matrices.

    Raises:
        ValueError: it chooses none, or more singular values than a matrix has.
    """
    shape = shape_of(model, adapter.modules_spec, adapter.layers_spec)
    adapter.spectrum.check({f"a matrix of {size[0]} x {size[1]}": min(size) for size in shape.adapted})
    return shape


def gpu_of(cfg: DictConfig) -> GPU | None:
    """The processor that is named, or the one at hand; None where the configuration wants a GPU and none is here."""
    if cfg.gpu is not None:
        return find_gpu(str(cfg.gpu))
    device = str(cfg.base_model.get("device", "cpu"))
    if device == "cpu":
        return cpu_at_hand()
    there = gpu_at_hand()
    return cpu_at_hand() if there is None and device == "auto" else there


def _precision(cfg: DictConfig) -> Precision:
    """The dtypes of the run; ValueError where they depend on the machine that it runs on."""
    if cfg.generation.get("dtype") == "auto":
        raise ValueError(
            "generation.dtype is auto, which is decided where a run is; an estimate may be of another machine. Give "
            "bfloat16 or null."
        )
    return Precision.of(cfg.base_model, cfg.generation, cfg.trainer)


def _check_dense(config: PretrainedConfig) -> None:
    if (method := method_of(config)) not in (None, "mxfp4"):  # which is made dense
        raise ValueError(
            f"The checkpoint is quantized ({method}), which is not estimated. Take the source of the dense one, with "
            "base_model.quantization=nf4 for 4 bits a number or int8 for 8."
        )


def run_of(cfg: DictConfig, adapter: SVF, gpu: GPU, config: PretrainedConfig) -> Run:
    """The settings of a run, plainly.

    Raises:
        ValueError: settings that contradict each other.
    """
    _check_dense(config)
    objective, sampling = instantiate(cfg.objective), instantiate(cfg.sampling, stop=())
    precision = _precision(cfg)
    population = isinstance(objective, ES)
    placement = placement_of(cfg)
    number_bytes = 2 if is_half(parse_dtype(precision.model)) else 4
    merges = precision.merges and placement.way != "fsdp" and not population
    rollout = number_bytes if precision.rollout_dtype is None else 2 if precision.rollout_dtype != "float32" else 4
    generator = get_method(cfg.generation._target_)
    work = Work(
        prompts=cfg.prompts_per_step,
        samples=sampling.samples,
        prompt_tokens=cfg.prompt_tokens,
        new_tokens=sampling.max_new_tokens,
        micro_batch_tokens=max(cfg.micro_batch_tokens, cfg.prompt_tokens + sampling.max_new_tokens),
        batch_rows=cfg.generation.get("batch_rows", 64),
        rank=adapter.spectrum.rank,
        share=None if adapter.spectrum.name == "energy" else adapter.spectrum.share,
        number_bytes=number_bytes,
        merged_bytes=rollout if merges else None,
        recompute=cfg.recompute_activations,
        shared=cfg.share_prompts,
        quantization=precision.quantization,
    )
    source = str(cfg.base_model.get("source", ""))
    return Run(
        work=work,
        placement=placement,
        steps=cfg.steps,
        updates=getattr(objective, "updates_per_rollout", 1),
        members=objective.population_size if population else 1,
        samples_rollouts=objective.on_policy,
        has_backward=not population,
        has_reference=objective.kl_coefficient > 0,
        validations=1 + math.ceil(cfg.steps / _validation(cfg).get("every", cfg.steps)),
        validation_rows=_validation(cfg).get("limit") or _validation_examples(cfg),
        validation_tokens=cfg.task.get("max_new_tokens"),
        top_alone=adapter.spectrum.name == "top" and adapter.decomposition == "auto",
        engine_bytes=_engine(cfg.generation, gpu) if generator is VLLMGenerator else 0.0,
        is_remote=generator is VLLMServerGenerator,
        file_bytes=0.6 if source.endswith(".gguf") else _file_bytes(config),
        converts=source.endswith(".gguf"),
        keeps_decompositions=adapter.cache,
    )


def _validation(cfg: DictConfig) -> Any:
    return cfg.callbacks.get("validation") or {}


def _validation_examples(cfg: DictConfig) -> int:
    return int(cfg.validation_examples or cfg.task.get("val_size") or ASSUMED_EXAMPLES)


def placement_of(cfg: DictConfig) -> Placement:
    """On how many GPUs, and how."""
    devices: Any = cfg.devices
    if cfg.trainer.get("strategy") in DIVIDED:
        way: Way = "fsdp" if cfg.trainer.strategy == FSDP else "ddp"
        return Placement(way, cfg.trainer.get("num_nodes", 1), devices or cfg.trainer.devices)
    if cfg.base_model.get("device") == BALANCED:
        return Placement("balanced", 1, devices or BALANCED_GPUS)
    if devices not in (None, 1):
        raise ValueError(
            f"devices is {devices}, and one process on one device trains: add trainer=ddp, trainer=fsdp or "
            "base_model.device=balanced, which say how several are used."
        )
    return Placement()


def _engine(generation: DictConfig, gpu: GPU) -> float:
    """Bytes that a vLLM engine takes for itself on a GPU; on a CPU its cache."""
    engine = generation.engine
    return float(engine.cpu_cache_gib * 2**30 if gpu.is_cpu else engine.memory_share * gpu.memory_bytes)


def _file_bytes(config: PretrainedConfig) -> float:
    """Bytes of a number in the model's files; 2 where its configuration does not say."""
    return 4.0 if str(getattr(config, "dtype", None)) == "torch.float32" else 2.0
