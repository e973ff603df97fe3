"""The sample notebooks run as they stand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

SAMPLES = Path(__file__).resolve().parents[1] / "sample_data"
NOTEBOOKS = sorted(SAMPLES.glob("*.ipynb"))


def texts(notebook: nbformat.NotebookNode) -> str:
    """All that the cells printed."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def run(name: str, folder: Path) -> nbformat.NotebookNode:
    """A notebook after a run in a kernel of its own, beside a copy of what lies beside it."""
    notebook = nbformat.read(SAMPLES / name, as_version=4)
    nbformat.validate(notebook)
    shutil.copytree(SAMPLES / "lesion", folder / "lesion")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def test_a_series_is_scored_and_its_lesion_found(tmp_path: Path) -> None:
    said = texts(run("score_a_series.ipynb", tmp_path))
    first = next(line for line in said.splitlines() if line.startswith("1: RAS"))
    right, anterior, superior = (float(mm) for mm in first.split("RAS ")[1].split(" mm")[0].split(", "))
    assert (right - 97.6) ** 2 + (anterior + 7.8) ** 2 + (superior - 35.2) ** 2 < 13.4**2, "within the planted lesion"
    assert sorted(path.suffix for path in (tmp_path / "scored").iterdir()) == [".gz", ".gz", ".json", ".nrrd", ".png"]


def test_a_sinogram_is_scored(tmp_path: Path) -> None:
    said = texts(run("score_a_sinogram.ipynb", tmp_path))
    assert "No ID reference" in said
    (summary,) = (tmp_path / "sinogram" / "scored").glob("*_summary.json")
    assert json.loads(summary.read_text())["slice_score"] > 0


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_kept_without_output(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
