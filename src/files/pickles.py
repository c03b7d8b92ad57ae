"""Load untrusted pickles without executing code."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from typing import Any, Callable, Mapping, NamedTuple, Optional, Tuple

# The opcodes of plain values, lists, dictionaries and calls, as written by Python 2 and 3. Other opcodes import or call
# in other ways, take memory, or hold numbers of any length.
PLAIN_OPCODES = (
    "PROTO|STOP|MARK|EMPTY_(DICT|LIST|TUPLE)|SETITEMS?|APPENDS?|TUPLE[123]?|(SHORT_)?BIN(STRING|BYTES)|BINUNICODE|"
    "BININT[12]?|BINFLOAT|NONE|NEW(TRUE|FALSE)|(LONG_)?BIN(PUT|GET)|GLOBAL|REDUCE|BUILD"
)

# Those of other objects, as torch.save and newer protocols write them.
OBJECT_OPCODES = (
    "NEWOBJ(_EX)?|EMPTY_SET|ADDITEMS|FROZENSET|FRAME|MEMOIZE|STACK_GLOBAL|SHORT_BINUNICODE|POP(_MARK)?|BYTEARRAY8"
)


class Allowed(NamedTuple):
    """Limits for the content of a pickle.

    stand_ins: replacements of imports by module and name: values, or classes that check their arguments and have a
        __setstate__. Nothing that the pickle names is imported.
    opcodes: names of opcodes, a regular expression.
    most: number of opcodes.
    objects: number of BUILD opcodes.
    otherwise: replacement of all other imports; None: they are refused.
    """

    stand_ins: Mapping[Tuple[str, str], Any]
    opcodes: str
    most: int
    objects: int
    otherwise: Optional[type] = None


def load(stream: io.BytesIO, allowed: Allowed, persistent: Optional[Callable[[Any], Any]] = None) -> Any:
    """Load the pickle at the current position of a stream, and leave the stream behind the pickle.

    persistent: converts a persistent id to a value. Raises UnpicklingError for content that is not allowed, and nearly
    any exception for a damaged pickle.
    """
    begin = stream.tell()
    _check_opcodes(stream, allowed)
    stream.seek(begin)
    return _Unpickler(stream, allowed, persistent).load()


class _Unpickler(pickle.Unpickler):
    """Unpickler that imports nothing."""

    def __init__(self, stream, allowed, persistent):
        super().__init__(stream, encoding="latin1")
        self.allowed, self.persistent = allowed, persistent

    def find_class(self, module, name):
        found = self.allowed.stand_ins.get((module, name), self.allowed.otherwise)
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return found

    def persistent_load(self, given):
        if self.persistent is None:
            raise pickle.UnpicklingError("it asks for what is not in it")
        return self.persistent(given)


def _check_opcodes(stream: io.BytesIO, allowed: Allowed) -> None:
    pattern, objects = re.compile(allowed.opcodes), 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        objects += opcode.name == "BUILD"
        if not pattern.fullmatch(opcode.name):
            raise pickle.UnpicklingError(f"it has the opcode {opcode.name}")
        # The unpickler makes its memo as long as the largest index.
        memo = argument if opcode.name == "LONG_BINPUT" else 0
        if max(count, memo) > allowed.most or objects > allowed.objects:
            raise pickle.UnpicklingError("it has more in it than it should")
