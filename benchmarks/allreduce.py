"""Allreduce and its cost per training step on CPU workers (MindSpore's MCCL).

    timeout 180 python benchmarks/allreduce.py --workers 1 2 [--rounds 5] [--repeats 3]
    timeout 180 python benchmarks/allreduce.py --workers 1 4

A job for each number of workers is started once and compiled; then they take turns, one measuring while the others
sleep. A round's figure is the median of its repeats; the table has the median of the rounds and their range. A
training step is timed with and without the allreduce of its gradients, in the same workers and in alternation, so that
the difference does not hold what sharing the cores costs. It does hold the waiting for the slowest worker.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.cli.errors import UserError, run
from src.launching.cluster import Cluster
from src.launching.workers import Workers

# v1.0 with ten classes, whose gradient does not depend on the size of the images; small ones keep a step short.
IMAGES, IMAGE_SIZE = 8, 64
MEGABYTES = (1, 4, 16)
ONE_VECTOR, SINGLY = "gradient in one piece", "gradient, one allreduce for each of its tensors"
WITH, WITHOUT, COST = "training step", "training step without allreduce", "difference: the allreduce's cost"
IDLE_SECONDS = 300  # A worker whose turn does not come any more ends.
SECONDS_TO_START = 150


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the options")


def milliseconds(function: Callable[[], object], barrier: Callable[[], object]) -> float:
    """Return the time of a call that all workers start together."""
    barrier()
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def measurements() -> tuple[dict[str, Callable[[], object]], Callable[[], object], int]:
    """Return, in a worker, what is measured by name, a barrier, and the worker's rank; everything is compiled."""
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor, nn, ops

    from src.devices.processes import ProcessGroup, serve_as_scheduler
    from src.squeezenet import SqueezeNet

    serve_as_scheduler()
    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)
    job = ProcessGroup.join()

    class Sums(nn.Cell):
        """The first element of the sum of each tensor over the workers."""

        def __init__(self):
            super().__init__()
            self.allreduce = ops.AllReduce()

        def construct(self, tensors):
            firsts = ()
            for tensor in tensors:
                firsts += (self.allreduce(tensor).reshape(-1)[0],)
            return ops.stack(firsts)

    def summing(*shapes) -> Callable[[], object]:
        cell, tensors = Sums(), tuple(Tensor(np.ones(shape, np.float32)) for shape in shapes)
        return lambda: cell(tensors).asnumpy()

    def stepping(distributed: bool) -> Callable[[], object]:
        if not distributed:
            ms.reset_auto_parallel_context()
        net = SqueezeNet(num_classes=10)
        loss = nn.WithLossCell(net, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"))
        step = nn.TrainOneStepCell(loss, nn.Momentum(net.trainable_params(), 0.001, 0.9)).set_train()
        batch = (
            Tensor(np.random.RandomState(job.rank).rand(IMAGES, 3, IMAGE_SIZE, IMAGE_SIZE).astype(np.float32)),
            Tensor(np.arange(IMAGES, dtype=np.int32)),
        )
        step(*batch).asnumpy()  # Compiled in the context that it was built in.
        return lambda: step(*batch).asnumpy()

    shapes = [parameter.shape for parameter in SqueezeNet(num_classes=10).trainable_params()]
    functions = {f"allreduce of {size} MB": summing(size * 250_000) for size in MEGABYTES}
    functions[ONE_VECTOR] = summing(sum(int(np.prod(shape)) for shape in shapes))
    functions[SINGLY] = summing(*shapes)
    functions.update({WITH: stepping(True), WITHOUT: stepping(False)})
    barrier = summing(1)
    for function in (barrier, *functions.values()):
        function()
    return functions, barrier, job.rank


def work(folder: Path, workers: int, repeats: int) -> None:
    """Measure whenever it is the turn of this job, until there are no more turns."""
    functions, barrier, rank = measurements()
    done, deadline = -1, time.monotonic() + IDLE_SECONDS
    report(folder, rank, f"ready-{workers}", {})
    while time.monotonic() < deadline:
        try:
            number, whose = map(int, (folder / "turn").read_text().split())
        except FileNotFoundError:  # Before the first turn, or after the end.
            if not folder.is_dir():
                return
            number, whose = -1, 0
        if number == done or whose != workers:
            time.sleep(0.02)
            continue
        times = {name: [] for name in functions}
        for _ in range(repeats):
            for name, function in functions.items():
                times[name].append(milliseconds(function, barrier))
        report(folder, rank, f"turn-{number}", {name: statistics.median(t) for name, t in times.items()})
        done, deadline = number, time.monotonic() + IDLE_SECONDS


def report(folder: Path, rank: int, name: str, figures: dict) -> None:
    """Leave rank 0's figures for the program that started the workers."""
    if rank == 0:
        (folder / "new").write_text(json.dumps(figures))
        (folder / "new").replace(folder / f"{name}.json")


def started(folder: Path, count: int, repeats: int) -> Workers:
    """Start a job with so many workers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    logs = folder / f"log-{count}"
    logs.mkdir()
    workers = Workers(Cluster(1, 0, count, "127.0.0.1", port), logs)
    command = [sys.executable, str(Path(__file__).resolve()), "--turns", str(folder)]
    workers.start([*command, "--workers", str(count), "--repeats", str(repeats)], SECONDS_TO_START)
    return workers


def awaited(folder: Path, name: str, jobs: list[Workers], seconds: float) -> dict[str, float]:
    """Return the figures of that name. Raises RuntimeError when a job has ended early."""
    file, deadline = folder / f"{name}.json", time.monotonic() + seconds
    while not file.exists():
        if any(len(job.running()) < len(job.ranks) for job in jobs):
            logs = "".join(log.read_text(errors="replace")[-2000:] for log in folder.glob("log-*/worker_0.log"))
            raise RuntimeError(f"a job has ended early: {logs}")
        if time.monotonic() > deadline:
            raise UserError(f"no figures within {seconds:.0f} s; the machine may be too busy")
        time.sleep(0.02)
    return json.loads(file.read_text())


def in_turns(workers: list[int], rounds: int, repeats: int) -> dict[int, list[dict[str, float]]]:
    """Return the figures of each round, by the number of workers."""
    figures: dict[int, list[dict[str, float]]] = {count: [] for count in workers}
    jobs: list[Workers] = []
    with tempfile.TemporaryDirectory(prefix="squeezenet_") as name:
        folder = Path(name)
        try:
            for count in workers:
                jobs.append(started(folder, count, repeats))
                awaited(folder, f"ready-{count}", jobs, SECONDS_TO_START)
            for number in range(rounds * len(workers)):
                count = workers[number % len(workers)]
                (folder / "next").write_text(f"{number} {count}")
                (folder / "next").replace(folder / "turn")
                figures[count].append(awaited(folder, f"turn-{number}", jobs, SECONDS_TO_START))
        finally:
            for job in jobs:
                job.close()
    return figures


def table(figures: dict[int, list[dict[str, float]]]) -> str:
    """Return the medians of the rounds, and their ranges, in milliseconds."""
    for rounds in figures.values():
        for figure in rounds:
            figure[COST] = figure[WITH] - figure[WITHOUT]
    lines = ["| ms | " + " | ".join(f"{count} worker{'s' * (count > 1)}" for count in figures) + " |"]
    lines.append("|---|" + "---|" * len(figures))
    for name in next(iter(figures.values()))[0]:
        series = [[figure[name] for figure in rounds] for rounds in figures.values()]
        cells = [f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})" for times in series]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    small, *_, large = MEGABYTES
    slopes = []
    for rounds in figures.values():
        ends = [statistics.median(r[f"allreduce of {size} MB"] for r in rounds) for size in (small, large)]
        slopes.append(f"{(ends[1] - ends[0]) / (large - small):.1f}")
    lines.append(f"| per further MB, from {small} to {large} MB | " + " | ".join(slopes) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, or be one of the workers."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--turns", type=Path, help=argparse.SUPPRESS)  # Given to the workers.
    options = parser.parse_args()
    if min(*options.workers, options.rounds, options.repeats) < 1 or len({*options.workers}) < len(options.workers):
        raise UserError("--workers, --rounds and --repeats: give numbers from 1 up, and of workers each one once")
    if options.turns:
        return work(options.turns, options.workers[0], options.repeats)
    before = os.getloadavg()[0]
    print(table(in_turns(options.workers, options.rounds, options.repeats)))
    print(f"\n{os.cpu_count()} cores; load average {before:.1f} before, {os.getloadavg()[0]:.1f} at the end")
    return None


if __name__ == "__main__":
    run(main)
