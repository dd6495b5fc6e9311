"""The adapters of PEFT (LoRA, DoRA, IA3, VeRA and others), injected into a model and used as SVF is.

They are rivals of SVF (arXiv 2501.06252, Table 1 compares with LoRA): the same prompts, rewards and optimizer train
them, and the same scripts score them. PEFT makes the layers and computes with them; each of its layers, the matrix that
it wraps, and a dense W' for `merged()` are put into the model by turns, so that the base model is exactly what it was.

Not done here: methods that change the base model's own weights, or that are no layer in the place of a matrix (prompt
tuning), a state per example, and choosing matrices (`t2.adapters.targets`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from t2.adapters.called_linears import check_called
from t2.adapters.coverage import Coverage, coverage_of
from t2.adapters.named_parameters import NamedParameters
from t2.adapters.peft_settings import TUNERS, beyond_defaults, check_settings, make_config
from t2.adapters.slots import Cast, Slots
from t2.adapters.targets import check_first, find_targets, text_name
from t2.run.files import atomic_path
from t2.run.messages import check_choice
from t2.run.tensor_files import save_tensors

NAME = "default"  # PEFT's name of the one adapter in a model
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"  # PEFT's own


class PeftAdapter(NamedParameters):
    """An adapter of PEFT on the chosen matrices of a model; its parameters are fp32.

    Args:
        method: PEFT's name of the method, such as `lora`, `ia3` or `vera`.
        settings: the arguments of PEFT's configuration, but for the matrices and layers, such as `{r: 16}`.
        modules, layers: as for SVF (`t2.adapters.targets`); `settings.feedforward_modules` is given likewise.
        seed: of the initial numbers.

    Raises:
        ValueError: an unknown method or setting, one that t2 sets itself, or one that it has no use for.
    """

    def __init__(
        self,
        method: str,
        settings: Mapping[str, Any] | None = None,
        modules: str | Sequence[str] = "all",
        layers: Sequence[int] | float | None = None,
        seed: int = 0,
    ) -> None:
        """Check the settings; `inject` does the work."""
        super().__init__()
        check_choice("adapter.method", method, TUNERS)
        self.method, self.settings, self.seed = method, dict(settings or {}), seed
        self.modules_spec, self.layers_spec = modules, layers
        check_settings(method, self.settings)
        self.layers: dict[str, BaseTunerLayer] = {}  # by the module's name in this model
        self.frobenius_norms: dict[str, float] = {}  # `text_name` -> that of the matrix
        self.coverage: Coverage | None = None  # of the blocks' weights; None before `inject`
        self._slots = Slots()

    @property
    def name(self) -> str:
        """The method, as tables and files call it."""
        return self.method

    def describe(self) -> dict[str, Any]:
        """The settings that decide what a state means, by key of the configuration; those at PEFT's default are left
        out, and so is the seed, which decides the initial numbers alone."""
        own = beyond_defaults(self.method, self.settings)
        where = {"modules": self.modules_spec, "layers": self.layers_spec}
        return {"method": self.method, **where, **{f"settings.{key}": own[key] for key in sorted(own)}}

    def inject(self, model: nn.Module, source: str) -> None:
        """Put PEFT's layers in the place of the chosen matrices of `model`, which changes; `source` is its name.

        Raises:
            ValueError: a pattern matches no matrix, the model has an adapter already, or multiplies by a weight without
                its Linear, PEFT refuses the settings, or the method does not begin at the base model, or changes more
                than the layers in the place of matrices.
        """
        check_first(self.frobenius_norms)
        targets = find_targets(model, self.modules_spec, self.layers_spec)
        check_called(model, targets)
        self.coverage = coverage_of(model, targets, ())
        self.coverage.tell(of_all=self.modules_spec == "all" and self.layers_spec is None)
        norms = {path: _norm(module) for path, module in targets.items()}
        feedforward = self.settings.get("feedforward_modules")
        inner = find_targets(model, feedforward, self.layers_spec) if feedforward else {}
        config = make_config(self.method, self.settings, source, targets, inner)
        was_training = model.training
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self._tuner = PEFT_TYPE_TO_TUNER_MAPPING[TUNERS[self.method]](model, config, NAME)
        model.train(was_training)
        self.layers = {name: one for name, one in model.named_modules() if isinstance(one, BaseTunerLayer)}
        self.frobenius_norms = {text_name(model, path): norm for path, norm in norms.items()}
        for layer in self.layers.values():
            _to_float32(layer)
        self._slots.find(model, self.layers)
        self.register({name.replace(f".{NAME}", ""): p for name, p in model.named_parameters() if p.requires_grad})
        self._check_injected(norms)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the model is the base model, its own matrices in their places."""
        with self._slots.holding({path: layer.get_base_layer() for path, layer in self.layers.items()}):
            yield

    @contextmanager
    def merged(self, state: Mapping[str, Tensor] | None = None, *, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Within the block each matrix is one dense W' of the present state, or of `state`, without gradients.

        What `state` leaves out has its initial value, so that `{}` is the base. `dtype` rounds W'; inputs are cast to
        it and outputs back.

        Raises:
            ValueError: `state` has names or shapes that the adapter does not.
        """
        dense = dict(self._dense(state))
        if dtype is not None:
            dense = {path: Cast(module, dtype) for path, module in dense.items()}
        with self._slots.holding(dense):
            yield

    def merged_weights(self, state: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield (parameter name in the base model, what it is after merging) of the present state, or of `state`.

        Biases are among them where the method changes biases.

        Raises:
            ValueError: `state` has names or shapes that the adapter does not.
        """
        for path, module in self._dense(state):
            base = self.layers[path].get_base_layer()
            for name, parameter in module.named_parameters():
                if name == "weight" or not torch.equal(parameter, base.get_parameter(name)):
                    yield f"{path}.{name}", parameter.data

    def export(self, folder: Path) -> None:
        """Write the present state for plain PEFT: `PeftModel.from_pretrained(base, folder)` loads it.

        Raises:
            OSError: a file cannot be written.
        """
        whole = nn.Module()  # with the names that a PeftModel has
        whole.base_model, whole.peft_config = self._tuner, self._tuner.peft_config
        kept = get_peft_model_state_dict(whole, adapter_name=NAME, save_embedding_layers=False)
        save_tensors(folder / WEIGHTS_FILE, kept, {"format": "pt"})
        content = self._tuner.peft_config[NAME].to_dict() | {"inference_mode": True}
        if "feedforward_modules" in content:  # of IA3: PEFT wants them among its targets, which it shortens
            inner = {path for path, layer in self.layers.items() if getattr(layer, "is_feedforward", False)}
            content |= {"target_modules": set(self.layers), "feedforward_modules": inner}
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in content.items()}
        with atomic_path(folder / CONFIG_FILE) as partial:
            partial.write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n")

    @torch.no_grad()
    def _dense(self, state: Mapping[str, Tensor] | None) -> Iterator[tuple[str, nn.Module]]:
        """(Module name, the matrix with its dense W') of each; PEFT merges into a copy, and the base is not touched."""
        with self.holding(state):
            for path, layer in self.layers.items():
                base = layer.get_base_layer()
                if state == {}:
                    yield path, base
                    continue
                dense = copy.copy(base)
                dense._parameters = {
                    name: None if one is None else nn.Parameter(one.detach().clone(), requires_grad=False)
                    for name, one in base._parameters.items()
                }
                layer.base_layer = dense
                try:
                    layer.merge()
                finally:
                    layer.base_layer = base
                    layer.merged_adapters.clear()
                yield path, dense

    def _check_injected(self, norms: Mapping[str, float]) -> None:
        """Raise ValueError unless the method only added layers, and begins at the base."""
        about = f"adapter.method={self.method} with these adapter.settings"
        if self.layers.keys() != norms.keys():
            left = sorted(norms.keys() - self.layers.keys())
            raise ValueError(
                f"{about} adapts {len(self.layers)} of the {len(norms)} chosen matrices, not {', '.join(left[:2])}"
                f"{' and others' if len(left) > 2 else ''}: in a mixture of experts PEFT takes matrices of such names "
                "for stacked experts. Choose others by adapter.modules (attention, or a regular expression), or use "
                "adapter=svf, which takes these."
            )
        moved = [path for path, norm in norms.items() if _norm(self.layers[path].get_base_layer()) != norm]
        if moved:
            raise ValueError(
                f"{about} changes the base model's own weights ({moved[0]} for one), which t2 keeps as the reference."
                " Take another initialization."
            )
        inside = {id(p) for layer in self.layers.values() for p in layer.parameters()}
        frozen = {id(p) for layer in self.layers.values() for p in layer.get_base_layer().parameters()}
        outside = [name for name, p in self.parameters.items() if id(p) in frozen or id(p) not in inside]
        if outside or not self.parameters:
            raise ValueError(f"{about} trains {outside[:1] or 'nothing'}; t2 trains the added layers alone.")
        path, dense = next(self._dense(None))
        merged, own = (one.get_parameter("weight").float() for one in (dense, self.layers[path].get_base_layer()))
        if not torch.allclose(merged, own, rtol=1e-2, atol=1e-5):
            raise ValueError(f"{about} does not begin at the base model (see {path}). Take another initialization.")


def _norm(module: nn.Module) -> float:
    return float(torch.linalg.vector_norm(module.get_parameter("weight").detach().float(), dtype=torch.float64))


def _to_float32(layer: BaseTunerLayer) -> None:
    """Have a layer's own numbers in fp32, since in half precision AdamW's steps vanish; its matrix stays as it is."""
    base = set(layer.get_base_layer().modules())
    for module in layer.modules():
        for held in (module._parameters, module._buffers) if module not in base else ():
            for name, tensor in held.items():
                if tensor is not None and tensor.is_floating_point() and tensor.dtype != torch.float32:
                    if isinstance(tensor, nn.Parameter):
                        tensor.data = tensor.data.float()
                    else:
                        held[name] = tensor.float()
