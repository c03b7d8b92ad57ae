"""Convolutions of a SqueezeNet with their names and shapes, from its arguments alone."""

from __future__ import annotations

import inspect
from typing import Any, Mapping, NamedTuple

from src.network.design_space import Layer, Norm, Stem, Widths, architecture, fires_from_metaparameters
from src.squeezenet import VERSIONS, SqueezeNet

METAPARAMETERS = ("base_e", "incr_e", "freq", "pct_3x3", "squeeze_ratio")
FIRST_FIRE = 2  # The paper's layer 1 is the first convolution.


class Convolution(NamedTuple):
    """A convolution of SqueezeNet.

    layer: its name in SqueezeNet, without .weight; a batch norm may follow a name ending in .conv.
    part: "stem", "last", or of a Fire module "squeeze", "expand1x1", "expand3x3" or "shortcut".
    index: its position in `features`; for the last one, their number.
    number: the layer's number in the paper: 1, then 2 for fire2, and so on.
    shape: of its weights, (outputs, inputs, kernel, kernel).
    normalised: whether batch norm precedes the last convolution, as in some versions.
    """

    layer: str
    part: str
    index: int
    number: int
    shape: tuple[int, int, int, int]
    normalised: bool = False

    def has_norm(self, batch_norm: str) -> bool:
        """Return whether batch norm replaces the bias; batch_norm: as in SqueezeNet."""
        return self.part != "last" and batch_norm in ("all", self.part)


def arguments(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of SqueezeNet: those of `model`, and defaults for the others."""
    defaults = inspect.signature(SqueezeNet).parameters.values()
    return {**{argument.name: argument.default for argument in defaults}, **model}


def layers_of(model: Mapping[str, Any]) -> tuple[Stem, list[Layer]]:
    """Return the first convolution and the layers up to the classifier of the SqueezeNet with these arguments."""
    given = arguments(model)
    metaparameters = {name: given[name] for name in METAPARAMETERS}
    return architecture(VERSIONS[given["version"]], given["stem"], given["batch_norm"] != "none", **metaparameters)


def replaced_widths(model: Mapping[str, Any]) -> str:
    """Return a warning that metaparameters replace the widths of a version that does not follow the paper's formula.

    Empty for other networks: pct_3x3 and squeeze_ratio alone keep a version's own numbers of expand filters.
    """
    given = arguments(model)
    named = [name for name in METAPARAMETERS[:3] if given[name] is not None]
    own = _fires({"version": given["version"]})
    if not named or own == fires_from_metaparameters(len(own)):
        return ""
    before, now = (", ".join("/".join(map(str, fire)) for fire in fires) for fires in (own, _fires(given)))
    return (
        f"warning: {', '.join(named)}: the Fire modules of version {given['version']} (squeeze/expand 1x1/expand 3x3: "
        f"{before}) are replaced by those of the paper's formula: {now}"
    )


def _fires(model: Mapping[str, Any]) -> list[Widths]:
    return [layer for layer in layers_of(model)[1] if isinstance(layer, Widths)]


def convolutions(model: Mapping[str, Any]) -> list[Convolution]:
    """Return the convolutions of the SqueezeNet with these arguments, in the network's order."""
    (channels, kernel, _, _), layers = layers_of(model)
    given, number = arguments(model), FIRST_FIRE
    found = [Convolution("features.0.conv", "stem", 0, 1, (channels, given["in_channels"], kernel, kernel))]
    for index, widths in enumerate(layers, 1):
        if not isinstance(widths, Widths):
            continue
        shapes = {
            "squeeze": (widths.squeeze, channels, 1, 1),
            "expand1x1": (widths.expand1x1, widths.squeeze, 1, 1),
            "expand3x3": (widths.expand3x3, widths.squeeze, 3, 3),
        }
        if given["bypass"] == "complex" and channels != widths.expand:
            shapes["shortcut"] = (widths.expand, channels, 1, 1)
        found += [Convolution(f"features.{index}.{part}.conv", part, index, number, shapes[part]) for part in shapes]
        channels, number = widths.expand, number + 1
    shape, normalised = (given["num_classes"], channels, 1, 1), isinstance(layers[-1], Norm)
    return [*found, Convolution("classifier.1", "last", len(layers) + 1, number, shape, normalised)]
