"""What a change of the network would gain: the time of a training step, as a share of the recipe's.

    python benchmarks/step_variants.py [--rounds 5] [--steps 4]

Of the paper's network on CIFAR-10, with the recipe's batch and image size. The variants take turns in one process,
round by round; the table has the median of the rounds and that of the ratios within a round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.training_step import WARM_UP, mindspore_step, network, recipe


def pool_before_norm(net):
    """Pool the first convolution's output before its batch norm and ReLU, which then see a quarter of the values."""
    from mindspore import nn

    (stem, pool), rest = list(net.features)[:2], list(net.features)[2:]
    net.features = nn.SequentialCell([stem.conv, pool, stem.norm, stem.activation, *rest])
    return net


NET = "squeezenet_cifar10_paper"
# Arguments that differ from the recipe's, and what is made of the network.
VARIANTS = {
    "the recipe": ({},),
    "`--bypass none`": ({"bypass": "none"},),
    "`--batch_norm squeeze`": ({"batch_norm": "squeeze"},),
    "`--batch_norm none`": ({"batch_norm": "none"},),
    "first pooling before its batch norm": ({}, pool_before_norm),
}


def main() -> None:
    """Print a row for each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()

    data = recipe(NET).data
    steps = {
        name: mindspore_step({**network(NET), **differs}, data.batch_size, data.image_size, *change)
        for name, (differs, *change) in VARIANTS.items()
    }
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    rounds = []
    for _ in range(arguments.rounds):
        rounds.append({})
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(arguments.steps):
                step()
            rounds[-1][name] = (time.perf_counter() - start) / arguments.steps

    print(f"{NET}, batch {data.batch_size}, {data.image_size}x{data.image_size}")
    print("| variant | ms a step | of the recipe's |\n|---|---|---|")
    for name in VARIANTS:
        seconds = statistics.median(r[name] for r in rounds)
        ratio = statistics.median(r[name] / r["the recipe"] for r in rounds)
        print(f"| {name} | {seconds * 1e3:,.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
