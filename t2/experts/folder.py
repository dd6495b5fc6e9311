"""Reads the experts of a pool from files, folders of training runs, or one folder of expert files.

Not done here: whether the experts can be in one pool (`t2.experts.compatibility`).
"""

from __future__ import annotations

from pathlib import Path

from t2.experts.expert import Expert
from t2.experts.lora_expert import LoraExpert, is_lora_folder
from t2.run.messages import did_you_mean
from t2.run.places import located
from t2.run.results import CENTROIDS_FILE


def read_expert(domain: str, path: Path | str) -> Expert | LoraExpert:
    """Read the expert of a domain from its file, a training run's folder or PEFT's; errors name the domain.

    Raises:
        FileNotFoundError: there is no such file, or the folder holds no expert.
        ValueError: the file is no expert.
    """
    try:
        if is_lora_folder(located(path)):
            return LoraExpert.load(located(path), domain)
        return Expert.load(Expert.find(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"The expert of {domain!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"The expert of {domain!r}: {error}") from error


def read_folder(folder: Path) -> dict[str, Expert | LoraExpert]:
    """Read all *.safetensors of a folder but the centroids, and the folders of PEFT in it: domain -> expert, sorted.

    The domain is as saved in the file, or the name of PEFT's folder.

    Raises:
        FileNotFoundError: there is no such folder, or no expert file in it.
        ValueError: a file is no expert, or two are of one domain.
    """
    if not folder.is_dir():
        hint = did_you_mean(folder.name, (path.name for path in folder.parent.glob("*") if path.is_dir()))
        raise FileNotFoundError(f"No folder of experts at {folder}.{hint} Give a folder of *.safetensors files.")
    experts: dict[str, Expert | LoraExpert] = {}
    files: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name == CENTROIDS_FILE:
            continue
        expert = Expert.load(path)
        domain = expert.metadata.domain
        if domain in experts:
            raise ValueError(
                f"{folder} holds two experts of the domain {domain!r}, {files[domain]} and {path.name}. Remove one, or "
                "give the pool as domain -> file."
            )
        experts[domain], files[domain] = expert, path.name
    shown = (path for path in folder.iterdir() if not path.name.startswith("."))  # hidden: of an export that was killed
    for path in sorted(filter(is_lora_folder, shown)):
        if path.name in experts:
            raise ValueError(f"{folder} holds two experts of the domain {path.name!r}. Rename the folder {path}.")
        experts[path.name] = LoraExpert.load(path, path.name)
    if not experts:
        raise FileNotFoundError(f"{folder} holds no *.safetensors file of an expert. Give a folder of experts.")
    return dict(sorted(experts.items()))
