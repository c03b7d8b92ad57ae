"""Folders and files that a program writes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Iterable, Iterator

from src.errors import UserError

LOCK = ".lock"


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


@contextlib.contextmanager
def locked(folder: Path, leads: bool = True) -> Iterator[None]:
    """Keep a folder to this process, when it leads. Raises UserError while another has it; one that died has not.

    The lock's file stays: a process that removed it could take the lock away from one that has just opened it.
    """
    if not leads:
        yield
        return
    make_folder(folder)
    with open(folder / LOCK, "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another run is writing here; wait, or choose another --output_path") from None
        except OSError as error:  # Some network file systems have no locks.
            print(f"warning: {folder} cannot be locked ({error.strerror}): see that no other run writes there")
        yield


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all. What is not UTF-8, as in a file's name, becomes an escape."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, as they have to be before older files are given up."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # Not every file system can.
        pass
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, as a whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
