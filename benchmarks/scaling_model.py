"""What data-parallel training of SqueezeNet should cost on 8, 64 and 1,024 NPUs: a prediction, from stated inputs.

    python benchmarks/scaling_model.py                                    # ImageNet, v1.0, the model zoo's step time
    python benchmarks/scaling_model.py --workload zoo_cifar10             # or mindcv_imagenet
    python benchmarks/scaling_model.py --roce_gbit 200 --gradient_bits 16 --npus 8 256 4096
    python benchmarks/scaling_model.py --parameters 25557032 --batch_size 32 --step_ms 17.9 --step_devices 1

A step is compute, which is the published step time less the allreduce predicted for the devices it was measured on,
and then an allreduce of all gradients, of which a share `overlap` of the compute can hide as much. Each NPU has a port
of its own for the network between hosts. A message of b bytes takes latency + b / (bandwidth * link_efficiency).
docs/SCALING.md says what the inputs rest on. Parameters and operations are counted in the network itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from typing import Callable, NamedTuple, NoReturn, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.cli.errors import UserError, run

LINEAR_SCALING_LIMIT = 8192  # Images a step, ResNet-50 on ImageNet: Goyal et al. 2017, abstract.
# Multiply-adds of the forward pass, and of the gradients of inputs and weights, each as many; 2 operations each.
OPERATIONS_PER_MULTIPLY_ADD = 3 * 2
SEARCHED_HOSTS = 8192


class Workload(NamedTuple):
    """A published training: milliseconds a step on so many devices, what the learning rate is for, and its images."""

    step_ms: float
    step_devices: int
    epochs: int
    lr_batch_size: int
    images: int
    image_bytes: int
    classes: int


IMAGENET, CIFAR10 = (1_281_167, 110_000, 1000), (50_000, 3_073, 10)
# All with 32 images a step on each device.
WORKLOADS = {
    # mindspore-ai/models, research/cv/squeezenet/README.md: Ascend 910, MindSpore 1.0.1.
    "zoo_imagenet": Workload(19.9, 8, 200, 8 * 32, *IMAGENET),
    "zoo_cifar10": Workload(16.7, 1, 120, 32, *CIFAR10),
    # mindcv: 10,801 images/s on eight devices.
    "mindcv_imagenet": Workload(1000 * 8 * 32 / 10_801, 8, 200, 8 * 32, *IMAGENET),
}


@dataclasses.dataclass(frozen=True)
class Link:
    """A connection: seconds for a message to start, and bytes per second after that."""

    latency: float
    bandwidth: float

    def seconds(self, size: float) -> float:
        """Return the time of one message of `size` bytes."""
        return self.latency + size / self.bandwidth


def ring(size: float, ranks: int, link: Link) -> float:
    """Return the seconds of a ring allreduce of `size` bytes: a reduce-scatter and an allgather of ranks - 1 steps."""
    return 2 * (ranks - 1) * link.seconds(size / ranks) if ranks > 1 else 0.0


def halving_doubling(size: float, ranks: int, link: Link) -> float:
    """Return the seconds of recursive halving and doubling, 2 log2(ranks) steps.

    Ranks beyond a power of two first hand their data to a partner and get the result back, two steps of `size` bytes.
    """
    steps = int(math.log2(ranks))
    power = 2**steps
    beyond = 2 * link.seconds(size) if ranks > power else 0.0
    return beyond + 2 * (steps * link.latency + size * (1 - 1 / power) / link.bandwidth)


Allreduce = Callable[[float, int, Link], float]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Hosts of `devices` NPUs each, their links within a host and, one for each NPU, between hosts."""

    devices: int
    within: Link
    between: Link

    def hosts(self, npus: int) -> int:
        return max(1, npus // self.devices)

    def flat_ring(self, size: float, npus: int) -> float:
        """Return the seconds of one ring through all NPUs, whose slowest link sets the pace."""
        if npus <= self.devices:
            return ring(size, npus, self.within)
        return ring(size, npus, max(self.within, self.between, key=lambda link: link.seconds(size / npus)))

    def hierarchical(self, size: float, npus: int, between_hosts: Allreduce) -> float:
        """Return the seconds of a reduce-scatter in each host, allreduces of the shards, and an allgather."""
        local = min(npus, self.devices)
        return ring(size, local, self.within) + between_hosts(size / local, self.hosts(npus), self.between)

    def algorithms(self) -> dict[str, Callable[[float, int], float]]:
        """Return the allreduces by name, the one that step times are predicted with first."""
        return {
            "halving-doubling between hosts": lambda size, n: self.hierarchical(size, n, halving_doubling),
            "ring between hosts": lambda size, n: self.hierarchical(size, n, ring),
            "one ring": self.flat_ring,
        }


@dataclasses.dataclass(frozen=True)
class Training:
    """Compute per step in seconds, a share of it that can hide the allreduce, and the gradient's bytes."""

    compute: float
    overlap: float
    gradient: float

    def step(self, allreduce: float) -> float:
        """Return the seconds of a step with an allreduce of so many seconds."""
        return self.compute + max(0.0, allreduce - self.overlap * self.compute)

    def efficiency(self, allreduce: float) -> float:
        """Return throughput per NPU, as a share of that of one NPU alone."""
        return self.compute / self.step(allreduce)


def compute_seconds(step: float, allreduce: float, overlap: float) -> float:
    """Return the compute in a measured step: what Training.step turns into `step` again.

    Raises UserError for a step that is shorter than the allreduce in it.
    """
    if allreduce <= overlap * step:
        return step
    if allreduce >= step:
        raise UserError(
            f"--step_ms: {1000 * step:g} leaves nothing for compute, as the allreduce on --step_devices takes "
            f"{1000 * allreduce:.2f} ms by this model; give the time of one device, or faster links"
        )
    return (step - allreduce) / (1 - overlap)


def knee(training: Training, cluster: Cluster, allreduce: Callable[[float, int], float], least: float) -> Optional[int]:
    """Return the fewest NPUs on which efficiency is below `least`, or None within SEARCHED_HOSTS hosts."""
    counts = (cluster.devices * hosts for hosts in range(1, SEARCHED_HOSTS + 1))
    return next((n for n in counts if training.efficiency(allreduce(training.gradient, n)) < least), None)


def compute_at(compute: float, images: float, of_images: int, fixed_share: float) -> float:
    """Return the seconds of a step with `images` on a device, of which a share does not shrink with them."""
    return compute * (fixed_share + (1 - fixed_share) * images / of_images)


class Net(NamedTuple):
    """A network's size: parameters, and multiply-adds of one image."""

    name: str
    parameters: int
    multiply_adds: int


def nets(image_size: int) -> list[Net]:
    """Count parameters and multiply-adds in the networks themselves."""
    from src.network.summary import summarize, totals

    rows = []
    for version, bypass in (("1_0", "none"), ("1_0", "complex"), ("1_1", "none")):
        for classes in (1000, 10):
            model = {"num_classes": classes, "version": version, "bypass": bypass}
            name = f"v{version.replace('_', '.')}{', complex bypass' if bypass == 'complex' else ''}, {classes} classes"
            rows.append(Net(name, *totals(summarize(model, image_size))))
    return rows


def table(head: tuple, rows: list[tuple]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What is predicted: the options, with the cluster and the training that they describe."""

    given: argparse.Namespace
    parameters: int
    cluster: Cluster
    training: Training

    @property
    def allreduce(self) -> Callable[[float, int], float]:
        """The algorithm that step times are predicted with."""
        return next(iter(self.cluster.algorithms().values()))


def scenario(o: argparse.Namespace, parameters: int) -> Scenario:
    """Return what the options describe, for a network with so many parameters."""
    cluster = Cluster(
        o.devices_per_host,
        Link(o.hccs_us / 1e6, o.hccs_gbyte * 1e9 * o.link_efficiency),
        Link(o.roce_us / 1e6, o.roce_gbit / 8 * 1e9 * o.link_efficiency),
    )
    gradient = parameters * o.gradient_bits / 8
    within = ring(gradient, o.step_devices, cluster.within)
    compute = compute_seconds(o.step_ms / 1000, within, o.overlap)
    return Scenario(o, parameters, cluster, Training(compute, o.overlap, gradient))


def sizes(counted: list[Net], o: argparse.Namespace) -> str:
    """Return parameters, gradient and operations of each network."""
    rows = []
    for net in counted:
        gradient = net.parameters * o.gradient_bits / 8
        operations = OPERATIONS_PER_MULTIPLY_ADD * net.multiply_adds * o.batch_size
        row = (net.name, f"{net.parameters:,}", f"{gradient / 1e6:.2f}", f"{operations / 1e9:.0f}")
        rows.append((*row, f"{operations / gradient:,.0f}"))
    head = ("network", "parameters", "gradient, MB", "operations a step, 10^9", "operations per byte of gradient")
    return table(head, rows)


def steps(s: Scenario) -> str:
    """Return the step and its allreduce, and the images it needs, for each number of NPUs."""
    algorithms, rows = s.cluster.algorithms(), []
    for n in s.given.npus:
        times = [allreduce(s.training.gradient, n) for allreduce in algorithms.values()]
        step = s.training.step(times[0])
        rate = n * s.given.batch_size / step
        row = (
            f"{n:,}",
            *(f"{1000 * seconds:.2f}" for seconds in (*times, step)),
            f"{s.training.efficiency(times[0]):.1%}",
        )
        rows.append((*row, f"{rate / s.cluster.hosts(n):,.0f}", f"{rate * s.given.image_bytes / 1e9:,.2f}"))
    head = ("NPUs", *(f"{name}, ms" for name in algorithms), "step, ms", "efficiency")
    return table((*head, "images/s per host", "GB/s of input, all hosts"), rows)


def epochs(s: Scenario) -> str:
    """Return what is left of an epoch, and of the schedule, for each number of NPUs."""
    o, rows = s.given, []
    for n in o.npus:
        batch = n * o.batch_size
        count = o.images // batch
        seconds = count * s.training.step(s.allreduce(s.training.gradient, n))
        row = (f"{n:,}", f"{batch:,}", f"{count:,}", f"{count * o.scaling_warmup_epochs:,}")
        rows.append((*row, f"{batch / o.lr_batch_size:g}", f"{seconds:.3g}", f"{seconds * o.epochs / 60:.3g}"))
    head = ("NPUs", "images a step", "steps an epoch", "steps of scaling warm-up", "learning rate times")
    return table((*head, "s an epoch", f"minutes for {o.epochs} epochs"), rows)


def knees(s: Scenario) -> str:
    """Return where communication, and where accuracy, ends the scaling at --batch_size images on each NPU."""
    rows = []
    for name, allreduce in s.cluster.algorithms().items():
        found = [knee(s.training, s.cluster, allreduce, least) for least in (0.9, 0.5)]
        none = f"none up to {SEARCHED_HOSTS * s.cluster.devices:,}"
        rows.append((name, *(f"{n:,} ({n * s.given.batch_size:,} images a step)" if n else none for n in found)))
    head = ("allreduce", "efficiency below 90%", "below 50%")
    allowed = s.given.largest_batch // s.given.batch_size
    return f"{table(head, rows)}\n\nNPUs for {s.given.largest_batch:,} images a step: {allowed:,}"


def more_npus(s: Scenario) -> str:
    """Return what ever more NPUs give for --largest_batch images a step, divided among them."""
    o, rows, npus = s.given, [], s.cluster.devices
    while npus <= min(o.largest_batch, max(o.npus)):
        own = o.largest_batch / npus
        if own <= o.batch_size:
            compute = compute_at(s.training.compute, own, o.batch_size, o.fixed_share)
            step = dataclasses.replace(s.training, compute=compute).step(s.allreduce(s.training.gradient, npus))
            efficiency = s.training.compute * own / o.batch_size / step
            row = (f"{npus:,}", f"{own:g}", f"{1000 * step:.2f}", f"{o.largest_batch / step:,.0f}")
            rows.append((*row, f"{efficiency:.0%}"))
        npus *= 2
    return (
        table(("NPUs", "images on each", "step, ms", "images/s", "efficiency"), rows) if rows else "(not on these NPUs)"
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the options")


def options(arguments: Optional[list[str]] = None) -> argparse.Namespace:
    """Return the checked options, the workload's figures filled in. Raises UserError for impossible ones."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--workload", choices=WORKLOADS, default="zoo_imagenet", help="published step time, and its data set")
    add("--npus", type=int, nargs="+", default=[8, 64, 1024], help="predict for these numbers of NPUs")
    add("--batch_size", type=int, default=32, help="images a step on each NPU (zoo and mindcv: 32)")
    add("--step_ms", type=float, help="default: the workload's")
    add("--step_devices", type=int, help="NPUs of one host that --step_ms was measured on; default: the workload's")
    add("--epochs", type=int, help="of the whole training; default: the workload's")
    add("--lr_batch_size", type=int, help="images a step that learning rates are given for; default: the workload's")
    add("--images", type=int, help="training images; default: the workload's")
    add("--image_bytes", type=int, help="of a stored image; default: the workload's (assumption for ImageNet)")
    add("--parameters", type=int, help="of another network, instead of v1.0's")
    add("--gradient_bits", type=int, default=32, help="of each gradient on the wire (32)")
    add("--overlap", type=float, default=0.0, help="share of compute that can hide the allreduce (0, the worst case)")
    add("--devices_per_host", type=int, default=8, help="NPUs of a host (8)")
    add("--hccs_gbyte", type=float, default=30.0, help="GB/s of one HCCS port (Hot Chips 31: 240 Gbit/s)")
    add("--roce_gbit", type=float, default=100.0, help="Gbit/s of each NPU's RoCE port (Hot Chips 31: 100 a port)")
    add("--link_efficiency", type=float, default=0.8, help="share of these that data gets (assumption: 0.8)")
    add("--hccs_us", type=float, default=10.0, help="microseconds for a message to start in a host (assumption: 10)")
    add("--roce_us", type=float, default=20.0, help="the same between hosts (assumption: 20)")
    add("--fixed_share", type=float, default=0.18, help="of compute, what fewer images do not save (assumption: 0.18)")
    add("--largest_batch", type=int, default=LINEAR_SCALING_LIMIT, help="images a step that accuracy bears (8192)")
    add("--scaling_warmup_epochs", type=int, default=5, help="as in docs/CONFIGURATION.md (5)")
    o = parser.parse_args(arguments)
    for name, value in WORKLOADS[o.workload]._asdict().items():
        if getattr(o, name, None) is None:
            setattr(o, name, value)
    check(o)
    return o


MAY_BE_ZERO = ("overlap", "hccs_us", "roce_us", "fixed_share", "scaling_warmup_epochs")
SHARES = ("overlap", "fixed_share", "link_efficiency")


def check(o: argparse.Namespace) -> None:
    """Raise UserError for impossible options."""
    for name, value in vars(o).items():
        for number in value if isinstance(value, list) else [value]:
            if not isinstance(number, (int, float)):
                continue
            low, high = number < 0 if name in MAY_BE_ZERO else not number > 0, name in SHARES and number > 1
            if low or high or not math.isfinite(number):
                allowed = "a number above 0" if name not in MAY_BE_ZERO else "0 or more"
                raise UserError(
                    f"--{name}: {number:g} is impossible; it takes {allowed}{', at most 1' * (name in SHARES)}"
                )
    for n in o.npus:
        if n > o.devices_per_host and n % o.devices_per_host:
            host = f"the {o.devices_per_host} devices of a host (--devices_per_host)"
            raise UserError(f"--npus: {n} is not a multiple of {host}")
        if n * o.batch_size > o.images:
            raise UserError(f"--npus: {n} with {o.batch_size} images on each take more than the {o.images:,} there are")
    if o.step_devices > o.devices_per_host:
        raise UserError(f"--step_devices: {o.step_devices} are more than one host's {o.devices_per_host}")


def main() -> None:
    """Print the tables."""
    o = options()
    parameters = o.parameters
    if parameters is None:
        counted = nets(224)
        print(f"Network, gradient, and compute of a step on one NPU\n\n{sizes(counted, o)}\n", flush=True)
        parameters = next(net.parameters for net in counted if net.name == f"v1.0, {o.classes} classes")
    s = scenario(o, parameters)
    compute = f"{1000 * s.training.compute:.2f} ms of compute a step"
    print(f"Prediction for {o.workload}: {parameters:,} parameters, {compute}\n")
    for title, text in (
        (f"Prediction: a step of {o.batch_size} images on each NPU", steps(s)),
        (f"Prediction: epochs, with learning rates given for {o.lr_batch_size} images a step", epochs(s)),
        ("Prediction: the knee, in NPUs", knees(s)),
        (f"Prediction: more NPUs for {o.largest_batch:,} images a step", more_npus(s)),
    ):
        print(f"{title}\n\n{text}\n")


if __name__ == "__main__":
    run(main)
