"""Batch norm folded into the convolutions before it: the same function, with a bias instead of four vectors."""

from __future__ import annotations

import dataclasses
from typing import Mapping

import numpy as np

from src.checkpoint import ModelCard

# MindSpore's own in nn.BatchNorm2d.
EPSILON = 1e-5
_NORM = (".norm.gamma", ".norm.beta", ".norm.moving_mean", ".norm.moving_variance")


def norm_scales(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return by what a batch norm multiplies each output channel (O,), by the name of the weight before it."""
    scales = {}
    for name in parameters:
        prefix = name.removesuffix(".conv.weight")
        if prefix != name and prefix + _NORM[0] in parameters:
            gamma, _, _, variance = (parameters[prefix + part].astype(np.float64) for part in _NORM)
            scales[name] = gamma / np.sqrt(variance + EPSILON)
    return scales


def fold_batch_norm(parameters: Mapping[str, np.ndarray], card: ModelCard) -> tuple[dict[str, np.ndarray], ModelCard]:
    """Return parameters and card of the network without batch norm that computes the same."""
    scales, folded = norm_scales(parameters), {}
    for name, array in parameters.items():
        if name in scales:
            prefix, scale = name.removesuffix(".conv.weight"), scales[name]
            _, beta, mean, _ = (parameters[prefix + part].astype(np.float64) for part in _NORM)
            folded[name] = (array * scale[:, None, None, None]).astype(np.float32)
            folded[f"{prefix}.conv.bias"] = (beta - mean * scale).astype(np.float32)
        elif not name.endswith(_NORM):
            folded[name] = array
    return folded, dataclasses.replace(card, model={**card.model, "batch_norm": "none"})
