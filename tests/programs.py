"""The programs as a user runs them: each in a process of its own, or, to save the imports, in this one."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest

from src.cli.errors import run

ROOT = Path(__file__).resolve().parent.parent


def run_script(script: str, *arguments, cwd: Path = ROOT, **environment) -> SimpleNamespace:
    """Run one of the project's programs in a folder, as a user does; return returncode, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    return SimpleNamespace(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)


def run_here(name: str, *arguments, cwd: Path | None = None, out: TextIO | None = None) -> SimpleNamespace:
    """Run a program likewise, but in this process. A bug is raised as it is.

    name: of the program's module: train, src.summary. out: what standard output is, and is not returned.
    """
    module = importlib.import_module(name)
    printed, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before = os.getcwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.cli.signals.watch", lambda: None)  # It is for the rest of a process.
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        os.chdir(cwd or before)
        try:
            with (
                contextlib.redirect_stdout(out or printed),
                contextlib.redirect_stderr(err),
                pytest.raises(SystemExit) as end,
            ):
                run(module.main)
        finally:
            os.chdir(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return SimpleNamespace(returncode=end.value.code, stdout=printed.getvalue(), stderr=err.getvalue())


def one_line_error(done: SimpleNamespace) -> str:
    """Check that a program ended as for a user's mistake, and return its line."""
    assert done.returncode == 2, f"exit code {done.returncode}: {done.stderr[-300:]}"
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), f"{len(lines)} lines: {done.stderr[:300]!r}"
    return lines[0]
