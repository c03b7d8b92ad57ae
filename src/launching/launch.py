"""Start and watch distributed training, on one host or on one node of a cluster.

For scripts/run_distribute_train_{ascend,gpu,cpu}.sh; docs/DISTRIBUTED.md says how to use it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import NoReturn

from src.cli.errors import UserError, run
from src.launching.cluster import CLUSTER_PORT, VISIBLE, Cluster, plan
from src.launching.nodes import Nodes
from src.launching.watch import Times, Watch
from src.launching.workers import ROOT, SCHEDULER, Workers

END_TIMES = """\
The launcher stays in the foreground, shows the output of rank 0, and ends with status 0 when all workers have finished,
2 for a mistake that the user can put right, 130 or 143 when it was interrupted, and 1 otherwise. Within 15 s of the
death of a worker, on any node, it has stopped all others, on every node, and named the first that failed; a host that
loses power is noticed within 30 s. Ctrl-C and TERM go on to the workers, which save and end."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the launcher's options")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the launcher's own options; unknown options are passed on to train.py."""
    options = _Parser(
        prog="run_distribute_train",
        usage="bash scripts/run_distribute_train_{ascend,gpu,cpu}.sh [options] [flags of train.py]",
        description="Options of the launcher. All further flags, such as --config and --data_path, go on to train.py.",
        epilog=END_TIMES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    number, seconds = {"type": int, "metavar": "N"}, {"type": float, "metavar": "SECONDS"}
    add("--devices", **number, help="devices of this host to use; default: all that are visible, CPU: 2")
    add("--total_devices", **number, help="devices of all nodes together, instead of --devices")
    add("--ckpt_path", metavar="FILE", help="checkpoint to start from; the same as --pretrained of train.py")
    add("--nnodes", **number, default=1, help="hosts of the cluster, each with a launcher of its own")
    add("--node_rank", **number, default=0, help="number of this host, from 0")
    add("--master_addr", metavar="ADDRESS", help="address of host 0 that all others reach; needed with --nnodes")
    ports = f"the next one is the launchers'; default: {CLUSTER_PORT} for several hosts, a free one for one host"
    add("--master_port", **number, help=f"port of the scheduler on host 0; {ports}")
    add("--log_dir", default="logs", metavar="FOLDER", help="where each launch makes a folder for its logs (logs)")
    cores = 'an equal part of them, or as {"device0": ["0-3"], ...} lists them'
    add("--bind_core", nargs="?", const="True", metavar="JSON", help=f"bind each worker to CPU cores: {cores}")
    add("--join_timeout", **seconds, default=120, help="fail when a worker or a node has not joined by then (120)")
    add("--grace_time", **seconds, default=60, help="for the workers to save and end after Ctrl-C or TERM (60)")
    add("--device_target", choices=["Ascend", "GPU", "CPU"], default="CPU", help=argparse.SUPPRESS)
    add("--start_folder", help=argparse.SUPPRESS)  # The user's; the script starts this module in the project's.
    add("--program", default="train.py", help=argparse.SUPPRESS)  # For tests, as are the two below.
    add("--settle_time", **seconds, default=Times.settle, help=argparse.SUPPRESS)
    add("--stop_time", **seconds, default=Times.stop, help=argparse.SUPPRESS)
    return options


def main() -> int:
    options, flags = parser().parse_known_args()
    if options.start_folder is not None:
        os.chdir(options.start_folder)
    flags = ["--device_target", options.device_target, "--strict_device", *_flags(options, flags)]
    if options.program == "train.py":
        from src.config import parse_train  # Only here: it takes longer to import than all the rest.

        parse_train(flags, "Train a SqueezeNet.")  # Now, rather than in every worker a quarter of a minute later.
    cluster = plan(options)
    command = [sys.executable, str(ROOT / options.program), *flags]
    times = Times(options.join_timeout, options.grace_time, options.settle_time, options.stop_time)
    folder = make_log_folder(Path(options.log_dir), cluster)
    with closing(Nodes(cluster)) as nodes, closing(Workers(cluster, folder)) as workers:
        announce(cluster, options.device_target, command, workers)
        workers.start(command, times.join)
        return Watch(cluster, workers, nodes, times).run()


def make_log_folder(parent: Path, cluster: Cluster) -> Path:
    """Create a new folder, named by the time, so that no launch overwrites the logs of another."""
    name = time.strftime("%Y%m%d-%H%M%S") + (f"-node{cluster.node}" if cluster.nodes > 1 else "")
    folder, numbers = parent / name, itertools.count(2)
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            folder = parent / f"{name}-{next(numbers)}"
        except OSError as error:
            raise UserError(f"--log_dir: {folder}: {error.strerror}") from None


def announce(cluster: Cluster, target: str, command: list[str], workers: Workers) -> None:
    """Print the command and the path of every log."""
    hosts = f" on {cluster.nodes} hosts, this is node {cluster.node}" if cluster.nodes > 1 else ""
    many = f"{cluster.workers} worker{'s' if cluster.workers > 1 else ''}"
    print(f"{many} for {target}{hosts}; scheduler at {cluster.address}:{cluster.port}")
    print(f"$ {shlex.join(command)}")
    for role in workers.roles:
        print(f"log of {role if role == SCHEDULER else f'rank {role}'}: {workers.log(role)}")
    sys.stdout.flush()


def _flags(options: argparse.Namespace, flags: list[str]) -> list[str]:
    """Return train.py's flags, including the launcher's --ckpt_path."""
    names = {flag.split("=", 1)[0] for flag in flags}
    if "--device_id" in names:
        variable = VISIBLE.get(options.device_target)
        instead = f"; choose devices with {variable}" if variable else ""
        raise UserError(f"--device_id: each worker takes the device of its own rank{instead}")
    if options.ckpt_path is None:
        return flags
    if "--pretrained" in names:
        raise UserError("--ckpt_path: the same as --pretrained, which is given too; give one of them")
    return [*flags, "--pretrained", options.ckpt_path]


if __name__ == "__main__":
    run(main)
