"""A training step in MindSpore and in PyTorch: images per second, their ratio, and peak memory, on the CPU.

    python benchmarks/training_step.py [--rounds 5] [--steps 12] [--only NAME ...]
    python benchmarks/training_step.py --other_python VENV/bin/python     # beside it, another version of MindSpore
    python benchmarks/training_step.py --growth                           # how cost and memory grow, MindSpore alone

A step is forward, backward and update with momentum, on the same random images again and again; network, batch and
image size are a recipe's. Each system has a process of its own, one after the other, round by round; a process counts
the median of its steps, and the table has the median of the rounds and that of the ratios within a round. PyTorch: pip
install -r requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# For the processes that are measured: importing MindSpore sets LD_LIBRARY_PATH, with which PyTorch has half its speed.
ENVIRONMENT = dict(os.environ)

from src.config import TrainConfig, parse_train  # noqa: E402

# Networks by their recipes in config/.
NETS = ("squeezenet_cifar10", "squeezenet_cifar10_paper", "squeezenet_cifar10_wide")
GROWTH = (
    *(("squeezenet_cifar10", batch, 224) for batch in (8, 16, 32, 64)),
    *(("squeezenet_cifar10", 32, side) for side in (64, 96, 128, 160)),
    *(("squeezenet_cifar10_paper", batch, 32) for batch in (16, 32, 64, 128, 256)),
)
SYSTEMS = ("mindspore", "torch", "torch channels_last")
WARM_UP = 3


def recipe(name: str) -> TrainConfig:
    """Return the configuration of a recipe in config/."""
    return parse_train(["--config", name], "")


def network(name: str) -> dict:
    """Return the arguments of a recipe's network, without dropout."""
    given = dataclasses.asdict(recipe(name).model)
    return {**{key: value for key, value in given.items() if value is not None}, "num_classes": 10, "dropout": 0.0}


def mindspore_step(arguments: dict, batch: int, side: int, change=lambda net: net):
    """Return a call that does a step with MindSpore. change: a function of the network that returns what to train."""
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor, nn

    import src  # noqa: F401  For the settings of oneDNN that come with it.
    from src.loss import CrossEntropy
    from src.squeezenet import SqueezeNet

    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)
    net = change(SqueezeNet(**arguments))
    optimizer = nn.Momentum(net.trainable_params(), 0.01, 0.9, 1e-4)
    step = nn.TrainOneStepCell(nn.WithLossCell(net, CrossEntropy()), optimizer).set_train()
    random = np.random.RandomState(0)
    images = Tensor(random.standard_normal((batch, 3, side, side)).astype(np.float32))
    labels = Tensor(random.randint(0, 10, batch).astype(np.int32))
    return lambda: step(images, labels).asnumpy()


def torch_step(arguments: dict, batch: int, side: int, channels_last: bool):
    """Return a call that does a step with PyTorch in eager mode."""
    import torch
    from torch.nn import functional as F

    from benchmarks.torch_squeezenet import SqueezeNet

    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = SqueezeNet(**arguments).to(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(batch, 3, side, side).to(memory_format=layout)
    labels = torch.randint(0, 10, (batch,))

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def work(system: str, name: str, batch: int, side: int, steps: int) -> None:
    """Measure one system in this process, and print seconds a step and peak memory in bytes as JSON."""
    arguments = network(name)
    if system == "mindspore":
        step = mindspore_step(arguments, batch, side)
    else:
        step = torch_step(arguments, batch, side, system.endswith("channels_last"))
    for _ in range(WARM_UP):
        step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": statistics.median(seconds), "peak": peak}))


def measure(python: str, system: str, name: str, batch: int, side: int, steps: int) -> dict:
    """Run `work` in a process of its own."""
    worker = [python, __file__, "--worker", system, name, str(batch), str(side), "--steps", str(steps)]
    done = subprocess.run(worker, capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode:
        raise SystemExit(f"{system}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(arguments: argparse.Namespace) -> None:
    """Print a row for each shape and system."""
    systems = [(sys.executable, system, system) for system in SYSTEMS]
    if arguments.other_python:
        systems.append((arguments.other_python, "mindspore", "other mindspore"))
    print("| net, batch, image size | system | images/s | mindspore / it | peak memory, MB |\n|---|---|---|---|---|")
    for name in arguments.only or NETS:
        data = recipe(name).data
        batch, side = data.batch_size, data.image_size
        rounds = [
            {label: measure(python, system, name, batch, side, arguments.steps) for python, system, label in systems}
            for _ in range(arguments.rounds)
        ]
        for _, _, label in systems:
            rate = statistics.median(batch / r[label]["seconds"] for r in rounds)
            ratio = statistics.median(r[label]["seconds"] / r["mindspore"]["seconds"] for r in rounds)
            peak = statistics.median(r[label]["peak"] for r in rounds) / 1e6
            print(f"| {name}, {batch}, {side} | {label} | {rate:,.0f} | {ratio:.2f} | {peak:,.0f} |", flush=True)


def growth(arguments: argparse.Namespace) -> None:
    """Print a row for each batch and image size, of MindSpore alone."""
    print("| net, batch, image size | ms a step | images/s | peak memory, MB |\n|---|---|---|---|")
    for shape in GROWTH:
        found = [measure(sys.executable, "mindspore", *shape, arguments.steps) for _ in range(arguments.rounds)]
        seconds = statistics.median(f["seconds"] for f in found)
        peak = statistics.median(f["peak"] for f in found) / 1e6
        name, batch, side = shape
        print(f"| {name}, {batch}, {side} | {seconds * 1e3:,.0f} | {batch / seconds:,.0f} | {peak:,.0f} |", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", nargs="+", choices=NETS)
    parser.add_argument("--other_python", help="python of an environment with another version of MindSpore")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        system, name, batch, side = arguments.worker
        work(system, name, int(batch), int(side), arguments.steps)
    elif arguments.growth:
        growth(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
