"""Silence for what MindSpore prints where no user can act on it, or an exception says it better."""

import contextlib
import logging
import os
import sys
from typing import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back the warnings of Python's loggers, such as MindSpore's about deprecated calls; errors still show."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Hold back all that is printed, MindSpore's C++ part included, where an exception or a result says it better."""
    sys.stdout.flush(), sys.stderr.flush()
    saved = [os.dup(fd) for fd in (1, 2)]
    try:
        with open(os.devnull, "w") as devnull:
            for fd in (1, 2):
                os.dup2(devnull.fileno(), fd)
        yield
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        for fd, copy in zip((1, 2), saved):
            os.dup2(copy, fd)
            os.close(copy)
