"""lm-evaluation-harness with a model called t2: `t2 lm_eval --model t2 --model_args experts=POOL,... --tasks T`

The rest of the command line is lm_eval's own, and so are tasks, prompts, metrics and output. lm_eval 0.4 finds models
in its own registry alone, so this command enters ours before it starts lm_eval.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

NAME, MODEL = "t2", "t2.cli.lm_eval_model:T2"


def register() -> None:
    """Enter `t2` into lm_eval's registry of models, for programs that call `lm_eval.simple_evaluate`.

    Raises:
        ImportError: lm_eval is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ImportError('lm-evaluation-harness is not installed: pip install "transformer2[harness]"')
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=MODEL)


def main(arguments: Sequence[str]) -> None:
    """Run lm_eval with this command line.

    Raises:
        SystemExit: it is not installed, or the model arguments cannot be used.
    """
    try:
        register()
    except ImportError as error:
        raise SystemExit(f"error: {error}") from None
    from lm_eval.__main__ import cli_evaluate

    from t2.cli.lm_eval_model import ModelArgsError

    sys.argv = ["lm_eval", *arguments]
    try:
        cli_evaluate()
    except ModelArgsError as error:
        raise SystemExit(f"error: {error}") from None
