"""Inference latency on the CPU: MindSpore's graph, the MINDIR and the ONNX that export.py writes, and PyTorch.

    python benchmarks/latency.py [--rounds 5] [--calls 20] [--only NAME ...]

Milliseconds a call for 1 and for 32 images, on v1.0 at 224x224 with 1,000 classes and on two recipes' networks at 32x32
with 10. The systems have the same random weights and give the same logits, which is checked first. They take turns,
each in a process of its own, as their threads would otherwise be in each other's way; the median of the rounds counts,
and of the ratios within a round. PyTorch: pip install -r requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.training_step import ENVIRONMENT, network

NETS = {
    "v1.0": ({"num_classes": 1000, "version": "1_0"}, 224),
    **{name: (network(name), 32) for name in ("squeezenet_cifar10_paper", "squeezenet_cifar10_wide")},
}
SYSTEMS = ("torch", "mindspore graph", "MINDIR", "ONNX")
BATCHES = (1, 32)


def prepare(folder: Path, name: str) -> None:
    """Write checkpoint, MINDIR, ONNX and the expected logits of a network of random weights."""
    import mindspore as ms
    from mindspore import Tensor

    from src.checkpoint import save_checkpoint
    from src.config import DeviceConfig
    from src.dataset.preprocessing import Preprocessing
    from src.inference.config import ExportConfig
    from src.inference.export import export_checkpoint
    from src.model_card import ModelCard

    model, side = NETS[name]
    ms.set_seed(1)
    ms.set_device("CPU")
    preprocessing = Preprocessing(side, "resize", "dataset", (0.5,) * 3, (0.25,) * 3)
    card = ModelCard(model, [str(i) for i in range(model["num_classes"])], preprocessing, "cifar10", 0.0)
    net = card.build().set_train(False)
    save_checkpoint(net, folder / "net.ckpt", card)
    for batch in BATCHES:
        np.save(folder / f"{batch}.npy", net(Tensor(inputs(batch, side))).asnumpy())
        for file_format in ("MINDIR", "ONNX"):
            config = ExportConfig(str(folder / "net.ckpt"), file_format, str(folder / f"net{batch}"), batch)
            export_checkpoint(config, DeviceConfig(device_target="CPU"))


def inputs(batch: int, side: int) -> np.ndarray:
    """Return the same images always."""
    return np.random.RandomState(0).standard_normal((batch, 3, side, side)).astype(np.float32)


def runner(system: str, folder: Path, name: str, batch: int):
    """Return a call that gives the logits of the images."""
    images = inputs(batch, NETS[name][1])
    if system in ("MINDIR", "ONNX"):
        from src.inference.exported_model import ExportedModel, read_spec

        path = folder / f"net{batch}.{system.lower()}"
        model = ExportedModel(path, read_spec(path))
        return lambda: model(images)
    from src.checkpoint import load_network, weights_of

    if system == "mindspore graph":
        from mindspore import Tensor

        from src.config import DeviceConfig
        from src.devices.device import select_device

        select_device(DeviceConfig(device_target="CPU"))  # MindSpore's own default is PyNative mode.
        net, _ = load_network(folder / "net.ckpt")
        return lambda: net(Tensor(images)).asnumpy()
    import torch

    from benchmarks.torch_squeezenet import SqueezeNet

    net, _ = load_network(folder / "net.ckpt")
    arrays = {parameter: value.asnumpy() for parameter, value in weights_of(net).items()}
    theirs = SqueezeNet(**NETS[name][0]).load(arrays).eval()
    tensor = torch.from_numpy(images)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return theirs(tensor).numpy()

    return run


def work(system: str, folder: Path, name: str, batch: int, calls: int) -> None:
    """Measure one system in this process, and print the seconds of a call as JSON."""
    run = runner(system, folder, name, batch)
    np.testing.assert_allclose(run(), np.load(folder / f"{batch}.npy"), rtol=1e-3, atol=1e-3)
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    print(json.dumps(statistics.median(seconds)))


def main() -> None:
    """Print a row for each net, batch and system."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(Path(arguments.prepare[0]), arguments.prepare[1])
        return
    if arguments.worker:
        system, folder, name, batch = arguments.worker
        work(system, Path(folder), name, int(batch), arguments.calls)
        return
    print("| net | images | system | ms a call | times as fast as torch |\n|---|---|---|---|---|")
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, __file__, "--prepare", folder, name], check=True)
            for batch in BATCHES:
                rounds = []
                for _ in range(arguments.rounds):
                    seconds = {}
                    for system in SYSTEMS:
                        worker = [sys.executable, __file__, "--worker", system, folder, name, str(batch)]
                        worker += ["--calls", str(arguments.calls)]
                        done = subprocess.run(worker, capture_output=True, text=True, env=ENVIRONMENT)
                        if done.returncode:
                            raise SystemExit(f"{system}: {done.stderr.strip().splitlines()[-1]}")
                        seconds[system] = json.loads(done.stdout.splitlines()[-1])
                    rounds.append(seconds)
                for system in SYSTEMS:
                    milliseconds = statistics.median(r[system] for r in rounds) * 1e3
                    ratio = statistics.median(r["torch"] / r[system] for r in rounds)
                    print(f"| {name} | {batch} | {system} | {milliseconds:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
