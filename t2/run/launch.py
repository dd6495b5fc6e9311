"""Launches the scripts with Hydra: validates overrides, resumes runs, and prints user errors without a traceback.

A script is `launch(body, conf, name)`: Hydra composes the configuration, the body runs, and an error of the user's is
one message (HYDRA_FULL_ERROR=1 shows the traceback too). Not done here: reading values of the configuration.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
)
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from t2.run.configuration.check import check_configuration
from t2.run.configuration.resume import check_unchanged
from t2.run.configuration.trainer import own_key
from t2.run.launch_folder import in_own_folder
from t2.run.launch_ranks import is_follower, rank_arguments
from t2.run.launch_slurm import check_launcher
from t2.run.messages import nearest
from t2.run.ranks import SIGTERM_STATUS, AnotherRankFailed, follow_quietly
from t2.run.renamed import old_targets, renamed_override, renamed_target, target_in

log = logging.getLogger(__name__)
TEXT_KEYS = ("prompt", "system", "description")  # keys whose values are free text
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"' r"|'(?:[^'\\]|\\.)*'", re.DOTALL)
USER_ERRORS = (
    *(ValueError, OSError, ImportError, MisconfigurationException, OmegaConfBaseException),
    FloatingPointError,  # NaN and infinity in training
    AnotherRankFailed,
)


def launch(body: Callable[[DictConfig], Any], *, conf: Path, name: str) -> None:
    """Run `body` with the configuration `conf/name.yaml` and the overrides of the command line."""
    arguments = sys.argv[1:] = quote_text(sys.argv[1:])
    resumed = resume_arguments(arguments) if name == "train" else None
    if resumed is None:
        try:
            check_launcher(arguments)
            check_overrides(conf, name, arguments)
        except ValueError as error:
            raise SystemExit(f"error: {error}") from None
    else:
        sys.argv[1:] = resumed
    if name == "train":
        sys.argv[1:] = rank_arguments(sys.argv[1:])
    hydra.main(version_base="1.3", config_path=str(conf), config_name=name)(_plain_errors(body, name))()


def _plain_errors(body: Callable[[DictConfig], Any], name: str) -> Callable[[DictConfig], Any]:
    """Wrap `body` so that the configuration is checked and the folder is its own, and a user error is one message."""

    @functools.wraps(body)
    def guarded(cfg: DictConfig) -> Any:
        try:
            if is_follower(cfg):
                follow_quietly()
            if cfg.get("resume"):
                check_unchanged(cfg)
            check_configuration(cfg, name)
            return in_own_folder(body, cfg)
        except SIGTERMException:  # a SystemExit without a status, so 0: Lightning's, which waits for the step's end
            raise SystemExit(SIGTERM_STATUS) from None
        except (*USER_ERRORS, InstantiationException) as error:
            cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
            target = target_in(str(error))
            if target is not None and renamed_target(target) is not None:
                log.error("The configuration names %s, which is now %s. Correct it.", target, renamed_target(target))
                raise SystemExit(1) from None
            if os.environ.get("HYDRA_FULL_ERROR") or not isinstance(cause, USER_ERRORS):
                raise
            log.error("%s", cause)
            raise SystemExit(1) from None

    return guarded


def quote_text(arguments: Sequence[str]) -> list[str]:
    """Quote the values of free-text keys, so that they may hold characters of Hydra's grammar and of interpolations.

    `prompt=7 + 8 =` becomes `prompt="7 + 8 ="`; of what is quoted already only a `${` is changed, to `\\${`.
    """
    quoted = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key.lstrip("+") in TEXT_KEYS and equals and value != "null":
            # OmegaConf halves the backslashes before a `${`, of which the last must be there to keep it literal.
            value = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
            if not QUOTED.fullmatch(value):
                # Hydra reads backslashes literally, except before a quote.
                value = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ("\\" + found[2]) * bool(found[2]), value)
                value = f'"{value}"'
            argument = f"{key}={value}"
        quoted.append(argument)
    return quoted


def resume_arguments(arguments: Sequence[str]) -> list[str] | None:
    """The command line that resumes the run named by `resume=RUN`; None where no run is named.

    The run's own configuration is read from `RUN/.hydra`, further overrides are applied on top of it, and the run
    folder stays RUN.

    Raises:
        SystemExit: RUN cannot be resumed.
    """
    runs = [argument.partition("=")[2] for argument in arguments if argument.startswith("resume=")]
    if not runs or runs[-1] in ("null", ""):
        return None
    run = Path(runs[-1]).resolve()
    if {"-m", "--multirun"} & set(arguments):
        raise SystemExit("error: resume goes on with one run, and -m starts several. Leave -m out.")
    try:
        check_run(run)
        check_targets(run)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    others = [argument for argument in arguments if not argument.startswith("resume=")]
    return [
        *(f"--config-path={run / '.hydra'}", "--config-name=config"),
        *(f"hydra.run.dir={run}", "hydra.output_subdir=null", f"resume={run}"),
        *others,
    ]


def check_run(run: Path) -> None:
    """Raise ValueError unless `run` is the folder of a training run with a checkpoint."""
    for needed, what in (
        ((".hydra/config.yaml",), "its configuration"),
        (("checkpoints/last.ckpt", "checkpoints/previous.ckpt"), "a checkpoint"),
    ):
        if not any((run / name).is_file() for name in needed):
            raise ValueError(
                f"resume={run}: there is no {needed[0]} ({what}), so this is not the folder of an interrupted training "
                "run. Give the folder that train.py printed, e.g. outputs/train/DATE/TIME."
            )


def check_targets(run: Path) -> None:
    """Raise ValueError if the configuration of `run` has a `_target_` that was renamed."""
    path = run / ".hydra/config.yaml"
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}): the run cannot go on. Train anew.") from error
    old = next(old_targets(config), None)
    if old is not None:
        raise ValueError(
            f"resume={run}: an older t2 started this run: its configuration names {old}, which is now "
            f"{renamed_target(old)}. Go on with that version, or train anew; the run's expert can be used as it is "
            f"(expert={run})."
        )


def check_overrides(conf: Path, name: str, arguments: Sequence[str]) -> None:
    """Compose the configuration once before Hydra does, for error messages with the nearest valid name.

    Raises:
        ValueError: an unknown group choice or key, or an override that does not parse.
    """
    texts = [argument for argument in arguments if not argument.startswith("-") and "=" in argument]
    for text in texts:
        if (now := renamed_override(text)) is not None:
            raise ValueError(f"{text!r}: that was renamed. Write {now}.")
        if text.lstrip("+~").startswith("="):
            raise ValueError(f"{text!r} has no key. Write KEY=VALUE, such as seed=1.")
    try:
        overrides = [_first_of_sweep(text) for text in texts]
        with hydra.initialize_config_dir(str(conf), version_base="1.3"):
            known = list(_keys(OmegaConf.to_container(hydra.compose(name), resolve=False)))
            try:
                hydra.compose(name, overrides=[text for text in overrides if text])
            except MissingConfigException as error:
                choice = (error.missing_cfg_file or "").rpartition("/")[2]
                raise ValueError(f"{error}{_did_you_mean(choice, error.options or [])}") from None
            except ConfigCompositionException as error:
                key = str(error).partition("'")[2].partition("'")[0]
                if (own := own_key(key.removeprefix("trainer."))) is not None and name == "train":
                    raise ValueError(own) from None
                groups = [path.name for path in conf.iterdir() if path.is_dir()]
                raise ValueError(
                    f"{error}{_did_you_mean(key, [*known, *groups])} `python {name}.py --help` lists every key."
                ) from None
            except ValueError as error:  # a group's choice that is no text
                raise ValueError(f"{error} (Of: {' '.join(texts)})") from None
    except HydraException as error:
        raise ValueError(f"{error} (Of: {' '.join(texts)})") from None
    for text in texts:
        key, _, folder = text.partition("=")
        if key in ("hydra.run.dir", "hydra.sweep.dir") and not set("$'\"") & set(folder):
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"{text}: that folder cannot be made ({error.strerror}). Give another.") from None


def _first_of_sweep(text: str) -> str | None:
    """The first value of a sweep such as `task=a,b`; None for globs, intervals and Hydra's own keys."""
    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ValueError(f"The override {text!r} does not parse: {error}") from None
    if text.lstrip("+~").startswith("hydra"):
        return None
    if parsed.value_type in (ValueType.GLOB_CHOICE_SWEEP, ValueType.INTERVAL_SWEEP):
        return None
    if parsed.is_sweep_override():
        value = next(iter(parsed.sweep_string_iterator()))
        return f"{parsed.get_key_element()}={value}"
    return text


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")


def _did_you_mean(got: str, allowed: Sequence[str]) -> str:
    return "" if (near := nearest(got, allowed, cutoff=0.5)) is None else f"\nDid you mean {near!r}?"


def quiet_libraries() -> None:
    """Silence messages that Lightning and torch print at every start."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # batches are lists of text
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")  # Lightning 2.6 on torch 2.13
