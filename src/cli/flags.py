"""Turn a command line and a YAML file into dataclasses: defaults < YAML file < flags.

The fields of the dataclasses are the keys of the file and the flags; the docstring below a field explains the key. A
flag's words are taken literally for a string, and read as YAML for other types. Pydantic then validates all values at
once, and a mistake is a UserError that names the key, the value and the allowed values.

    parser = Parser("Train a network.", [ModelConfig, DataConfig])
    model, data = parser.parse(["--config", "recipe.yaml", "--epochs", "3"])
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Callable, Literal, NamedTuple, Optional, Union, get_args, get_origin
from typing import get_type_hints as type_hints

import yaml
from pydantic import ConfigDict, Field, ValidationError, create_model

from src.cli.errors import UserError
from src.cli.help_text import default_of, describe, help_text
from src.cli.yaml_files import STRING, construct, errors_in, flow, read_nodes, scalar, written

_NONE: Mapping = MappingProxyType({})
_NULLS = ("null", "Null", "NULL", "~")
_SWITCHED = (*_NULLS, "true", "false", "yes", "no", "on", "off", "1", "0")


def limited(kind: type, description: str, **limits: Any) -> Any:
    """Return a type restricted to a range of values (see pydantic.Field), with its description for messages."""
    return Annotated[kind, Field(description=description, **limits)]


class Dialect(NamedTuple):
    """Alternative spellings of a program's keys.

    synonyms: keys by their names in other programs, for hints: the first key that the program has, or a phrase.
    renamed: new names by the old one, which is accepted with a warning.
    retired: former keys with the value to ignore; other values are refused.
    recipes: folder of YAML files that --config finds by their bare name.
    repeated: keys of lists whose flags add up when given several times.
    """

    synonyms: Mapping[str, Sequence[str]] = _NONE
    renamed: Mapping[str, Sequence[str]] = _NONE
    retired: Mapping[str, Any] = _NONE
    recipes: Optional[Path] = None
    repeated: Sequence[str] = ()


_PLAIN = Dialect()


class Parser:
    """Parser of a program's flags and YAML file.

    concerns: dataclasses whose fields are the keys; no two have the same key.
    positional: key of a positional argument, by its suffix, or by a file in it, such as /best.ckpt, which then is the
        value, for a folder; "" stands for all others.
    """

    def __init__(
        self,
        description: str,
        concerns: Sequence[type],
        dialect: Dialect = _PLAIN,
        positional: Mapping[str, str] = _NONE,
    ):
        self.description, self.concerns, self.dialect, self.positional = description, concerns, dialect, positional
        self.kinds, self.defaults = {}, {}
        for concern in concerns:
            hints = type_hints(concern, include_extras=True)
            for field in dataclasses.fields(concern):
                self.kinds[field.name] = hints[field.name]
                if default_of(field) is not dataclasses.MISSING:
                    self.defaults[field.name] = default_of(field)
        self.renamed = {
            old: [key for key in keys if key in self.kinds]
            for old, keys in dialect.renamed.items()
            if any(key in self.kinds for key in keys)
        }
        self._schema = create_model(
            "Keys",
            __config__=ConfigDict(strict=True, protected_namespaces=()),
            **{key: (kind, ...) for key, kind in self.kinds.items()},
        )

    def parse(self, argv: Sequence[str]) -> list:
        """Return an instance of each dataclass. Exits with 0 after --help."""
        return self.fill(self.words(argv))

    def words(self, argv: Sequence[str]) -> dict[str, list[str]]:
        """Return the words given for each key on a command line; the last occurrence of a flag counts."""
        given: dict[str, list[str]] = {}
        strays, tokens = [], list(argv)
        if "--help" in tokens:
            self._help()
        while tokens:
            name, equals, value = tokens.pop(0).partition("=")
            if not name.startswith("--"):
                strays.append(name + equals + value)
                continue
            if name == "--":
                raise UserError("unexpected argument '--'")
            words = [value] if equals else []
            while not equals and tokens and not tokens[0].startswith("--"):
                words.append(tokens.pop(0))
            key = self._key(name[2:])
            if key == "config" or not _items(self._kind(key)):
                many = 0 if not equals and self._stands_alone(key, words) else 1
                words, strays = words[:many], [*strays, *words[many:]]
            given[key] = [*given.get(key, []), *words] if key in self.dialect.repeated else words
        for word in strays:
            self._take(word, given)
        return given

    def fill(self, words: Mapping[str, Sequence[str]]) -> list:
        """Build the dataclasses from the words of a command line and the YAML file that `config` names."""
        values, sources = dict(self.defaults), {}  # Sources: place and original text of each given value.
        if "config" in words:
            if not words["config"]:
                raise UserError("config: a value is missing (--config FILE)")
            file = self._file(words["config"][0])
            with errors_in(file):
                for name, node in self._read(file).items():
                    for key, value in self._values(name, f"{file}: ", partial(_of_node, node)):
                        values[key], sources[key] = value, (f"{file}: ", written(node))
        for name, given in words.items():
            if name == "config":
                continue
            if not given and bool not in _options(self._kind(name)):
                raise UserError(self._missing(name))
            for key, value in self._values(name, "", partial(_of_words, given)):
                values[key], sources[key] = value, ("", given[0] if len(given) == 1 else given)
        return self._validated(values, sources)

    def _validated(self, values: Mapping[str, Any], sources: Mapping[str, tuple[str, Any]]) -> list:
        try:
            valid = dict(self._schema.model_validate(values))
        except ValidationError as error:
            mistake = error.errors(include_url=False, include_context=False, include_input=False)[0]
            key = str(mistake["loc"][0])
            if mistake["type"] == "missing":
                raise UserError(self._missing(key)) from None
            where, given = sources[key]
            raise UserError(f"{where}{key}: {given!r} is not allowed; it takes {describe(self.kinds[key])}") from None
        return [concern(**{f.name: valid[f.name] for f in dataclasses.fields(concern)}) for concern in self.concerns]

    def _read(self, file: str) -> dict[str, yaml.Node]:
        try:
            nodes = read_nodes(file)
        except UserError as error:
            recipes = self.dialect.recipes
            if recipes is None or os.path.exists(file) or os.path.basename(file) != file:
                raise
            names = ", ".join(sorted(recipe.stem for recipe in recipes.glob("*.yaml")))
            raise UserError(f"{error}; {recipes.name}/ has {names}") from None
        for name in nodes:
            if name not in self.kinds and name not in self.renamed and name not in self.dialect.retired:
                raise UserError(f"{file}: {self._unknown(name)}")
        return nodes

    def _key(self, name: str) -> str:
        """Return the key that a flag names; dashes and underscores are equal."""
        for key in (name, name.replace("-", "_")):
            if key == "config" or key in self.kinds or key in self.renamed or key in self.dialect.retired:
                return key
        raise UserError(self._unknown(name))

    def takes_list(self, name: str) -> bool:
        """Return whether a flag takes a list. Raises UserError for an unknown flag."""
        return _items(self._kind(self._key(name))) is not None

    def _kind(self, key: str) -> Any:
        """Return the type of a key; for a renamed key, the type of its new name."""
        return self.kinds.get(self.renamed.get(key, [key])[0], bool)

    def _values(self, name: str, where: str, read: Callable[[Any], Any]) -> list[tuple[str, Any]]:
        """Return the current keys for a given name (itself, its new names, none if retired), with their values."""
        keys = [name] if name in self.kinds else self.renamed.get(name, [])
        if not keys and read(bool) != self.dialect.retired[name]:
            raise UserError(f"{where}{name}: is not supported any more; leave it out")
        if keys not in ([], [name]):
            print(f"warning: {where}{name} is now called {' and '.join(keys)}", file=sys.stderr)
        return [(key, spelled(read(self.kinds[key]), self.kinds[key])) for key in keys]

    def _stands_alone(self, key: str, words: Sequence[str]) -> bool:
        """Return whether the word after a switch is a positional argument: --cam photo.jpg, but --cam false.

        --config is no switch, and the word after --resume may be its folder.
        """
        if not words or key in ("config", "resume") or _options(self._kind(key)) != [bool]:
            return False
        return words[0].lower() not in _SWITCHED and self._positional(words[0]) is not None

    def _positional(self, word: str) -> Optional[str]:
        """Return the key of a positional argument."""
        return self.positional.get(self._file_in(word) or Path(word).suffix.lower(), self.positional.get(""))

    def _file_in(self, folder: str) -> Optional[str]:
        """Return the first of the positional files, such as /best.ckpt, that a folder contains."""
        return next((name for name in self.positional if name[:1] == "/" and os.path.isfile(folder + name)), None)

    def _take(self, word: str, given: dict[str, list[str]]) -> None:
        """Assign a positional argument to its key."""
        if word == "-h":
            self._help()
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("-") and self._meant(name):
            raise UserError(f"unexpected argument {word!r}; did you mean '--{self._meant(name)}'?")
        key, name = self._positional(word), self._file_in(word)
        word = word.rstrip("/") + name if name else word
        many = key in self.kinds and _items(self.kinds[key])
        if key is None or word.startswith("-") or (key in given and not many):
            raise UserError(f"unexpected argument {word!r}")
        given.setdefault(key, []).append(word)

    def _meant(self, name: str) -> Optional[str]:
        candidates = [name, name.replace("-", "_"), *self.dialect.synonyms.get(name.replace("-", "_").lower(), ())]
        return next((key for key in candidates if key in self.kinds or key == "config" or " " in key), None)

    def _unknown(self, name: str) -> str:
        meant = self._meant(name) or next(iter(difflib.get_close_matches(name, self.kinds, 1)), None)
        if meant in (None, name):
            return f"unknown key {name!r}; --help lists all"
        return f"unknown key {name!r}; did you mean {meant if ' ' in meant else repr(meant)}?"

    def _missing(self, key: str) -> str:
        return f"{key}: a value is missing (--{key} ...); it takes {describe(self._kind(key))}"

    def _file(self, name: str) -> str:
        """Return the path of a configuration file, which may be given by its bare name."""
        found = self.dialect.recipes / f"{name}.yaml" if self.dialect.recipes else Path(name)
        return str(found) if os.path.isfile(found) and not os.path.isfile(name) else name

    def _help(self) -> None:
        print(help_text(self.description, self.concerns))
        sys.exit(0)


def _options(kind: Any) -> list:
    """Return the alternatives of a type, such as the members of a Union."""
    if get_origin(kind) is Annotated:
        return _options(get_args(kind)[0])
    if get_origin(kind) is Union:
        return [plain for option in get_args(kind) for plain in _options(option)]
    return [kind]


def _items(kind: Any) -> Any:
    """Return the type of a list's items, or None for types without a list."""
    return next((get_args(option)[0] for option in _options(kind) if get_origin(option) is list), None)


