"""Fixtures of the tests of tasks."""

from tests.tasks.math_cases import symbolic

__all__ = ["symbolic"]
