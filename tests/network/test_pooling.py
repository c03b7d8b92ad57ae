"""Max pooling: sizes rounded up as MindSpore's own operator does, and the CPU's fast gradient."""

from __future__ import annotations

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.network import pooling
from src.network.pooling import CeilMaxPool2d, MaxPool2d, onednn_has_fast_pooling


def noise(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(3).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("height,width", [*((size, size) for size in range(3, 9)), (5, 6), (6, 5)])
def test_ceil_pooling_equals_mindspores_for_odd_and_even_sizes(height, width, kernel_size):
    images = noise(2, 3, height, width) - 10  # All negative: zeros that crept in would win.
    expected = nn.MaxPool2d(kernel_size, 2, pad_mode="pad", padding=0, ceil_mode=True)(images).asnumpy()
    pool = CeilMaxPool2d(kernel_size, 2)
    for training in (False, True):
        pooled = pool.set_train(training)(images).asnumpy()
        assert pooled.max() < 0
        np.testing.assert_array_equal(pooled, expected)


class Gradient(nn.Cell):
    """The gradient of a cell's output, weighted, by its input."""

    def __init__(self, cell: nn.Cell):
        super().__init__()
        self.cell, self.gradient = cell, ops.GradOperation(sens_param=True)

    def construct(self, x, weights):
        return self.gradient(self.cell)(x, weights)


def pooled_with_gradient(pool: nn.Cell, images: Tensor) -> list[np.ndarray]:
    output = pool.set_train()(images)
    weights = noise(*output.shape)
    return [output.asnumpy(), Gradient(pool).set_train()(images, weights).asnumpy()]


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("pad_mode,size", [("valid", (9, 7)), ("valid", (8, 8)), ("same", (8, 8)), ("same", (16, 4))])
def test_the_fast_gradient_equals_mindspores(monkeypatch, mode, kernel_size, pad_mode, size):
    """On maps after ReLU too, where many zeros tie. Some CPUs add what overlapping windows give in another order."""
    monkeypatch.setattr(pooling, "onednn_has_fast_pooling", lambda: False)
    before = ms.get_context("mode")
    ms.set_context(mode=mode)
    try:
        for images in (noise(2, 5, *size), ops.relu(noise(2, 5, *size))):
            fast = pooled_with_gradient(MaxPool2d(kernel_size, 2, pad_mode), images)
            slow = pooled_with_gradient(nn.MaxPool2d(kernel_size, 2, pad_mode), images)
            np.testing.assert_array_equal(fast[0], slow[0])
            np.testing.assert_allclose(fast[1], slow[1], rtol=0, atol=1e-6)
    finally:
        ms.set_context(mode=before)


@pytest.mark.parametrize("dtype", [ms.float16, ms.float64])
def test_the_fast_gradient_keeps_the_type(monkeypatch, dtype):
    monkeypatch.setattr(pooling, "onednn_has_fast_pooling", lambda: False)
    pool, images = MaxPool2d(3, 2).set_train(), noise(1, 2, 7, 7).astype(dtype)
    assert pool(images).dtype == dtype
    assert Gradient(pool).set_train()(images, pool(images)).dtype == dtype


@pytest.mark.parametrize(
    "flags,variables,fast",
    [
        ("avx2 avx512f avx512bw", {}, True),
        ("avx2", {}, False),
        ("avx512bw", {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}, False),  # As src/__init__.py has it for MindSpore 2.9.
        ("avx512bw", {"DNNL_MAX_CPU_ISA": "avx2"}, False),
        ("avx512bw", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "DNNL_MAX_CPU_ISA": "AVX2"}, True),
        (None, {}, False),
    ],
)
def test_fast_pooling_takes_avx512_that_onednn_may_use(monkeypatch, tmp_path, flags, variables, fast):
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    cpu = tmp_path / "cpuinfo"
    if flags is not None:
        cpu.write_text(f"flags : fpu {flags}\n")
    monkeypatch.setattr(pooling, "Path", lambda _: cpu)
    assert onednn_has_fast_pooling() is fast


@pytest.mark.parametrize("training", [False, True])
def test_the_operator_is_chosen_by_device_processor_and_use(monkeypatch, training):
    """MaxPoolWithArgmax is for training on such a CPU alone: exports and Ascend graphs have MaxPool."""
    used = {}
    for target, fast in (("CPU", False), ("CPU", True), ("Ascend", False)):
        monkeypatch.setattr(pooling, "onednn_has_fast_pooling", lambda fast=fast: fast)
        monkeypatch.setattr(pooling.ms, "get_context", {"device_target": target}.get)
        slow = MaxPool2d(3, 2).slow_gradient
        monkeypatch.undo()
        parts = {"with_argmax": lambda _: ("argmax",), "max_pool": lambda _: "max"}
        used[target, fast] = MaxPool2d.construct(SimpleNamespace(training=training, slow_gradient=slow, **parts), None)
    assert used == {("CPU", False): "argmax" if training else "max", ("CPU", True): "max", ("Ascend", False): "max"}
