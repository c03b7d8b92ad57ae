"""Which device MindSpore runs on. The only file that asks what hardware there is."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys

import mindspore as ms
from mindspore._c_expression import MSContext

from src.cli.errors import UserError
from src.devices.processes import is_worker, serve_as_scheduler
from src.devices.silence import silent

# From the one this port is for to the one that is always there.
PREFERENCE = ("Ascend", "GPU", "CPU")
PROBE_SECONDS = 300
# Chips on which MindSpore launches a graph's kernels one by one unless asked to fuse them (jit_level O1). On the first
# 910 it lets CANN compile the whole graph.
FUSED = ("ascend910b", "ascend910_93")
# Where to look when a device that has to be there is not.
REMEDIES = {
    "Ascend": "see what npu-smi info says, and source CANN's set_env.sh (docs/ASCEND_HOST.md)",
    "GPU": "see what nvidia-smi says; MindSpore is built for CUDA 11.1 and 11.6 (docs/ASCEND_HOST.md)",
}


def select_device(config) -> str:
    """Set device, precision and execution mode, say in one line which device and why, and return its name.

    `auto` takes the first of PREFERENCE that runs an operator. A device asked for by name that does not falls back
    to the best that does, with a warning, or with `strict_device` raises UserError. Each process of a group takes its
    own of the host's devices, and none falls back from the one asked for.

    config: a DeviceConfig (src/config.py).
    """
    serve_as_scheduler()
    in_group = is_worker()
    device_id = int(os.environ.get("DEVICE_ID", 0)) if in_group else config.device_id
    wanted = PREFERENCE if config.device_target == "auto" else (config.device_target,)
    # A process of a group, and a device that there is no other for, need no try in a process of its own.
    certain = config.device_target != "auto" and (config.strict_device or in_group)
    reasons = []
    for target in dict.fromkeys((*wanted, *PREFERENCE)):
        if target == "CPU":
            break
        reason = why_unset(target, device_id) if certain else why_not(target, device_id)
        if reason is None:
            break
        reasons.append(f"{target}: {reason}")
        if config.strict_device and target == wanted[-1]:
            instead = "to do without, give --device_target CPU, or take the script that ends in _cpu.sh"
            raise UserError(f"device_target: {reasons[-1]}; {REMEDIES[target]}; {instead}")
        if in_group and config.device_target == target:
            raise UserError(f"device_target: {reasons[-1]} on this device; the other processes cannot go on without it")
    explained = f" ({'; '.join(reasons)})" if reasons else ""
    if target in wanted:
        print(f"device: {target}{explained}")
    else:
        print(f"warning: device_target {config.device_target} is not usable, running on {target}{explained}")
    if target == "CPU":
        ms.set_device("CPU")
    elif not certain:
        ms.set_device(target, device_id)
    exported = os.environ.get("DEVICE_ID", "")
    if target != "CPU" and not in_group and exported not in ("", str(device_id)):
        # The model zoo's scripts choose a device by it.
        print(f"warning: DEVICE_ID={exported} is not read, running on device {device_id}: give --device_id {exported}")
    ms.set_context(mode=ms.GRAPH_MODE if config.mode == "graph" else ms.PYNATIVE_MODE)
    jit_level = config.jit_level or ("O1" if target == "Ascend" and chip() in FUSED else None)
    if jit_level:
        ms.set_context(jit_config={"jit_level": jit_level})
    set_precision(target, config.precision)
    return target


def chip() -> str:
    """Return MindSpore's name of the Ascend chip, such as ascend910b, as MindSpore's own code asks for it."""
    return MSContext.get_instance().get_ascend_soc_version()


def set_precision(target: str, precision: str) -> None:
    """Let convolutions and matrix products compute in float32 ("high"), or as the device does by itself ("default").

    By itself an Ascend 910B computes float32 convolutions in HF32, the first 910 in float16, and a GPU in TF32.
    """
    if precision == "default" or target == "CPU":
        return
    if target == "Ascend":
        settings = ms.device_context.ascend.op_precision
        settings.precision_mode("must_keep_origin_dtype")
        settings.conv_allow_hf32(False)
        settings.matmul_allow_hf32(False)
    else:
        settings = ms.device_context.gpu.op_precision
        settings.conv_allow_tf32(False)
        settings.matmul_allow_tf32(False)


def why_unset(target: str, device_id: int) -> str | None:
    """Set an accelerator, and return why it cannot be used, or None when this process has it and runs an operator."""
    if not is_available(target):
        return "not found"
    try:
        with silent():  # MindSpore logs what it raises.
            ms.set_device(target, device_id)
            (ms.Tensor([1.0]) + 1).asnumpy()
    except Exception as error:
        return reason_of(f"{type(error).__name__}: {error}")
    return None


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
        return reason_of(done.stderr) or f"exit status {done.returncode}"
    return None


def reason_of(text: str) -> str:
    """Return the reason in what MindSpore writes when a device fails: its last error, and CANN's first words on it.

    MindSpore's errors end with sections of their own, such as a place in its C++ code.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"\w*(Error|Exception): ", line)]
    cann = next((line for line in lines if re.match(r"E[A-Z0-9]{5}: ?", line)), "")
    reason = (errors or lines or [""])[-1][:200]
    return f"{reason} ({cann[:200]})" if cann and cann not in reason else reason


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
