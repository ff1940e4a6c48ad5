"""The example notebook runs from its first cell to its last, and shows progress, images and tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebook.ipynb"


def output_of(cell: dict) -> str:
    return "".join(str(one.get("data", {}).get("text/html", one.get("text", ""))) for one in cell["outputs"])


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    shutil.copy(NOTEBOOK, tmp_path)
    notebook = nbformat.read(tmp_path / NOTEBOOK.name, as_version=4)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {cell["source"].splitlines()[-1]: output_of(cell) for cell in notebook.cells if cell["cell_type"] == "code"}
    assert "torch" in shown["tsuika.doctor()"]
    assert "<img" in shown["run"]
    drawn = next(html for line, html in shown.items() if line.startswith("tsuika.generate"))
    assert drawn.count("<img") == 4
    sheet = next(html for line, html in shown.items() if line.startswith("tsuika.grid"))
    assert sheet.count("<img") >= 1
    assert all("Traceback" not in html for html in shown.values())
