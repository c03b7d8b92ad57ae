"""Plan the placement of a distributed job's workers: hosts, devices, CPU cores, and the scheduler's port.

All checks before the start are here, without importing MindSpore.
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import json
import os
import re
import socket
import subprocess
from pathlib import Path

from src.cli.errors import UserError

CPU_WORKERS = 2
# On one host any free port is taken. Above MindSpore's own collectives on the CPU, which listen at 8118 + 256 x rank.
CLUSTER_PORT = 20118
VISIBLE = {"Ascend": "ASCEND_RT_VISIBLE_DEVICES", "GPU": "CUDA_VISIBLE_DEVICES"}
QUERY_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A cluster of `nodes` hosts with `devices` each, of which this is number `node`, and its scheduler's address."""

    nodes: int
    node: int
    devices: int
    address: str
    port: int
    cores: tuple[set[int], ...] = ()  # The CPU cores of each worker of this host; none: not bound.

    @property
    def workers(self) -> int:
        return self.nodes * self.devices

    @property
    def ranks(self) -> range:
        return range(self.node * self.devices, (self.node + 1) * self.devices)


def plan(options: argparse.Namespace) -> Cluster:
    """Return the checked placement of the workers. Raises UserError for every mistake that shows before the start."""
    nodes, node = options.nnodes, options.node_rank
    if nodes < 1:
        raise UserError(f"--nnodes: {nodes} is not allowed; it is the number of hosts, 1 or more")
    if not 0 <= node < nodes:
        raise UserError(
            f"--node_rank: {node} is not allowed with --nnodes {nodes}; hosts are numbered 0 to {nodes - 1}"
        )
    for name in ("join_timeout", "grace_time"):
        if not getattr(options, name) > 0:
            raise UserError(f"--{name}: {getattr(options, name):g} is not allowed; give a number of seconds above 0")
    devices = count_devices(options)
    cores = () if options.bind_core is None else bound_cores(options.bind_core, devices)
    return Cluster(nodes, node, devices, *_scheduler(options), cores)


def bound_cores(option: str, devices: int) -> tuple[set[int], ...]:
    """Return the CPU cores of each worker: equal parts of this process's, or as listed in msrun's JSON form."""
    available = sorted(os.sched_getaffinity(0))
    size = len(available) // devices
    if option == "True" and size:
        return tuple(set(available[i * size : (i + 1) * size]) for i in range(devices))
    try:
        lists = [ranges for name, ranges in json.loads(option).items() if name != "scheduler"]
        cores = tuple({core for text in ranges for core in _core_range(text)} for ranges in lists)
    except (ValueError, TypeError, AttributeError):
        cores = ()
    if len(cores) != devices or not all(worker and worker <= set(available) for worker in cores):
        form = f'give each of {devices} workers some of the cores {available}, as {{"device0": ["0-3"], ...}}'
        raise UserError(f"--bind_core: {option} is not allowed; {form}")
    return cores


def _core_range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def count_devices(options: argparse.Namespace) -> int:
    """Return the number of devices to use on this host."""
    wanted, option = options.devices, "--devices"
    if options.total_devices is not None:
        option = "--total_devices"
        if wanted is not None:
            raise UserError("--total_devices: cannot be combined with --devices, which counts those of one host")
        if options.total_devices % options.nnodes:
            uneven = f"{options.total_devices} cannot be divided among {options.nnodes} hosts"
            raise UserError(f"--total_devices: {uneven}; every host takes the same number")
        wanted = options.total_devices // options.nnodes
    if wanted is not None and wanted < 1:
        raise UserError(f"{option}: {wanted} is not allowed; a host takes part with 1 device or more")
    if options.device_target == "CPU":
        return wanted or CPU_WORKERS
    visible, source = visible_devices(options.device_target)
    if wanted is not None and wanted > visible:
        raise UserError(f"{option}: {wanted} a host is more than the {visible} that {source} shows on this one")
    return wanted or visible


def visible_devices(target: str) -> tuple[int, str]:
    """Return the number of NPUs or GPUs visible to the workers, at least 1, and the source of the number."""
    variable = VISIBLE[target]
    if variable in os.environ:
        # Both runtimes read up to the first invalid entry.
        entries = [entry.strip() for entry in os.environ[variable].split(",")]
        end = next((i for i, entry in enumerate(entries) if entry in ("", "-1", "NoDevFiles")), len(entries))
        if end == 0:
            raise UserError(f"{variable}={os.environ[variable]} hides every device; unset it, or list some: 0,1,2,3")
        return end, variable
    if target == "GPU":
        count, source = len(re.findall(r"^GPU \d+:", _output("nvidia-smi", "-L"), re.MULTILINE)), "nvidia-smi -L"
    else:
        # NPU ID, Chip ID, Chip Logic ID, [Chip Phy-ID,] Chip Name; a chip without compute has "-" for a logic id, and a
        # broken NPU -1 for an id.
        rows = [line.split() for line in _output("npu-smi", "info", "-m").splitlines()]
        count = sum(len(row) > 3 and all(field.isdigit() for field in row[:3]) for row in rows)
        source = "npu-smi info -m"
        if count == 0:  # Containers often have the devices without the tool.
            count, source = len(list(Path("/dev").glob("davinci[0-9]*"))), f"{source} or /dev/davinci*"
    if count == 0:
        kind = "GPU" if target == "GPU" else "NPU"
        instead = f"check the driver, list the devices in {variable}, or use run_distribute_train_cpu.sh"
        raise UserError(f"no {kind} found: none is shown by {source}; {instead}")
    return count, source


def _output(*command: str) -> str:
    """Return the output of a program, or an empty string if the program is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=QUERY_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _scheduler(options: argparse.Namespace) -> tuple[str, int]:
    """Return the scheduler's address and port, and check on its own host that the port is free."""
    address = _address(options)
    port = CLUSTER_PORT if options.master_port is None else options.master_port
    if options.master_port is None and options.nnodes == 1:
        with socket.create_server((address, 0)) as free:
            port = free.getsockname()[1]
    ports = (port, port + 1) if options.nnodes > 1 else (port,)
    highest = 65536 - len(ports)
    if not 1024 <= port <= highest:
        raise UserError(f"--master_port: {port} is not allowed; choose one of 1024 to {highest}")
    for number in ports if options.node_rank == 0 else ():
        try:
            socket.create_server((address, number)).close()
        except OSError as error:
            reason = f"port {number} of {address} cannot be used: {os.strerror(error.errno)}"
            raise UserError(f"--master_port: {reason}; choose another one") from None
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
        raise UserError(f"--master_addr: {address} is not an address of this host, where --node_rank 0 has to run")
    if options.node_rank > 0 and here:
        each = f"--node_rank is {options.node_rank}: each node is a host of its own, and host 0 has --node_rank 0"
        raise UserError(f"--master_addr: {address} is an address of this host, but {each}")
    return address


def _is_of_this_host(address: str) -> bool:
    try:
        socket.create_server((address, 0)).close()
    except OSError:
        return False
    return True
