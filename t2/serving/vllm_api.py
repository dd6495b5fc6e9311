"""What t2 asks of a vLLM server while it serves: completions of token ids, LoRAs by name, and whether it is the model.

It speaks vLLM's part of OpenAI's API, so that any `vllm serve` will do. Prompts go as token ids and answers come as
token ids with log-probs: text is made here, as for every backend. Not done here: which LoRA a mixture is
(`t2.serving.vllm_loras`), starting a server (`t2.serving.vllm_process`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import torch
from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI, DefaultAsyncHttpxClient

from t2.models.language_model import LanguageModel
from t2.serving.job import Ask, Token
from t2.types import Example, FinishReason

# Nats per token: bfloat16 moves log-probs by some hundredths, another model, or one fine-tuned, by tenths and more.
SAME_MODEL = 0.1
PROBE = Example("Explain in one sentence why the sky is blue, and how you would measure that 7 + 8 = 15.")
ENDS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class Unavailable(Exception):
    """The server is gone, or refuses what is no request's fault."""


class VLLMAPI:
    """One server; `start` is a command that starts such a server, for messages."""

    def __init__(self, url: str, *, key: str | None, timeout_s: float, start: str, transport: Any = None) -> None:
        """Nothing is sent. `url` is without /v1; `transport` replaces the network, for tests."""
        self.url, self.start = url.rstrip("/"), start
        # Proxies are for what lies outside of a cluster.
        http = DefaultAsyncHttpxClient(transport=transport, trust_env=False)
        self._api = AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key=key or "none", max_retries=0, timeout=timeout_s, http_client=http
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._api.close()

    async def check(self, source: str, ids: Sequence[int], ours: Sequence[float]) -> tuple[str, int]:
        """The base model's name there, and the tokens that a prompt and its completion may have.

        `ours` are the log-probs of `ids`, but for the first, by the base model that it should have.

        Raises:
            ConnectionError: it cannot be reached.
            ValueError: it is no vLLM server, or its model gives other log-probs.
        """
        try:
            listed = await self._api.get("/models", cast_to=object)  # anything, of what may be no vLLM server
            found: list[dict[str, Any]] = (listed.get("data") if isinstance(listed, dict) else None) or []
            base = next((one for one in found if one.get("parent") is None and "max_model_len" in one), None)
            if base is None:
                raise ValueError(f"{self.url} is no vLLM server. Give the address of one, started with: {self.start}")
            theirs = await self._log_probs(base["id"], ids)
        except APIStatusError as error:
            raise ValueError(f"{self._refusal(error)} Start it with: {self.start}") from None
        except APIError as error:
            raise ConnectionError(self._gone(error)) from None
        apart = sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / len(ours)
        if not apart <= SAME_MODEL:  # nor NaN
            raise ValueError(
                f"The vLLM server at {self.url} has another model ({base['id']}) than base_model.source={source}: "
                f"their log-probs differ by {apart:.2f} per token (allowed: {SAME_MODEL}). Start it with: {self.start}"
            )
        return str(base["id"]), int(base["max_model_len"])

    async def load(self, name: str, folder: str) -> None:
        """Have it know the LoRA in a folder by a name.

        Raises:
            Unavailable: it does not.
        """
        await self._lora("load", {"lora_name": name, "lora_path": folder})

    async def unload(self, name: str) -> None:
        """Have it forget a LoRA; Unavailable where it does not."""
        await self._lora("unload", {"lora_name": name})

    async def complete(self, ask: Ask, model: str, end_ids: Sequence[int]) -> AsyncGenerator[Token, None]:
        """The tokens of all samples of a prompt as they come; to close it ends the request.

        Raises:
            Unavailable: there are no more, before the last.
        """
        how = ask.sampling
        left = how.samples
        try:
            stream = await self._api.completions.create(
                model=model,
                prompt=list(ask.prompt_ids),
                stream=True,
                n=how.samples,
                max_tokens=how.max_new_tokens,
                temperature=how.temperature,
                top_p=how.top_p,
                seed=how.seed,
                stop=list(how.stop) or None,
                logprobs=0,  # of the token that was sampled
                # Nothing by the server's own defaults, which its model's folder may set.
                extra_body={
                    "return_token_ids": True,
                    "stop_token_ids": sorted(end_ids),
                    "top_k": 0,
                    "min_p": 0.0,
                    "repetition_penalty": 1.0,
                },
            )
            async with stream:
                async for chunk in stream:
                    for choice in chunk.choices:
                        for token in self._tokens(choice):
                            left -= token.finish is not None
                            yield token
                            if not left:
                                return
        except APIStatusError as error:
            raise Unavailable(self._refusal(error)) from None
        except APIError as error:
            raise Unavailable(self._gone(error)) from None
        raise Unavailable(f"The vLLM server at {self.url} ended an answer before its last token. Its own log says why.")

    def _tokens(self, choice: Any) -> list[Token]:
        """The new tokens of a sample; the last has the reason, where it has ended."""
        ids: list[int] = getattr(choice, "token_ids", None) or []
        log_probs: list[float] = [] if choice.logprobs is None else choice.logprobs.token_logprobs or []
        if len(ids) != len(log_probs):
            raise Unavailable(
                f"The vLLM server at {self.url} sends no token ids with log-probs (return_token_ids): it is too old."
            )
        finish = None if choice.finish_reason is None else ENDS.get(choice.finish_reason)
        if choice.finish_reason is not None and (finish is None or not ids):
            raise Unavailable(f"The vLLM server at {self.url} broke off an answer ({choice.finish_reason}).")
        ends = [None] * (len(ids) - 1) + [finish]
        return [Token(choice.index, *one) for one in zip(ids, log_probs, ends, strict=True)] if ids else []

    async def _log_probs(self, model: str, ids: Sequence[int]) -> list[float]:
        """The log-prob of each token of a prompt but the first."""
        found = await self._api.completions.create(
            model=model, prompt=list(ids), max_tokens=1, temperature=0, echo=True, logprobs=0
        )
        made = found.choices[0].logprobs
        log_probs = (
            [] if made is None else [one for one in (made.token_logprobs or [])[1 : len(ids)] if one is not None]
        )
        if len(log_probs) != len(ids) - 1:
            raise ValueError(f"{self.url} gives no log-probs of a prompt, as vLLM does. Start it with: {self.start}")
        return log_probs

    async def _lora(self, act: str, body: dict[str, str]) -> None:
        try:
            await self._api.post(f"/{act}_lora_adapter", body=body, cast_to=str)
        except APIStatusError as error:
            raise Unavailable(f"{self._refusal(error)} Start it with: {self.start}") from None
        except APIError as error:
            raise Unavailable(self._gone(error)) from None

    def _refusal(self, error: APIStatusError) -> str:
        path, key = error.request.url.path, " Its key is the variable VLLM_API_KEY." if error.status_code == 401 else ""
        return f"The vLLM server at {self.url} refuses {path}: {error.status_code}, {_line(error)}.{key}"

    def _gone(self, error: APIError) -> str:
        if isinstance(error, APITimeoutError):
            return f"The vLLM server at {self.url} did not answer in time. Its own log says why."
        if isinstance(error, APIConnectionError):
            return f"No vLLM server answers at {self.url} ({error.__cause__ or error}). Start one with: {self.start}"
        return f"The vLLM server at {self.url} failed: {_line(error)}. Its own log says more."


def _line(error: APIError) -> str:
    """What an error says, in one line."""
    text = str(error).strip().splitlines()
    return text[0][:400].rstrip(".") if text else type(error).__name__


@torch.no_grad()
def base_log_probs(lm: LanguageModel, ids: Sequence[int]) -> list[float]:
    """The log-prob of each token but the first, with the adapter as it is."""
    inputs = torch.tensor([ids], device=lm.device)
    logits = lm.model(input_ids=inputs, use_cache=False).logits[0, :-1].float()
    found: list[float] = logits.log_softmax(-1).gather(-1, inputs[0, 1:, None])[:, 0].tolist()
    return found
