"""Environments for the launcher, and a free port."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from src.launching import cluster
from tests.launching.jobs import executable
from tests.programs import ROOT

NPU_SMI = """\
	NPU ID                         Chip ID                        Chip Logic ID                  Chip Name
{rows}
"""
NPU_ROW = """\
	{0}                              0                              {0}                              Ascend 910B3
	{0}                              1                              -                              Mcu"""


@pytest.fixture
def stand_ins(tmp_path) -> Path:
    """A folder for PATH with a stand-in for npu-smi that shows eight NPUs."""
    folder = tmp_path / "stand-ins"
    rows = "\n".join(NPU_ROW.format(i) for i in range(8))
    executable(
        folder / "npu-smi", f"#!/bin/sh\n[ \"$*\" = 'info -m' ] && cat <<'END'\n{NPU_SMI.format(rows=rows)}END\n"
    )
    return folder


@pytest.fixture
def real() -> dict:
    """The environment for workers that run MindSpore."""
    return {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def environment(stand_ins) -> dict:
    """The environment in which the launcher finds the stand-ins, and workers the project."""
    hidden = {*cluster.VISIBLE.values(), "PYTHONUNBUFFERED"}
    return {
        **{name: value for name, value in os.environ.items() if name not in hidden},
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{stand_ins}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.fixture
def address() -> tuple[str, int]:
    """An address with a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()
