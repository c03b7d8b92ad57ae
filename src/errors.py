"""A user's mistake is one line and exit code 2; a bug keeps its traceback."""

import sys
from typing import Callable, NoReturn, Optional

# Ctrl-C ends a program with 128 + SIGINT, as shells report it.
EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130


class UserError(Exception):
    """Something the user can put right. The message is one line: what is wrong, where, and what to do."""


def user_error_within(error: BaseException) -> Optional[UserError]:
    """Return the UserError that a data set worker raised, or None if there was none.

    MindSpore re-raises what Python code in a data set raises as a RuntimeError whose text holds the tracebacks, the
    original exception last, and then sections of its own.
    """
    _, found, rest = str(error).rpartition("UserError: ")
    return UserError(rest.split("\n\n---")[0]) if found else None


def run(main: Callable[[], Optional[int]]) -> NoReturn:
    """Run an entry point and exit with its status, turning a UserError into one line on stderr."""
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        mistake = error if isinstance(error, UserError) else user_error_within(error)
        if mistake is None:
            raise
        print(f"error: {' '.join(str(mistake).split())}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
