"""A user's mistake is one line and exit code 2; a bug keeps its traceback."""

import signal
import sys
from typing import Callable, NoReturn, Optional

# A signal ends a program with 128 + its number, as shells report it.
EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 130, 143


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


class _Terminated(BaseException):
    """SIGTERM, on its way out; like KeyboardInterrupt no Exception, so that nothing swallows it."""


def _terminate(*_) -> NoReturn:
    raise _Terminated


def run(main: Callable[[], Optional[int]]) -> NoReturn:
    """Run an entry point and exit with its status, turning a UserError into one line on stderr.

    SIGTERM ends it in order, as Ctrl-C does. While a graph runs, MindSpore turns Ctrl-C into SIGTERM.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except _Terminated:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_TERMINATED)
    except Exception as error:
        mistake = error if isinstance(error, UserError) else user_error_within(error)
        if isinstance(error, PermissionError) and error.filename is not None:
            mistake = UserError(f"{error.filename}: {error.strerror}")
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
