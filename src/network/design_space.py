"""The design space of SqueezeNet: tables of layers, the paper's metaparameters, and own networks for CIFAR-10.

A row is a first convolution (channels, kernel size, stride, padding) and a list of layers up to the classifier: a Fire
module as its filters (squeeze, expand 1x1, expand 3x3), and the letters of LAYERS. `VERSIONS` of src/squeezenet.py
holds the paper's rows and these.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence, Union


class Stem(NamedTuple):
    """The first convolution: output channels, kernel size, stride, padding: "valid", "same", or "pad" all around."""

    channels: int
    kernel_size: int
    stride: int
    pad_mode: str


class Pool(NamedTuple):
    """Max pooling without padding."""

    kernel_size: int
    stride: int


class Widths(NamedTuple):
    """Filters of one Fire module: s1x1, e1x1 and e3x3 of the paper's section 3.2."""

    squeeze: int
    expand1x1: int
    expand3x3: int

    @property
    def expand(self) -> int:
        """Number of output channels."""
        return self.expand1x1 + self.expand3x3


class Norm(NamedTuple):
    """Batch norm of the feature map, in networks with batch norm."""


Layer = Union[Pool, Widths, Norm]
Row = tuple[tuple[int, int, int, str], Sequence[Union[str, tuple[int, int, int]]]]

LAYERS = {"M": Pool(3, 2), "m": Pool(2, 2), "N": Norm()}

# Parameters are those with 10 classes and without batch norm; docs/RESULTS.md has accuracies on CIFAR-10.
CIFAR_VERSIONS: dict[str, Row] = {
    # A small net, with "same" convolutions and pools that halve. 146,570 parameters.
    "cifar": ((64, 3, 1, "same"), ["m", (32, 64, 64), (32, 64, 64), "m", (32, 128, 128), (32, 128, 128)]),
    # Fewer and wider Fire modules, mostly 3x3, one of them at full resolution: more operations for each activation. A
    # norm behind them, since with bypass their sums grow, and the classifier would need small learning rates.
    # 746,090 parameters.
    "cifar_wide": (
        (64, 3, 1, "same"),
        [(32, 16, 64), "m", (64, 24, 160), (64, 24, 160), "m", (128, 64, 192), (128, 64, 192), "N"],
    ),
}

# Stems by name: the version's own; a 3x3/1 convolution that keeps the resolution of small images; or the version's own
# with zeros around the image, as mindcv has it in its 1_1.
STEMS = {
    "imagenet": lambda stem: stem,
    "small": lambda stem: Stem(stem.channels, 3, 1, "same"),
    "padded": lambda stem: stem._replace(pad_mode="pad"),
}


def fires_from_metaparameters(
    count: int, base_e: int = 128, incr_e: int = 128, freq: int = 2, pct_3x3: float = 0.5, squeeze_ratio: float = 0.125
) -> list[Widths]:
    """Return the widths of `count` Fire modules from the paper's metaparameters (section 5.1).

    Module i = 0, 1, ... has e_i = base_e + incr_e * floor(i / freq) expand filters, a fraction `pct_3x3` of them 3x3,
    and s = squeeze_ratio * e_i squeeze filters, rounded to whole filters, at least one of each. The defaults give v1.0.
    """
    expands = [base_e + incr_e * (i // freq) for i in range(count)]
    return [rescaled(Widths(0, expand, 0), pct_3x3, squeeze_ratio) for expand in expands]


def rescaled(fire: Widths, pct_3x3: Optional[float] = None, squeeze_ratio: Optional[float] = None) -> Widths:
    """Return a Fire module with the same number of expand filters and new proportions.

    At least one filter of each kind stays. Raises ValueError unless pct_3x3 lies between 0 and 1 (the paper tries 0.01
    to 0.99), since a Fire module expands by both kinds, and squeeze_ratio above 0.
    """
    squeeze, expand, expand3x3 = fire.squeeze, max(2, fire.expand), fire.expand3x3
    if pct_3x3 is not None:
        if not 0 < pct_3x3 < 1:
            raise ValueError(
                f"pct_3x3: {pct_3x3} is not between 0 and 1; a Fire module expands by 1x1 and by 3x3 filters "
                "(the paper goes from 0.01 to 0.99)"
            )
        expand3x3 = min(max(1, round(pct_3x3 * expand)), expand - 1)
    if squeeze_ratio is not None:
        if squeeze_ratio <= 0:
            raise ValueError(f"squeeze_ratio: {squeeze_ratio} is not above 0")
        squeeze = max(1, round(squeeze_ratio * expand))
    return Widths(squeeze, expand - expand3x3, expand3x3)


def architecture(
    row: Row,
    stem: str = "imagenet",
    norm: bool = True,
    base_e: Optional[int] = None,
    incr_e: Optional[int] = None,
    freq: Optional[int] = None,
    pct_3x3: Optional[float] = None,
    squeeze_ratio: Optional[float] = None,
) -> tuple[Stem, list[Layer]]:
    """Return the first convolution and the layers up to the classifier for a row of the table.

    stem: a name of STEMS. norm: keep the row's Norm. base_e, incr_e, freq: if any is given, all Fire modules follow the
    paper's formula (fires_from_metaparameters); pct_3x3 and squeeze_ratio alone change the proportions of the row's
    Fire modules, and keep the number of expand filters.
    """
    first, numbers = row
    layers = [LAYERS[layer] if isinstance(layer, str) else Widths(*layer) for layer in numbers]
    fires = [layer for layer in layers if isinstance(layer, Widths)]
    formula = {"base_e": base_e, "incr_e": incr_e, "freq": freq}
    if any(value is not None for value in formula.values()):
        given = {**formula, "pct_3x3": pct_3x3, "squeeze_ratio": squeeze_ratio}
        given = {name: value for name, value in given.items() if value is not None}
        fires = fires_from_metaparameters(len(fires), **given)
    else:
        fires = [rescaled(fire, pct_3x3, squeeze_ratio) for fire in fires]
    remaining = iter(fires)
    layers = [next(remaining) if isinstance(layer, Widths) else layer for layer in layers]
    return STEMS[stem](Stem(*first)), [layer for layer in layers if norm or not isinstance(layer, Norm)]
