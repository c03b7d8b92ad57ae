"""Folders for the output of a program."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Iterable, Iterator

from src.cli.errors import UserError, first_line
from src.files.atomic import check_place


def make_folder(folder: Path) -> None:
    """Create a folder with its parents. Raises UserError if this fails or the folder is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError:
        raise UserError(f"{folder}: this is a file, not a folder; choose another --output_path") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot write here ({first_line(error)}); choose another folder") from None


@contextlib.contextmanager
def working_in(folder: str | Path) -> Iterator[None]:
    """Change the current folder while the body runs."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def output_folder(folder: Path, *names: str) -> Iterator[None]:
    """Create a folder for the files that the body writes, and remove a new one that stays empty.

    Raises UserError if the folder cannot be created, and WriteError if a file of that name could not be replaced.
    """
    is_new = not os.path.lexists(folder)
    make_folder(folder)
    check_place(*(folder / name for name in names))
    try:
        yield
    except BaseException:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()
        raise


def check_run_folder(
    folder: Path, entries: Iterable[str], overwrite: bool, resumable: Iterable[str] = ()
) -> list[Path]:
    """Return the existing files of a run in a folder, among the names `entries`.

    resumable: names of a run that --resume continues. Raises UserError if there are any entries, unless with
    `overwrite`, and for a file in the folder's place.
    """
    if os.path.exists(folder) and not os.path.isdir(folder):  # Path's own raise for a name that is too long.
        raise UserError(f"{folder}: this is a file, not a folder; choose another --output_path")
    present = [folder / name for name in entries if os.path.lexists(folder / name)]
    if present and not overwrite:
        resume = "continue it with --resume, " if any(os.path.lexists(folder / name) for name in resumable) else ""
        raise UserError(
            f"{folder}: already contains a run; {resume}choose another --output_path, or replace it with --overwrite"
        )
    return present


def make_run_folder(folder: Path, entries: Iterable[str], overwrite: bool) -> None:
    """Create the folder of a run, see check_run_folder. Removes nothing but the entries from an existing one."""
    present = check_run_folder(folder, entries, overwrite)
    make_folder(folder)
    for entry in present:
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
