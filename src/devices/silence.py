"""Context managers that suppress MindSpore's log output."""

import contextlib
import logging
import os
import sys
from typing import Iterator


@contextlib.contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Suppress the warnings of Python's loggers, such as MindSpore's about deprecated calls, but not errors."""
    before = logging.root.manager.disable
    logging.disable(max(level, before))
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Suppress all output, including that of MindSpore's C++ code, where an exception or a result replaces it."""
    sys.stdout.flush(), sys.stderr.flush()
    saved = [os.dup(fd) for fd in (1, 2)]
    try:
        with open(os.devnull, "w") as devnull:
            for fd in (1, 2):
                os.dup2(devnull.fileno(), fd)
        with quiet(logging.CRITICAL):  # In a notebook sys.stderr is no file.
            yield
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        for fd, copy in zip((1, 2), saved):
            os.dup2(copy, fd)
            os.close(copy)
