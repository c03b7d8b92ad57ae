"""Learning rate schedules, one value per step."""

from __future__ import annotations

import math
from typing import Callable

import numpy as np

# Decay curves: the rate at progress p of the decay, 0 <= p < 1, from lr_max towards lr_end.
_CURVES: dict[str, Callable[[float, float, float], float]] = {
    "steps": lambda p, top, end: top * 0.1 ** sum(p >= milestone for milestone in (0.3, 0.6, 0.8)),
    "poly": lambda p, top, end: end + (top - end) * (1 - p) ** 2,
    "linear": lambda p, top, end: top - (top - end) * p,
    "cosine": lambda p, top, end: end + (top - end) * 0.5 * (1 + math.cos(math.pi * p)),
}

LR_DECAY_MODES = (*_CURVES, *(f"reference_{mode}" for mode in _CURVES))


def get_lr(
    lr_init: float,
    lr_end: float,
    lr_max: float,
    total_epochs: int,
    warmup_epochs: int,
    pretrain_epochs: int,
    steps_per_epoch: int,
    lr_decay_mode: str,
) -> np.ndarray:
    """Return the learning rate of every step, float32 (total_steps - pretrain_steps,).

    The signature and the modes are those of the MindSpore model zoo's `get_lr`. The rate rises linearly from lr_init
    to lr_max within `warmup_epochs`, and falls from there:

    - `steps`: by 0.1 at 30, 60 and 80% of the decay (lr_end is not used);
    - `poly`: to lr_end with the square of the remaining time;
    - `linear`: to lr_end on a line;
    - `cosine`: to lr_end on half a cosine;
    - `reference_steps`, `reference_poly`, `reference_linear`, `reference_cosine`: the zoo's own curves, bit for bit,
      to reproduce its results. They start at lr_init (a lost step if it is 0); `reference_steps` never warms
      up, `reference_poly` ignores lr_end, and `reference_cosine` is 1 - p times a cosine, plus a hundred-thousandth.

    The first pretrain_epochs * steps_per_epoch values, of earlier epochs, are cut off. Raises ValueError for another
    mode, and for inconsistent epochs.
    """
    if lr_decay_mode not in LR_DECAY_MODES:
        raise ValueError(f"unknown lr_decay_mode {lr_decay_mode!r}: choose one of {', '.join(LR_DECAY_MODES)}")
    if not 0 <= warmup_epochs <= total_epochs or not 0 <= pretrain_epochs <= total_epochs or steps_per_epoch < 1:
        raise ValueError(
            f"warmup_epochs ({warmup_epochs}) and pretrain_epochs ({pretrain_epochs}) must lie between 0 and "
            f"total_epochs ({total_epochs}), and steps_per_epoch ({steps_per_epoch}) be at least 1"
        )
    total, warmup = total_epochs * steps_per_epoch, warmup_epochs * steps_per_epoch
    if lr_decay_mode in _CURVES:
        curve, decay = _CURVES[lr_decay_mode], total - warmup
        rates = [lr_init + (lr_max - lr_init) * (i + 1) / warmup for i in range(warmup)]
        rates += [curve(i / decay, lr_max, lr_end) for i in range(decay)]
    else:
        rates = _reference(lr_decay_mode, lr_init, lr_end, lr_max, total, warmup)
    return np.array(rates[pretrain_epochs * steps_per_epoch :], np.float32)


def scale_lr(rates: np.ndarray, factor: float, warmup_steps: int) -> np.ndarray:
    """Scale learning rates for `factor` times as many images per step, with a gradual warm-up of the scale.

    The linear scaling rule with gradual warm-up (Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 2).
    """
    risen = np.minimum(1.0, np.arange(1, len(rates) + 1) / max(1, warmup_steps))
    return (rates * (1 + (factor - 1) * risen)).astype(np.float32)


def _reference(mode: str, lr_init: float, lr_end: float, lr_max: float, total: int, warmup: int) -> list[float]:
    """Return the model zoo's curve, computed in the same order so that every float32 is equal."""
    decay = total - warmup
    if mode == "reference_steps":
        milestones = [(0.3 * total, 1.0), (0.6 * total, 0.1), (0.8 * total, 0.01), (total, 0.001)]
        return [lr_max * next(factor for end, factor in milestones if i < end) for i in range(total)]
    rates = []
    for i in range(total):
        if i < warmup:
            rates.append(lr_init + (lr_max - lr_init) / warmup * i)
        elif mode == "reference_poly":
            base = 1.0 - (i - warmup) / decay
            rates.append(lr_max * base * base)
        elif mode == "reference_linear":
            rates.append(lr_max - (lr_max - lr_end) * (i - warmup) / decay)
        else:
            linear = (total - i) / decay
            cosine = 0.5 * (1 + math.cos(math.pi * 2 * 0.47 * (i - warmup) / decay))
            rates.append(lr_max * (linear * cosine + 0.00001))
    return rates
