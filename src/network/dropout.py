"""Dropout with reproducible masks: the same for the same seed and step, whatever ran before."""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from src.network.ascend_dropout import ascend_factors

_SIGN = 2**31


def _int32(value: int) -> Tensor:
    """Return the number of 32 bits as the int32 that has them."""
    return Tensor((value + _SIGN) % (2 * _SIGN) - _SIGN, ms.int32)


class Dropout(nn.Cell):
    """Drops each value with probability p while training, and divides the others by 1 - p.

    The mask is a hash of the seed, the step and the value's place in the batch. `nn.Dropout` draws another one in
    every run on the CPU, even with `set_deterministic(True)`, and cannot continue where an earlier process stopped.
    Here the step is a Parameter, which a checkpoint holds: a resumed run draws the masks of an uninterrupted one, and
    several devices together those of one with the whole batch. On an Ascend, CANN draws the masks from seed and step,
    for each device its own.
    """

    STEP = "step"  # Name of the Parameter within the cell; it is no weight.

    def __init__(self, p: float):
        super().__init__()
        self.p = p
        self.seed, self.shard = 1, 0
        self.step = Parameter(Tensor(0, ms.int32), name=self.STEP, requires_grad=False)
        # Multipliers of MurmurHash3's finalizer and of xxHash32 (odd numbers whose bits look random).
        self.spread, self.first, self.second = _int32(0x9E3779B1), _int32(0x85EBCA6B), _int32(0xC2B2AE35)
        self.threshold = _int32(round(p * 2 * _SIGN) - _SIGN)
        # CANN shifts bits on the AI CPU, which is slow; its own generator counts from a seed and an offset too.
        self.on_ascend = ms.get_context("device_target") == "Ascend"

    # No return annotation: MindSpore's rewriting for amp_level O1 renames the class in it, and then does not find it.
    def seeded(self, seed: int, shard: int = 0):
        """Set the seed, and the index of this device's part of the global batch; return self."""
        self.seed, self.shard = seed, shard
        return self

    def construct(self, x):
        if not self.training or self.p == 0:
            return x
        if self.on_ascend:
            factors = ascend_factors(x, self.p, self.seed + self.shard * 2**32, self.step)
            self.step = self.step + 1
            return x * ops.stop_gradient(factors)
        count = 1
        for side in x.shape:
            count *= side
        place = ops.arange(self.shard * count, (self.shard + 1) * count, 1, dtype=ms.int32)
        key = self._mixed(self._mixed(self.step * self.spread + self.seed))
        kept = self._mixed(place * self.spread + key) >= self.threshold
        self.step = self.step + 1
        return x * ops.stop_gradient(kept.reshape(x.shape).astype(x.dtype)) * (1 / (1 - self.p))

    def _mixed(self, x):
        """A round of a hash (MurmurHash3's finalizer without its last shift)."""
        x = ops.bitwise_xor(x, ops.bitwise_right_shift(x, 15)) * self.first
        return ops.bitwise_xor(x, ops.bitwise_right_shift(x, 13)) * self.second
