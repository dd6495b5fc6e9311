"""Fixtures of the tests of adaptation."""

from tests.adaptation.dispatch_setup import planted
from tests.adaptation.few_shot_setup import by_distance

__all__ = ["by_distance", "planted"]
