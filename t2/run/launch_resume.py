"""What `resume=RUN` of `t2.run.launch` means: the command line that goes on with an interrupted training run.

Not here: what such a run may change (`t2.run.configuration.resume`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from t2.run.configuration.resume import FREE_OF_TRAINER
from t2.run.launch_again import override_words
from t2.run.launch_flags import flags_of
from t2.run.launch_overrides import composed
from t2.run.places import CONF
from t2.run.renamed import old_targets, renamed_target
from t2.run.words import as_typed, key_of, unquoted

CHOSEN_ANEW = ("logger", "trainer")  # groups, of which a run that goes on may have other files


def resume_arguments(arguments: Sequence[str], conf: Path = CONF) -> list[str] | None:
    """The command line that resumes the run named by `resume=RUN`; None where no run is named.

    The run's own configuration is read from `RUN/.hydra`, further overrides are applied on top of it, and the run
    folder stays RUN. `logger=NAME` and `trainer=NAME` are files of `conf`, which RUN/.hydra has not: the words that
    make them of the run's own stand in their place, before the others.

    Raises:
        SystemExit: RUN cannot be resumed, or not with these overrides.
    """
    runs = [argument.partition("=")[2] for argument in arguments if argument.startswith("resume=")]
    if not runs or runs[-1] in ("null", ""):
        return None
    run = Path(unquoted(runs[-1])).resolve()
    if {"-m", "--multirun"} & set(arguments):
        raise SystemExit("error: resume goes on with one run, and -m starts several. Leave -m out.")
    given = flags_of(arguments).overrides
    others = [word for word in given if key_of(word) not in ("resume", "hydra.run.dir")]
    # A further process (trainer=ddp) is given this command line, of which Hydra reads no flag after an override.
    flags = [one for one in arguments if one not in given and not one.startswith(("--config-path=", "--config-name="))]
    choices = {key_of(one): one for one in others if is_choice(one, conf)}
    try:
        check_run(run)
        check_targets(run)
        check_folder(run, arguments)
        words = [word for key, one in choices.items() for word in words_of(key, one, run, conf, arguments)]
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    return [
        *(f"--config-path={run / '.hydra'}", "--config-name=config", *flags),
        *(f"hydra.run.dir={as_typed(run)}", "hydra.output_subdir=null", f"resume={as_typed(run)}"),
        *words,
        *(one for one in others if not is_choice(one, conf)),
    ]


def is_choice(word: str, conf: Path) -> bool:
    """Whether a word chooses a file of a group, such as task=gcd."""
    choice = word.partition("=")[2]
    is_name = re.fullmatch(r"[\w./-]+", choice) is not None and choice != "null"
    return is_name and (conf / key_of(word).partition("@")[0]).is_dir()


def words_of(group: str, word: str, run: Path, conf: Path, arguments: Sequence[str]) -> list[str]:
    """The overrides that make what a word chooses out of what the run has.

    Of the trainer, keys that the chosen file does not name stay as they are, unless they say which processes there are.

    Raises:
        ValueError: a run that goes on cannot choose of this group, or there is no such file.
    """
    if group not in CHOSEN_ANEW:
        raise ValueError(
            f"{word}: resume={run} goes on with a run as it was started, of which {' and '.join(CHOSEN_ANEW)} alone "
            f"can be chosen anew. Leave {word} out, or start a new run."
        )
    before = OmegaConf.to_container(OmegaConf.load(run / ".hydra" / "config.yaml"), resolve=False)
    chosen = composed(conf, "train", [word], folder=flags_of(arguments).config_dir)
    assert isinstance(before, dict), "it was checked"
    was, now = before.get(group), OmegaConf.to_container(chosen, resolve=False)[group]  # type: ignore[index,call-overload]
    if group == "trainer" and isinstance(was, Mapping) and isinstance(now, Mapping):
        now = {**{key: one for key, one in was.items() if f"trainer.{key}" not in FREE_OF_TRAINER}, **now}
    return list(override_words(group, was, now))


def check_folder(run: Path, arguments: Sequence[str]) -> None:
    """Raise ValueError where another folder is given than that of the run."""
    for argument in arguments:
        if key_of(argument) == "hydra.run.dir" and Path(unquoted(argument.partition("=")[2])).resolve() != run:
            raise ValueError(
                f"{argument}: resume={run} goes on in that run's folder. Leave hydra.run.dir out, or copy the run and "
                "resume the copy."
            )


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
