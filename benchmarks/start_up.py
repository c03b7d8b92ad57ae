"""Time from `python eval.py` to its result: start of Python and imports, compilation of the graph, and the rest.

    python benchmarks/start_up.py --ckpt_path best.ckpt [--rounds 5]

Each round runs, in processes of their own: `python -c "import mindspore"`; an import of all that eval.py imports; and
eval.py's evaluation on one batch of random images, within which building the network with its weights, the first call,
which compiles the graph, and the second call are timed. Medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSIDE = """
import json, sys, time
from pathlib import Path
start = time.perf_counter()
import numpy as np
from mindspore import Tensor
import eval
from src.checkpoint import load_network
from src.config import DeviceConfig
from src.devices.device import select_device
times = {"imports, with Python's modules": time.perf_counter() - start}
start = time.perf_counter()
select_device(DeviceConfig(device_target="CPU"))
net, card = load_network(Path(sys.argv[1]))
times["device and checkpoint"] = time.perf_counter() - start
size = card.preprocessing.image_size
images = Tensor(np.random.RandomState(0).standard_normal((32, 3, size, size)).astype(np.float32))
for name in ("first call, which compiles", "second call"):
    start = time.perf_counter()
    net(images).asnumpy()
    times[name] = time.perf_counter() - start
heavy = [name for name in ("matplotlib", "mindvision", "onnx", "onnxruntime", "cv2", "torch") if name in sys.modules]
print(json.dumps([times, heavy]))
"""


def timed(*command: str) -> tuple[float, str]:
    """Return how long a command took, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return time.perf_counter() - start, done.stdout


def main() -> None:
    """Print a table row for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    parts: dict[str, list[float]] = {}
    heavy: list[str] = []
    for _ in range(arguments.rounds):
        parts.setdefault("`import mindspore`, a process", []).append(timed(sys.executable, "-c", "import mindspore")[0])
        whole, printed = timed(sys.executable, "-c", INSIDE, str(Path(arguments.ckpt_path).resolve()))
        times, heavy = json.loads(printed.splitlines()[-1])
        for name, seconds in times.items():
            parts.setdefault(name, []).append(seconds)
        parts.setdefault("the whole process", []).append(whole)
    print("| part | seconds |\n|---|---|")
    for name, seconds in parts.items():
        print(f"| {name} | {statistics.median(seconds):.2f} |")
    print(f"\nimported of matplotlib, mindvision, onnx, onnxruntime, cv2 and torch: {', '.join(heavy) or 'none'}")


if __name__ == "__main__":
    main()
