"""Under CI a skip fails the run, unless its reason is one that is meant: it hides what should have been tested.

CI is what the environment variable CI says, which every service sets (and `.ci/run`). Elsewhere a machine may lack what
it lacks, and pytest's `-ra` lists why. `--no-skips` accepts no skip at all, wherever it is run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

# What the reason of a skip begins with, and where that is tested instead.
ACCEPTED = {
    r"vLLM is not installed: ": "by `make test-vllm`, in an environment of its own, with --no-skips",
    r"(lm_eval|verifiers|xllamacpp) is not installed: ": "by `make test-harness`, in an environment of its own",
    r"bitsandbytes is not installed: ": "by `make test-nf4`, beside the environment, with --no-skips",
    r"gptqmodel is not installed: ": "by `make test-gptq`, beside the environment, with --no-skips",
    r"No Slurm is up: ": "by `make test-slurm`, which starts one, with --no-skips",
    r"No browser is named: ": "by `make test-page`, which finds or installs Chromium, with --no-skips",
    r"The sandbox level unshare does not work here": "nowhere: it is the second choice; the first, bwrap, has to work",
}


def in_ci() -> bool:
    """Whether this is a run of continuous integration."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def refused(reason: str, no_skips: bool) -> bool:
    """Whether a skip for this reason is a failure."""
    return no_skips or (in_ci() and not any(re.match(pattern, reason) for pattern in ACCEPTED))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skipped test is a failed one")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    return _judged(report, item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return _judged(report, collector.config)


def _judged(report: Report, config: pytest.Config) -> Report:
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):  # an expected failure's is not
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if refused(reason, config.getoption("--no-skips")):
            report.outcome = "failed"
            report.longrepr = (
                f"Skipped, which is no result here: {reason}\nAccepted reasons: {', '.join(ACCEPTED)} (tests/skips.py; "
                "none with --no-skips). Install what is missing, or run without CI set to have it skipped."
            )
    return report
