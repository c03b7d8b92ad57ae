"""Which device MindSpore runs on. The only file that asks what hardware there is."""

from __future__ import annotations

import resource
import subprocess
import sys

import mindspore as ms

from src.cli.errors import UserError
from src.config import DeviceConfig
from src.devices.processes import is_worker, local_device, serve_as_scheduler
from src.devices.silence import silent

# From the one this port is for to the one that is always there.
PREFERENCE = ("Ascend", "GPU", "CPU")
PROBE_SECONDS = 300


def select_device(config: DeviceConfig) -> str:
    """Set device and execution mode, say in one line which device and why, and return its name.

    `auto` takes the first of PREFERENCE that runs an operator. A device asked for by name that does not falls back
    to the best that does, with a warning, or with `strict_device` raises UserError. Each process of a job takes its
    own of the host's devices, and none falls back from the one asked for.
    """
    serve_as_scheduler()
    in_job = is_worker()
    device_id = local_device() if in_job else config.device_id
    wanted = PREFERENCE if config.device_target == "auto" else (config.device_target,)
    reasons = []
    for target in dict.fromkeys((*wanted, *PREFERENCE)):
        reason = None if target == "CPU" else why_not(target, device_id)
        if reason is None:
            break
        reasons.append(f"{target}: {reason}")
        if config.strict_device and target == wanted[-1]:
            raise UserError(f"device_target: {reasons[-1]}; choose another or leave out --strict_device")
        if in_job and config.device_target == target:
            raise UserError(f"device_target: {reasons[-1]} on this device; the others of the job cannot go on without")
    explained = f" ({'; '.join(reasons)})" if reasons else ""
    if target in wanted:
        print(f"device: {target}{explained}")
    else:
        print(f"warning: device_target {config.device_target} is not usable, running on {target}{explained}")
    if target == "CPU":
        ms.set_device("CPU")
    else:
        ms.set_device(target, device_id)
    ms.set_context(mode=ms.GRAPH_MODE if config.mode == "graph" else ms.PYNATIVE_MODE)
    return target


def why_not(target: str, device_id: int) -> str | None:
    """Return why an accelerator cannot be used, or None when it runs an operator.

    A driver that does not match kills the process rather than raise, so the operator runs in a process of its own.
    """
    if not is_available(target):
        return "not found"
    probe = (
        f"import mindspore as ms; ms.set_device({target!r}, {device_id}); "
        "assert (ms.Tensor([1.0]) + 1).asnumpy()[0] == 2"
    )
    try:
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE_SECONDS} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:200]
    return None


def is_available(target: str) -> bool:
    """Return whether MindSpore has the device."""
    with silent():  # MindSpore prints a notice for each plugin that is missing.
        return ms.hal.is_available(target)


def peak_memory_mb(target: str) -> float:
    """Return the most memory used so far, in 2**20 bytes: of the device, or of this process on the CPU."""
    if target != "CPU":
        return ms.runtime.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, but bytes on macOS
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
