"""Silence for warnings that MindSpore gives about its own or mindvision's calls, which no user can act on."""

import contextlib
import logging
from typing import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings of Python's loggers, MindSpore's among them; errors still show."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
