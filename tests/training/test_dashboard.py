"""A dashboard whose folder cannot be written to any more does not end or hold up a run."""

from __future__ import annotations

import threading

import pytest

from src.cli.errors import UserError
from src.training.dashboard import dashboard
from src.training.write_failures import Writing
from tests.faults.conftest import fill, tmpfs  # noqa: F401


@pytest.fixture
def eager(monkeypatch):
    """tensorboardX writes at once, instead of every two minutes."""
    from tensorboardX import event_file_writer

    original = event_file_writer._EventLoggerThread.__init__
    monkeypatch.setattr(
        event_file_writer._EventLoggerThread,
        "__init__",
        lambda self, queue, writer, _: original(self, queue, writer, 0),
    )


@pytest.mark.parametrize("stop", [False, True])
def test_a_full_disk_is_said_once_and_scalars_are_left_out_or_the_run_stops(tmpfs, eager, capfd, stop):  # noqa: F811
    disk, said, hook = tmpfs("1m"), [], threading.excepthook
    writing = Writing(stop, said.append)

    def write() -> None:
        with dashboard("tensorboard", disk / "scalars", writing) as add:
            fill(disk, 0)
            for step in range(3000):  # More than fit into a buffer and a queue.
                add("loss", 1.0, step)

    if stop:
        with pytest.raises(UserError, match=r"scalars cannot be written: No space left on device; .* --resume"):
            write()
    else:
        write()
        assert said == ["warning: scalars cannot be written: No space left on device; training continues"]
    assert threading.excepthook is hook and capfd.readouterr().err == ""
