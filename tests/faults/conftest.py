"""Fault injection: faults are made on purpose, counted, and each test prints how many of them were survived.

pytest tests/faults                # a summary line each, at the end
pytest tests/faults -m slow        # those that take minutes

def test_truncated_files_are_refused(faults):
    with faults("truncated files", "refused") as inject:
        for size in range(100):
            with inject.fault(f"cut at {size}"):    # Survived unless this body fails.
                assert "damaged" in refusal(read, whole[:size])
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, Iterator

import pytest

from tests.programs import one_line_error  # noqa: F401  For tests/faults/test_configuration.py.


class Faults:
    """Counts the faults of one kind.

    tried: faults so far.
    failed: what each fault was that was not survived, with the reason.
    notes: what the summary line says besides the counts, e.g. "0 ran code".
    """

    def __init__(self, kind: str, outcome: str):
        self.kind, self.outcome = kind, outcome
        self.tried, self.failed, self.notes = 0, [], []
        self.first_error: BaseException | None = None

    @contextlib.contextmanager
    def fault(self, what: str) -> Iterator[None]:
        """Count a fault, survived unless the body fails; the test goes on to the next one."""
        self.tried += 1
        try:
            yield
        except (Exception, pytest.fail.Exception) as error:
            reason = (str(error).splitlines() or [""])[0][:300]
            self.failed.append(f"{what}: {type(error).__name__}: {reason}")
            self.first_error = self.first_error or error

    def summary(self) -> str:
        """Return the line that is printed."""
        counts = f"{self.tried} tried, {self.tried - len(self.failed)} {self.outcome}"
        return ", ".join([f"faults: {self.kind}: {counts}", *self.notes])


@pytest.fixture
def faults(request) -> Callable:
    """A context manager that fails its test when a fault was not survived: faults(kind, outcome="survived")."""

    @contextlib.contextmanager
    def counted(kind: str, outcome: str = "survived") -> Iterator[Faults]:
        inject = Faults(kind, outcome)
        try:
            yield inject
        finally:
            # A property of the test reaches the summary from the processes of pytest-xdist too.
            request.node.user_properties.append(("faults", inject.summary()))
        assert inject.tried, "no fault was tried"
        if inject.failed:
            listed = "\n  ".join(inject.failed[:20])
            raise AssertionError(f"{inject.summary()}; not {inject.outcome}:\n  {listed}") from inject.first_error

    return counted


def pytest_terminal_summary(terminalreporter):
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    lines = [
        line
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, line in report.user_properties
        if name == "faults"
    ]
    if lines:
        terminalreporter.section("faults tried and survived")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> SimpleNamespace:
    """Paths of a checkpoint with random weights, for images of 16x16, and of its exports: ckpt, mindir, onnx."""
    from src.checkpoint import save_checkpoint
    from src.config import DeviceConfig
    from src.dataset.preprocessing import Preprocessing
    from src.inference.config import ExportConfig
    from src.inference.export import export_checkpoint
    from src.model_card import ModelCard
    from src.squeezenet import SqueezeNet

    folder = tmp_path_factory.mktemp("models")
    model = {"version": "cifar", "num_classes": 10}
    preprocessing = Preprocessing(16, "resize", "dataset", (0.5,) * 3, (0.25,) * 3)
    card = ModelCard(model, [str(i) for i in range(10)], preprocessing, "digits", 0.0)
    save_checkpoint(SqueezeNet(**model).set_train(False), folder / "net.ckpt", card)
    cpu, keys = DeviceConfig(device_target="CPU"), {"dynamic_batch": True, "file_name": str(folder / "net")}
    exported = [
        export_checkpoint(ExportConfig(str(folder / "net.ckpt"), kind, **keys), cpu)["file"]
        for kind in ("MINDIR", "ONNX")
    ]
    return SimpleNamespace(ckpt=folder / "net.ckpt", mindir=Path(exported[0]), onnx=Path(exported[1]))


@pytest.fixture
def tmpfs(tmp_path):
    """A function that mounts a small file system; skipped where that is not allowed."""
    mounted = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip(f"no file system may be mounted here: {done.stderr.decode().strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fill a file system but for some bytes; return the file that does."""
    free = shutil.disk_usage(disk).free
    with open(disk / "filling", "wb") as stream:
        stream.write(bytes(free - leave))
    return disk / "filling"
