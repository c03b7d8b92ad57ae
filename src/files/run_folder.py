"""Folders and files that a program writes."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Iterable, Iterator

from src.cli.errors import UserError


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


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make a folder for what the body writes, and take it away again when that fails before anything is written."""
    is_new = not folder.exists()
    make_folder(folder)
    try:
        yield
    except BaseException:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()
        raise


def check_run_folder(folder: Path, entries: Iterable[str], overwrite: bool) -> list[Path]:
    """Return what lies in the folder of a run of its `entries`, the names that a run writes.

    Raises UserError when that is anything, unless it is to be overwritten, and for a file in the folder's place.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: this is a file, not a folder; choose another --output_path")
    present = [folder / name for name in entries if (folder / name).exists()]
    if present and not overwrite:
        raise UserError(f"{folder}: holds a run already; choose another --output_path, or replace it with --overwrite")
    return present


def make_run_folder(folder: Path, entries: Iterable[str], overwrite: bool) -> None:
    """Make the folder of a run, see check_run_folder; of what lies in it only the entries are removed."""
    present = check_run_folder(folder, entries, overwrite)
    make_folder(folder)
    for entry in present:
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
