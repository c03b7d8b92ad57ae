"""What a compressed file is made of: where its bytes go, layer by layer."""

from __future__ import annotations

from typing import Any, Mapping

import numpy as np

from src.sqz.fileformat import root_levels
from src.sqz.layout import Layout
from src.sqz.rans import TOTAL
from src.sqz.tables import entropy_bits, frequencies_of, zigzag_differences

# AlexNet's float32 weights, as the SqueezeNet paper counts them (table 2).
ALEXNET_BYTES = 240_000_000


def layer_rows(parameters: Mapping[str, np.ndarray], layout: Layout) -> list[dict[str, Any]]:
    """Return a row for each tensor, in their order.

    shape; weights; kept: weights that are not zero; values: how many different ones they have, None when not shared;
    bits_per_code: of each coded weight; bits_per_position: of each weight, for whether it is kept; entropy_bytes: the
    least that any table could reach for codes and positions; bytes: what the tensor takes, with its tables and
    codebook. The bytes of all rows are those of the file but for header, names and model card.
    """
    root = frequencies_of(root_levels(layout)) if layout.segments else None

    def table_bits(segment) -> float:
        return float(-np.log2(root[zigzag_differences(segment.levels)] / TOTAL).sum())

    # Bytes of all plain values and all codebooks are coded together; each tensor has its share.
    counts = {
        "values": sum(record.size for record in layout.records if record.values is None),
        "codebooks": sum(record.values for record in layout.records if record.values is not None),
    }
    share = {}
    for (owner, count), coded in zip(counts.items(), layout.coded_planes):
        own = [s for s in layout.segments if s.owner == owner and s.part.startswith("plane")]
        bits = sum(s.bits + table_bits(s) for s in own) + 8 * count * (4 - sum(coded))
        share[owner] = bits / count if count else 0.0
    rows = []
    for record in layout.records:
        array = parameters[record.name]
        own = {s.part: s for s in layout.segments if s.owner == record.name and not s.part.startswith("plane")}
        bits = share["values"] * record.size if record.values is None else share["codebooks"] * record.values
        bits += sum(s.bits + table_bits(s) for s in own.values())
        codes, positions = own.get("codes"), own.get("positions")
        rows.append(
            {
                "name": record.name,
                "shape": list(record.shape),
                "weights": record.size,
                "kept": int(np.count_nonzero(array)),
                "values": None if record.values is None else len(np.unique(array[array != 0])),
                "bits_per_code": codes.bits / len(codes.symbols) if codes and len(codes.symbols) else None,
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
        "ratio_to_alexnet": ALEXNET_BYTES / file_bytes,
    }


def table(rows: list[dict[str, Any]], total: dict[str, Any]) -> str:
    """Return the report as text: a line for each tensor that is no vector, one for the vectors, and the totals."""
    head = ("layer", "shape", "weights", "kept", "values", "bits/code", "bits/position", "entropy", "bytes")
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
    lines.append(("header, names, card", "", "", "", "", "", "", "", f"{rest:,.0f}"))
    kept = f"{total['kept'] / max(1, total['weights']):.1%}"
    lines.append(("total", "", f"{total['weights']:,}", kept, "", "", "", "", f"{total['file_bytes']:,}"))
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    texts = [
        "  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths))).rstrip()
        for line in [head, *lines]
    ]
    texts.append(
        f"{total['ratio_to_float32']:.1f} times smaller than float32, "
        f"{total['ratio_to_alexnet']:,.0f} times smaller than AlexNet"
    )
    return "\n".join(texts)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
