"""Scalars for TensorBoard or VisualDL."""

from __future__ import annotations

import contextlib
import inspect
import threading
from pathlib import Path
from typing import Callable, Iterator

from src.cli.errors import UserError
from src.files.atomic import WriteError
from src.training.write_failures import Writing


@contextlib.contextmanager
def dashboard(
    kind: str, folder: Path, writing: Writing, step: int = 0
) -> Iterator[Callable[[str, float, int], None] | None]:
    """Yield a function that writes a scalar (tag, value, step), or None.

    writing: handles write failures, which occur in the writer's thread and end it.
    step: steps done before; scalars that a former start wrote for later steps are hidden. Raises WriteError.
    """
    writer_class = dashboard_writer(kind)
    if writer_class is None:
        yield None
        return
    wanted = {"purge_step": step + 1 if step else None, "max_queue": 0}  # A bounded queue waits for an ended thread.
    options = {key: value for key, value in wanted.items() if key in inspect.signature(writer_class).parameters}
    failures: list[OSError] = []
    former_hook = threading.excepthook

    def note(arguments: threading.ExceptHookArgs) -> None:
        if isinstance(arguments.exc_value, OSError):
            failures.append(arguments.exc_value)
        else:
            former_hook(arguments)

    def fail() -> None:
        raise failures[0]

    def add(tag: str, value: float, step: int) -> None:
        writing.attempt(folder.name, fail if failures else lambda: writer.add_scalar(tag, value, step))

    threading.excepthook = note
    try:
        writer = writer_class(logdir=str(folder), **options)
    except OSError as error:
        threading.excepthook = former_hook
        raise WriteError(folder, error) from None
    try:
        yield add
    finally:
        try:
            writing.attempt(folder.name, writer.close)
        finally:
            threading.excepthook = former_hook
            with contextlib.suppress(AttributeError):  # tensorboardX closes again at the end of the process.
                writer.file_writer.event_writer.close = lambda: None


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
        raise UserError(
            f"scalars: {kind} is not installed; pip install {kind}, or choose another one or none"
        ) from None
    return Writer
