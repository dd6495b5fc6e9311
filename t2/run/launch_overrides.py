"""The command line of a script, before Hydra reads it: free text is quoted, and a wrong override named.

The configuration is composed once for that, with the same folders of configuration files (`--config-dir`,
`hydra.searchpath`) as Hydra will use. Not done here: values of the configuration (`t2.run.configuration.check`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from t2.run.base_model import settle_base_model
from t2.run.configuration.trainer import own_key
from t2.run.launch_experiments import check_experiments
from t2.run.launch_flags import flags_of
from t2.run.messages import nearest
from t2.run.places import typed
from t2.run.renamed import renamed_override
from t2.run.words import QUOTED, key_of, quoted

TEXT_KEYS = ("prompt", "system", "description")  # keys whose values are free text
# Choices that a plugin of Hydra brings -> what to install.
PLUGINS = {
    "hydra/sweeper/optuna": '"transformer2[optuna]"',
    "hydra/launcher/submitit_slurm": '"transformer2[slurm]"',
    "hydra/launcher/submitit_local": '"transformer2[slurm]"',
    "hydra/launcher/joblib": '"transformer2[joblib]"',
}


def quote_text(arguments: Sequence[str]) -> list[str]:
    """Quote the values of free-text keys, so that they may hold characters of Hydra's grammar and of interpolations.

    `prompt=7 + 8 =` becomes `prompt="7 + 8 ="`; of what is quoted already only a `${` is changed, to `\\${`.
    """
    words = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key.lstrip("+") in TEXT_KEYS and equals and value != "null":
            # OmegaConf halves the backslashes before a `${`, of which the last must be there to keep it literal.
            value = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
            argument = f"{key}={value if QUOTED.fullmatch(value) else quoted(value)}"
        words.append(argument)
    return words


def check_overrides(conf: Path, name: str, arguments: Sequence[str]) -> None:
    """Compose the configuration once before Hydra does, for error messages with the nearest valid name.

    Raises:
        ValueError: an unknown group choice or key, a plugin that is not installed, or an override that does not parse.
    """
    flags = flags_of(arguments)
    texts = [argument for argument in flags.overrides if "=" in argument]
    check_experiments(Path(flags.config_path or conf), name, texts, folder=flags.config_dir)
    if name == "serve":
        check_strategy_word(texts)
    for words in [texts, *_later_choices(Path(flags.config_path or conf), texts)]:
        composed(
            Path(flags.config_path or conf), flags.config_name or name, words, folder=flags.config_dir, script=name
        )
    for text in texts:
        key, _, folder = text.partition("=")
        if key in ("hydra.run.dir", "hydra.sweep.dir") and not set("$'\"") & set(folder):
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"{text}: that folder cannot be made ({error.strerror}). Give another.") from None


def composed(
    conf: Path, name: str, texts: Sequence[str], *, folder: str | None = None, script: str | None = None
) -> DictConfig:
    """The configuration `name` of `conf` under overrides, of sweeps their first values; most of Hydra's own keys count
    for nothing.

    `folder` is searched for configuration files, too. ValueError as of `check_overrides`.
    """
    for text in texts:
        if (now := renamed_override(text)) is not None:
            raise ValueError(f"{text!r}: that was renamed. Write {now}.")
        if text.lstrip("+~").startswith("="):
            raise ValueError(f"{text!r} has no key. Write KEY=VALUE, such as seed=1.")
    try:
        overrides = [text for text in map(_first_of_sweep, texts) if text]
        if folder is not None:
            overrides = _with_folder(folder, overrides)
        cfg = _compose(conf, name, overrides, script=script or name)
        settle_base_model(cfg, overrides)
        return cfg
    except HydraException as error:
        raise ValueError(f"{error} (Of: {' '.join(texts)})") from None


def given_overrides() -> list[str]:
    """The overrides that this run was started with; none where Hydra has not started it."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def check_strategy_word(texts: Sequence[str]) -> None:
    """Raise ValueError where serve.py is given a strategy as other scripts take it."""
    for text in texts:
        if key_of(text).partition("@")[0].partition(".")[0] == "strategy":
            value = text.partition("=")[2] or "NAME"
            choice = value if key_of(text) == "strategy" else "NAME"
            raise ValueError(f"{text}: serve.py takes strategies=[{choice}], a list of choices of the group strategy.")


