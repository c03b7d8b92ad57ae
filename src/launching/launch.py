"""Start a distributed training with msrun, on one host or on one node of a cluster, and watch it to its end.

For scripts/run_distribute_train_{ascend,gpu,cpu}.sh; docs/DISTRIBUTED.md says how to use it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import NoReturn

from src.cli.errors import UserError, run
from src.launching.cluster import CLUSTER_PORT, VISIBLE, Cluster, plan
from src.launching.nodes import Alone, Master, Member
from src.launching.processes import SCHEDULER, Processes
from src.launching.watch import Job, Watch

ROOT = Path(__file__).resolve().parent.parent.parent
# MindSpore gives up on its own, later and with less to say.
MSRUN_EXTRA_SECONDS = 60

END_TIMES = """\
The launcher stays in the foreground, shows the output of rank 0, and ends with status 0 when all workers have finished,
2 for a mistake that the user can put right, 130 or 143 when it was interrupted, and 1 otherwise. Within 15 s of the
death of a worker, on any node, it has stopped all others, on every node, and named the first that failed; a host that
loses power is noticed within 30 s. Ctrl-C and TERM go on to the workers, which save and end."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the launcher's options")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the launcher's own options; what it does not know goes on to train.py."""
    options = _Parser(
        prog="run_distribute_train",
        usage="bash scripts/run_distribute_train_{ascend,gpu,cpu}.sh [options] [flags of train.py]",
        description="Options of the launcher. All further flags, such as --config and --data_path, go on to train.py.",
        epilog=END_TIMES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("--devices", type=int, metavar="N", help="devices of this host to use; default: all that are visible, CPU: 2")
    add("--total_devices", type=int, metavar="N", help="devices of all nodes together, instead of --devices")
    add("--ckpt_path", metavar="FILE", help="checkpoint to start from; the same as --pretrained of train.py")
    add("--nnodes", type=int, default=1, metavar="N", help="hosts of the cluster, each with a launcher of its own")
    add("--node_rank", type=int, default=0, metavar="I", help="number of this host, from 0")
    add("--master_addr", metavar="ADDRESS", help="address of host 0 that all others reach; needed with --nnodes")
    add(
        *("--master_port",),
        type=int,
        metavar="PORT",
        help=f"port of the scheduler on host 0; the next one up is the launchers'; default: {CLUSTER_PORT} "
        "for several hosts, any that is free for one",
    )
    add("--log_dir", default="logs", metavar="FOLDER", help="where each launch makes a folder for its logs (logs)")
    add(
        *("--bind_core",),
        nargs="?",
        const="True",
        metavar="JSON",
        help="bind each worker to CPU cores of its own: all by msrun's choice, or as msrun's JSON says",
    )
    add(
        *("--join_timeout",),
        type=float,
        default=120,
        metavar="SECONDS",
        help="the job fails when a worker or a node has not joined by then (120)",
    )
    add(
        *("--grace_time",),
        type=float,
        default=60,
        metavar="SECONDS",
        help="time for the workers to end after Ctrl-C or TERM, before they are killed (60)",
    )
    add("--device_target", choices=["Ascend", "GPU", "CPU"], default="CPU", help=argparse.SUPPRESS)
    add("--start_folder", help=argparse.SUPPRESS)  # The user's; the script starts this module in the project's.
    add("--program", default="train.py", help=argparse.SUPPRESS)  # For tests.
    return options


def main() -> int:
    options, flags = parser().parse_known_args()
    if options.start_folder is not None:
        os.chdir(options.start_folder)
    program = ROOT / options.program
    flags = ["--device_target", options.device_target, "--strict_device", *_flags(options, flags)]
    if options.program == "train.py":
        _check_flags(flags)
    cluster = plan(options)
    msrun = find_msrun()
    with_nodes = _nodes(cluster)
    try:
        folder = make_log_folder(Path(options.log_dir), cluster)
        job = Job(
            log_folder=folder,
            node_rank=cluster.node,
            nnodes=cluster.nodes,
            workers=cluster.workers,
            scheduler=(cluster.address, cluster.port),
            join_seconds=options.join_timeout,
            grace_seconds=options.grace_time,
        )
        command, of_program = msrun_command(msrun, cluster, options, folder), [str(program), *flags]
        announce(job, cluster, options.device_target, [*command, *of_program])
        roles = [*([SCHEDULER] if cluster.node == 0 else []), *cluster.ranks]
        processes = Processes(command, of_program, worker_environment(folder), folder / "msrun.log", roles)
        try:
            return Watch(job, processes, with_nodes).run()
        finally:
            processes.close()
    finally:
        with_nodes.close()


def find_msrun() -> str:
    """Return the msrun of this Python's MindSpore, or the one on PATH."""
    beside = Path(sys.executable).with_name("msrun")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("msrun")
    if found is None:
        raise UserError(
            f"msrun is neither beside {sys.executable} nor on PATH; it comes with MindSpore: "
            "pip install -r requirements.txt"
        )
    return found


def make_log_folder(parent: Path, cluster: Cluster) -> Path:
    """Make a new folder, named by the time: msrun overwrites the logs that it finds."""
    name = time.strftime("%Y%m%d-%H%M%S") + (f"-node{cluster.node}" if cluster.nodes > 1 else "")
    for number in range(1, 100):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"--log_dir: {folder}: {error.strerror}") from None
        return folder
    raise UserError(f"--log_dir: {parent}: no folder named {name} can be made there")


