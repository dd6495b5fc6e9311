"""Converts the authors' `.pt` experts: `python -m t2.experts.sakana FILE.pt OUT.safetensors --base-model ... `.

SakanaAI/self-adaptive-llms at 03a41ae saves two kinds of files, both of raw parameters p (R,) in bf16, one for each MLP
matrix in the order of the model's state dict:

    policy_params.pt       learnable_params_module_list.0, .1, ...         `svd_reinforce_hydra.py`, `policy/base.py`
    learnable_params.pt    model.layers.0.mlp.gate_proj.weight, ...        the same, with `save_legacy_params`

They were trained as W' = U diag(s m) Vᵀ sum(s) / sum(s m) with m = max_mult sigmoid(p) (`utils.py`), so that
z = m sum(s) / sum(s m), where max_mult cancels. Their few-shot code mixes p itself, without the sigmoid
(`policy/weighted_combination.py:88,129-130`); the experts written here hold z.

t2 opens pickles nowhere else, and here with torch.load's `weights_only=True`, which rebuilds tensors and runs no code;
files that need more are refused. Not converted: the authors' few-shot policies, which are mixtures.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import t2
from t2.adapters.parametrizations import SigmoidNuclear
from t2.adapters.svf import SVF
from t2.experts.expert import Expert, ExpertMetadata
from t2.experts.fingerprint import fingerprint_of
from t2.models.loading import load_model

_LISTED = "learnable_params_module_list."


def read_parameters(path: Path) -> dict[str, Tensor]:
    """Read the raw parameters of an authors' file: key in the file -> p (R,), fp32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds anything but vectors, or would have to run code to be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No file at {path}. Give a policy_params.pt or learnable_params.pt of the authors'.")
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise ValueError(f"{path} is not the zip archive that torch.save writes. Give one of the authors' files.")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, and reading it could run code: t2 refuses. Save the policy's state dict "
            "alone, as the authors' program does."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:  # torch's words for a zip archive cut short
        raise ValueError(f"{path} is damaged ({error}). Copy it again.") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds {type(content).__name__} instead of a state dict with parameters.")
    if "adaptive_weights" in content:
        raise ValueError(f"{path} is a few-shot policy: a mixture of experts. Convert the experts it was made of.")
    wrong = [name for name, p in content.items() if not isinstance(p, Tensor) or p.ndim != 1]
    if wrong:
        raise ValueError(f"{path}: {wrong[0]!r} is no vector (R,). Give one of the authors' SVF experts.")
    return {str(name): p.detach().float() for name, p in content.items()}


def match_modules(parameters: Mapping[str, Tensor], modules: Sequence[str]) -> dict[str, Tensor]:
    """Rename parameters p (R,) to the base model's modules; `modules` are its MLP matrices in the model's order.

    Raises:
        ValueError: keys of another kind, or parameters and modules that do not correspond.
    """
    listed = {f"{_LISTED}{index}": module for index, module in enumerate(modules)}
    named = {f"{module}.weight": module for module in modules}
    keys = listed if any(name.startswith(_LISTED) for name in parameters) else named
    differing = sorted(keys.keys() ^ parameters.keys())
    if differing:
        raise ValueError(
            f"The file has parameters of {len(parameters)} matrices and the base model {len(modules)} MLP matrices; "
            f"{differing[0]} is in one of them alone. Give the base model that the expert was trained on."
        )
    return {module: parameters[key] for key, module in keys.items()}


@torch.no_grad()
def effective_scales(parameters: Mapping[str, Tensor], singular_values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute z = m sum(s) / sum(s m) with m = sigmoid(p): module -> z (R,), fp32, from p (R,) and s (R,).

    Raises:
        ValueError: a vector has another length than the matrix has singular values.
    """
    scales = {}
    for module, p in parameters.items():
        s = singular_values[module].float().cpu()
        if p.shape != s.shape:
            raise ValueError(
                f"{module}: the file has {len(p)} parameters and the base model {len(s)} singular values. Give the "
                "base model that the expert was trained on."
            )
        vector = SigmoidNuclear(s, seed=0)
        vector.p.copy_(p)
        scales[module] = vector().detach()
    return scales


def convert(path: Path, singular_values: Mapping[str, Tensor], *, base_model: str, task: str, domain: str) -> Expert:
    """Convert an authors' file to an expert of `base_model`.

    `singular_values` are those of its MLP matrices, module -> s (R,), in the model's order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no expert of the authors', or not of this model.
    """
    parameters = match_modules(read_parameters(path), list(singular_values))
    metadata = ExpertMetadata(
        base_model=base_model,
        fingerprint=fingerprint_of(singular_values),
        parametrization="sigmoid_nuclear",
        task=task,
        domain=domain,
        description="",
        objective="Reinforce",
        step=0,  # not recorded in the authors' files
        t2_version=t2.__version__,
    )
    return Expert(effective_scales(parameters, singular_values), metadata)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: read the file, load the model for its singular values, write the expert."""
    parser = argparse.ArgumentParser(
        prog="python -m t2.experts.sakana", description="Convert an expert of the authors' code."
    )
    parser.add_argument("file", type=Path, help="policy_params.pt or learnable_params.pt")
    parser.add_argument("out", type=Path, help="the expert to write, *.safetensors")
    parser.add_argument("--base-model", required=True, metavar="SOURCE", help="the model the expert was trained on")
    parser.add_argument("--task", required=True, help="what it was trained on")
    parser.add_argument("--domain", required=True, help="its name in a pool")
    given = parser.parse_args(arguments)
    if given.out.suffix != ".safetensors":
        parser.error(f"OUT is {given.out}; its name must end in .safetensors.")
    try:
        read_parameters(given.file)  # a bad file is refused before the model is loaded
        lm = load_model(given.base_model)
        svf = SVF(modules="mlp")
        svf.inject(lm.model, lm.source)
        expert = convert(given.file, svf.singular_values, base_model=lm.source, task=given.task, domain=given.domain)
        print(f"{expert.save(given.out)}: {expert.parameter_count} parameters of {len(expert.scales)} matrices")
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
