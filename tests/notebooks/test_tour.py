"""The tour runs from its first cell to the last, and is stored without outputs."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
TOUR = ROOT / "notebooks" / "tour.ipynb"


def code_cells():
    return [cell for cell in nbformat.read(TOUR, as_version=4).cells if cell.cell_type == "code"]


def test_it_is_stored_without_outputs():
    nbformat.validate(nbformat.read(TOUR, as_version=4))
    for cell in code_cells():
        assert cell.outputs == []
        assert cell.execution_count is None


def test_it_is_code_of_a_reader():
    """It measures nothing and needs no torch."""
    text = "\n".join(cell.source for cell in code_cells())
    assert "torch" not in text
    assert "tiebreak.protocols" not in text


@pytest.mark.slow
def test_it_runs_in_a_kernel_of_its_own(tmp_path):
    # In a process of its own: the client's event loop leaves sockets to the garbage collector, which warns.
    program = (
        "import nbformat, sys; from nbclient import NotebookClient; "
        "book = nbformat.read(sys.argv[1], as_version=4); "
        "NotebookClient(book, timeout=120, kernel_name='python3', "
        "resources={'metadata': {'path': sys.argv[2]}}).execute(); nbformat.write(book, sys.argv[3])"
    )
    out = tmp_path / "tour.ipynb"
    subprocess.run(
        [sys.executable, "-c", program, str(TOUR), str(TOUR.parent), str(out)],
        check=True,
        capture_output=True,
    )
    ran = [cell for cell in json.loads(out.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in ran] == list(range(1, len(ran) + 1))
    assert not [one for cell in ran for one in cell["outputs"] if one["output_type"] == "error"]
