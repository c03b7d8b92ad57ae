"""Dropout's masks from CANN's generator of random numbers.

A module of its own: the rewriting of amp_level O1 fails on a cell whose module has these operators.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops
from mindspore.ops.auto_generate import DropoutDoMaskExt, DropoutGenMaskExt

_GENERATE, _APPLY = DropoutGenMaskExt(), DropoutDoMaskExt()


def ascend_factors(x, p, seed, step):
    """Return the factors of a tensor's values: 0 with probability p, or 1 / (1 - p). They follow from seed and step."""
    mask = _GENERATE(x.shape, p, Tensor(seed, ms.int64), step.astype(ms.int64), x.dtype)
    return _APPLY(ops.ones(x.shape, x.dtype), mask, p)  # Of ones, as the operator has no gradient.
