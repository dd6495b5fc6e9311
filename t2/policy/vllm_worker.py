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

from safetensors.torch import load
from torch import Tensor

from t2.policy.vllm_compose import Composer, Specification
from t2.policy.vllm_in_place import weights_in_place, write

log = logging.getLogger("vllm.t2")  # vLLM shows its own loggers alone


class SVFWorker:
    """Composes an adapter's weights from its z, and loads them."""

    t2_composer: Composer | None = None
    t2_places: dict[str, Tensor] | None = None  # where weights are written; None: vLLM loads them
    t2_version: str | None = None  # of the weights that were loaded last

    def t2_prepare(self, specification: str) -> dict[str, Any]:
        """Get ready for states of an adapter; `specification` is that of `t2.policy.vllm_compose`.

        Answers with `logprobs_mode`, and with `error` where the server's weights are not the trainer's.
        """
        # They warn of every layer and weight that is not sent, and embeddings and norms are not.
        for module in ("layerwise", "inplace"):
            logging.getLogger(f"vllm.model_executor.model_loader.reload.{module}").setLevel(logging.ERROR)
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        config, spec = runner.vllm_config, Specification.from_json(specification)
        if self.t2_composer is None or self.t2_composer.spec != spec:
            if self.t2_composer is not None:  # of another adapter, whose matrices may not be among these
                self._t2_write({})
            self.t2_composer = self.t2_places = self.t2_version = None  # before another one takes as much memory
            from vllm.model_executor.layers.linear import UnquantizedLinearMethod
            from vllm.model_executor.model_loader import get_model_loader

            model = runner.get_model()
            checkpoint = get_model_loader(config.load_config).get_all_weights(config.model_config, model)
            try:
                self.t2_composer = Composer(spec, checkpoint, runner.device)
            except (ValueError, OSError, ArithmeticError) as error:
                return {"error": str(error)}
            self.t2_places = weights_in_place(model, self.t2_composer, UnquantizedLinearMethod)
            log.warning("t2: weights are %s.", "loaded by vLLM" if self.t2_places is None else "written in place")
        return {"logprobs_mode": str(config.model_config.logprobs_mode)}

    def t2_load(self, digest: str, version: str, state: str) -> dict[str, Any]:
        """Load the weights of a state, z (k,) by module as base64 of safetensors, for the specification of `digest`.

        Nothing happens where they are loaded already, which another rank of the same trainer may have had done. Answers
        with `unprepared` where the worker knows no such specification, as after a restart.
        """
        if self.t2_composer is None or self.t2_composer.spec.digest != digest:
            return {"unprepared": True}
        if self.t2_version != version:
            self.t2_version = None
            self._t2_write(load(base64.b64decode(state)))
            self.t2_version = version
        return {}

    def _t2_write(self, state: dict[str, Tensor]) -> None:
        assert self.t2_composer is not None, "it was prepared"
        if self.t2_places is not None:
            write(self.t2_composer, state, self.t2_places)
        else:
            weights = self.t2_composer.compose(state)
            self.model_runner.reload_weights(weights_iterator=weights)  # type: ignore[attr-defined]
