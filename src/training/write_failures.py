"""Handling of write failures during training: a full disk must neither end a run nor go unnoticed."""

from __future__ import annotations

from typing import Any, Callable, TextIO

from src.cli.errors import UserError, first_line
from src.files.atomic import WriteError


class Writing:
    """Runner of functions that write files, which reports failures to the user.

    stop: whether the first failure ends the run, with UserError.
    say: prints a line for the user; called once per kind of file, and for every checkpoint.
    """

    def __init__(self, stop: bool, say: Callable[[str], None]):
        self.stop, self.say = stop, say
        self.failed: dict[str, int] = {}

    def attempt(self, what: str, write: Callable[[], Any]) -> bool:
        """Call `write`, and return whether the call succeeded."""
        try:
            write()
        except (OSError, WriteError) as error:
            reason = first_line(error)
            kind = what.split()[0]
            self.failed[kind] = self.failed.get(kind, 0) + 1
            if self.stop:
                raise UserError(
                    f"{what} cannot be written: {reason}; earlier files are intact; make room and continue with "
                    "--resume"
                ) from None
            if self.failed[kind] == 1 or kind == "checkpoint":
                self.say(f"warning: {what} cannot be written: {reason}; training continues")
            return False
        return True


class Guarded:
    """A text file whose write failures are reported by Writing.

    what: its name for the user.
    """

    def __init__(self, stream: TextIO, what: str, writing: Writing):
        self._stream, self._what, self._writing = stream, what, writing

    def write(self, text: str) -> int:
        """Write a text."""
        self._writing.attempt(self._what, lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush the file; data that the system does not accept is tried again the next time."""
        self._writing.attempt(self._what, self._stream.flush)

    def close(self) -> None:
        """Close the file."""
        self._writing.attempt(self._what, self._stream.close)