def _compose(conf: Path, name: str, overrides: Sequence[str], *, script: str) -> DictConfig:
    """Compose `name` of the folder `conf`; ValueError, with a near miss named, where that fails."""
    with hydra.initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        try:
            cfg: DictConfig = hydra.compose(name, overrides=list(overrides))
            return cfg
        except MissingConfigException as error:
            missing = error.missing_cfg_file or ""
            group, _, choice = missing.rpartition("/")
            if (needed := PLUGINS.get(missing)) is not None:
                raise ValueError(f"{group}={choice} needs a plugin of Hydra: pip install {needed}") from None
            raise ValueError(f"{error}{_did_you_mean(choice, error.options or [])}") from None
        except ConfigCompositionException as error:
            key = str(error).partition("'")[2].partition("'")[0]
            if (own := own_key(key.removeprefix("trainer."))) is not None and script == "train":
                raise ValueError(own) from None
            near = _did_you_mean(key, _known_keys(name, overrides, conf))
            raise ValueError(f"{error}{near} `{typed(script)} --help` lists every key.") from None
        except ValueError as error:  # a group's choice that is no text
            raise ValueError(f"{error} (Of: {' '.join(overrides)})") from None


def _with_folder(folder: str, overrides: Sequence[str]) -> list[str]:
    """The overrides with a folder of configuration files among those that are searched.

    Raises:
        ValueError: there is no such folder.
    """
    path = Path(folder).resolve()
    if not path.is_dir():
        raise ValueError(f"--config-dir {folder}: there is no such folder. Give one with configuration files.")
    given = [one.partition("=")[2].strip().strip("[]") for one in overrides if one.startswith("hydra.searchpath=")]
    others = [one for one in overrides if not one.startswith("hydra.searchpath=")]
    return [f"hydra.searchpath=[{','.join(one for one in (*given, f'file://{path}') if one)}]", *others]


def _first_of_sweep(text: str) -> str | None:
    """The first value of a sweep such as `task=a,b`; None for globs, intervals and most of Hydra's own keys."""
    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ValueError(f"The override {text!r} does not parse: {error}") from None
    if text.lstrip("+~").startswith("hydra."):
        return text if text.startswith("hydra.searchpath=") else None
    if parsed.value_type in (ValueType.GLOB_CHOICE_SWEEP, ValueType.INTERVAL_SWEEP):
        return None
    if parsed.is_sweep_override():
        value = next(iter(parsed.sweep_string_iterator()))
        return f"{parsed.get_key_element()}={value}"
    return text


def _later_choices(conf: Path, texts: Sequence[str]) -> Iterator[list[str]]:
    """The command lines with each later choice of a group that is swept (`task=a,b`), which jobs would fail with."""
    for number, text in enumerate(texts):
        if not (conf / key_of(text).partition("@")[0]).is_dir():
            continue
        parsed = OverridesParser.create().parse_override(text)
        if parsed.value_type not in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP):
            continue
        for value in list(parsed.sweep_string_iterator())[1:]:
            yield [*texts[:number], f"{parsed.get_key_element()}={value}", *texts[number + 1 :]]


def _known_keys(name: str, overrides: Sequence[str], conf: Path) -> list[str]:
    """The keys of the configuration with the groups' choices among the overrides, and the groups."""
    groups = [path.name for path in conf.iterdir() if path.is_dir()]
    chosen = [one for one in overrides if key_of(one).partition("@")[0] in groups]
    folders = [one for one in overrides if one.startswith("hydra.searchpath=")]
    try:
        plain = hydra.compose(name, overrides=[*folders, *chosen])
    except HydraException:  # a choice is what is wrong
        plain = hydra.compose(name, overrides=folders)
    return [*_keys(OmegaConf.to_container(plain, resolve=False)), *groups]


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")


def _did_you_mean(got: str, allowed: Sequence[str]) -> str:
    near = nearest(got, [name for name in allowed if name != got], cutoff=0.5)
    return "" if near is None else f"\nDid you mean {near!r}?"