def msrun_command(msrun: str, cluster: Cluster, options: argparse.Namespace, folder: Path) -> list[str]:
    """Return the msrun command up to the program."""
    return [
        msrun,
        f"--worker_num={cluster.workers}",
        f"--local_worker_num={cluster.devices}",
        f"--node_rank={cluster.node}",
        f"--master_addr={cluster.address}",
        f"--master_port={cluster.port}",
        f"--log_dir={folder}",
        f"--cluster_time_out={int(options.join_timeout) + MSRUN_EXTRA_SECONDS}",
        *([f"--bind_core={options.bind_core}"] if options.bind_core is not None else []),
        "--join=False",
    ]


def worker_environment(folder: Path) -> dict[str, str]:
    """Return the environment for msrun, which runs whatever PATH has as `python`: this Python."""
    executable = Path(sys.executable)
    python = executable.with_name("python")
    if not (python.exists() and python.samefile(executable)):
        python = folder / "bin" / "python"
        python.parent.mkdir()
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(str(executable))} "$@"\n')
        python.chmod(0o755)
    path = os.pathsep.join([str(python.parent.absolute()), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}  # Progress is to be seen when it is made.


def announce(job: Job, cluster: Cluster, target: str, command: list[str]) -> None:
    """Say what is started, and name every log."""
    hosts = f" on {cluster.nodes} hosts, this is node {cluster.node}" if cluster.nodes > 1 else ""
    workers = f"{cluster.workers} worker{'s' if cluster.workers > 1 else ''}"
    print(f"{workers} for {target}{hosts}; scheduler at {cluster.address}:{cluster.port}")
    print(f"$ {shlex.join(command)}")
    for role in [*([SCHEDULER] if cluster.node == 0 else []), *cluster.ranks]:
        print(f"log of {role if role == SCHEDULER else f'rank {role}'}: {job.log(role)}")
    sys.stdout.flush()


def _nodes(cluster: Cluster) -> Alone:
    if cluster.nodes == 1:
        return Alone()
    where = (cluster.address, cluster.port + 1)
    if cluster.node == 0:
        return Master(*where, cluster.nodes, cluster.devices)
    return Member(*where, cluster.node, cluster.nodes, cluster.devices)


def _flags(options: argparse.Namespace, flags: list[str]) -> list[str]:
    """Return train.py's flags, with the launcher's --ckpt_path among them."""
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


def _check_flags(flags: list[str]) -> None:
    """Let train.py's parser see its flags now, rather than every worker a quarter of a minute later."""
    from src.config import parse_train  # Only here: it takes longer to import than all the rest.

    parse_train(flags, "Train a SqueezeNet.")


if __name__ == "__main__":
    run(main)
