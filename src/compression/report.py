"""Report the content of a compressed file: bytes of each layer, as JSON, as a table and as a summary.

Reports of earlier versions call the steps "quantized" and "codebooks trained" "shared" and "shared values trained".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from src.sqz.fileformat import root_levels
from src.sqz.layout import Layout
from src.sqz.rans import TOTAL
from src.sqz.tables import entropy_bits, frequencies_of, zigzag_differences


def layer_rows(parameters: Mapping[str, np.ndarray], layout: Layout) -> list[dict[str, Any]]:
    """Return a row for each tensor, in their order.

    shape; weights: their number; kept: those that are not zero; values: number of distinct nonzero values, None
    without a codebook; bits_per_code: of each coded index; bits_per_position: of each weight, to code whether it is
    kept; entropy_bytes: lower bound of indices and positions with any table; bytes: of the tensor in the file, with its
    tables and codebook. The bytes of all rows are those of the file without header, names and model card.
    """
    root = frequencies_of(root_levels(layout)) if layout.segments else None

    def table_bits(segment) -> float:
        return float(-np.log2(root[zigzag_differences(segment.levels)] / TOTAL).sum())

    # Bytes of all values without a codebook, and of all codebooks, are coded together: each value counts alike.
    counts = {
        "values": sum(record.size for record in layout.records if record.codebook_size is None),
        "codebooks": sum(record.codebook_size or 0 for record in layout.records),
    }
    bits_per_value = {}
    for (owner, count), coded in zip(counts.items(), layout.coded_planes):
        own = [s for s in layout.segments if s.owner == owner and s.part.startswith("plane")]
        bits = sum(s.bits + table_bits(s) for s in own) + 8 * count * (4 - sum(coded))
        bits_per_value[owner] = bits / count if count else 0.0
    rows = []
    for record in layout.records:
        array = parameters[record.name]
        own = {s.part: s for s in layout.segments if s.owner == record.name and not s.part.startswith("plane")}
        if record.codebook_size is None:
            bits = bits_per_value["values"] * record.size
        else:
            bits = bits_per_value["codebooks"] * record.codebook_size
        bits += sum(s.bits + table_bits(s) for s in own.values())
        indices, positions = own.get("indices"), own.get("positions")
        rows.append(
            {
                "name": record.name,
                "shape": list(record.shape),
                "weights": record.size,
                "kept": int(np.count_nonzero(array)),
                "values": None if record.codebook_size is None else len(np.unique(array[array != 0])),
                "bits_per_code": indices.bits / len(indices.symbols) if indices and len(indices.symbols) else None,
                "bits_per_position": positions.bits / record.size if positions else None,
                "entropy_bytes": sum(entropy_bits(s.counts) for s in own.values()) / 8 if own else None,
                "bytes": bits / 8,
            }
        )
    return rows


def totals(rows: list[dict[str, Any]], file_bytes: int) -> dict[str, Any]:
    """Return the figures of the whole file."""
    weights = sum(row["weights"] for row in rows)
    return {
        "weights": weights,
        "kept": sum(row["kept"] for row in rows),
        "file_bytes": file_bytes,
        "tensor_bytes": sum(row["bytes"] for row in rows),
        "float32_bytes": 4 * weights,
        "ratio_to_float32": 4 * weights / file_bytes,
    }


def summary(report: Mapping[str, Any]) -> str:
    """Return the size of a report's file as a line of text."""
    total = report["totals"]
    return (
        f"{report['file']}: {total['file_bytes']:,} bytes, {total['ratio_to_float32']:.1f} times smaller than float32 "
        "(bytes of each layer: report.txt next to it)"
    )


def table(rows: list[dict[str, Any]], total: dict[str, Any]) -> str:
    """Return the rows as text: a line for each convolution, one for all biases and other vectors, and the total."""
    head = ("layer", "shape", "weights", "kept", "codebook", "bits/index", "bits/position", "entropy", "bytes")
    lines = []
    vectors = [row for row in rows if len(row["shape"]) < 2]
    for row in (row for row in rows if len(row["shape"]) >= 2):
        lines.append(
            (
                row["name"],
                "x".join(map(str, row["shape"])),
                f"{row['weights']:,}",
                f"{row['kept'] / max(1, row['weights']):.1%}",
                str(row["values"] or "-"),
                _number(row["bits_per_code"], ".2f"),
                _number(row["bits_per_position"], ".3f"),
                _number(row["entropy_bytes"], ",.0f"),
                f"{row['bytes']:,.0f}",
            )
        )
    if vectors:
        weights, size = sum(row["weights"] for row in vectors), sum(row["bytes"] for row in vectors)
        lines.append((f"{len(vectors)} vectors", "", f"{weights:,}", "", "", "", "", "", f"{size:,.0f}"))
    rest = total["file_bytes"] - total["tensor_bytes"]
    lines.append(("header, names, model card", "", "", "", "", "", "", "", f"{rest:,.0f}"))
    kept = f"{total['kept'] / max(1, total['weights']):.1%}"
    lines.append(("total", "", f"{total['weights']:,}", kept, "", "", "", "", f"{total['file_bytes']:,}"))
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths))).rstrip()
        for line in [head, *lines]
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
