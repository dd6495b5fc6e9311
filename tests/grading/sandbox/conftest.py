"""Fixtures of the tests of the sandbox."""

from tests.grading.sandbox.executor_setup import best
from tests.grading.sandbox.isolation_setup import isolated, package

__all__ = ["best", "isolated", "package"]
