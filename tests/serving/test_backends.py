"""Where answers are made: settings that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from t2.serving.backends import HFBackend, VLLMBackend


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rank": 24}, "backend.rank is 24; allowed: 1, 8, 16"),
        ({"url": "localhost:8000"}, "such as http://127.0.0.1:8001"),
        ({"url": "http://x", "python": "python"}, "leave out backend.python"),
        ({"max_error": 2}, "max_error"),
    ],
)
def test_settings_that_no_server_could_have(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VLLMBackend("folder", **wrong)


def test_a_number_of_copies_below_0_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backend.merged_copies is -1"):
        HFBackend(merged_copies=-1)
