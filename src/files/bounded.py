"""Bounded reads of plain files, up to a maximum size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from src.cli.errors import UserError, first_line


def open_file(path: str | Path) -> BinaryIO:
    """Open a plain file for reading. Raises OSError for anything else, without waiting for a pipe or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # A null byte, which a configuration file may have in a name.
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is a folder" if stat.S_ISDIR(mode) else "not a plain file", str(path))
    return os.fdopen(descriptor, "rb")


def read_bytes(path: str | Path, most: int, advice: str = "") -> bytes:
    """Return the content of a plain file of at most `most` bytes.

    Raises UserError, which ends in the advice, for a longer or unreadable file.
    """
    try:
        with open_file(path) as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise _refused(path, f"cannot be read ({first_line(error)})", advice) from None
    if len(content) > most:
        raise _refused(path, f"is longer than {most:,} bytes", advice)
    return content


def read_text(path: str | Path, most: int, advice: str = "") -> str:
    """Return the text of a plain UTF-8 file, with or without a byte order mark. Raises UserError as read_bytes does."""
    try:
        return read_bytes(path, most, advice).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(path, f"is not UTF-8 text ({first_line(error)})", advice) from None


def _refused(path: str | Path, problem: str, advice: str) -> UserError:
    return UserError(f"{path}: {problem}" + (f"; {advice}" if advice else ""))
