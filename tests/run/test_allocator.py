"""Freed memory stays with the process: seen in the page faults of a child, since the setting cannot be taken back."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from t2.run.allocator import OWN_SETTINGS, keep_freed_memory

CHILD = """
import resource, sys
import torch
from t2.run.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    torch.zeros(1 << 24)  # 64 MB, 16,384 pages; aligned blocks find their place after a while
before = faults()
for _ in range(100):
    torch.zeros(1 << 24)
print(faults() - before)
"""
needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or torch.cuda.is_available(), reason="needs glibc, and no GPU"
)


def page_faults(how: str) -> int:
    """Of a hundred blocks of 64 MB that are allocated and freed one after the other."""
    plain = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS}
    made = subprocess.run([sys.executable, "-c", CHILD, how], env=plain, capture_output=True, text=True, check=True)
    return int(made.stdout)


@needs_glibc
def test_a_block_that_is_freed_is_not_asked_of_the_system_again() -> None:
    assert page_faults("keep") < 0.1 * page_faults("plain")


@pytest.mark.parametrize("name", OWN_SETTINGS)
def test_settings_of_the_users_own_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
