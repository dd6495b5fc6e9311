"""An executor for tests of tasks that run programs: it runs none."""

from __future__ import annotations

from t2.grading.sandbox.executor import CodeTest
from t2.types import Grade


class Recorder:
    """Passes everything and remembers what it was given."""

    level = "none"

    def __init__(self) -> None:
        self.programs: list[str] = []
        self.tests: list[CodeTest] = []

    def run(self, program: str, test: CodeTest) -> Grade:
        self.programs.append(program)
        self.tests.append(test)
        return Grade(1.0, None, program)
