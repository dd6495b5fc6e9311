"""The prompts that adapt.py completes: out of the configuration, a file, standard input, or asked for."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from t2.run.files import decode_lines, read_lines


def read_prompts(cfg: DictConfig) -> list[str]:
    """The prompts to complete at once.

    Raises:
        FileNotFoundError: `prompt_file` is not there.
        ValueError: an empty prompt, a file that is not UTF-8, or several sources of prompts.
    """
    given = [key for key in ("prompt", "prompt_file", "interactive") if cfg[key] not in (None, False)]
    if len(given) > 1:
        raise ValueError(f"Prompts come from one source, and {' and '.join(given)} are given. Leave one.")
    if cfg.prompt_file is not None:
        source, path = str(cfg.prompt_file), Path(cfg.prompt_file)
        if not path.is_file():
            raise FileNotFoundError(
                f"prompt_file={path}: there is no such file. Give a text file with a prompt a line."
            )
        prompts = read_lines(path, "Save it as UTF-8.")
    elif cfg.prompt == "-":
        source = "standard input"
        prompts = decode_lines(sys.stdin.buffer.read(), source, "Convert it to UTF-8 first, as with iconv.")
    elif cfg.prompt is not None:
        source, prompts = "prompt", [str(cfg.prompt)]
    else:
        return []
    if not prompts:
        raise ValueError(f"There is no prompt in {source}. Give one a line.")
    for number, prompt in enumerate(prompts, start=1):
        if not prompt.strip():
            where = f"Line {number} of {source}" if source != "prompt" else "The prompt"
            raise ValueError(f"{where} is empty. Give a question, such as prompt='What is 3 + 4?'.")
    return prompts


def ask() -> str:
    """The next prompt; an empty one ends the loop, and so does the end of the input.

    Raises:
        ValueError: it is no UTF-8.
    """
    try:
        return input("\nPrompt (empty: end)> ").strip()
    except EOFError:
        return ""
    except UnicodeDecodeError as error:
        raise ValueError(f"The prompt is not UTF-8 text: {error}. Set the terminal to UTF-8.") from error
