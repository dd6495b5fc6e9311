"""Generation by vLLM servers in other processes or on other machines, which are sent z and compose the weights.

    z of the adapter --(a few hundred kB)--> every server composes W' and loads it, unless it has this z already
    prompts, divided among the servers  ---> token ids, texts and log-probs, in the order in which they finish

Tokens are those of `generation=vllm` with the same seeds, but where two are as likely but for rounding: batches are
others. With `max_staleness` k, training samples the completions of a step k steps ahead (`t2.training.ahead`).

Not done here: starting servers (`t2.policy.vllm_serve`), requests (`t2.policy.vllm_client`), other adapters than SVF.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from t2.adapters.base import Adapter, adapter_name
from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.models.precision import dtype_name
from t2.policy.generator import Weights
from t2.policy.vllm import check_request, completion_of, encoded, request_parameters
from t2.policy.vllm_client import VLLMServer, VLLMServers
from t2.policy.vllm_compose import specification_of
from t2.run.messages import check_range
from t2.types import Completion, Example, Sampling

PROMPTS_AT_ONCE = 256  # what is sent to a server at once: as many sequences as vLLM takes into a batch
PositiveSeconds = Annotated[float, Field(gt=0)]


class VLLMServerGenerator:
    """Generates with vLLM servers, under the weights of the adapter's z (`weights="adapted"`) or the base's.

    Args:
        lm, adapter: the trainer's model, which is the servers', and its adapter.
        urls: addresses of servers, such as http://node1:8000; prompts are divided among them.
        timeout_s: how long the completions of a prompt, or loading weights, may take.
        max_staleness: how many updates of z a step's completions may be behind in training.
        sleep: have the servers give their GPU's memory back while the trainer updates (`vllm serve
            --enable-sleep-mode`); for servers on the trainer's GPU.
    """

    def __init__(
        self,
        lm: LanguageModel,
        adapter: Adapter | None = None,
        *,
        urls: list[str],
        weights: Weights = "adapted",
        timeout_s: PositiveSeconds = 600.0,
        max_staleness: NonNegativeInt = 0,
        sleep: bool = False,
    ) -> None:
        """Ask the servers whether they are what is needed; their weights are compared when z is first sent.

        Raises:
            ConnectionError: a server cannot be reached.
            ValueError: an adapter other than SVF, no or equal addresses, `sleep` with a staleness, or what
                `VLLMServer.check` refuses.
        """
        if not isinstance(adapter, SVF):
            name = "no adapter" if adapter is None else f"adapter={adapter_name(adapter)}"
            raise ValueError(f"generation=vllm_server sends z and takes adapter=svf; got {name}. Use generation=vllm.")
        if not urls or len(set(urls)) < len(urls):
            raise ValueError(f"generation.urls is {list(urls)}; allowed: the addresses of one or several servers.")
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"generation.urls has {url!r}; allowed: addresses such as http://node1:8000.")
        check_range("generation.timeout_s", timeout_s, above=0)
        check_range("generation.max_staleness", max_staleness, at_least=0)
        if sleep and max_staleness:
            raise ValueError(
                "generation.sleep=true gives memory back while the trainer updates, and generation.max_staleness="
                f"{max_staleness} generates meanwhile. Set one of them."
            )
        self.lm, self.adapter, self.weights, self.max_staleness, self.sleep = lm, adapter, weights, max_staleness, sleep
        self._svf, self._offset = adapter, 0
        self._state: Mapping[str, Tensor] | None = None  # None: what the adapter has learned
        start = ["python", "-m", "t2.policy.vllm_serve", lm.source, "--dtype", dtype_name(lm.dtype)]
        servers = [VLLMServer(url, timeout_s=timeout_s, start=start) for url in urls]
        self.servers = VLLMServers(servers, lambda: specification_of(lm, adapter))

    @property
    def sync_seconds(self) -> float:
        """What sending z and composing and loading weights has taken so far, copies of this generator included."""
        return self.servers.sync_seconds

    def with_state(self, state: Mapping[str, Tensor]) -> VLLMServerGenerator:
        """The same generator under the weights merged with `state` (module -> (R,)); z = 1 where it says nothing."""
        other = copy.copy(self)
        other.weights, other._state = "adapted", state
        return other

    def for_rows(self, numbers: range, total: int) -> VLLMServerGenerator:
        """The same generator for the examples with these numbers of a batch, sampled as among the whole."""
        other = copy.copy(self)
        other._offset = numbers.start
        return other

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        """B examples -> B lists of G completions, in the order of the examples.

        Raises:
            ValueError: what `t2.policy.vllm.check_request` refuses, or a server of another model.
            ConnectionError: a server is gone.
        """
        done = dict(self.stream(examples, sampling))
        return [done[index] for index in range(len(examples))]

    def stream(self, examples: Sequence[Example], sampling: Sampling) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (index, G completions) of each example as soon as its last completion ends.

        Raises:
            ValueError, ConnectionError: as for `generate`.
        """
        check_request(examples, sampling, "generation=vllm_server")
        longer = "start the server with a larger --max-model-len"
        with self.servers.lock:  # until all are there: another state must not be loaded meanwhile
            prompts = encoded(self.lm, examples, sampling, self.servers.max_length, longer)
            self._wake()
            version, servers = self.servers.follow(self._multipliers()), self.servers.servers

            def complete(index: int) -> list[Completion]:
                request = {
                    "token_ids": list(prompts[index]),
                    "sampling_params": request_parameters(sampling, self.lm, self._offset + index),
                }
                choices = servers[index % len(servers)].generate(request, version)
                return [
                    completion_of(
                        prompts[index],
                        choice["token_ids"],
                        [one["logprob"] for one in choice["logprobs"]["content"]],
                        choice["text"],
                        choice["finish_reason"],
                        sampling,
                    )
                    for choice in choices
                ]

            threads = ThreadPoolExecutor(min(len(prompts), PROMPTS_AT_ONCE * len(servers)), thread_name_prefix="prompt")
            try:
                index_of = {threads.submit(complete, index): index for index in range(len(prompts))}
                for done in as_completed(index_of):
                    yield index_of[done], done.result()
            finally:
                threads.shutdown(cancel_futures=True)
            if self.sleep:
                self.servers.on_all(lambda server: server.post("/sleep?level=1"))
                self.servers.asleep = True

    def _wake(self) -> None:
        if self.servers.asleep:
            self.servers.on_all(lambda server: server.post("/wake_up"))
            self.servers.asleep = False

    def _multipliers(self) -> dict[str, Tensor]:
        """The z of those singular values that have a number: module -> fp32 (k,); nothing for the base."""
        if self.weights == "base":
            return {}
        state = self._svf.state() if self._state is None else self._state
        return {name: self._svf.learned[name].of(z.detach().float().cpu()) for name, z in state.items() if _moved(z)}


def _moved(z: Tensor) -> bool:
    return not torch.equal(z, torch.ones_like(z))
