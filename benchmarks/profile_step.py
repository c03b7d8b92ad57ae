"""Where a training step's time goes: the operators' share, from oneDNN's verbose log.

    python benchmarks/profile_step.py [--net squeezenet_cifar10_paper] [--batch 128] [--image_size 32] [--steps 10]

A network of benchmarks/training_step.py trains on random images in a process of its own with ONEDNN_VERBOSE=1, whose
log has a line for each primitive with its kind, implementation and milliseconds. Concatenation, sums, and what
MindSpore computes by itself is in no line: it is the rest of the step.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.training_step import NETS, WARM_UP
from benchmarks.training_step import __file__ as STEP

_VARIABLES = ("ONEDNN_VERBOSE", "DNNL_VERBOSE")  # MindSpore's oneDNN, and older ones.


def main() -> None:
    """Print a table row for each kind of primitive and implementation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=NETS, default="squeezenet_cifar10_paper")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    command = [sys.executable, STEP, "--steps", str(arguments.steps)]
    command += ["--worker", "mindspore", arguments.net, str(arguments.batch), str(arguments.image_size)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **dict.fromkeys(_VARIABLES, "1")}
    )
    spent: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for line in done.stdout.splitlines():
        # onednn_verbose,[version,]exec,cpu,kind,implementation,propagation,...,milliseconds
        fields = line.split(",")
        if not line.startswith(("onednn_verbose", "dnnl_verbose")) or "exec" not in fields[:4]:
            continue
        at = fields.index("exec")
        kind, implementation, propagation = fields[at + 2 : at + 5]
        spent[kind, propagation, implementation] += float(fields[-1])
    steps = arguments.steps + WARM_UP
    whole = json.loads(done.stdout.splitlines()[-1])["seconds"] * 1e3
    side = arguments.image_size
    print(f"{arguments.net}, batch {arguments.batch}, {side}x{side}: {whole:.0f} ms a step")
    print("| operator | pass | implementation | ms a step | share |\n|---|---|---|---|---|")
    rest = whole
    for row, total in spent.most_common():
        milliseconds = total / steps
        rest -= milliseconds
        print(f"| {' | '.join(row)} | {milliseconds:.1f} | {milliseconds / whole:.1%} |")
    print(f"| not oneDNN's | | | {rest:.1f} | {rest / whole:.1%} |")


if __name__ == "__main__":
    main()
