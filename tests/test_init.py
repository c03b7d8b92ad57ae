"""The environment variable that keeps convolutions fast on the CPU: when it is set, and that it is set in time."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import src

ROOT = Path(__file__).resolve().parent.parent
VARIABLE, CURE = "ONEDNN_MAX_CPU_ISA", "AVX2_VNNI"
# oneDNN reads its older name too, and the newer one wins.
OLD_VARIABLE = "DNNL_MAX_CPU_ISA"

# Every program, with arguments that pass its checks, so that it goes on to import MindSpore.
PROGRAMS = {
    "compress.py": ["--ckpt_path", "net.ckpt"],
    "convert.py": ["--from", "net", "x.net", "--ckpt_path", "x.ckpt"],
    "train.py": [],
    "eval.py": ["--ckpt_path", "x.ckpt"],
    "infer.py": ["--images", "x.png", "--ckpt_path", "x.ckpt"],
    "export.py": ["--ckpt_path", "x.ckpt"],
    "to_mindrecord.py": ["--output_path", "x"],
    "mindspore_hub_conf.py": [],
    "study.py": ["--vary", "bypass=none"],
    "-m": ["src.summary"],
}


@pytest.fixture
def environment(monkeypatch):
    """The environment without the variable; it is as before afterwards, whatever was set."""
    for name in (VARIABLE, OLD_VARIABLE):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)
    return monkeypatch


def import_src(monkeypatch, mindspore_version: str) -> None:
    """Import the package again, where that version of MindSpore is installed."""
    monkeypatch.setattr(metadata, "version", {"mindspore": mindspore_version}.__getitem__)
    importlib.reload(src)


@pytest.mark.parametrize("version", ["2.9.0", "2.9", "2.9.0rc1", "2.9rc1", "2.10.0", "2.11.3", "3.0.0"])
def test_the_variable_is_set_for_mindspore_2_9_and_later(environment, version):
    import_src(environment, version)
    assert os.environ[VARIABLE] == CURE


@pytest.mark.parametrize("version", ["2.8.0", "2.7.1", "2.0", "1.10.1", "1.9.0", "unknown", ""])
def test_the_variable_is_not_set_for_earlier_or_unknown_versions(environment, version):
    import_src(environment, version)
    assert VARIABLE not in os.environ


def test_the_variable_is_not_set_where_mindspore_is_not_installed(environment):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    environment.setattr(metadata, "version", missing)
    importlib.reload(src)
    assert VARIABLE not in os.environ


@pytest.mark.parametrize("own", ["AVX512_CORE", "ALL", ""])
def test_the_users_own_value_wins(environment, own):
    environment.setenv(VARIABLE, own)
    import_src(environment, "2.10.0")
    assert os.environ[VARIABLE] == own


def test_the_users_own_value_under_the_older_name_wins(environment):
    environment.setenv(OLD_VARIABLE, "SSE41")
    import_src(environment, "2.10.0")
    assert VARIABLE not in os.environ


def test_importing_the_package_does_not_import_mindspore():
    program = "import sys, src; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.fixture
def mindspore_that_tells(tmp_path):
    """A folder with an installed MindSpore 2.10 that, when imported, prints the variable and ends the program."""
    package, record = tmp_path / "mindspore", tmp_path / "mindspore-2.10.0.dist-info"
    package.mkdir()
    record.mkdir()
    program = f"import os\nprint('told', os.environ.get({VARIABLE!r}), flush=True)\nos._exit(0)\n"
    (package / "__init__.py").write_text(program)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: mindspore\nVersion: 2.10.0\n")
    return tmp_path


@pytest.mark.parametrize("program", [*sorted(path.name for path in ROOT.glob("*.py")), "-m"])
def test_every_program_sets_the_variable_before_it_imports_mindspore(environment, mindspore_that_tells, program):
    done = subprocess.run(
        [sys.executable, program, *PROGRAMS[program]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{mindspore_that_tells}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"told {CURE}\n", done.stderr


def test_the_tests_themselves_run_with_the_variable_where_it_applies():
    version = tuple(int(part) for part in metadata.version("mindspore").split(".")[:2])
    if version < (2, 9):
        pytest.skip("MindSpore before 2.9 does not need it")
    assert os.environ.get(VARIABLE) or os.environ.get(OLD_VARIABLE)
