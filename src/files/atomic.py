"""Atomic writes: a file is on the disk as a whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any, Iterator, Mapping, TextIO

import numpy as np

from src.cli.errors import UserError, first_line

_LEFTOVER = ".writing-"  # Begins the names of the folders in which files are made.


class WriteError(UserError):
    """A file cannot be written.

    strerror: the reason, as in OSError.
    """

    def __init__(self, path: Path, error: OSError):
        self.strerror = first_line(error)
        super().__init__(f"{path}: cannot be written ({self.strerror}); make room, or choose another place")


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a temporary file, of the same suffix, that replaces `path` after the body has written it.

    The file lies in its own folder on the same disk, which is removed with everything that the body leaves there.
    Raises WriteError, and leaves `path` unchanged, if `path` is not a plain file, and for an OSError of the body.
    """
    folder = None
    try:
        check_place(path)
        folder = Path(tempfile.mkdtemp(prefix=_LEFTOVER, dir=path.parent))
        temporary = folder / f"new{path.suffix}"
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)  # According to the umask, which some libraries ignore.
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise WriteError(path, error) from None
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def check_place(*paths: Path) -> None:
    """Raise WriteError unless each path is free or a plain file."""
    for path in paths:
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "a folder has this name")
            if not stat.S_ISREG(mode):
                raise FileExistsError(errno.EEXIST, "not a plain file")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise WriteError(path, error) from None


def open_growing(path: Path, mode: str) -> TextIO:
    """Open a text file for writing line by line, with mode "w" or "a". Raises WriteError."""
    try:
        return open(path, mode, newline="", encoding="utf-8", opener=_without_waiting)
    except OSError as error:
        raise WriteError(path, error) from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with written(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8. Escapes characters without UTF-8, as in some file names."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name as numpy's .npz."""
    stream = io.BytesIO()  # On a full disk, numpy would print a traceback of its own.
    np.savez(stream, **arrays)
    write_bytes(path, stream.getvalue())


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder. No other process may be writing there."""
    for leftover in folder.glob(f"{_LEFTOVER}*"):
        if stat.S_ISDIR(leftover.lstat().st_mode):  # rmtree would wait for the writer of a pipe.
            shutil.rmtree(leftover, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, as is necessary before removing older files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # Not every file system can.
        pass
    finally:
        os.close(descriptor)
