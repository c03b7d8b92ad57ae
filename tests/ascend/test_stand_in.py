"""The stand-in itself: what MindSpore sees of it, and what a user sees of a device that refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.ascend import stand_in
from tests.conftest import run_script

pytestmark = pytest.mark.skipif(stand_in.why_not() is not None, reason=stand_in.why_not() or "")


def test_it_is_built_once_and_kept_for_later_sessions():
    library = stand_in.build() / "lib64" / "libascendcl.so"
    built = library.stat().st_ino
    stand_in.build.cache_clear()
    assert stand_in.build() / "lib64" / "libascendcl.so" == library
    assert library.stat().st_ino == built


def test_mindspore_probes_it_as_a_device_that_adds(tmp_path):
    program = "import mindspore as ms; ms.set_device('Ascend', 0); print((ms.Tensor([1.0]) + 1).asnumpy()[0])"
    variables = {"PATH": "/usr/bin:/bin", **stand_in.environment()}
    # MindSpore makes a folder for what it might offload where it runs.
    options = {"cwd": tmp_path, "env": variables, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([sys.executable, "-c", program], **options)
    assert done.stdout.splitlines()[-1] == "2.0", done.stderr


def test_a_device_that_refuses_is_quoted(tmp_path):
    flags = ("--config", "config/squeezenet_digits.yaml", "--device_target", "Ascend", "--strict_device", "true")
    done = run_script("train.py", *flags, "--output_path", tmp_path / "run", **stand_in.environment(STAND_IN_BUSY="1"))
    assert done.returncode == 2
    assert "aclrtSetDevice failed" in done.stderr.splitlines()[-1], done.stderr
