"""Scalars for TensorBoard or VisualDL."""

from __future__ import annotations

import contextlib
import inspect
from pathlib import Path
from typing import Callable, Iterator

from src.cli.errors import UserError
from src.files.atomic import WriteError


@contextlib.contextmanager
def dashboard(kind: str, folder: Path, step: int = 0) -> Iterator[Callable[[str, float, int], None] | None]:
    """Yield a function that writes a scalar (tag, value, step), or None.

    step: steps done before; scalars that a former start wrote for later steps are hidden. Raises WriteError.
    """
    writer_class = dashboard_writer(kind)
    if writer_class is None:
        yield None
        return
    options = {"purge_step": step + 1} if step and "purge_step" in inspect.signature(writer_class).parameters else {}
    try:
        writer = writer_class(logdir=str(folder), **options)
    except OSError as error:
        raise WriteError(folder, error) from None
    try:
        yield lambda tag, value, step: writer.add_scalar(tag, value, step)
    finally:
        writer.close()


def dashboard_writer(kind: str) -> type | None:
    """Return the writer class of a dashboard. Raises UserError if the dashboard is not installed."""
    try:
        if kind == "tensorboard":
            from tensorboardX import SummaryWriter as Writer
        elif kind == "visualdl":
            from visualdl import LogWriter as Writer
        else:
            return None
    except ImportError:
        raise UserError(f"scalars: {kind} is not installed; pip install {kind}, or choose another or none") from None
    return Writer
