"""Locks on folders, held by a process and released when it dies."""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path
from typing import Iterator

from src.cli.errors import UserError
from src.files.run_folder import make_folder

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path, is_main_process: bool = True) -> Iterator[None]:
    """Keep a folder to the main process of a group. Raises UserError while another has it; one that died has not.

    The lock's file stays: a process that removed it could take the lock away from one that has just opened it.
    """
    if not is_main_process:
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
