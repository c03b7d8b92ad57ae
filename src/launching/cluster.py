"""Where the workers of a distributed job run: how many devices of which hosts, and which port the scheduler has.

Everything that can be checked before anything is started is checked here, without importing MindSpore.
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from src.cli.errors import UserError
from src.launching.nodes import listen

CPU_WORKERS = 2
# On one host any free port is taken. Above MindSpore's own collectives on the CPU, which listen at 8118 + 256 x rank.
CLUSTER_PORT = 20118
VISIBLE = {"Ascend": "ASCEND_RT_VISIBLE_DEVICES", "GPU": "CUDA_VISIBLE_DEVICES"}
QUERY_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where the workers run: on `nodes` hosts with `devices` each, of which this is number `node`."""

    nodes: int
    node: int
    devices: int
    address: str
    port: int

    @property
    def workers(self) -> int:
        return self.nodes * self.devices

    @property
    def ranks(self) -> range:
        return range(self.node * self.devices, (self.node + 1) * self.devices)


def plan(options: argparse.Namespace) -> Cluster:
    """Return where the workers run, after all that can be checked before they are started."""
    nodes, node = options.nnodes, options.node_rank
    if nodes < 1:
        raise UserError(f"--nnodes: {nodes} is impossible; it is the number of hosts, 1 or more")
    if not 0 <= node < nodes:
        raise UserError(f"--node_rank: {node} is impossible with --nnodes {nodes}; hosts are numbered 0 to {nodes - 1}")
    for name in ("join_timeout", "grace_time"):
        if not getattr(options, name) > 0:
            raise UserError(f"--{name}: {getattr(options, name):g} is impossible; give a number of seconds above 0")
    if options.bind_core is not None and shutil.which("taskset") is None:
        raise UserError("--bind_core: taskset is not on PATH; install util-linux, or leave --bind_core out")
    devices = count_devices(options)
    address, port = _scheduler(options)
    return Cluster(nodes, node, devices, address, port)


def count_devices(options: argparse.Namespace) -> int:
    """Return how many devices of this host to use."""
    wanted, option = options.devices, "--devices"
    if options.total_devices is not None:
        option = "--total_devices"
        if wanted is not None:
            raise UserError("--total_devices: give either it or --devices, which counts those of one host")
        if options.total_devices % options.nnodes:
            raise UserError(
                f"--total_devices: {options.total_devices} cannot be divided among {options.nnodes} hosts; "
                "every host takes the same number"
            )
        wanted = options.total_devices // options.nnodes
    if wanted is not None and wanted < 1:
        raise UserError(f"{option}: {wanted} is impossible; a host takes part with 1 device or more")
    if options.device_target == "CPU":
        return wanted or CPU_WORKERS
    visible, source = visible_devices(options.device_target)
    if wanted is not None and wanted > visible:
        raise UserError(f"{option}: {wanted} a host is more than the {visible} that {source} shows on this one")
    return wanted or visible


def visible_devices(target: str) -> tuple[int, str]:
    """Return how many NPUs or GPUs the workers will see, at least 1, and what says so."""
    variable = VISIBLE[target]
    if variable in os.environ:
        # Both runtimes read up to the first entry that is none.
        entries = [entry.strip() for entry in os.environ[variable].split(",")]
        end = next((i for i, entry in enumerate(entries) if entry in ("", "-1", "NoDevFiles")), len(entries))
        if end == 0:
            raise UserError(f"{variable}={os.environ[variable]} hides every device; unset it, or list some: 0,1,2,3")
        return end, variable
    if target == "GPU":
        count = len(re.findall(r"^GPU \d+:", _output("nvidia-smi", "-L"), re.MULTILINE))
        return _at_least_one(count, "GPU", "nvidia-smi -L", variable)
    # NPU ID, Chip ID, Chip Logic ID, [Chip Phy-ID,] Chip Name; a chip that computes nothing has "-" for a logic id, a
    # broken NPU -1 for an id.
    rows = [line.split() for line in _output("npu-smi", "info", "-m").splitlines()]
    count = sum(len(row) > 3 and all(field.isdigit() for field in row[:3]) for row in rows)
    source = "npu-smi info -m"
    if count == 0:  # Containers often have the devices without the tool.
        count, source = len(list(Path("/dev").glob("davinci[0-9]*"))), "/dev/davinci*"
    return _at_least_one(count, "NPU", "neither npu-smi info -m nor /dev/davinci*" if count == 0 else source, variable)


def _at_least_one(count: int, kind: str, source: str, variable: str) -> tuple[int, str]:
    if count == 0:
        shows = "shows one" if source.startswith("neither") else "shows none"
        raise UserError(f"no {kind} found: {source} {shows}; check the driver, or list the devices in {variable}")
    return count, source


def _output(*command: str) -> str:
    """Return what a program prints, or nothing when it is not there or does not work."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=QUERY_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _scheduler(options: argparse.Namespace) -> tuple[str, int]:
    """Return address and port of the scheduler, free on this host if it is the scheduler's."""
    address = _address(options)
    port = options.master_port
    if port is None:
        port = CLUSTER_PORT if options.nnodes > 1 else _free_port(address)
    highest = 65534 if options.nnodes > 1 else 65535
    if not 1024 <= port <= highest:
        raise UserError(f"--master_port: {port} is impossible; choose one of 1024 to {highest}")
    if options.node_rank == 0:
        for number in (port, port + 1) if options.nnodes > 1 else (port,):
            _check_free(address, number)
    return address, port


def _address(options: argparse.Namespace) -> str:
    name = options.master_addr
    if name is None:
        if options.nnodes > 1:
            raise UserError(f"--master_addr: needed with --nnodes {options.nnodes}; give the address of host 0")
        return "127.0.0.1"
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        raise UserError(f"--master_addr: {name}: {error.strerror or error}") from None
    if options.nnodes > 1 and ipaddress.ip_address(address).is_loopback:
        reached = f"{address}, which" if address != name else "which"
        raise UserError(f"--master_addr: {name} is {reached} other hosts cannot reach; give an address of the network")
    here = _is_of_this_host(address)
    if options.node_rank == 0 and not here:
        raise UserError(f"--master_addr: {address} is no address of this host, where --node_rank 0 has to run")
    if options.node_rank > 0 and here:
        raise UserError(
            f"--master_addr: {address} is an address of this host, but --node_rank is {options.node_rank}: each node "
            "is a host of its own, and host 0 has --node_rank 0"
        )
    return address


def _is_of_this_host(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _free_port(address: str) -> int:
    with listen(address, 0) as probe:
        return probe.getsockname()[1]


def _check_free(address: str, port: int) -> None:
    try:
        listen(address, port).close()
    except OSError as error:
        raise UserError(
            f"--master_port: port {port} of {address} cannot be used: {error.strerror}; choose another one"
        ) from None
