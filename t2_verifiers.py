"""The environment of t2's tasks, where verifiers looks for it: `load_environment(task="gcd")` (t2/cli/verifiers.py)."""

from t2.cli.verifiers import OneTurn, T2Taskset, T2TasksetConfig, load_environment

__all__ = ["OneTurn", "T2Taskset", "T2TasksetConfig", "load_environment"]
