"""Run the project's programs on MindSpore's Ascend backend, and tell which kernels their graphs have.

    from tests.ascend.kernels import run

    [done] = run([["train.py", "--config", "config/squeezenet_digits.yaml", "--epochs", 2]], folder)
    done.status, done.stdout, done.errors        # as of a program
    done.step.count, done.step["RightShift"]     # kernels of the training step, of an operator in it
    done.step.kinds                              # {"opapi_kernel": 149, "acl_kernel": 273, ...}
    done.step.on_ai_cpu                          # {"RightShift": 6}
    done.graphs                                  # every compiled graph, in order; done.eager: kernels outside of graphs
    done.events                                  # when Model.train, Model.eval and callbacks were called

    python -m tests.ascend.kernels train.py --config config/squeezenet_digits.yaml --epochs 2    # prints all of it

The commands of one call run one after the other in one process, which saves importing MindSpore, with the folder as
working directory; an Ascend, and no other device, is the default on the stand-in. Every import of the project is in
worker.py and data.py.

Kinds: opapi_kernel is aclnn, acl_kernel an operator of CANN that is compiled online, FUSED several operators in one
kernel that MindSpore compiles, hccl_kernel a collective.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Sequence

from tests.ascend import stand_in

ROOT = Path(__file__).resolve().parent.parent.parent
WORKER = Path(__file__).resolve().parent / "worker.py"
MARK = "@stand-in "
# MindSpore's log of the module that makes kernels, at the level that names them.
LOG = {"GLOG_v": "3", "MS_SUBMODULE_LOG_v": "{DEVICE:1}"}
# Operators that CANN runs on the AI CPU of a 310, a 910, an A2 or an A3, and not on an AI Core. RightShift: CANN's
# ops-math, math/right_shift/op_api/right_shift.cpp; PadV3: MindSpore's cust_aicpu_kernel.json.
AI_CPU_KERNELS = frozenset({"LeftShift", "PadV3", "RightShift"})
# And what MindSpore itself gives to the AI CPU, or to the host.
_AI_CPU_KINDS = frozenset({"aicpu_kernel", "cpu_kernel", "host_kernel"})
_KERNEL = re.compile(r"GenerateKernelMod\] kernel opname:(\w+), kernel type:(\w+)")
_LOGGED = re.compile(r"\[(DEBUG|INFO|WARNING|ERROR|CRITICAL)\] [A-Z_]+\(")


class Kernels(collections.Counter):
    """How often each (operator, kind of kernel) is there; kernels["Mul"] counts an operator of any kind."""

    def __missing__(self, key):
        return sum(count for (operator, _), count in self.items() if operator == key) if isinstance(key, str) else 0

    @property
    def count(self) -> int:
        """All kernels that are launched; an rt_kernel, such as Reshape, is none."""
        return sum(count for (_, kind), count in self.items() if kind != "rt_kernel")

    @property
    def on_ai_cpu(self) -> dict[str, int]:
        """How often each operator is there that runs on no AI Core."""
        found = {key: n for key, n in self.items() if key[0] in AI_CPU_KERNELS or key[1] in _AI_CPU_KINDS}
        return {operator: n for (operator, _), n in found.items()}

    @property
    def operators(self) -> set[str]:
        """The names of the operators."""
        return {operator for operator, _ in self}

    @property
    def kinds(self) -> dict[str, int]:
        """How many kernels are of each kind."""
        kinds: collections.Counter = collections.Counter()
        for (_, kind), count in self.items():
            kinds[kind] += count
        return dict(kinds)


@dataclasses.dataclass
class Graph:
    """A compiled graph: the class of its network, its phase (train, eval, predict, export, ...) and its kernels."""

    network: str
    phase: str
    kernels: Kernels = dataclasses.field(default_factory=Kernels)


@dataclasses.dataclass
class Done:
    """A program that has run.

    errors: what it wrote on stderr, without MindSpore's log. status: None when its process died. events, in order:
    {"event": "train", "sink", "sink_size", "batches"}, {"event": "step_end" or "epoch_end", "step"} and
    {"event": "eval", "sink", "batches"}.
    """

    argv: list[str]
    status: int | None = None
    stdout: str = ""
    errors: str = ""
    graphs: list[Graph] = dataclasses.field(default_factory=list)
    eager: Kernels = dataclasses.field(default_factory=Kernels)
    events: list[dict] = dataclasses.field(default_factory=list)

    @property
    def step(self) -> Kernels:
        """The kernels of the training step."""
        steps = [graph.kernels for graph in self.graphs if graph.phase == "train"]
        assert steps, f"{' '.join(self.argv)}: no training step was compiled\n{self.errors[-3000:]}"
        return steps[-1]

    def called(self, event: str) -> list[dict]:
        """Return the events of a name."""
        return [e for e in self.events if e["event"] == event]


def run(
    commands: Sequence[Sequence[object]],
    folder: Path,
    *,
    devices: int = 1,
    signal_at: int | None = None,
    timeout: int = 900,
    **environment: str,
) -> list[Done]:
    """Run commands (program and arguments) one after the other in one process, in a folder.

    devices: above 1, in MindSpore's simulation of the first of so many. signal_at: the step, counted by MindSpore,
    after which the last command gets SIGTERM. environment: further variables, as STAND_IN_SOC.
    """
    requests = [{"argv": [str(part) for part in command]} for command in commands]
    for request in requests:
        if "--device_target" not in request["argv"]:
            request["argv"] += ["--device_target", "Ascend", "--strict_device", "true"]
    requests[-1]["signal_at"] = signal_at
    variables = {**os.environ, **stand_in.environment(), **LOG, **(_of_several(devices) if devices > 1 else {})}
    variables.update(environment)
    command = [sys.executable, str(WORKER), json.dumps(requests)]
    with (
        tempfile.TemporaryFile("w+", errors="replace") as out,
        tempfile.TemporaryFile("w+", errors="replace") as errors,
    ):
        with contextlib.suppress(subprocess.TimeoutExpired):  # The last program's status is None then.
            subprocess.run(command, cwd=folder, env=variables, stdout=out, stderr=errors, timeout=timeout)
        errors.seek(0), out.seek(0)
        return _parsed(errors.read().splitlines(), out.read())


def _of_several(devices: int) -> dict[str, str]:
    """Return the variables of MindSpore's simulation of the first of several processes."""
    ranks = {"RANK_SIZE": str(devices), "RANK_ID": "0", "DEVICE_ID": "0"}
    return {**ranks, "MS_ROLE": "MS_WORKER", "MS_SIMULATION_LEVEL": "1"}  # As msrun sets them, with --sim_level.


