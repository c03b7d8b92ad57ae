"""What the tests share: real data where there is some, made data where there is none, and the programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Callable

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # As many processes as cores: threads of their own would only wait.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import src  # noqa: F401  Before mindspore, as every entry point does.

# isort: split
import mindspore as ms

from tests.programs import ROOT, run_here, run_script

# Once an operator has run, no device can be set any more, but for the one that was.
ms.set_device("CPU")

SLOW_SECONDS = 1800
SHARED = Path(os.environ.get("SQUEEZENET_SHARED", ROOT.parent / "shared"))


@pytest.fixture(autouse=True)
def pynative_mode() -> None:
    """PYNATIVE_MODE for what a test runs itself: no graph is compiled, and no test depends on the one before it."""
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture
def graph_mode(pynative_mode) -> None:
    """GRAPH_MODE, the programs' default."""
    ms.set_context(mode=ms.GRAPH_MODE)


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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> SimpleNamespace:
    """A finished run of a small net on the digits: folder, config, result, output. Not to be changed."""
    from tests.runs import tiny_run

    return tiny_run(tmp_path_factory.mktemp("tiny") / "run")


@pytest.fixture
def no_pictures():
    """Leave out the pictures of a run."""
    from tests.runs import without_pictures

    with without_pictures():
        yield


@pytest.fixture(scope="session")
def script() -> Callable:
    """The function that runs a program in a process of its own: script("train.py", "--epochs", 1, cwd=folder)."""
    return run_script


@pytest.fixture(scope="session")
def program() -> Callable:
    """The function that runs a program in this process: program("train", "--epochs", 1, cwd=folder)."""
    return run_here


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))
