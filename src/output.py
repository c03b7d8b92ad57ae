"""Folders and files that a program writes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Iterable

from src.errors import UserError


def make_folder(folder: Path) -> None:
    """Make a folder with its parents. Raises UserError when it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError:
        raise UserError(f"{folder}: this is a file, not a folder; choose another --output_path") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot write here ({error.strerror}); choose another folder") from None


def make_run_folder(folder: Path, entries: Iterable[str], overwrite: bool) -> None:
    """Make the folder of a run. Raises UserError when it holds a run already and is not to be overwritten.

    `entries` are the names that a run writes: only those are removed by overwriting.
    """
    present = [folder / name for name in entries if (folder / name).exists()] if folder.is_dir() else []
    if present and not overwrite:
        raise UserError(f"{folder}: holds a run already; choose another --output_path, or replace it with --overwrite")
    make_folder(folder)
    for entry in present:
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, as a whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
