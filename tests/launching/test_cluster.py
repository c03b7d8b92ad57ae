"""What the launcher checks before anything starts."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from src.cli.errors import UserError
from src.launching import cluster, launch
from src.launching.cluster import Cluster
from tests.launching.jobs import Launcher, executable


@pytest.fixture
def mistake(monkeypatch, tmp_path, stand_ins):
    """The function that gives the launcher options, in this process, and returns what it says of them."""
    for name in cluster.VISIBLE.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(stand_ins), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)

    def said(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["launch", *options])
        with pytest.raises(UserError) as error:
            launch.main()
        assert not (tmp_path / "logs").exists()
        return str(error.value)

    return said


ASCEND = ["--device_target", "Ascend"]
TWO = ["--nnodes", "2"]


@pytest.mark.parametrize(
    "options, said",
    [
        (["--devices", "0"], "--devices: 0 is not allowed"),
        (["--devices", "two"], "argument --devices: invalid int value: 'two'"),
        ([*ASCEND, "--devices", "9"], "--devices: 9 a host is more than the 8 that npu-smi info -m shows"),
        (["--total_devices", "9", *TWO], "--total_devices: 9 cannot be divided among 2 hosts"),
        (["--total_devices", "8", "--devices", "8"], "--total_devices: cannot be combined with --devices"),
        (["--nnodes", "0"], "--nnodes: 0 is not allowed"),
        ([*TWO, "--node_rank", "2"], "--node_rank: 2 is not allowed with --nnodes 2"),
        (["--node_rank", "-1"], "--node_rank: -1 is not allowed"),
        (TWO, "--master_addr: needed with --nnodes 2"),
        ([*TWO, "--master_addr", "localhost"], "--master_addr: localhost is 127.0.0.1, which other hosts cannot reach"),
        (["--master_addr", "192.0.2.1"], "--master_addr: 192.0.2.1 is not an address of this host"),
        (["--master_addr", "no.such.host.invalid"], "--master_addr: no.such.host.invalid: "),
        (["--master_port", "80"], "--master_port: 80 is not allowed; choose one of 1024 to 65535"),
        (["--join_timeout", "0"], "--join_timeout: 0 is not allowed"),
        (["--device_id", "3", *ASCEND], "--device_id: each worker takes the device of its own rank; choose devices"),
        (["--ckpt_path", "a", "--pretrained", "b"], "--ckpt_path: the same as --pretrained"),
        (["--lr_decay_mode", "cosin"], "lr_decay_mode: 'cosin' is not allowed"),
        (["--bind_core", "yes"], "--bind_core: yes is not allowed; give each of 2 workers some of the cores ["),
        (["--bind_core", '{"device0": ["0"]}'], '--bind_core: {"device0": ["0"]} is not allowed'),
        (["--bind_core", '{"device0": ["0"], "device1": ["99999"]}'], "--bind_core: {"),
        (["--bind_core", '{"device0": ["0"], "device1": [0]}'], "--bind_core: {"),
        (["--log_dir", "/dev/null/logs"], "--log_dir: /dev/null/logs/"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_impossible_launch_is_refused_before_anything_starts(options, said, mistake):
    assert mistake(*options).startswith(said)


def test_a_busy_port_is_refused(mistake):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = mistake("--master_port", str(port))
    assert said == f"--master_port: port {port} of 127.0.0.1 cannot be used: Address already in use; choose another one"


@pytest.mark.parametrize("target, kind", [("Ascend", "NPU"), ("GPU", "GPU")])
def test_no_device_is_one_line(target, kind, mistake, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mistake("--device_target", target).startswith(f"no {kind} found: ")


def test_a_refusal_is_one_line_and_status_2_from_the_script_too(environment, tmp_path):
    done = Launcher(tmp_path, environment, None, "--devices", "0").end()
    assert (done.status, done.out) == (2, "")
    assert done.err == "error: --devices: 0 is not allowed; a host takes part with 1 device or more\n"


@pytest.mark.parametrize(
    "value, count", [("0,1,2", 3), ("4, 5", 2), ("0,-1,2", 1), ("GPU-8f3a,GPU-77b1", 2)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("target", ["Ascend", "GPU"])
def test_the_environment_says_how_many_devices_are_visible(target, value, count, monkeypatch):
    monkeypatch.setenv(cluster.VISIBLE[target], value)
    assert cluster.visible_devices(target) == (count, cluster.VISIBLE[target])


def test_hidden_devices_are_a_mistake(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="hides every device"):
        cluster.visible_devices("GPU")


@pytest.mark.parametrize(
    "target, tool, output, count",
    [
        ("GPU", "nvidia-smi", "GPU 0: NVIDIA A100 (UUID: GPU-1)\nGPU 1: NVIDIA A100 (UUID: GPU-2)\n", 2),
        # Two chips a card, with the newer column of physical ids; the second card is broken.
        (
            "Ascend",
            "npu-smi",
            "\tNPU ID    Chip ID    Chip Logic ID    Chip Phy-ID    Chip Name\n"
            "\t0    0    0    0    Ascend910\n\t0    1    1    1    Ascend910\n\t0    2    -    -    Mcu\n"
            "\t-1    0    2    2    Ascend910\n",
            2,
        ),
    ],
)
def test_the_vendors_tools_are_understood(target, tool, output, count, monkeypatch, tmp_path):
    executable(tmp_path / tool, f"#!/bin/sh\ncat <<'END'\n{output}END\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv(cluster.VISIBLE[target], raising=False)
    assert cluster.visible_devices(target)[0] == count


def test_every_launch_has_a_new_log_folder(tmp_path):
    folders = [launch.make_log_folder(tmp_path, Cluster(1, 0, 2, "127.0.0.1", 2000)) for _ in range(3)]
    assert len(set(folders)) == 3 and all(folder.is_dir() for folder in folders)
