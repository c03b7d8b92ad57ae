"""The first steps of the reference recipe beside an independent implementation in PyTorch: the two loss curves.

    python benchmarks/reference_recipe.py --data_path ./data --output_path reference_recipe [--steps 300]
        [--config config/squeezenet_cifar10.yaml] [any flag of train.py]

Both start from equal weights and see equal batches (the pipeline of train.py) with equal dropout masks. MindSpore's
side is what train.py builds: network, loss, optimizer, learning rates. PyTorch's is benchmarks/torch_squeezenet.py,
torch.nn.functional.cross_entropy and torch.optim.SGD, the learning rate set from the formula of the recipe's linear
decay. What differs is rounding, which training amplifies step by step: a second curve of PyTorch's, from weights that
are moved by one part in 10 million, shows how far that alone leads. Writes losses.csv and losses.png. PyTorch: pip
install -r requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mindspore as ms
import numpy as np
import torch
from mindspore import Tensor, nn
from torch.nn import functional as F

from benchmarks.torch_squeezenet import SqueezeNet
from src.checkpoint import weights_of
from src.cli.errors import run
from src.config import parse_train
from src.loss import CrossEntropy
from src.network.dropout import Dropout
from src.network.geometry import feature_size
from src.training.model import make_optimizer
from src.training.plan import prepare

NUDGE = 1e-7
COLUMNS = ("step", "lr", "mindspore", "torch", "torch_nudged")


class Masked(torch.nn.Module):
    """Dropout by the masks that it is handed."""

    mask: torch.Tensor

    def forward(self, x):
        return x * self.mask


class Theirs:
    """The recipe in PyTorch: the loss of one step after another."""

    def __init__(self, model: dict, weights: dict[str, np.ndarray], momentum: float, weight_decay: float):
        keys = ("num_classes", "version", "bypass", "batch_norm", "stem", "final_relu")
        self.net = SqueezeNet(**{key: model[key] for key in keys}).load(weights)
        self.net.dropout = Masked()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.0, momentum=momentum, weight_decay=weight_decay)

    def step(self, images: np.ndarray, labels: np.ndarray, mask: np.ndarray, rate: float) -> float:
        """Return the loss before the update."""
        self.net.dropout.mask = torch.from_numpy(mask)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.net(torch.from_numpy(images)), torch.from_numpy(labels.astype(np.int64)))
        loss.backward()
        self.optimizer.step()
        return loss.item()


def linear_rate(config, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step by the formula: a warm-up on a line, then a decay on a line."""
    schedule = config.schedule
    warm_up, total = schedule.warmup_epochs * steps_per_epoch, schedule.epochs * steps_per_epoch
    if step < warm_up:
        return schedule.lr_init + (schedule.lr_max - schedule.lr_init) * step / warm_up
    return schedule.lr_max - (schedule.lr_max - schedule.lr_end) * (step - warm_up) / (total - warm_up)


def main() -> None:
    """Write the curves, and print how far they are apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="config/squeezenet_cifar10.yaml")
    parser.add_argument("--data_path", default="./data")
    parser.add_argument("--output_path", default="reference_recipe")
    parser.add_argument("--steps", type=int, default=300)
    arguments, changes = parser.parse_known_args()
    folder = Path(arguments.output_path)
    flags = ["--config", arguments.config, "--data_path", arguments.data_path, "--output_path", str(folder / "unused")]
    config = parse_train([*flags, "--device_target", "CPU", *changes], "")
    plan = prepare(config)
    folder.mkdir(parents=True, exist_ok=True)
    net, steps_per_epoch = plan.net, plan.steps_per_epoch
    weights = {name: value.asnumpy().copy() for name, value in weights_of(net).items()}
    random = np.random.RandomState(0)
    nudged = {n: (w * (1 + NUDGE * random.choice((-1, 1), w.shape))).astype(np.float32) for n, w in weights.items()}
    optimizer = config.optimizer
    theirs = [Theirs(plan.card.model, w, optimizer.momentum, optimizer.weight_decay) for w in (weights, nudged)]
    masks = Dropout(config.model.dropout).seeded(config.run.seed).set_train()
    size = feature_size(net.stem, net.layers, config.data.image_size)
    shape = (config.data.batch_size, net.classifier[1].in_channels, size, size)
    ones = Tensor(np.ones(shape, np.float32))
    step = nn.TrainOneStepCell(nn.WithLossCell(net, CrossEntropy()), make_optimizer(net, optimizer, plan.rates))
    step.set_train()
    with open(folder / "losses.csv", "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(COLUMNS)
        batches = plan.batches().create_dict_iterator(num_epochs=-1, output_numpy=True)
        for i in range(arguments.steps):
            batch = next(batches)
            images, labels, mask = batch["image"], batch["label"], masks(ones).asnumpy()
            rate = linear_rate(config, i, steps_per_epoch)
            ours = float(step(Tensor(images), Tensor(labels)).asnumpy())
            row = [i + 1, rate, ours, *(system.step(images, labels, mask, rate) for system in theirs)]
            table.writerow(row)
            stream.flush()
            if (i + 1) % 10 == 0:
                print("step {}  lr {:.6f}  mindspore {:.6f}  torch {:.6f}  nudged {:.6f}".format(*row), flush=True)
    report(folder)


def report(folder: Path) -> None:
    """Print the differences of a table of losses, and draw it."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    found = np.genfromtxt(folder / "losses.csv", delimiter=",", names=True)
    print("| steps | largest difference of mindspore from torch | of torch from torch nudged |\n|---|---|---|")
    for end in (1, 10, 50, 100, 200, 300):
        if end <= len(found):
            part = found[:end]
            apart = [np.abs(part[name] - part["torch"]).max() for name in ("mindspore", "torch_nudged")]
            print(f"| 1-{end} | {apart[0]:.2g} | {apart[1]:.2g} |")
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True, layout="constrained")
    for name, style in (("torch", {"lw": 3, "alpha": 0.4}), ("mindspore", {"lw": 1})):
        above.plot(found["step"], found[name], label=name, **style)
    above.set_ylabel("loss")
    above.legend()
    for name in ("mindspore", "torch_nudged"):
        below.semilogy(found["step"], np.maximum(np.abs(found[name] - found["torch"]), 1e-9), label=name)
    below.set(xlabel="step", ylabel="difference from torch")
    below.legend()
    figure.savefig(folder / "losses.png", dpi=120)


if __name__ == "__main__":
    ms.set_context(mode=ms.GRAPH_MODE)
    run(main)
