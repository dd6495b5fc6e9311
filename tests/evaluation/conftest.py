"""The tiny model with a pool of two experts that change its completions, made once a file."""

from __future__ import annotations

import pytest
from tiny_pool import tiny_generator, tiny_pool

from t2.experts.pool import ExpertPool
from t2.policy.hf import HFGenerator


@pytest.fixture(scope="module")
def generator() -> HFGenerator:
    return tiny_generator()


@pytest.fixture(scope="module")
def pool(generator: HFGenerator) -> ExpertPool:
    return tiny_pool(generator)
