from __future__ import annotations

import numpy as np
import pytest

from src.compression.prune import prune
from src.compression.quantize import quantize
from src.compression.report import layer_rows, summary, table, totals
from src.sqz.fileformat import encode, pack
from src.sqz.layout import lay_out


@pytest.fixture(scope="module")
def parameters():
    weights = np.random.RandomState(0).laplace(size=(64, 32, 3, 3)).astype(np.float32)
    half_the_kernels = weights * (np.arange(32) % 2).reshape(1, -1, 1, 1).astype(np.float32)
    return {
        "a.weight": quantize(prune(half_the_kernels, sparsity=0.7), 5),
        "b.weight": quantize(weights, 6),
        "c.weight": weights[:8],
        "a.bias": weights[:, 0, 0, 0].copy(),
    }


@pytest.fixture(scope="module")
def rows(parameters):
    return layer_rows(parameters, lay_out(parameters))


def test_the_rows_bytes_are_those_of_the_file_to_within_two_percent(parameters, rows):
    size = len(pack(lay_out(parameters)))
    assert totals(rows, size)["tensor_bytes"] == pytest.approx(size, rel=0.02)
    assert totals(rows, size)["tensor_bytes"] < size == len(encode(parameters))


def test_a_pruned_and_quantized_layer(parameters, rows):
    row = rows[0]
    assert (row["name"], row["shape"], row["weights"], row["values"]) == ("a.weight", [64, 32, 3, 3], 18432, 32)
    assert row["kept"] == np.count_nonzero(parameters["a.weight"]) == 18432 - round(0.7 * 18432)
    assert 4 < row["bits_per_code"] <= 5
    # Half the kernels are gone, and of the others 6 in 10 weights are kept: a bit a kernel says which, and then 0.97.
    bound = 1 / 9 + 0.5 * (-0.6 * np.log2(0.6) - 0.4 * np.log2(0.4))
    assert row["bits_per_position"] == pytest.approx(bound, rel=0.08)
    coded = (row["bits_per_code"] * row["kept"] + row["bits_per_position"] * row["weights"]) / 8
    assert row["entropy_bytes"] <= coded <= row["bytes"] <= 1.06 * row["entropy_bytes"]


def test_a_quantized_layer_has_no_positions_and_a_plain_one_no_indices(rows):
    assert rows[1]["values"] == 64 and rows[1]["bits_per_position"] is None and rows[1]["bits_per_code"] <= 6
    assert rows[2]["values"] is None and rows[2]["bits_per_code"] is None and rows[2]["entropy_bytes"] is None
    assert 3 * rows[2]["weights"] < rows[2]["bytes"] <= 4 * rows[2]["weights"]


def test_totals_and_table(rows):
    total = totals(rows, 50_000)
    weights = 2 * 18432 + 8 * 32 * 9 + 64
    assert (total["weights"], total["float32_bytes"]) == (weights, 4 * weights)
    assert total["ratio_to_float32"] == 4 * weights / 50_000
    text = table(rows, total)
    lines = text.splitlines()
    assert lines[1].startswith("a.weight") and "64x32x3x3" in lines[1] and "30.0%" in lines[1]
    assert any(line.startswith("1 vectors") for line in lines) and lines[-1].endswith("50,000")
    line = summary({"file": "net.sqz", "totals": total})
    assert line.startswith(f"net.sqz: 50,000 bytes, {4 * weights / 50_000:.1f} times smaller than float32")
