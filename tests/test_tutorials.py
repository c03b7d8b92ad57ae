"""The notebooks: both made from one source, with outputs fit to be published, and every cell running."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.programs import ROOT

sys.path.insert(0, str(ROOT / "tutorials"))

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
import make_notebooks  # noqa: E402

MOST_BYTES = 1_500_000
# Of a machine: folders from the root, drives, and addresses.
TRACES = re.compile(r"(?<![\w.~])/(work|home|root|tmp|usr|var|opt|mnt|data|Users)\b|\b[A-Z]:\\\\|site-packages|@\w+:")
QUICK = "SQUEEZENET_TUTORIAL_QUICK"


@pytest.fixture(scope="module", params=sorted(make_notebooks.NOTEBOOKS))
def stored(request):
    """A stored notebook."""
    return nbformat.read(make_notebooks.NOTEBOOKS[request.param], as_version=4)


def printed(book) -> str:
    """Return all text in a notebook's outputs."""
    outputs = [output for cell in make_notebooks.code_cells(book) for output in cell.outputs]
    texts = [output.get("text", "") for output in outputs]
    return "\n".join(texts + [str(output["data"].get("text/plain", "")) for output in outputs if "data" in output])


@pytest.mark.parametrize("language", make_notebooks.NOTEBOOKS)
def test_a_notebook_holds_what_the_source_says(language):
    made = make_notebooks.notebook(language, make_notebooks.SOURCE.read_text(encoding="utf-8"))
    held = nbformat.read(make_notebooks.NOTEBOOKS[language], as_version=4)
    nbformat.validate(held)
    parts = [[(cell.id, cell.cell_type, cell.source) for cell in book.cells] for book in (made, held)]
    assert parts[0] == parts[1], "run python tutorials/make_notebooks.py"


def test_every_text_stands_in_both_languages():
    kinds = [kind for kind, _ in make_notebooks.parts(make_notebooks.SOURCE.read_text(encoding="utf-8"))]
    texts = [kind for kind in kinds if kind != make_notebooks.CODE]
    assert texts == ["en", "zh"] * (len(texts) // 2)
    for cell in nbformat.read(make_notebooks.NOTEBOOKS["zh"], as_version=4).cells:
        if cell.cell_type == "markdown":
            assert len(re.findall("[\u4e00-\u9fff]", cell.source)) > 10, cell.source


def test_stored_outputs_are_of_one_run_from_beginning_to_end(stored):
    cells = make_notebooks.code_cells(stored)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 10


def test_stored_outputs_tell_nothing_of_the_machine_and_hold_no_warnings(stored):
    outputs = [output for cell in make_notebooks.code_cells(stored) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not TRACES.search(printed(stored)) and "warning" not in printed(stored).lower()


def test_both_notebooks_have_the_same_outputs_and_are_small():
    outputs = []
    for file in make_notebooks.NOTEBOOKS.values():
        assert file.stat().st_size < MOST_BYTES
        outputs.append([cell.outputs for cell in make_notebooks.code_cells(nbformat.read(file, as_version=4))])
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("text, found", [("see /home/a", True), ("C:\\\\a", True), ("runs/tutorial, 1/2", False)])
def test_a_path_of_a_machine_is_found(text, found):
    assert bool(TRACES.search(text)) == found


def test_outputs_are_kept_while_the_code_is_the_same():
    source = "<!-- en -->\nNew text.\n<!-- zh -->\n新的文字。\n```python\nprint(1)\n```\n"
    book, other = (make_notebooks.notebook("en", source) for _ in range(2))
    other.cells[1].outputs, other.cells[1].execution_count = [{"name": "stdout"}], 1
    assert make_notebooks.adopt_outputs(book, other) and book.cells[1].outputs == [{"name": "stdout"}]
    changed = make_notebooks.notebook("en", source.replace("print(1)", "print(2)"))
    assert not make_notebooks.adopt_outputs(changed, other) and changed.cells[1].outputs == []


def run_from_beginning_to_end(tmp_path: Path, monkeypatch, data: Path) -> str:
    """Run the code of the notebooks, shortened, in a folder of its own; return what it printed."""
    (tmp_path / "tutorials").mkdir()
    for name in ("src", "config"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setattr(make_notebooks, "FOLDER", tmp_path / "tutorials")
    monkeypatch.setenv(QUICK, "1")
    monkeypatch.setenv("SQUEEZENET_CIFAR10", str(data))
    book = make_notebooks.notebook("en", make_notebooks.SOURCE.read_text(encoding="utf-8"))
    make_notebooks.execute(book)  # Raises for an exception in a cell.
    assert not [o for cell in make_notebooks.code_cells(book) for o in cell.outputs if o.get("name") == "stderr"]
    assert json.loads((tmp_path / "runs/tutorial/result.json").read_text())["test"]["accuracy"] > 0
    assert (tmp_path / "runs/tutorial/squeezenet.onnx").is_file()
    return printed(book)


@pytest.mark.thorough
@pytest.mark.timeout(1800)  # About a minute of two idle cores, but another process's.
def test_every_cell_runs_on_the_digits(tmp_path, monkeypatch):
    assert "images of digits, 1 epochs" in run_from_beginning_to_end(tmp_path, monkeypatch, tmp_path / "none")


@pytest.mark.slow
@pytest.mark.cifar10
def test_every_cell_runs_on_cifar10(tmp_path, monkeypatch, real_cifar10):
    assert "images of cifar10, 1 epochs" in run_from_beginning_to_end(tmp_path, monkeypatch, real_cifar10)
