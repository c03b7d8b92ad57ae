"""What the tests share: real data where there is some, made data where there is none, and the programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import src  # noqa: F401  Before mindspore, as every entry point does.

# isort: split
import mindspore as ms

# Once an operator has run, no device can be set any more, but for the one that was.
ms.set_device("CPU")

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("SQUEEZENET_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data for development; tests that need it are skipped without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no development data: set SQUEEZENET_SHARED to the folder that holds data/ and tools/")
    return SHARED


@pytest.fixture(scope="session")
def real_cifar10(tmp_path_factory) -> Path:
    """A folder with the real CIFAR-10 images in both official layouts."""
    if "SQUEEZENET_CIFAR10" in os.environ:
        return Path(os.environ["SQUEEZENET_CIFAR10"])
    maker = SHARED / "tools" / "make_cifar10.py"
    if not maker.is_file():
        pytest.skip("no CIFAR-10: set SQUEEZENET_CIFAR10 to the folder that holds cifar-10-batches-py/")
    folder = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, str(maker), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def made_images() -> SimpleNamespace:
    """100 training and 50 test images, 32x32, of ten classes that differ in colour: images, labels by split."""
    random = np.random.RandomState(0)
    palette = random.randint(0, 256, (10, 3))
    splits = {}
    for split, count in (("train", 100), ("test", 50)):
        labels = np.arange(count) % 10
        noise = random.randint(-40, 41, (count, 32, 32, 3))
        images = np.clip(palette[labels][:, None, None] + noise, 0, 255).astype(np.uint8)
        splits[split] = SimpleNamespace(images=images, labels=labels)
    return SimpleNamespace(**splits)


def run_script(script: str, *arguments, cwd: Path = ROOT, timeout: int = 600, **environment) -> SimpleNamespace:
    """Run one of the project's programs in a folder, as a user does; return returncode, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return SimpleNamespace(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)


@pytest.fixture
def script():
    """The function that runs a program: script("train.py", "--epochs", 1, cwd=folder)."""
    return run_script
