"""Read and write YAML files of `key: value` lines, with the scalars of YAML 1.2.

In YAML 1.2 `1_0` is a string and not ten, 1e-4 a number, and 010 ten. A repeated key is an error.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import yaml

from src.cli.errors import UserError
from src.files.bounded import read_text

MAX_BYTES = 1 << 18  # A thousand times the longest recipe; PyYAML takes seconds for each megabyte.
STRING = "tag:yaml.org,2002:str"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict] = {}


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes every string that YAML 1.1 or _Loader would read as another type."""


# In YAML 1.1, 010 is eight.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def read_nodes(path: str) -> dict[str, yaml.Node]:
    """Return the YAML nodes of a file by key. Raises UserError that names the file and the line."""
    with errors_in(path):
        root = yaml.compose(read_text(path, MAX_BYTES), _Loader)
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode) or not all(key.tag == STRING for key, _ in root.value):
            raise UserError(f"{path}: a configuration consists of `key: value` lines")
        nodes: dict[str, yaml.Node] = {}
        for key, value in root.value:
            if key.value in nodes:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key.value!r}", problem_mark=key.start_mark)
            nodes[key.value] = value
        return nodes


@contextlib.contextmanager
def errors_in(path: str) -> Iterator[None]:
    """Convert errors in reading a file to a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}, line {line}: not valid YAML: {error.problem}") from None
    except Exception as error:  # PyYAML raises nearly anything for a value that contradicts its !!tag.
        raise UserError(f"{path}: not valid YAML: {error}") from None


def construct(node: yaml.Node) -> Any:
    """Construct the value of a node. Raises any of PyYAML's exceptions for an invalid node."""
    return _Loader("").construct_document(node)


def flow(text: str) -> yaml.Node:
    """Return the node of a one-line value, such as [a, b]."""
    return yaml.compose(text, _Loader)


def scalar(text: str) -> yaml.Node:
    """Return the node of a plain scalar with any characters."""
    return yaml.ScalarNode(_Loader("").resolve(yaml.ScalarNode, text, (True, False)), text)


def written(node: yaml.Node) -> str:
    """Return the source text of a node on one line."""
    if isinstance(node, yaml.ScalarNode) and not node.style:
        return node.value
    start, end = node.start_mark, node.end_mark
    return " ".join(start.buffer[start.pointer : end.pointer].split())


def dump(values: Mapping[str, Any]) -> str:
    """Return values as `key: value` lines, which are read back to the same values."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)
