"""How much memory this process may still take."""

from __future__ import annotations

import re
import resource
from pathlib import Path


def free_memory() -> float:
    """Return the bytes that are free on this host and that the shell's limit (ulimit -v) allows, or infinity."""
    free = _kib("/proc/meminfo", "MemAvailable") + _kib("/proc/meminfo", "SwapFree", 0)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free = min(free, limit - _kib("/proc/self/status", "VmSize", 0))
    return free


def _kib(file: str, name: str, unknown: float = float("inf")) -> float:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path(file).read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:  # Not Linux.
        return unknown
    return int(found[1]) * 2**10 if found else unknown
