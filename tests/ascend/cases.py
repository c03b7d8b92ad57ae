"""What is run on the stand-in: every recipe of config/, and variations of one small training, a key or two at a time.

runs = Runs(folder)
runs.variation("muon")                   # its training, run together with the others of its group
runs.recipe("digits")                    # a recipe's training, ended by a signal after its first step (or epoch)
runs.resumed("digits")                   # what follows: the same run resumed, its evaluation and its export
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import yaml

from tests.ascend import data
from tests.ascend.kernels import ROOT, Done, run

RECIPES = {path.stem.replace("squeezenet_", "", 1): path for path in sorted((ROOT / "config").glob("*.yaml"))}
# The recipe whose weights another one starts from.
STARTS_FROM = {"finetune_cifar10": "imagenet_v1_0"}
SHORT = ("--epochs", 2, "--warmup_epochs", 0, "--scalars", "none")
CHECKPOINT = "squeezenet.ckpt"  # What a run leaves, with and without validation images.


@dataclasses.dataclass(frozen=True)
class Variation:
    """Flags of train.py beside the small training's own. quick: among those that CI runs."""

    flags: tuple = ()
    devices: int = 1
    quick: bool = False

    @property
    def is_graph(self) -> bool:
        """Whether a step is a graph; in PyNative mode its operators run one by one."""
        return "pynative" not in self.flags


def _variations() -> dict[str, Variation]:
    wide = ("--version", "cifar_wide", "--image_size", 32, "--batch_norm", "all", "--bypass", "simple", "--dropout", 0)
    on_device = ("--preprocess", "device")
    o2, o3 = ("--amp_level", "O2"), ("--amp_level", "O3")
    clipped_and_averaged = ("--clip_norm", 1, "--ema_decay", 0.999)
    scaled = ("--loss_scale", 1024)
    cases = {
        "v1_0": Variation(quick=True),
        "v1_0 jit_level O0": Variation(("--jit_level", "O0")),
        "v1_1 ceil_mode": Variation(("--version", "1_1", "--ceil_mode", "true")),
        "v1_1": Variation(("--version", "1_1")),
        "cifar": Variation(("--version", "cifar", "--image_size", 24)),
        "cifar_wide muon": Variation((*wide, "--optimizer", "muon"), quick=True),
        "simple bypass": Variation(("--bypass", "simple")),
        "complex bypass": Variation(("--bypass", "complex")),
        "batch_norm squeeze": Variation(("--batch_norm", "squeeze")),
        "batch_norm all": Variation(("--batch_norm", "all")),
        "small stem": Variation(("--stem", "small")),
        "no dropout": Variation(("--dropout", 0)),
        "no weight decay": Variation(("--weight_decay", 0)),
        "no decay of biases": Variation(("--decay_biases", "false")),
        "layer_decay": Variation(("--layer_decay", 0.9)),
        "label smoothing": Variation(("--label_smoothing", 0.1)),
        "class weights": Variation(("--class_weights", "balanced")),
        "class weights O2 mixup": Variation((*o2, *scaled, "--class_weights", "balanced", "--augment", "mixup")),
        "nesterov": Variation(("--optimizer", "nesterov")),
        "sgd": Variation(("--optimizer", "sgd")),
        "adam": Variation(("--optimizer", "adam")),
        "muon": Variation(("--optimizer", "muon")),
        "clip_norm": Variation(("--clip_norm", 1)),
        "ema_decay": Variation(("--ema_decay", 0.999)),
        "O2 clip_norm ema_decay": Variation((*o2, *scaled, "--batch_norm", "all", *clipped_and_averaged)),
        "O1": Variation(("--amp_level", "O1")),
        "O2": Variation(o2),
        "O2 scaled": Variation((*o2, *scaled), quick=True),
        "O2 dynamic": Variation((*o2, "--loss_scale", 0)),
        "O2 batch_norm": Variation((*o2, *scaled, "--batch_norm", "all")),
        "O2 muon": Variation((*o2, *scaled, *wide, "--optimizer", "muon")),
        "O3 scaled": Variation((*o3, *scaled)),
        "auto": Variation(("--amp_level", "auto")),
        "mixup": Variation(("--augment", "mixup")),
        "mixup O2": Variation((*o2, *scaled, "--augment", "[mixup,cutmix]")),
        "device": Variation(on_device),
        "device mixup": Variation((*on_device, "--augment", "[crop_flip,mixup]", "--num_classes", 12), quick=True),
        "device O1": Variation((*on_device, "--amp_level", "O1")),
        "device O2": Variation((*on_device, *o2, *scaled)),
        "device O3": Variation((*on_device, *o3, *scaled)),
        "device auto": Variation((*on_device, "--amp_level", "auto")),
        "device crop O2": Variation((*on_device, *o2, *scaled, "--fit", "crop")),
        "device per_image": Variation((*on_device, "--normalize", "per_image")),
        "not sunk": Variation(("--dataset_sink", "false"), quick=True),
        "not sunk O2": Variation(("--dataset_sink", "false", *o2, *scaled)),
        "pynative": Variation(("--mode", "pynative")),
        "eight devices": Variation(devices=8, quick=True),
        "eight devices O2": Variation((*o2, *scaled, "--batch_norm", "all"), devices=8),
        "eight devices muon": Variation((*wide, "--optimizer", "muon"), devices=8),
        "eight devices clip_norm ema_decay": Variation(("--batch_norm", "all", *clipped_and_averaged), devices=8),
        "eight devices not sunk": Variation(("--dataset_sink", "false"), devices=8),
    }
    return cases