def _parted_by_commas(kind: Any) -> bool:
    """Return whether a type has a list of names or numbers, which have no commas."""
    return _items(kind) is not None and str not in _options(_items(kind))


def _names(kind: Any) -> list[str]:
    """Return the names that a type allows."""
    return [name for option in _options(kind) if get_origin(option) is Literal for name in get_args(option)]


def _is_text(kind: Any) -> bool:
    return str in _options(kind) or bool(_names(kind))


def _of_words(words: Sequence[str], kind: Any) -> Any:
    """Convert the words of a flag to a value of its type."""
    items = _items(kind)
    if not words:
        return True
    if items is None:
        return _of_word(words[0], kind)
    if words[0].startswith("[") and words[-1].endswith("]"):
        try:
            return _of_node(flow(" ".join(words)), kind)
        except Exception:  # PyYAML raises nearly anything.
            return " ".join(words)
    if _parted_by_commas(kind):
        words = [part for word in words for part in word.split(",") if part] or words
    plain = any(get_origin(option) is not list and option is not type(None) for option in _options(kind))
    if len(words) == 1 and (plain or words[0] in _NULLS):
        return _of_word(words[0], kind)
    return [_of_word(word, items) for word in words]


def _of_word(word: str, kind: Any) -> Any:
    """Convert one word: keep a string, and read anything else as YAML."""
    if word in _NULLS and type(None) in _options(kind):
        return None
    if _is_text(kind) or not word.strip():
        return word
    try:
        return construct(scalar(word.strip()))
    except ValueError:  # More digits than Python converts.
        return word


