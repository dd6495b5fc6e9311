"""What pip is told on this machine, for a root file system that is to install from the same places.

    python scripts/pip_settings.py CONFIG_FILE

writes the settings of all of pip's configuration files into one, and prints the local files and folders that settings
and environment variables name, one a line: certificates, constraints, folders of wheels, indexes on disk. What it does
not do: print the variables themselves, or look for passwords kept elsewhere (netrc, keyrings).
"""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
INDEXES = ("index-url", "extra-index-url")


def settings(listing: str) -> list[tuple[str, str, str]]:
    """Section, name and value of every line that `pip config list` prints.

    Raises:
        ValueError: a line is none of its form.
    """
    found = []
    for line in listing.splitlines():
        name, equals, value = line.partition("=")
        section, dot, key = name.rpartition(".")
        if not (equals and dot):
            raise ValueError(f"`pip config list` printed {line!r}; expected: section.name='value'. Is it pip >= 20?")
        found.append((section, key, str(ast.literal_eval(value))))
    return found


def local_paths(found: Iterable[tuple[str, str, str]], extra: Iterable[str] = ()) -> list[str]:
    """The files and folders of this machine that settings name, none of which lies in another.

    Of an index on disk it is the folder above: its pages link to files beside it.
    """
    named = [Path(path) for path in extra]
    for _, key, value in found:
        for word in value.split():
            address = urlparse(word)
            if address.scheme == "file":
                path = Path(unquote(address.path))
                named.append(path.parent if key in INDEXES else path)
            elif word.startswith("/"):
                named.append(Path(word))
    there = {path for path in named if path.exists() and path != Path("/")}
    return sorted(str(path) for path in there if not there.intersection(path.parents))


def file_of(found: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """The lines of a configuration file with the settings of files, without those of environment variables."""
    parser = configparser.RawConfigParser()
    for section, key, value in found:
        if section != ":env:":
            if not parser.has_section(section):
                parser.add_section(section)
            parser.set(section, key, value)
    for section in parser.sections():
        yield f"[{section}]"
        for key, value in parser.items(section):
            yield f"{key} = " + "\n    ".join(value.split("\n"))


def main(config_file: str) -> None:
    """Write the file and print the paths."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    found = settings(listed.stdout)
    Path(config_file).write_text("".join(f"{line}\n" for line in file_of(found)))
    certificates = [os.environ[name] for name in CERTIFICATES if os.environ.get(name, "").startswith("/")]
    print(*local_paths(found, certificates), sep="\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/pip_settings.py CONFIG_FILE")
    main(sys.argv[1])