def _parsed(lines: list[str], stdout: str) -> list[Done]:
    """Return what the worker's output tells of each program."""
    programs: list[Done] = []
    open_graphs: list[Graph] = []
    for line in lines:
        kernel = _KERNEL.search(line)
        if kernel and programs:
            kernels = open_graphs[-1].kernels if open_graphs else programs[-1].eager
            kernels.update([kernel.groups()])
        elif MARK in line:
            event = json.loads(line.partition(MARK)[2])
            name = event["event"]
            if name == "program":
                programs.append(Done(event["argv"]))
                open_graphs = []
            elif name == "compile":
                open_graphs.append(Graph(event["network"], event["phase"]))
            elif name == "compiled":
                graph = open_graphs.pop()
                if graph.kernels:  # It was not there already.
                    programs[-1].graphs.append(graph)
            elif name == "status":
                programs[-1].status = event["status"]
            else:
                programs[-1].events.append(event)
        elif programs and not _LOGGED.match(line):
            programs[-1].errors += line + "\n"
    for program, output in zip(programs, stdout.split(f"{MARK}\n")[1:]):
        program.stdout = output
    return programs


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the kernels of a program's graphs on an Ascend.")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    [done] = run([arguments.command], Path.cwd(), devices=arguments.devices)
    print(done.stdout, done.errors, sep="\n")
    for event in done.events:
        print(event)
    for graph in done.graphs:
        print(f"{graph.phase} graph of {graph.network}: {graph.kernels.count} kernels, {graph.kernels.kinds}")
        for (operator, kind), count in graph.kernels.most_common():
            print(f"{count:6} {operator} {kind}")
    print(f"outside of graphs: {done.eager.count} kernels, {dict(done.eager)}")
    print(f"status {done.status}")


if __name__ == "__main__":
    main()
