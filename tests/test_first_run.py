"""The checklist of a first run on an Ascend, with stand-ins for Python and the NPU's tools, and really on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import ROOT

SCRIPT = ROOT / "scripts" / "first_run_ascend.sh"
# A "python" that says what the programs say on an Ascend, and fails for the one named in $BROKEN.
PYTHON = r"""#!/bin/bash
case "$BROKEN $*" in
    *visible_devices*) echo "${DEVICES:-1}"; exit ;;
    *import\ te*) echo "te 8.5.0 hccl 8.5.0"; exit ;;
    *run_check*) echo "MindSpore has been installed on platform [${@: -1}] successfully!"; exit ;;
    *Conv2D*) echo "precision default: relative difference from float64 2.0e-04"; exit ;;
    *Dropout*) echo "kept 0.5003 and 0.4998; first mask 0"; exit ;;
    *select_device*) echo "device: ${@: -1}"; exit ;;
    *--version*) echo "Python 3.11"; exit ;;
    "train.py train.py"* | "eval.py eval.py"*) echo "RuntimeError: no luck" >&2; exit 3 ;;
esac
for i in "$@"; do [ "$before" != --output_path ] || mkdir -p "$i/checkpoints"; before=$i; done
case "$*" in
    train.py*5000*) touch "$i/checkpoints/a.ckpt"; exit 130 ;;
    train.py*) for kernel in Conv2D Conv2D ${KERNEL:-ReLU}; do
            [ -z "$GLOG_v" ] || echo "x GenerateKernelMod] kernel opname:$kernel, kernel type:acl_kernel" >&2
        done
        echo "test accuracy 98.10% (best.ckpt)"; echo "900 images/s, 3 s" ;;
    eval.py*) echo "top-1 98.10%" ;;
    export.py*) echo "loaded and run: largest difference from the checkpoint's network 1.0e-04" ;;
    *launch*) echo "900 images/s (112 on each of ${DEVICES} devices)" ;;
esac
"""


@pytest.fixture
def on_ascend(tmp_path):
    """Run the checklist on stand-ins, with environment variables for them; return what came of it and the report."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python").write_text(PYTHON)
    (tools / "npu-smi").write_text("#!/bin/sh\necho '| 0     910B1 | OK |'\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)

    def run(*arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess, str]:
        done = subprocess.run(
            ["bash", str(SCRIPT), "--output_path", "report of mine", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": "tools/python", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        report = tmp_path / "report of mine" / "report.md"
        return done, report.read_text() if report.is_file() else ""

    return run


def outcomes(done: subprocess.CompletedProcess) -> dict[str, str]:
    """Return the outcome of each check, as the terminal shows it, without its seconds."""
    lines = [line.split(". ", 1)[1] for line in done.stdout.splitlines() if " ... " in line]
    return {title: outcome.rpartition(" (")[0] or outcome for title, outcome in (line.split(" ... ") for line in lines)}


def test_every_check_of_a_host_in_order_runs_and_is_in_the_report(on_ascend):
    done, report = on_ascend(DEVICES="8", HCCL_IF_IP="192.0.2.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(outcomes(done)) == 16 and set(outcomes(done).values()) == {"ok"}
    assert "16 checks, 0 failed, 0 left out" in done.stdout and "HCCL_IF_IP=192.0.2.1" in report
    for title in outcomes(done):
        assert f". {title}: ok\n\nExpected: " in report
    assert "2 Conv2D acl_kernel" in report and "112 on each of 8 devices" in report


@pytest.mark.parametrize(
    "environment, title, outcome, shown",
    [
        ({"BROKEN": "eval.py"}, "Evaluation", "FAILED, exit status 3", "RuntimeError: no luck"),
        ({"KERNEL": "RightShift"}, "Kernels of the graphs", "FAILED, exit status 1", "1 RightShift acl_kernel"),
    ],
)
def test_a_check_that_fails_is_shown_and_the_others_run(on_ascend, environment, title, outcome, shown):
    done, report = on_ascend(**environment)
    assert done.returncode == 1
    found = outcomes(done)
    assert found.pop(title) == outcome and f". {title}: {outcome}" in report and shown in report
    assert found.pop("Training on several devices") == "left out: one device"
    assert set(found.values()) == {"ok"} and len(found) == 14


def test_on_a_cpu_what_needs_an_npu_is_left_out(on_ascend):
    done, report = on_ascend("--device_target", "CPU", DEVICES="2")
    assert done.returncode == 0, done.stdout
    assert list(outcomes(done).values()).count("left out: needs an NPU") == 6
    assert "| 1 | The NPUs | left out: needs an NPU | |" in report


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (["--device_target", "GPU"], "device_target: 'GPU' is not allowed; it takes Ascend or CPU"),
        (["--device_target"], "--device_target: a value is missing"),
        (["--epochs", "3"], "unexpected argument '--epochs'; --help shows what there is"),
        (["--output_path", "tools"], "tools: already exists; give another --output_path"),
    ],
)
def test_arguments_that_are_wrong_are_one_line_and_nothing_is_made(on_ascend, arguments, problem):
    done, report = on_ascend(*arguments)
    assert (done.returncode, done.stderr, report) == (2, f"error: {problem}\n", "")


@pytest.mark.slow
def test_the_checklist_runs_on_a_cpu(tmp_path):
    folder = tmp_path / "first"
    done = subprocess.run(
        ["bash", str(SCRIPT), "--device_target", "CPU", "--output_path", str(folder)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    report = (folder / "report.md").read_text()
    assert done.returncode == 0, report
    assert "16 checks, 0 failed, 6 left out" in done.stdout
    # The digest that the report expects of a CPU.
    assert report.count("73c3ccdc83ce5b98") == 2
    assert Path(folder / "squeezenet.onnx").is_file()
