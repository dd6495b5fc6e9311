"""The words of a command line for another script that make its parts as a finished run had them; for messages.

What an experiment's file set is told as well, since the other script does not read that file. Values are not quoted for
a shell. Runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from omegaconf import DictConfig, OmegaConf

from t2.run.launch_overrides import composed
from t2.run.places import CONF
from t2.run.words import value_text


def words_for(script: str, folder: Path, groups: Sequence[str]) -> list[str]:
    """Choices of the groups, and keys in which they differ from the chosen files, as the run in `folder` had them.

    Folders of configuration files that the run searched are named, and what the script does by itself is left out. None
    for a group that was not chosen on a command line.

    Raises:
        ValueError: the run's configuration files are no longer there.
    """
    if not (folder / ".hydra" / "hydra.yaml").is_file():
        return []
    about = OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra.runtime
    cfg = OmegaConf.load(folder / ".hydra" / "config.yaml")
    sources = {one.provider: one.path for one in about.config_sources}
    conf, own = Path(sources.get("main", CONF)), sources.get("command-line")
    searched = [f"{one.schema}://{one.path}" for one in about.config_sources if "searchpath" in one.provider]
    more = [f"hydra.searchpath=[{','.join(searched)}]"] if searched else []
    chosen = {group: about.choices.get(group) for group in groups if about.choices.get(group)}
    with _apart_from_hydra():
        plain = _composed(conf, script, tuple(more), own)
        words = [f"{group}={choice}" for group, choice in chosen.items() if _node(plain, group) != _node(cfg, group)]
        other = _composed(conf, script, (*more, *words), own)
    keys = [word for group in chosen for word in override_words(group, _node(other, group), _node(cfg, group))]
    default = [word for word in words if _node(plain, word.partition("=")[0]) == _node(other, word.partition("=")[0])]
    folders = [*([] if own is None else ["--config-dir", str(own)]), *more]
    return [*folders, *(word for word in words if word not in default), *keys]


@lru_cache(maxsize=16)
def _composed(conf: Path, script: str, texts: tuple[str, ...], folder: str | None) -> DictConfig:
    """`composed`, once for all jobs of a sweep, which differ in little. To be read alone."""
    return composed(conf, script, texts, folder=folder)


@contextmanager
def _apart_from_hydra() -> Iterator[None]:
    """Within, a configuration can be composed although Hydra runs this program; afterwards Hydra is as before."""
    running, job = GlobalHydra.instance().hydra, JobRuntime.instance().get("name")
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        JobRuntime.instance().set("name", job)  # which the next job of a sweep is called
        if running is not None:
            GlobalHydra.instance().initialize(running)  # composing may have put another instance in its place


def _node(cfg: Any, group: str) -> Any:
    return OmegaConf.to_container(cfg[group], resolve=False) if isinstance(cfg.get(group), DictConfig) else None


def override_words(key: str, before: Any, after: Any) -> Iterator[str]:
    """The overrides that turn the value `before` of a key into `after`."""
    if before == after:
        return
    if not (isinstance(before, Mapping) and isinstance(after, Mapping) and before):
        yield f"{key}={value_text(after)}"
        return
    for name in before.keys() - after.keys():
        yield f"~{key}.{name}"
    for name, value in after.items():
        if name in before:
            yield from override_words(f"{key}.{name}", before[name], value)
        else:
            yield f"+{key}.{name}={value_text(value)}"
