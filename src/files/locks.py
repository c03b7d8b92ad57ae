"""File locks, held by a process and released when the process dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
from pathlib import Path
from typing import Iterator

from src.cli.errors import UserError, first_line
from src.files.atomic import remove_leftovers
from src.files.run_folder import make_folder

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder. Raises UserError while another process holds the lock."""
    make_folder(folder)
    with held(folder / LOCK, f"{folder}: another run is writing here; wait, or choose another --output_path"):
        remove_leftovers(folder)
        yield


@contextlib.contextmanager
def held(path: Path, busy: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock, a file that exists meanwhile.

    busy: the message of the UserError while another process holds the lock; printed instead with `wait`.
    """
    while True:
        descriptor = _opened(path)
        try:
            _lock(descriptor, path, busy, wait)
            if not _lies_at(descriptor, path):  # Its holder has removed it while this process waited.
                continue
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # The folder may have been removed, or be read-only.
                    path.unlink()
            return
        finally:
            os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        reason = "not a plain file"
    except OSError as error:
        reason = first_line(error)
    raise UserError(f"{path}: cannot be locked ({reason}); remove it, or choose another folder")


def _lock(descriptor: int, path: Path, busy: str, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise UserError(busy) from None
        print(busy, file=sys.stderr, flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:  # Some network file systems have no locks.
        reason = f"{path.parent} cannot be locked ({first_line(error)})"
        print(f"warning: {reason}: make sure that no other process writes there", file=sys.stderr, flush=True)


def _lies_at(descriptor: int, path: Path) -> bool:
    """Return whether an open lock is still the file at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
