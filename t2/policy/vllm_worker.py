"""What t2 adds to a worker of a vLLM server: it is sent z and composes the weights itself (`--worker-extension-cls`).

vLLM makes the class a base of its own worker, so that `self` has vLLM's attributes. Methods are called through the
server's `/collective_rpc` with text, and answer with a dictionary; what is wrong is its `error`, since vLLM's answer to
an exception does not say which. Every worker of a tensor-parallel server composes whole matrices and loads its part.

Not done here: starting a server (`t2.policy.vllm_serve`), the trainer's side (`t2.policy.vllm_client`).
"""

from __future__ import annotations

import base64
import logging
from typing import Any

from t2.policy.vllm_compose import Composer, Specification


class SVFWorker:
    """Composes an adapter's weights from its z, and loads them."""

    t2_composer: Composer | None = None

    def t2_prepare(self, specification: str) -> dict[str, Any]:
        """Get ready for states of an adapter; `specification` is that of `t2.policy.vllm_compose`.

        Answers with `logprobs_mode`, and with `error` where the server's weights are not the trainer's.
        """
        # It warns of every layer that is not sent, and embeddings and norms are not.
        for module in ("layerwise", "inplace"):
            logging.getLogger(f"vllm.model_executor.model_loader.reload.{module}").setLevel(logging.ERROR)
        worker: Any = self
        spec = Specification.from_json(specification)
        if self.t2_composer is None or self.t2_composer.spec != spec:
            self.t2_composer = None  # before another one takes as much memory
            from vllm.model_executor.model_loader import get_model_loader

            config = worker.model_runner.vllm_config
            loader = get_model_loader(config.load_config)
            checkpoint = loader.get_all_weights(config.model_config, worker.model_runner.get_model())
            try:
                self.t2_composer = Composer(spec, checkpoint, worker.device)
            except (ValueError, OSError, ArithmeticError) as error:
                return {"error": str(error)}
        return {"logprobs_mode": str(worker.model_runner.vllm_config.model_config.logprobs_mode)}

    def t2_load(self, digest: str, state: str) -> dict[str, Any]:
        """Load the weights of a state, z (k,) by module as base64 of safetensors, for the specification of `digest`.

        Answers with `unprepared` where the worker knows no such specification, as after a restart.
        """
        from safetensors.torch import load

        worker: Any = self
        if self.t2_composer is None or self.t2_composer.spec.digest != digest:
            return {"unprepared": True}
        worker.model_runner.reload_weights(weights_iterator=self.t2_composer.compose(load(base64.b64decode(state))))
        return {}
