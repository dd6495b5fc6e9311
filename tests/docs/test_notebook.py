"""docs/quickstart.ipynb is docs/notebook.py, executed: `make test-docs` runs it, and here is seen that it was."""

from __future__ import annotations

import pytest
from conftest import ROOT

jupytext = pytest.importorskip("jupytext", reason='the notebook needs jupytext: pip install -e ".[docs]"')
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def test_the_notebook_is_its_source_executed_and_small() -> None:
    made, source = jupytext.read(NOTEBOOK), jupytext.read(ROOT / "docs" / "notebook.py")
    assert [(cell.cell_type, cell.source) for cell in made.cells] == [(c.cell_type, c.source) for c in source.cells]
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [one for cell in code for one in cell.outputs if one.output_type == "error"]
    assert any("56" in one.get("text", "") for cell in code for one in cell.outputs)
    assert NOTEBOOK.stat().st_size < 100_000
