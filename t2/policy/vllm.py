"""Generation with a vLLM engine in this process.

The engine loads the base model once. Before generating it is sent the adapter's merged weights
(`t2.policy.vllm_weights`) through vLLM's own reload path: writing its parameters directly fails where a kernel has
repacked them. Settings and the engine itself are in `t2.policy.vllm_engine`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from t2.adapters.base import Adapter
from t2.models.language_model import LanguageModel
from t2.policy.generator import Weights
from t2.policy.vllm_engine import Engine, EngineSettings, check_installed, get_engine
from t2.policy.vllm_weights import complete_weights, modules_of, same_state
from t2.run.messages import check_choice
from t2.types import Completion, Example, Sampling


class VLLMGenerator:
    """Generates with a vLLM engine, under the adapter's merged weights (`weights="adapted"`) or the base's."""

    def __init__(
        self,
        lm: LanguageModel,
        adapter: Adapter | None = None,
        *,
        weights: Weights = "adapted",
        engine: EngineSettings | None = None,
    ) -> None:
        """Check that vLLM is there; the engine is built at the first call, or taken over where one runs already.

        Raises:
            ImportError: vLLM is not installed.
            ValueError: the model has no files that vLLM could load, or `weights` is not one of adapted and base.
        """
        check_choice("weights", weights, get_args(Weights))
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
        return [done[index] for index in range(len(examples))]

    def stream(self, examples: Sequence[Example], sampling: Sampling) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (index, G completions) of each example as soon as its last completion ends.

        Raises:
            ValueError: as for `generate`.
        """
        check_request(examples, sampling, "generation=vllm")
        engine = get_engine(self.lm, self.settings)
        prompts = encoded(self.lm, examples, sampling, engine.max_length, "raise generation.engine.max_length")
        self._follow(engine)
        from vllm import SamplingParams

        requests = engine.llm.enqueue(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            [SamplingParams(**request_parameters(sampling, self.lm, index)) for index in range(len(prompts))],
            use_tqdm=False,
        )
        # Outputs are named without the suffix that vLLM adds to tell equal names apart.
        index_of = {request.partition("-")[0]: index for index, request in enumerate(requests)}
        try:
            while engine.llm.llm_engine.has_unfinished_requests():
                for output in engine.llm.llm_engine.step():
                    if output.finished:
                        index = index_of.pop(output.request_id)
                        samples = sorted(output.outputs, key=lambda sample: int(sample.index))
                        yield index, [_completion(prompts[index], sample, sampling) for sample in samples]
        finally:  # whoever takes no more leaves requests, whose outputs the next call would get
            engine.llm.llm_engine.abort_request(list(index_of))
            if engine.settings.sleep:
                engine.llm.sleep(level=1)
                engine.asleep = True

    def _follow(self, engine: Engine) -> None:
        """Send the engine the weights of the adapter's present state, unless it has them."""
        if engine.asleep:
            engine.llm.wake_up()
            engine.asleep = False
        adapter = None if self.weights == "base" else self.adapter
        wanted = None if adapter is None else adapter.state() if self._state is None else dict(self._state)
        if engine.is_known and same_state(engine.state, wanted):
            return
        modules = modules_of(self.adapter, (wanted or {}).keys())
        weights = complete_weights(self.lm, modules | engine.changed, adapter, self._state)
        engine.is_known, engine.changed = False, modules | engine.changed
        engine.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        engine.llm.reset_prefix_cache()
        engine.state, engine.changed, engine.is_known = wanted, modules, True


def check_request(examples: Sequence[Example], sampling: Sampling, name: str) -> None:
    """Raise ValueError for what no vLLM engine of t2 does; `name` is the generator's in the message."""
    if sampling.top_p < 1.0:
        raise ValueError(
            f"sampling.top_p={sampling.top_p}: vLLM then reports log-probs of the cut distribution, and t2 keeps "
            "those of the full one. Use top_p=1, or generation=hf."
        )
    if any(example.images for example in examples):
        raise ValueError(f"{name} takes text only, and an example has an image. Use generation=hf.")


def encoded(
    lm: LanguageModel, examples: Sequence[Example], sampling: Sampling, max_length: int, instead: str
) -> list[tuple[int, ...]]:
    """The token ids of each prompt; ValueError where one and its completion do not fit, and what to do `instead`."""
    prompts = [tuple(lm.encode(example, reserve=sampling.max_new_tokens)) for example in examples]
    longest = max(map(len, prompts), default=0) + sampling.max_new_tokens
    if longest > max_length:
        raise ValueError(
            f"A prompt and its completion may take {longest} tokens and the vLLM engine was built for {max_length}; "
            f"{instead} or lower sampling.max_new_tokens."
        )
    return prompts


def request_parameters(sampling: Sampling, lm: LanguageModel, index: int) -> dict[str, Any]:
    """The arguments of vLLM's `SamplingParams` for the prompt with this number in its batch."""
    return {
        "n": sampling.samples,
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_new_tokens,
        "stop": list(sampling.stop),
        "stop_token_ids": sorted(lm.end_ids),
        "logprobs": 0,  # of the sampled token alone
        # vLLM adds the sample's number, and torch's generators end at 64 bits.
        "seed": (sampling.seed * 1_000_003 + index * sampling.samples) % (2**63 - 2**20),
        "skip_special_tokens": True,
    }


def completion_of(
    prompt: tuple[int, ...],
    tokens: Sequence[int],
    log_probs: Sequence[float],
    text: str,
    reason: str | None,
    sampling: Sampling,
) -> Completion:
    """A completion as vLLM tells of it: `reason` is why it ended, and `text` is cut at stop strings."""
    cuts = [text.index(word) for word in sampling.stop if word in text]
    finish: Literal["stop", "length"] = "stop" if reason == "stop" else "length"
    return Completion(
        prompt_ids=prompt,
        token_ids=tuple(tokens),
        log_probs=tuple(log_probs),
        text=text[: min(cuts)] if cuts else text,
        finish=finish,
    )


def _completion(prompt: tuple[int, ...], output: Any, sampling: Sampling) -> Completion:
    log_probs = [step[token].logprob for token, step in zip(output.token_ids, output.logprobs, strict=True)]
    return completion_of(prompt, output.token_ids, log_probs, output.text, output.finish_reason, sampling)
