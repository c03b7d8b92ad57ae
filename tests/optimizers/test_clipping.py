"""Gradient clipping by the global norm."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, nn

from src.optimizers.clipping import ClippedGradients

SHAPES = ((6, 3, 3, 3), (6,), (1,), (4, 6, 1, 1))


def gradients() -> list[np.ndarray]:
    random = np.random.RandomState(0)
    return [random.standard_normal(shape).astype(np.float32) for shape in SHAPES]


def clipped(values: list[np.ndarray], norm: float, reducer: nn.Cell | None = None) -> list[np.ndarray]:
    cell = ClippedGradients(reducer or nn.Identity(), norm)
    return [value.asnumpy() for value in cell(tuple(map(Tensor, values)))]


def norm_of(values: list[np.ndarray]) -> float:
    return float(np.sqrt(sum((value.astype(np.float64) ** 2).sum() for value in values)))


@pytest.mark.parametrize("norm", [0.01, 1.0, 100.0])
def test_gradients_are_clipped_as_torch_clips_them(norm):
    torch = pytest.importorskip("torch")
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    for parameter, value in zip(parameters, gradients()):
        parameter.grad = torch.tensor(value)
    torch.nn.utils.clip_grad_norm_(parameters, norm)
    for found, parameter in zip(clipped(gradients(), norm), parameters):
        assert np.allclose(found, parameter.grad.numpy(), rtol=1e-5, atol=0)


def test_gradients_below_the_norm_and_zeros_stay_to_the_bit():
    for values in (gradients(), [np.zeros(shape, np.float32) for shape in SHAPES]):
        found = clipped(values, norm_of(gradients()) * 1.01)
        assert all(np.array_equal(a, b) and a.shape == b.shape for a, b in zip(found, values))


def test_the_norm_is_that_after_the_reduction_over_devices():
    class Tenth(nn.Cell):
        def construct(self, values):
            return tuple([value * 0.1 for value in values])

    whole = norm_of(gradients())
    assert norm_of(clipped(gradients(), whole / 2, Tenth())) == pytest.approx(whole / 10, rel=1e-5)
    assert norm_of(clipped(gradients(), whole / 20, Tenth())) == pytest.approx(whole / 20, rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_stays_so(bad):
    values = gradients()
    values[1][2] = bad
    assert not all(np.isfinite(value).all() for value in clipped(values, 1.0))
