"""An expert as a repository of the Hugging Face hub: its file and a model card, written to a folder first.

Not done here: what the card says (`t2.experts.hub_card`), merged models and LoRAs (`t2.experts.export_hf`,
`t2.experts.export_lora`), mixtures.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from t2.experts.expert import EXPERT_FILE, Expert
from t2.experts.hub_card import Measured, make_card
from t2.experts.provenance import EXPORT_FILE, of_expert, save_provenance
from t2.run.files import atomic_folder, parse_json

CARD_FILE = "README.md"


def check_repo(repo: str | None) -> None:
    """Raise ValueError unless `repo` is USER/NAME as the hub takes it."""
    if repo is None or repo.count("/") != 1:
        raise ValueError(f"repo is {repo!r}; give repo=USER/NAME, the repository on the hub.")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"repo is {repo!r}, which the hub does not take: {error}") from error


def find_token() -> str:
    """The token of the hub that the environment or a login holds.

    Raises:
        ValueError: there is none.
    """
    token = get_token()
    if not token:
        raise ValueError(
            "There is no token for the hub, and a push needs one that may write: set HF_TOKEN, or run `hf auth login`. "
            "dry_run=true writes the folder alone."
        )
    return token


def export_hub(
    expert: Expert,
    path: Path,
    folder: Path,
    *,
    repo: str,
    license: str,
    scores: list[Measured],
    asked: Mapping[str, Any],
) -> None:
    """Write the folder of the repository: expert.safetensors (the file at `path`), README.md and export.json.

    `asked` are the keys that it was asked for with (`check_asked`).

    Raises:
        FileExistsError: there is something at `folder`.
        OSError: the disk is full.
    """
    applied = of_expert(expert, path)
    card = make_card(expert, applied["expert"]["sha256"], repo=repo, license=license, scores=scores)
    with atomic_folder(folder, needed_bytes=path.stat().st_size) as partial:
        shutil.copyfile(path, partial / EXPERT_FILE)
        (partial / CARD_FILE).write_text(str(card), encoding="utf-8")
        told = {**applied, "asked": dict(asked)}
        save_provenance(partial, to="hub", base_model=expert.metadata.base_model, dtype="float32", applied=told)


def check_asked(folder: Path, asked: Mapping[str, Any]) -> None:
    """Raise ValueError where a folder was written for other keys than it is to be pushed with; None: not given."""
    content = parse_json((folder / EXPORT_FILE).read_bytes(), f"{folder / EXPORT_FILE} is damaged: it", "Export again.")
    before = content.get("asked", {}) if isinstance(content, dict) else {}
    other = [key for key, value in asked.items() if value is not None and before.get(key, value) != value]
    if other:
        were, now = ({key: of[key] for key in other} for of in (before, asked))
        raise ValueError(
            f"{folder} was written with {were}, and is to be pushed with {now}. Remove it and export again, or give "
            "what it was written with."
        )


def holds_export(folder: Path, expert: Path) -> bool:
    """Whether a folder is this expert's repository, as an earlier export wrote it; its card may have been edited."""
    written, card = folder / EXPERT_FILE, folder / CARD_FILE
    return (
        card.is_file()
        and (folder / EXPORT_FILE).is_file()
        and written.is_file()
        and written.read_bytes() == expert.read_bytes()
    )


def push(folder: Path, repo: str, token: str) -> str:
    """Upload the folder to the repository, which is made where it is not there (private); returns its address."""
    api = HfApi(token=token)
    api.create_repo(repo, private=True, exist_ok=True)
    return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Add an expert").repo_url)
