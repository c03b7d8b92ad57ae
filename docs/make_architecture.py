"""Draw docs/architecture.png: the layers of src/, from the table that tests/test_layers.py holds them to.

python docs/make_architecture.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.test_layers import LAYERS, SRC  # noqa: E402

MEANING = (
    "command lines, files, the .sqz codec: nothing of this project below",
    "the network, its losses and optimizers, devices",
    "images and their pipelines",
    "the keys of YAML files and flags",
    "weights with their model card; pictures",
    "what is done with a network",
    "wings, imported by programs alone",
)
PROGRAMS = "train.py  eval.py  infer.py  export.py  compress.py  convert.py  to_mindrecord.py  study.py"


def main() -> None:
    """Write the picture: programs on top, the lowest layer at the bottom, an arrow for the way imports go."""
    figure = Figure(figsize=(10, 5.6))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 10), ylim=(0, len(LAYERS) + 1.1))
    axes.axis("off")
    for level, (parts, meaning) in enumerate(zip((*LAYERS, None), (*MEANING, ""))):
        bottom = level + 0.1
        names = PROGRAMS if parts is None else "    ".join(f"{p}/" if (SRC / p).is_dir() else f"{p}.py" for p in parts)
        colour = "#dddddd" if parts is None else "#cfe3f5"
        axes.add_patch(Rectangle((0.3, bottom), 9.0, 0.8, facecolor=colour, edgecolor="black", linewidth=0.8))
        axes.text(4.8, bottom + (0.52 if meaning else 0.4), names, ha="center", va="center", family="monospace", size=9)
        axes.text(4.8, bottom + 0.2, meaning, ha="center", va="center", size=8, style="italic")
    axes.annotate("", (9.65, 0.2), (9.65, len(LAYERS) + 0.8), arrowprops={"arrowstyle": "-|>", "linewidth": 1.5})
    axes.text(9.75, (len(LAYERS) + 1) / 2, "imports", rotation=270, va="center", size=9)
    figure.savefig(ROOT / "docs" / "architecture.png", dpi=110)


if __name__ == "__main__":
    main()
