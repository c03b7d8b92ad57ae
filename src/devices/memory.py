"""How much memory this process may still take."""

import resource

import psutil


def free_memory() -> int:
    """Return the bytes that are free on this host and that the shell's limit (ulimit -v) allows."""
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return free if limit == resource.RLIM_INFINITY else min(free, limit - psutil.Process().memory_info().vms)
