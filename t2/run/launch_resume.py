"""What `resume=RUN` of `t2.run.launch` means: the command line that goes on with an interrupted training run.

Not here: what such a run may change (`t2.run.configuration.resume`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from t2.run.renamed import old_targets, renamed_target


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
