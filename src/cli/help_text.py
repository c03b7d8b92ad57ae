"""Help text of configuration dataclasses, from their docstrings, those below their fields, and the fields' types."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import textwrap
from typing import Annotated, Any, Literal, Sequence, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "null"}


def help_text(description: str, concerns: Sequence[type]) -> str:
    """Return the help text of a program: all keys, grouped by dataclass, with meaning, allowed values and default."""
    usage = "%(prog)s [--config FILE] [--KEY VALUE ...]"
    parser = argparse.ArgumentParser(usage=usage, description=description, add_help=False)
    parser.add_argument("-h", "--help", action="help", help="show this text and exit")
    parser.add_argument("--config", metavar="FILE", help="YAML file with keys below; flags take precedence over it")
    for concern in concerns:
        group, meanings = parser.add_argument_group(*heading_of(concern)), meanings_of(concern)
        hints = get_type_hints(concern, include_extras=True)
        for field in dataclasses.fields(concern):
            default = default_of(field)
            shown = "required" if default is dataclasses.MISSING else f"default: {json.dumps(default)}"
            text = f"{meanings[field.name]} ({describe(hints[field.name])}; {shown})"
            group.add_argument(f"--{field.name}", metavar="", help=text.replace("%", "%%"))
    return parser.format_help()


def default_of(field: dataclasses.Field) -> Any:
    """Return a field's default, or dataclasses.MISSING."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def heading_of(concern: type) -> tuple[str, str]:
    """Return title and explanation of a dataclass, from its docstring's first line, `Title: explanation.`."""
    title, _, explanation = inspect.getdoc(concern).splitlines()[0].partition(": ")
    return title.rstrip("."), explanation


def meanings_of(concern: type) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass and of its base classes."""
    meanings: dict[str, str] = {}
    for owner in reversed([base for base in concern.__mro__ if dataclasses.is_dataclass(base)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
        for field, text in zip(body, body[1:]):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                meanings[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return meanings


def describe(kind: Any) -> str:
    """Describe the values that a type allows."""
    if get_origin(kind) is Annotated:
        described = [fact.description for fact in kind.__metadata__ if isinstance(fact, FieldInfo) and fact.description]
        return described[0] if described else describe(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is list:
        return f"a list of: {describe(get_args(kind)[0])}"
    if get_origin(kind) is Union:
        return ", or ".join(describe(option) for option in get_args(kind))
    return _WORDS[kind]