def _of_node(node: yaml.Node, kind: Any) -> Any:
    """Convert a YAML node to a value; where a string is expected, 010 and 1e5 are strings."""

    def as_text(item: yaml.Node) -> yaml.Node:
        plain = isinstance(item, yaml.ScalarNode) and item.tag.rpartition(":")[2] in ("int", "float", "bool")
        return yaml.ScalarNode(STRING, item.value) if plain else item

    if isinstance(node, yaml.ScalarNode) and "," in node.value and _parted_by_commas(kind):
        return _of_words([node.value], kind)  # As a flag has them.
    if isinstance(node, yaml.SequenceNode) and _items(kind) and _is_text(_items(kind)):
        node = yaml.SequenceNode(node.tag, [as_text(item) for item in node.value])
    elif _is_text(kind):
        node = as_text(node)
    return construct(node)


def spelled(value: Any, kind: Any) -> Any:
    """Return a name in the spelling of its type, ignoring case and dashes, if exactly one name matches."""
    if isinstance(value, list):
        return [spelled(item, _items(kind)) for item in value] if _items(kind) else value
    names = _names(kind)
    if not isinstance(value, str) or value in names:
        return value
    alike = [name for name in names if _folded(name) == _folded(value)]
    return alike[0] if len(alike) == 1 else value


def _folded(name: str) -> str:
    return re.sub(r"[-_. ]", "", name).casefold()
