"""The logged change of an adapter: of what is learned alone."""

from __future__ import annotations

import pytest
import torch
from adapter_family import injected

from t2.training.change import change_statistics


def test_multipliers_that_are_not_learned_do_not_count() -> None:
    _, svf = injected("svf_top")  # 4 of each matrix's
    with torch.no_grad():
        for parameter in svf.trainable():
            parameter.add_(0.5)
    found = change_statistics(svf)
    assert found == pytest.approx({"scales/std": 0.0, "scales/mean": 0.5, "scales/max_change": 0.5}, abs=1e-6)


def test_the_change_of_other_adapters_is_a_norm_from_their_start() -> None:
    _, lora = injected("lora")  # whose A is no zero
    assert change_statistics(lora) == {"adapter/change_norm": 0.0}
    with torch.no_grad():
        lora.trainable()[0].add_(2.0)
    count = lora.trainable()[0].numel()
    assert change_statistics(lora)["adapter/change_norm"] == pytest.approx(2 * count**0.5, rel=1e-5)
