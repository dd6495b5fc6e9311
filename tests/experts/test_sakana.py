"""The authors' files: read without running anything, and turned into the weights that their training code composes."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from tiny_models import adapted, original
from torch import Tensor, nn

from t2.experts.expert import Expert
from t2.experts.sakana import convert, effective_scales, main, match_modules, read_parameters

VALUES = {"layers.0.mlp.up": torch.tensor([4.0, 2.0, 1.0]), "layers.0.mlp.down": torch.tensor([3.0, 1.0])}
NAMES = {"base_model": "org/small", "task": "gsm8k", "domain": "math"}


def raw(sizes: list[int], seed: int = 0) -> list[nn.Parameter]:
    """What the authors' policy holds: bf16 around 0.1, here further apart."""
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter((0.1 + 0.5 * torch.randn(size, generator=generator)).bfloat16()) for size in sizes]


def save_policy(path: Path, parameters: list[nn.Parameter]) -> Path:
    """policy_params.pt: the state dict of a module with a ParameterList."""
    policy = nn.Module()
    policy.learnable_params_module_list = nn.ParameterList(parameters)
    torch.save(policy.state_dict(), path)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "policy_params.pt"


# The numbers


def composed(weight: Tensor, p: Tensor) -> Tensor:
    """W' of the authors' training code (`utils.py:100-115`), in float64."""
    U, s, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    m = torch.sigmoid(p.double())
    return (U * (s * m)) @ Vh * (s.sum() / (s * m).sum())


def test_the_weights_are_those_that_the_authors_train(path):
    before = dict(original().model.named_parameters())
    _, svf = adapted(modules="mlp")
    parameters = raw([len(s) for s in svf.singular_values.values()])
    expert = convert(save_policy(path, parameters), svf.singular_values, **NAMES)
    keys = [name for name in before if "mlp" in name]  # the order of the authors' list
    weights = dict(svf.merged_weights(expert.scales))
    assert len(keys) == len(weights) == len(parameters)
    for key, p in zip(keys, parameters, strict=True):
        torch.testing.assert_close(weights[key].double(), composed(before[key], p), rtol=0, atol=1e-5)


def test_the_sigmoid_is_applied():
    # Trap: the authors' few-shot code mixes p as it is. Here sigmoid(p) is (1/2, 1/2, 3/4).
    p = {"layers.0.mlp.up": torch.tensor([1.0, 1.0, 3.0]).log()}
    z = effective_scales(p, VALUES)["layers.0.mlp.up"]
    m = torch.tensor([0.5, 0.5, 0.75])
    torch.testing.assert_close(z, m * (7.0 / (4 * 0.5 + 2 * 0.5 + 1 * 0.75)))


@pytest.mark.parametrize("p", [torch.tensor([-3.0, -3.0, -3.0]), torch.tensor([0.7, -1.9, 3.1])])
def test_multipliers_are_positive_and_keep_the_nuclear_norm(p):
    for module, z in effective_scales({module: p[: len(s)] for module, s in VALUES.items()}, VALUES).items():
        assert bool((z > 0).all())
        assert len(p.unique()) > 1 or torch.allclose(z, torch.ones_like(z))
        torch.testing.assert_close((z * VALUES[module]).sum(), VALUES[module].sum())


def test_the_half_precision_of_the_file_is_not_kept(path):
    expert = convert(save_policy(path, raw([3, 2])), VALUES, **NAMES)
    assert {z.dtype for z in expert.scales.values()} == {torch.float32}


def test_both_kinds_of_files_hold_the_same_expert(path, tmp_path):
    parameters = raw([3, 2])
    legacy = tmp_path / "learnable_params.pt"
    named = {f"{module}.weight": p for module, p in zip(VALUES, parameters, strict=True)}
    torch.save(dict(reversed(named.items())), legacy)
    a = convert(save_policy(path, parameters), VALUES, **NAMES)
    b = convert(legacy, VALUES, **NAMES)
    torch.testing.assert_close(a.scales, b.scales, rtol=0, atol=0)


def test_a_list_of_more_than_ten_is_in_the_order_of_its_numbers(path):
    values = {f"layers.{index}.mlp.up": torch.ones(2) for index in range(12)}
    parameters = [nn.Parameter(torch.tensor([0.0, float(index)])) for index in range(12)]
    found = match_modules(read_parameters(save_policy(path, parameters)), list(values))
    assert [int(p[1]) for p in found.values()] == list(range(12))


