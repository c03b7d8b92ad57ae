"""Suppose what a file of weights does not tell of its network and of its images, and say so."""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping, NamedTuple

from src.cli.errors import UserError
from src.conversion.config import ConvertConfig
from src.conversion.deep_compression import read_class_names
from src.conversion.origins import CAFFE, RGB, Origin
from src.conversion.source import Foreign
from src.dataset.imagenet_classes import imagenet_classes
from src.dataset.preprocessing import Preprocessing
from src.model_card import ModelCard
from src.network.convolutions import arguments

# Flags: arguments of SqueezeNet that change its output and do not show in its weights, or not always; of images.
NETWORK = ("bypass", "stem", "classifier_padding", "ceil_mode", "final_relu")
IMAGES = ("image_size", "fit", "resize", "resizer", "normalize", "input", "mean", "std")
NORMALIZATION = ("input", "mean", "std")
# What is asked for of networks that are not one of these.
PUBLISHED, ASKED = ("1_0", "1_1"), (*NETWORK, "image_size", "fit", "mean", "std")
# Where a value comes from.
GIVEN, CARD, FILE, MEASURED, SUPPOSED = "given", "card", "file", "measured", "supposed"


class Supposed(NamedTuple):
    """A network and its images, as far as they are known, and supposed for the rest.

    bgr: whether the weights take BGR; the card's mean and std are in the order of RGB.
    reasons: where each value comes from, by its flag.
    origin: of the weights.
    named: where the class names come from, or "" if they are known.
    figures: of the measurement.
    """

    card: ModelCard
    bgr: bool
    reasons: Mapping[str, str]
    origin: Origin
    named: str = ""
    figures: str = ""

    @property
    def doubtful(self) -> bool:
        """Whether nothing is known of the input of a network of photographs."""
        unknown = all(self.reasons[key] == SUPPOSED for key in (*NORMALIZATION, "normalize"))
        return unknown and not self.origin.known and self.card.preprocessing.channels == 3

    def lines(self) -> list[str]:
        """Describe the values as the flags that change them, by where they come from."""
        heads = {
            CARD: "read in its model card: ",
            FILE: "read in the file: ",
            MEASURED: f"measured {self.figures}; flags change it: ",
            SUPPOSED: f"assumed, as is usual with weights from {self.origin.name}; flags change it: ",
        }
        preprocessing = self.card.preprocessing
        shorter = {"crop": preprocessing.native_size, "center_crop": preprocessing.shorter_side}
        values = {**arguments(self.card.model), **dataclasses.asdict(preprocessing)}
        values.update(resize=shorter.get(preprocessing.fit), input="bgr" if self.bgr else "rgb")
        hidden = NORMALIZATION if preprocessing.normalize == "per_image" else ("normalize",)
        hidden = hidden if preprocessing.channels == 3 else (*hidden, "input")
        found = []
        for reason, head in heads.items():
            keys = [key for key, of in self.reasons.items() if of == reason and key not in hidden]
            flags = [f"--{key} {_shown(values[key])}" for key in keys if values[key] is not None]
            found += [head + " ".join(flags)] if flags else []
        if self.figures and MEASURED not in self.reasons.values():
            found.append(f"the input could not be measured {self.figures}")
        return found + ([f"class names: {self.named}; --classes FILE gives others"] if self.named else [])


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(f"{number:.6g}" for number in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def known_arguments(config: ConvertConfig, foreign: Foreign) -> dict[str, Any]:
    """Return the known arguments of SqueezeNet. Raises UserError where the file and the user contradict each other."""
    facts = foreign.card.model if foreign.card else foreign.facts
    whole = arguments(facts) if foreign.card else facts
    said = {key: getattr(config, key) for key in NETWORK if getattr(config, key) is not None}
    for key, value in said.items():
        if whole.get(key, value) != value:
            raise UserError(f"{key}: {value} contradicts {config.file}, which has {whole[key]}; leave it out")
    if foreign.normalization and (config.mean or config.normalize == "per_image"):
        raise UserError(f"mean, std, normalize: {config.file} normalises its images itself; leave them out")
    if foreign.card and config.input == "bgr":
        raise UserError(f"input: bgr contradicts the model card in {config.file}; leave it out")
    return {**said, **facts}


def suppose(config: ConvertConfig, foreign: Foreign, origin: Origin, model: Mapping[str, Any]) -> Supposed:
    """Complete what is known of a network by what is usual where it comes from.

    model: its arguments by its weights, its file and the user. Nothing is supposed of a network other than those that
    are published, and no normalisation of grey images. Raises UserError, which names the flags to give, where the
    network stays undetermined, and for a number of input channels that no image has.
    """
    channels = model.get("in_channels", 3)
    if channels not in (1, 3):
        raise UserError(f"{config.file}: its first convolution takes {channels} channels; images have 3, or 1 if grey")
    reasons = {key: _reason(key, config, foreign) for key in (*NETWORK, *IMAGES)}
    if foreign.card:
        card = dataclasses.replace(foreign.card, preprocessing=_preprocessing(config, foreign.card.preprocessing, {}))
        if config.classes:
            card = dataclasses.replace(card, classes=read_class_names(config.classes, len(card.classes)))
        return Supposed(card, False, reasons, origin)
    if model["bypass"] == "complex":
        reasons["bypass"] = FILE
    missing = [f"--{key}" for key in _needed(foreign, origin, model) if reasons[key] == SUPPOSED]
    if missing:
        which = ", ".join(f"{key} {model[key]}" for key in ("version", "batch_norm", "bypass"))
        flags = " and ".join(", ".join(missing).rsplit(", ", 1))
        raise UserError(f"{config.file}: the weights ({which}) do not determine the whole network; give also {flags}")
    usual = {key: origin.model[key] for key in NETWORK if reasons[key] == SUPPOSED}
    if model["stem"] == "small":  # Which its weights show.
        usual.pop("stem", None)
    bgr = origin.bgr if config.input is None else config.input == "bgr"
    if bgr and channels == 1:
        raise UserError("input: the network takes grey images, not bgr; leave it out")
    source = origin.preprocessing if config.input is None else CAFFE if bgr else RGB
    normalized = {"mean": source.mean[:channels], "std": source.std[:channels]}
    if foreign.normalization:
        normalized = {key: values[::-1] if bgr else values for key, values in foreign.normalization.items()}
    images = dataclasses.replace(origin.preprocessing, **normalized)
    preprocessing = _preprocessing(config, images, {"image_size": foreign.image_size} if foreign.image_size else {})
    classes, dataset, named = _classes(config, origin, model["num_classes"])
    return Supposed(ModelCard({**model, **usual}, classes, preprocessing, dataset, 0.0), bgr, reasons, origin, named)


def _needed(foreign: Foreign, origin: Origin, model: Mapping[str, Any]) -> list[str]:
    """Return the flags without which a network is not determined, unless its file has what they say."""
    published = model["version"] in PUBLISHED and model["batch_norm"] == "none" and model["bypass"] != "complex"
    if published and model["stem"] != "small":
        asked = [key for key in NETWORK if key not in origin.model]
    else:  # The images of a known origin are known, and what is checked would show another stem.
        asked = [key for key in ASKED if key in NETWORK or not origin.known]
        asked = [key for key in asked if key != "stem" or not foreign.check]
    grey = model.get("in_channels", 3) == 1
    return list(dict.fromkeys([*asked, *(("mean", "std") if grey else ())]))


def _classes(config: ConvertConfig, origin: Origin, count: int) -> tuple[list[str], str, str]:
    """Return the class names, the data set that they belong to, and where they come from unless they are given."""
    names = [known.name for known in imagenet_classes()]
    if config.classes:
        given = read_class_names(config.classes, count)
        return given, "imagenet" if given == names else "image_folder", ""
    if origin.classes:
        return list(origin.classes), origin.dataset, "CIFAR-10's"
    if count == len(names):
        return names, "imagenet", "ImageNet's, in their usual order"
    return [str(i) for i in range(count)], "image_folder", "numbers"


def _reason(key: str, config: ConvertConfig, foreign: Foreign) -> str:
    normalized = key in ("mean", "std") and (config.input or config.normalize == "per_image")
    normalized = normalized and not foreign.normalization
    if getattr(config, key) is not None or normalized:
        return GIVEN
    if foreign.card:
        return CARD
    found = {**foreign.facts, **(foreign.normalization or {}), **({"image_size": 1} if foreign.image_size else {})}
    return FILE if key in found else SUPPOSED


def _preprocessing(config: ConvertConfig, usual: Preprocessing, facts: Mapping[str, Any]) -> Preprocessing:
    """Return preprocessing with what the file and then the user say."""
    said = {key: getattr(config, key) for key in ("image_size", "fit", "resizer", "normalize")}
    said = {**facts, **{key: value for key, value in said.items() if value}, **(config.normalization or {})}
    made = dataclasses.replace(usual, **said)
    if made.channels != usual.channels:
        raise UserError(f"mean, std: the network takes {usual.channels} channels; give as many values each")
    if config.resize and made.fit == "resize":
        raise UserError("resize: is for --fit crop and center_crop; leave it out, or give one of these")
    if config.resize and config.resize < made.image_size:
        raise UserError(f"resize: {config.resize} is less than image_size {made.image_size}; give as much, or more")
    if config.resize and made.fit == "crop":
        return dataclasses.replace(made, native_size=config.resize)
    return dataclasses.replace(made, resize=config.resize) if config.resize not in (None, made.shorter_side) else made
