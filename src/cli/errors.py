"""A user's mistake is one line and exit code 2; a bug keeps its traceback."""

import io
import os
import select
import signal
import sys
from typing import Callable, NoReturn, Optional

from src.cli.signals import Interrupted

# A signal ends a program with 128 + its number, as shells report it.
EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_UNREAD, EXIT_TERMINATED = 2, 130, 141, 143


class UserError(Exception):
    """Something the user can put right. The message is one line: what is wrong, where, and what to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def user_error_within(error: BaseException) -> Optional[UserError]:
    """Return the UserError that a data set worker raised, or None if there was none.

    MindSpore re-raises what Python code in a data set raises as a RuntimeError whose text holds the tracebacks, the
    original exception last, and then sections of its own.
    """
    _, found, rest = str(error).rpartition("UserError: ")
    return UserError(rest.split("\n\n---")[0]) if found else None


def _terminate(number: int, _) -> NoReturn:
    raise Interrupted(number)


def _nobody_reads() -> bool:
    """Return whether standard output is a pipe whose reader is gone, as `head` is after its lines."""
    if not hasattr(select, "poll"):  # Windows.
        return False
    output = select.poll()
    output.register(1, 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def run(main: Callable[[], Optional[int]]) -> NoReturn:
    """Run an entry point and exit with its status, turning a UserError into one line on stderr.

    A signal ends it in order. While a graph runs, MindSpore turns Ctrl-C into SIGTERM, unless signals.watch has
    taken the signals over.
    """
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):  # Names that the terminal has no letters for.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = main() or 0
        sys.stdout.flush()  # Here, where it is noticed that nobody reads.
        sys.exit(status)
    except (KeyboardInterrupt, Interrupted) as end:
        print("interrupted", file=sys.stderr)
        by_sigterm = isinstance(end, Interrupted) and end.number == signal.SIGTERM
        sys.exit(EXIT_TERMINATED if by_sigterm else EXIT_INTERRUPTED)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # What is still to be flushed.
            sys.exit(EXIT_UNREAD)
        mistake = error if isinstance(error, UserError) else user_error_within(error)
        if isinstance(error, PermissionError) and error.filename is not None:
            mistake = UserError(f"{error.filename}: {error.strerror}")
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
