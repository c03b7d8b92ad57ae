"""Rows of numbers: those that are printed, and what metaparameters make of them."""

from __future__ import annotations

import pytest

from src.network.convolutions import layers_of, replaced_widths
from src.network.design_space import Stem, Widths, fires_from_metaparameters
from src.squeezenet import VERSIONS, SqueezeNet

# Squeeze, 1x1 and 3x3 filters as printed: the paper's table 1 (v1.1 kept them), and the small CIFAR net.
PAPER_FIRES = [
    *[(16, 64, 64)] * 2,
    *[(32, 128, 128)] * 2,
    *[(48, 192, 192)] * 2,
    *[(64, 256, 256)] * 2,
]
CIFAR_FIRES = [*[(32, 64, 64)] * 2, *[(32, 128, 128)] * 2]
WIDE_FIRES = [(32, 16, 64), *[(64, 24, 160)] * 2, *[(128, 64, 192)] * 2]
# Channels and side of the first convolution, and the Fire modules.
PRINTED = {
    "1_0": (96, 7, PAPER_FIRES),
    "1_1": (64, 3, PAPER_FIRES),
    "cifar": (64, 3, CIFAR_FIRES),
    "cifar_wide": (64, 3, WIDE_FIRES),
}


def fires_of(model: dict) -> list[Widths]:
    return [layer for layer in layers_of(model)[1] if isinstance(layer, Widths)]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_rows_have_the_printed_first_convolutions_and_fire_modules(version):
    channels, side, fires = PRINTED[version]
    stem, _ = layers_of({"version": version})
    assert (stem.channels, stem.kernel_size) == (channels, side)
    assert fires_of({"version": version}) == fires
    assert layers_of({"version": version, "stem": "small"})[0] == Stem(channels, 3, 1, "same")


def test_default_metaparameters_give_the_fires_of_the_papers_table_1():
    assert fires_from_metaparameters(8) == [Widths(*fire) for fire in PAPER_FIRES]
    shapes = [
        [(p.name, p.shape) for p in SqueezeNet(10, **arguments).get_parameters()]
        for arguments in ({}, {"base_e": 128}, {"base_e": None, "squeeze_ratio": None})
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_metaparameters_follow_the_formula_of_section_5_1():
    fires = fires_from_metaparameters(5, base_e=100, incr_e=40, freq=2, pct_3x3=0.25, squeeze_ratio=0.3)
    assert fires == [(30, 75, 25), (30, 75, 25), (42, 105, 35), (42, 105, 35), (54, 135, 45)]


@pytest.mark.parametrize(
    "metaparameters, fire",
    [
        ({"base_e": 10, "pct_3x3": 0.26, "squeeze_ratio": 0.26}, (3, 7, 3)),  # 2.6 filters are 3.
        ({"base_e": 10, "pct_3x3": 0.24, "squeeze_ratio": 0.24}, (2, 8, 2)),
        ({"base_e": 10, "pct_3x3": 0.01, "squeeze_ratio": 0.01}, (1, 9, 1)),
        ({"base_e": 10, "pct_3x3": 0.99, "squeeze_ratio": 2.0}, (20, 1, 9)),
        ({"base_e": 2, "pct_3x3": 0.5}, (1, 1, 1)),
        ({"base_e": 1}, (1, 1, 1)),
    ],
)
def test_metaparameters_round_to_whole_filters_and_leave_one_of_each(metaparameters, fire):
    assert fires_from_metaparameters(1, **metaparameters) == [fire]


@pytest.mark.parametrize("version, fires", [("1_0", 8), ("1_1", 8), ("cifar", 4)])
def test_metaparameters_replace_the_fires_and_leave_stem_and_pools(version, fires):
    model = {"version": version}
    stem, layers = layers_of(
        {**model, "base_e": 8, "incr_e": 4, "freq": 1, "pct_3x3": 0.25, "squeeze_ratio": 0.5},
    )
    widths = [layer for layer in layers if isinstance(layer, Widths)]
    expands = [8 + 4 * i for i in range(fires)]
    assert [fire.expand for fire in widths] == expands
    assert [(fire.squeeze, fire.expand3x3) for fire in widths] == [(e // 2, e // 4) for e in expands]
    own_stem, own = layers_of(model)
    assert stem == own_stem and [type(layer) for layer in layers] == [type(layer) for layer in own]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "proportions", [{"squeeze_ratio": 0.25}, {"pct_3x3": 0.25}, {"squeeze_ratio": 2, "pct_3x3": 0.8}]
)
def test_proportions_alone_keep_the_versions_expand_filters(version, proportions):
    own, found = fires_of({"version": version}), fires_of({"version": version, **proportions})
    assert [fire.expand for fire in found] == [fire.expand for fire in own]
    for fire, before in zip(found, own):
        ratio = proportions.get("squeeze_ratio")
        assert fire.squeeze == (round(ratio * fire.expand) if ratio else before.squeeze)
        assert fire.expand3x3 == (
            round(proportions["pct_3x3"] * fire.expand) if "pct_3x3" in proportions else before.expand3x3
        )


@pytest.mark.parametrize(
    "proportions", [{"squeeze_ratio": 0.25}, {"pct_3x3": 0.25}, {"squeeze_ratio": 0.5, "pct_3x3": 0.8}]
)
def test_in_v1_0_proportions_alone_are_the_papers_formula(proportions):
    assert fires_of(proportions) == fires_from_metaparameters(8, **proportions)


def test_a_squeeze_ratio_of_0_25_leaves_the_wide_net_wide():
    """The row has s = 32, 64, 64, 128, 128 of e = 80, 184, 184, 256, 256."""
    found = fires_of({"version": "cifar_wide", "squeeze_ratio": 0.25})
    assert found == [(20, 16, 64), (46, 24, 160), (46, 24, 160), (64, 64, 192), (64, 64, 192)]


@pytest.mark.parametrize("pct_3x3", [0.0, 1.0, -0.1, 1.5])
def test_a_fire_module_of_one_kind_of_expand_filters_is_refused(pct_3x3):
    """The paper goes from 1% to 99%; 1.0 would leave a convolution without filters."""
    for formula in ({}, {"base_e": 64}):
        with pytest.raises(ValueError, match=rf"^pct_3x3: {pct_3x3} is not between 0 and 1; .* 0.01 to 0.99"):
            SqueezeNet(10, pct_3x3=pct_3x3, **formula)


def test_a_squeeze_ratio_of_0_is_refused():
    with pytest.raises(ValueError, match=r"^squeeze_ratio: 0 is not above 0"):
        SqueezeNet(10, squeeze_ratio=0)


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"base_e": 64, "freq": 1},  # v1.0 follows the formula.
        {"version": "1_1", "incr_e": 64},
        {"version": "cifar_wide", "squeeze_ratio": 0.25, "pct_3x3": 0.75},
    ],
)
def test_metaparameters_that_keep_to_a_versions_widths_need_no_warning(model):
    assert replaced_widths(model) == ""


def test_a_formula_in_place_of_a_versions_own_widths_is_named_with_both():
    warning = replaced_widths({"version": "cifar_wide", "base_e": 80, "squeeze_ratio": 0.25})
    assert warning.startswith("warning: base_e: the Fire modules of version cifar_wide ")
    assert "3x3: 32/16/64, 64/24/160, 64/24/160, 128/64/192, 128/64/192) are replaced" in warning
    assert warning.endswith("formula: 20/40/40, 20/40/40, 52/104/104, 52/104/104, 84/168/168")
