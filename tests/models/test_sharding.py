"""Where `device_map` puts a model, and that weights outside of the GPUs are refused. Training spread over GPUs:
tests/test_devices.py."""

from __future__ import annotations

import pytest
import torch
from pretend_device import pretend
from tiny_models import tiny

from t2.models.sharding import check_placed, device_map, is_sharded


def test_one_device_is_a_map_of_one_entry() -> None:
    assert device_map("cpu") is None
    assert device_map("cuda:1") == {"": torch.device("cuda:1")}


def test_balanced_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match="torch sees none"):
        device_map("balanced")
    with pretend(2):
        assert device_map("balanced") == "balanced"


def test_offloaded_weights_are_refused_with_what_is_needed() -> None:
    lm = tiny()
    with pretend(2):
        lm.model.to("cuda")
        check_placed(lm.model, lm.source)
        assert not is_sharded(lm.model)
        lm.model.get_submodule("model.layers.1").to("cuda:1")
        check_placed(lm.model, lm.source)
        assert is_sharded(lm.model)
        lm.model.get_submodule("model.layers.1").to("cpu")
        with pytest.raises(ValueError, match=r"9 of 21 weights of tiny:llama .*such as model\.layers\.1\..*2\.4 times"):
            check_placed(lm.model, lm.source)
