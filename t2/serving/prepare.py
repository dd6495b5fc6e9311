"""Checks what only this model can say of a request: its name, the lengths, and the mixture.

Not done here: what no model could answer (`t2.serving.requests`).
"""

from __future__ import annotations

import random
from dataclasses import replace

from t2.adaptation.strategy import Strategy
from t2.experts.mixture import Mixture
from t2.models.language_model import PromptTooLong
from t2.serving.answering import Answering
from t2.serving.catalog import Catalog, UnknownModel
from t2.serving.engine import Engine
from t2.serving.errors import APIError
from t2.serving.job import Ask
from t2.serving.requests import ChatRequest, CompletionRequest
from t2.serving.responses import Writer
from t2.serving.settings import Settings
from t2.types import LOWEST_TEMPERATURE, Example, Sampling


def prepare(
    request: ChatRequest | CompletionRequest, catalog: Catalog, engine: Engine, settings: Settings
) -> Answering:
    """A request, ready to be submitted.

    Raises:
        APIError: 404 for an unknown model, 413 for too many tokens, 400 for anything else that is wrong.
    """
    by = _by(request, catalog)
    samples = request.n or 1
    if samples > settings.max_concurrent:
        raise APIError(
            400, f"n: is {samples}; allowed: 1 to {settings.max_concurrent}", code="invalid_value", param="n"
        )
    chat = isinstance(request, ChatRequest)
    try:
        examples = [request.example] if isinstance(request, ChatRequest) else request.examples
        prompts = [_encode(example, catalog, chat=chat) for example in examples]
    except PromptTooLong as error:
        raise APIError(413, str(error), code="context_length_exceeded") from error
    except ValueError as error:
        raise APIError(400, str(error), code="invalid_value", param="messages" if chat else "prompt") from error
    if len(prompts) > (most := max(settings.max_waiting, 1)):  # they would fill the queue by themselves
        raise APIError(400, f"prompt: has {len(prompts)}; allowed: 1 to {most}", code="invalid_value", param="prompt")
    if len(prompts) > 1 and request.stream:
        raise APIError(400, "prompt: a stream has one; allowed with stream=false: several", code="invalid_value")
    asked = request.max_tokens
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        asked = request.max_completion_tokens
    sampling = Sampling(
        max_new_tokens=1,
        temperature=_temperature(request.temperature),
        top_p=1.0 if request.top_p is None else request.top_p,
        samples=samples,
        stop=request.stops,
    )
    asks = []
    for example, ids in zip(examples, prompts, strict=True):
        new_tokens = _new_tokens(len(ids), asked, catalog, settings)
        seed = random.getrandbits(32) if request.seed is None else request.seed  # unless given, of each prompt its own
        asks.append(Ask(example, ids, replace(sampling, max_new_tokens=new_tokens, seed=seed), by))
    usage = request.stream_options is not None and request.stream_options.include_usage
    writer = Writer(chat, request.model, log_probs=isinstance(request, ChatRequest) and bool(request.logprobs))
    return Answering(catalog, engine, settings, asks, writer, include_usage=usage)


def _by(request: ChatRequest | CompletionRequest, catalog: Catalog) -> Mixture | Strategy:
    try:
        by = catalog.find(request.model)
    except UnknownModel as error:
        raise APIError(404, str(error), code="model_not_found", param="model") from error
    if request.t2 is None or request.t2.mixing_weights is None:
        return by
    try:
        return catalog.mixture(request.t2.mixing_weights)
    except ValueError as error:
        raise APIError(400, str(error), code="invalid_value", param="t2.mixing_weights") from error


def _encode(example: Example, catalog: Catalog, *, chat: bool) -> tuple[int, ...]:
    """The prompt's ids: of a chat by the model's template, else of the text as it stands."""
    if chat:
        return tuple(catalog.lm.encode(example))
    return tuple(catalog.lm.tokenizer(example.prompt)["input_ids"])


def _new_tokens(prompt: int, asked: int | None, catalog: Catalog, settings: Settings) -> int:
    """How many tokens a completion may have: as many as were asked for, else what limit and context leave.

    Raises:
        APIError: 413 where that is more than the limits allow.
    """
    context, longest = catalog.lm.context_length, settings.max_completion_tokens
    most = context - 1 if settings.max_prompt_tokens is None else settings.max_prompt_tokens
    if prompt > min(most, context - 1):
        raise APIError(
            413,
            f"The prompt has {prompt} tokens; allowed: at most {min(most, context - 1)}. Shorten it.",
            code="context_length_exceeded",
        )
    if asked is None:
        return min(longest, context - prompt)
    if asked > longest or prompt + asked > context:
        raise APIError(
            413,
            f"The prompt has {prompt} tokens and {asked} are asked for; allowed: {longest} new ones, and {context} "
            "together. Lower max_tokens, or shorten the prompt.",
            code="context_length_exceeded",
            param="max_tokens",
        )
    return asked


def _temperature(asked: float | None) -> float:
    """The temperature of a request, 1 if none is given; greedy where vLLM is."""
    if asked is None:
        return 1.0
    return asked if asked >= LOWEST_TEMPERATURE else 0.0
