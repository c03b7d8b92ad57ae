"""Make the notebooks from source.md: the same code cells, with the texts in English and in Chinese.

python tutorials/make_notebooks.py             # keeps the stored outputs, unless a code cell has changed
python tutorials/make_notebooks.py --execute   # runs the cells, which takes about four minutes

The code is run once, and both notebooks store its outputs.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
SOURCE = FOLDER / "source.md"
NOTEBOOKS = {"en": FOLDER / "squeezenet_cifar10.ipynb", "zh": FOLDER / "squeezenet_cifar10_zh.ipynb"}
CODE = "code"
# A text begins with <!-- en --> or <!-- zh --> and ends where the next part begins; code stands in fences.
_PART = re.compile(r"^<!-- (en|zh) -->\n(.*?)(?=^<!-- |^```python\n|\Z)|^```python\n(.*?)^```\n", re.M | re.S)
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def parts(text: str) -> list[tuple[str, str]]:
    """Return the parts of the source in their order: "en", "zh" or "code", and the content."""
    return [(found[1] or CODE, (found[2] or found[3]).strip()) for found in _PART.finditer(text)]


def notebook(language: str, text: str) -> nbformat.NotebookNode:
    """Build the notebook of a language, without outputs."""
    made = nbformat.v4.new_notebook(metadata=_METADATA)
    for kind, content in parts(text):
        if kind in (CODE, language):
            new_cell = nbformat.v4.new_code_cell if kind == CODE else nbformat.v4.new_markdown_cell
            made.cells.append(new_cell(content, id=f"cell-{len(made.cells)}"))
    return made


def code_cells(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the cells of a notebook that are run."""
    return [cell for cell in book.cells if cell.cell_type == "code"]


def execute(book: nbformat.NotebookNode) -> None:
    """Run the cells in this folder and keep their outputs. Raises CellExecutionError for an exception in one."""
    options = {"timeout": None, "record_timing": False, "coalesce_streams": True}
    NotebookClient(book, resources={"metadata": {"path": str(FOLDER)}}, **options).execute()


def adopt_outputs(book: nbformat.NotebookNode, other: nbformat.NotebookNode) -> bool:
    """Take over another notebook's outputs, and return whether that had the same code."""
    pairs = list(zip(code_cells(book), code_cells(other)))
    same = [cell.source for cell in code_cells(book)] == [cell.source for cell in code_cells(other)]
    for cell, theirs in pairs if same else []:
        cell.outputs, cell.execution_count = theirs.outputs, theirs.execution_count
    return same


def main() -> None:
    text = SOURCE.read_text(encoding="utf-8")
    books = {language: notebook(language, text) for language in NOTEBOOKS}
    stored = NOTEBOOKS["en"]
    kept = "--execute" not in sys.argv[1:] and stored.is_file()
    if not (kept and adopt_outputs(books["en"], nbformat.read(stored, as_version=4))):
        execute(books["en"])
    for language, book in books.items():
        adopt_outputs(book, books["en"])
        nbformat.write(book, NOTEBOOKS[language])


if __name__ == "__main__":
    main()