# What is refused


def test_a_file_that_would_run_code_is_refused_and_does_not_run(path, tmp_path):
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(mark),)

    torch.save({"learnable_params_module_list.0": Evil()}, path)
    with pytest.raises(ValueError, match="could run code"):
        read_parameters(path)
    assert not mark.exists()


def test_a_whole_module_is_refused(path):
    torch.save(nn.ParameterList(raw([3])), path)
    with pytest.raises(ValueError, match="state dict"):
        read_parameters(path)


def test_a_missing_file_is_told(path):
    with pytest.raises(FileNotFoundError, match=r"No file at .*policy_params\.pt"):
        read_parameters(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"hello", b"\x80\x02}q\x00.", save({"a": torch.ones(2)})])
def test_what_is_no_archive_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not the zip archive"):
        read_parameters(path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_file_is_called_damaged(path, share):
    content = save_policy(path, raw([3000, 2000])).read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="damaged"):
        read_parameters(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *[(content, "instead of a state dict") for content in ([1, 2], {}, OrderedDict())],
        *[
            ({"learnable_params_module_list.0": value}, r"learnable_params_module_list\.0.*no vector")
            for value in (torch.ones(2, 2), torch.tensor(1.0), 3.0)
        ],
        ({"adaptive_weights": torch.ones(3, 2), "weights_0_k_layers_0": torch.ones(2)}, "few-shot policy"),
    ],
)
def test_what_is_no_state_dict_of_vectors_is_refused(path, content, message):
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        read_parameters(path)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([3], "parameters of 1 matrices and the base model 2"),
        ([3, 2, 2], "parameters of 3 matrices and the base model 2"),
        ([3, 3], r"layers\.0\.mlp\.down: the file has 3 parameters.* 2 singular values"),
    ],
)
def test_other_numbers_and_sizes_of_matrices_are_refused(path, sizes, message):
    with pytest.raises(ValueError, match=message):
        convert(save_policy(path, raw(sizes)), VALUES, **NAMES)


def test_names_of_another_model_are_refused(path):
    torch.save({f"blocks.{index}.mlp.up.weight": p for index, p in enumerate(raw([3, 2]))}, path)
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp\.up\.weight is in one of them alone"):
        convert(path, VALUES, **NAMES)


def test_parameters_that_are_not_finite_are_refused(path):
    parameters = raw([3, 2])
    parameters[1].data[0] = float("nan")
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.down.*NaN"):
        convert(save_policy(path, parameters), VALUES, **NAMES)


# The command line


def saved_model(folder: Path) -> Path:
    original().model.save_pretrained(folder)
    original().tokenizer.save_pretrained(folder)
    return folder


def test_the_command_writes_an_expert_of_the_model(tmp_path, path, monkeypatch, capsys):
    monkeypatch.setenv("T2_CACHE", str(tmp_path / "cache"))
    _, svf = adapted(modules="mlp")
    save_policy(path, raw([len(s) for s in svf.singular_values.values()]))
    model, out = str(saved_model(tmp_path / "model")), tmp_path / "out" / "math.safetensors"
    main([str(path), str(out), "--base-model", model, "--task", "gsm8k", "--domain", "math"])
    expert = Expert.load(out)
    assert (expert.metadata.base_model, expert.metadata.task, expert.metadata.domain) == (model, "gsm8k", "math")
    torch.testing.assert_close(expert.scales, convert(path, svf.singular_values, **NAMES).scales, rtol=0, atol=1e-5)
    assert f"{expert.parameter_count} parameters of 6 matrices" in capsys.readouterr().out


def test_the_command_looks_at_the_file_before_the_model(tmp_path, capsys):
    arguments = ["no.pt", str(tmp_path / "a.safetensors"), "--base-model", "no/model", "--task", "t", "--domain", "d"]
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "No file at no.pt" in capsys.readouterr().err


def test_the_command_writes_no_file_of_another_kind(path, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(path), str(tmp_path / "a.pt"), "--base-model", "m", "--task", "t", "--domain", "d"])
    assert "must end in .safetensors" in capsys.readouterr().err
