"""The layers of src/: what may import what, and how large each part may grow (docs/ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.programs import ROOT

SRC = ROOT / "src"
# A module imports modules of its own layer and of those above in this table, no others.
LAYERS = (
    ("cli", "files", "sqz"),
    ("squeezenet", "lr_generator", "loss", "network", "optimizers", "devices"),
    ("dataset",),
    ("config", "keys", "summary"),
    ("model_card", "checkpoint", "visualize"),
    ("inference", "training", "launching"),
    ("conversion", "compression", "study"),
)
MOST_MODULES, MOST_LINES, MOST_LINES_OF_THE_NETWORK = 12, 350, 200


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in sorted(SRC.rglob("*.py"))}


def imports(name: str) -> set[str]:
    """Return the modules of src/ that one imports, also within functions and for type checkers."""
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base for alias in node.names}
    return {module for module in found if module in FILES and module not in (name, "src")}


IMPORTS = {name: imports(name) for name in FILES}


def layer_of(name: str) -> int:
    part = name.split(".")[1]
    numbers = [number for number, parts in enumerate(LAYERS) if part in parts]
    assert len(numbers) == 1, f"{part} has no place in LAYERS"
    return numbers[0]


def circles() -> set[frozenset[str]]:
    """Return the largest sets of modules that all reach one another by imports (Tarjan, 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = set()

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in IMPORTS[name]:
            if other not in order:
                visit(other)
            if other in stack:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == order[name]:
            circle = set()
            while name not in circle:
                circle.add(stack.pop())
            if len(circle) > 1:
                found.add(frozenset(circle))

    for name in FILES:
        if name not in order:
            visit(name)
    return found


def test_a_module_imports_only_its_own_and_lower_layers():
    pairs = {(name, other) for name in FILES if name != "src" for other in IMPORTS[name]}
    assert {(name, other) for name, other in pairs if layer_of(other) > layer_of(name)} == set()


def test_no_modules_import_one_another_in_a_circle():
    assert circles() == set()


def test_few_modules_lie_directly_under_src():
    modules = [file.stem for file in SRC.glob("*.py") if file.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES, modules


def test_no_file_is_too_long_to_be_read_in_one_go():
    lines = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in FILES.items()}
    large = {name for name, count in lines.items() if count > MOST_LINES}
    if lines["src.squeezenet"] > MOST_LINES_OF_THE_NETWORK:
        large.add("src.squeezenet")
    assert large == set()
