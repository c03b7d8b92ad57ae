"""Initialization of residual Fire modules."""

from __future__ import annotations

from typing import Sequence

from mindspore import nn


def shrink_residuals(fires: Sequence[nn.Cell]) -> None:
    """Scale the expand convolutions of n Fire modules with bypass by 1/sqrt(n), to bound the sum of their outputs.

    De and Smith 2020, https://arxiv.org/abs/2002.10444, section 2.
    """
    for fire in fires:
        for expand in (fire.expand1x1, fire.expand3x3):
            if expand.conv.weight.has_init:  # A checkpoint's values will follow.
                continue
            expand.conv.weight.set_data(expand.conv.weight / len(fires) ** 0.5)