VARIATIONS = _variations()


class Runs:
    """The runs of a session, each made once, under a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    @functools.cache  # noqa: B019  As long as the session.
    def data(self, layout: str) -> Path:
        """Return the folder of a made data set."""
        return data.WRITERS[layout](self.folder / "data" / layout)

    @functools.cache  # noqa: B019
    def variation(self, name: str) -> Done:
        """Return the training of a variation: two epochs on a few photographs, none of them for validation."""
        folder = self.run_folder(name)
        folder.mkdir(parents=True)
        # A process each: the second training in sink mode of a process compiles its step twice, which takes longer.
        return run([(*self._small(name), "--output_path", "run")], folder, devices=VARIATIONS[name].devices)[0]

    def _small(self, name: str) -> tuple:
        flags = VARIATIONS[name].flags
        # Images of one size, which the graph can resize, come with test images; photographs with none.
        if "--preprocess" in flags:
            images = ("--dataset", "cifar10", "--data_path", self.data("cifar10"))
        else:
            images = ("--dataset", "image_folder", "--data_path", self.data("train_only"), "--preprocess", "host")
        images += ("--train_images", 64, "--image_size", 64)
        return ("train.py", *images, "--batch_size", 8, *SHORT, *flags)

    @functools.cache  # noqa: B019
    def recipe(self, name: str, *flags: object, devices: int = 1) -> Done:
        """Return a recipe's training, at its own sizes, ended by a signal at the first call of a step's callbacks."""
        folder = self.run_folder(name, *flags, devices)
        folder.mkdir(parents=True)
        commands = [(*self._recipe(name), *flags, "--output_path", "run")]
        if name in STARTS_FROM:
            commands.insert(0, (*self._recipe(STARTS_FROM[name]), "--epochs", 1, "--output_path", "before"))
            commands[1] += ("--pretrained", f"before/{CHECKPOINT}")
        return run(commands, folder, devices=devices, signal_at=1)[-1]

    @functools.cache  # noqa: B019
    def resumed(self, name: str) -> tuple[Done, Done, Done]:
        """Return what follows on `recipe`: the run resumed, its evaluation and its export."""
        self.recipe(name)
        checkpoint = ("--ckpt_path", f"run/{CHECKPOINT}")
        commands = [
            ("train.py", "--resume", "--output_path", "run"),
            ("eval.py", *checkpoint, *self._data_of(name)),
            ("export.py", *checkpoint),
        ]
        return tuple(run(commands, self.run_folder(name, 1)))

    def run_folder(self, *what: object) -> Path:
        """Return the working directory of a run."""
        return self.folder / "_".join(str(part).strip("-") for part in what).replace(" ", "_")

    def _recipe(self, name: str) -> tuple:
        return ("train.py", "--config", RECIPES[name], *self._data_of(name), *SHORT)

    def _data_of(self, name: str) -> tuple:
        layout = _keys(name)["dataset"]
        if layout == "digits":
            return ()
        if layout == "imagenet":  # A few classes of it: num_classes stays.
            return ("--dataset", "image_folder", "--data_path", self.data("image_folder"))
        if layout == "cifar10_binary":  # Its files have 10,000 images each; the pickled ones may be short.
            return ("--dataset", "cifar10", "--data_path", self.data("cifar10"))
        return ("--data_path", self.data(layout))


def _keys(name: str) -> dict:
    return yaml.safe_load(RECIPES[name].read_text(encoding="utf-8"))
