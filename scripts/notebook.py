"""Make docs/quickstart.ipynb out of docs/notebook.py, and run it: python scripts/notebook.py [--check]

With `--check` the notebook that is there stays, and 1 is returned where an error ends the run. Not done here: the
comparison of what is printed, which depends on rounding.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
SOURCE, NOTEBOOK = ROOT / "docs" / "notebook.py", ROOT / "docs" / "quickstart.ipynb"
TIMEOUT_S = 900  # of a cell


def executed() -> nbformat.NotebookNode:
    """The notebook with what its cells print; errors come through as nbclient's CellExecutionError."""
    notebook = jupytext.read(SOURCE)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    NotebookClient(notebook, timeout=TIMEOUT_S, kernel_name="python3").execute(cwd=str(ROOT))
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # random otherwise
        cell.metadata = {}
        cell.get("outputs", [])[:] = [one for one in cell.get("outputs", []) if one.get("name") != "stderr"]
    return notebook


def main(argv: Sequence[str] | None = None) -> int:
    """Run the notebook; write it unless it is only checked."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--check", action="store_true", help="write nothing")
    args = made.parse_args(argv)
    notebook = executed()
    if not args.check:
        nbformat.write(notebook, NOTEBOOK)
    return 0


if __name__ == "__main__":
    sys.exit(main())
