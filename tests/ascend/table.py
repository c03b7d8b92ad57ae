"""The tables of kernels in docs/ASCEND.md: what one training step launches on an Ascend.

    python -m tests.ascend.table

Half an hour on two idle cores: every recipe and every variation is compiled. What stands below the tables stays, as it
is written by hand. test_dry_run.py compares what it has run with the tables.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path
from typing import Mapping

import mindspore

from tests.ascend.cases import RECIPES, VARIATIONS, Runs
from tests.ascend.kernels import AI_CPU_KERNELS, ROOT, Done, Kernels

PAGE = ROOT / "docs" / "ASCEND.md"
KINDS = {"aclnn": "opapi_kernel", "aclop": "acl_kernel", "fused": "akg_kernel", "HCCL": "hccl_kernel"}
COLUMNS = ("kernels", *KINDS, "AI CPU")
# The first heading of what is written by hand.
BY_HAND = "## The findings of the first pass"
# Steps whose operators are listed one by one.
LISTED = ("imagenet_v1_0", "cifar10_paper", "cifar10_wide")

_HEAD = """\
# Kernels of a training step on an Ascend

Made by `python -m tests.ascend.table` with MindSpore {version} on a stand-in for CANN: MindSpore's own Ascend backend
(Ascend 910B, `jit_level` O1, the default here) compiles the graphs and chooses the kernels, and nothing is computed.
The tables show how many kernels a step launches and of which kind. They show no value and no time, nor whether CANN has
the kernel on a given chip: none of this has run on an Ascend. `tests/ascend/` holds these counts.

- aclnn: CANN's ready kernels (`opapi_kernel` in MindSpore's log). aclop: operators that CANN compiles for their shapes
  when a training starts (`acl_kernel`). Fused: several small operators in one kernel, which MindSpore makes
  (`akg_kernel`; none with `jit_level` O0). HCCL: collectives.
- AI CPU: kernels among these that CANN runs on the few processor cores of the device ({ai_cpu}).
- On eight devices, the first process of eight in MindSpore's own simulation (`MS_SIMULATION_LEVEL=1`).
"""


def columns_of(kernels: Kernels) -> tuple[int, ...]:
    """Return a step's counts, one for each of COLUMNS."""
    kinds = kernels.kinds
    return (kernels.count, *(kinds.get(kind, 0) for kind in KINDS.values()), sum(kernels.on_ai_cpu.values()))


@functools.cache
def documented() -> dict[str, tuple[int, ...]]:
    """Return the counts that docs/ASCEND.md has, by the step's name."""
    counts = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if len(cells) == len(COLUMNS) + 1 and cells[1].isdigit():
            counts[cells[0]] = tuple(map(int, cells[1:]))
    return counts


def page(recipes: Mapping[str, Kernels | None], variations: Mapping[str, Kernels | None]) -> str:
    """Return docs/ASCEND.md; None is a step that does not compile."""
    parts = [_HEAD.format(version=mindspore.__version__, ai_cpu=", ".join(sorted(AI_CPU_KERNELS)))]
    parts += ["## Recipes (config/)\n", _counts(recipes)]
    parts += ["## Variations of v1.0 at 64x64 with Momentum, which is the first row\n"]
    parts += ["`preprocess: host`, unless a row says device.\n", _counts(variations)]
    parts += ["## Operators\n", _operators({name: recipes[name] for name in LISTED if recipes.get(name)})]
    by_hand = PAGE.read_text(encoding="utf-8").partition(BY_HAND)
    return "\n".join([*parts, "".join(by_hand[1:])])


def _counts(steps: Mapping[str, Kernels | None]) -> str:
    missing = ["does not compile", *[""] * (len(COLUMNS) - 1)]
    rows = [[f"`{name}`", *(columns_of(kernels) if kernels else missing)] for name, kernels in steps.items()]
    return _table(["step", *COLUMNS], rows)


def _operators(steps: Mapping[str, Kernels]) -> str:
    names = sorted({key for kernels in steps.values() for key in kernels}, key=lambda key: (key[1], key[0]))
    rows = [
        [operator, kind, *(kernels.get((operator, kind), "") for kernels in steps.values())] for operator, kind in names
    ]
    return _table(["operator", "kind", *(f"`{name}`" for name in steps)], rows)


def _table(head: list[str], rows: list[list]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        recipes = {name: step_of(runs.recipe(name)) for name in RECIPES}
        graphs = [name for name, variation in VARIATIONS.items() if variation.is_graph]
        variations = {name: step_of(runs.variation(name)) for name in graphs}
    PAGE.write_text(page(recipes, variations), encoding="utf-8")


def step_of(done: Done) -> Kernels | None:
    """Return the kernels of a program's training step, or None when it has none."""
    step = done.step if any(graph.phase == "train" for graph in done.graphs) else None
    print(f"{' '.join(done.argv)}: {step.count if step else done.errors[-500:]}", file=sys.stderr, flush=True)
    return step


if __name__ == "__main__":
    main()
