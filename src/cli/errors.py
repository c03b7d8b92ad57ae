"""Error contract of all programs: a user's mistake is one line and exit code 2; a bug keeps its traceback."""

import contextlib
import errno
import io
import os
import resource
import select
import shutil
import signal
import sys
from pathlib import Path
from typing import Callable, Iterator, NoReturn, Optional

from src.cli import signals
from src.cli.signals import Interrupted

# A signal ends a program with 128 + its number, as shells report it.
EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_UNREAD, EXIT_TERMINATED = 2, 130, 141, 143
# System errors of disks, folders and names that cannot be written to, wherever they occur.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_USERS_FILE = (*_NO_ROOM, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EIO)
# Where MindSpore dumps graphs and builds operators: by default, in the current folder.
_DUMPS, _CACHE, _CACHING = (
    ("MS_OM_PATH", "MS_DEV_SAVE_GRAPHS_PATH"),
    "MS_COMPILER_CACHE_PATH",
    "MS_COMPILER_CACHE_ENABLE",
)
# Made in the current folder on an Ascend, for memory that this project does not offload.
_OFFLOAD = "offload"
# Address space that MindSpore needs before it computes anything: 2 GiB end in an allocation of it that fails.
_LEAST_ADDRESSES = 5 << 29
_MOST_OF_A_WORD, _MOST_OF_A_MESSAGE = 400, 1600  # Characters.


class UserError(Exception):
    """A mistake that the user can correct. The message is one line: what is wrong, where, and what to do.

    The middle of very long words and messages, such as names of thousands of characters, is left out.
    """

    def __init__(self, message: str):
        words = (_shortened(word, _MOST_OF_A_WORD) for word in message.split())
        super().__init__(_shortened(" ".join(words), _MOST_OF_A_MESSAGE))


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


def user_error_within(error: BaseException) -> Optional[UserError]:
    """Return the UserError that a data set worker raised, or None if there was none.

    MindSpore re-raises exceptions of Python code in a data set as a RuntimeError whose text holds the tracebacks, the
    original exception last, and then sections of its own.
    """
    _, found, rest = str(error).rpartition("UserError: ")
    return UserError(rest.split("\n\n---")[0]) if found else None


def first_line(error: BaseException) -> str:
    """Return the reason for an exception: the system's message, the first line of its text, or its type."""
    text = getattr(error, "strerror", None) or str(error).strip()
    return (str(text).splitlines() or [type(error).__name__])[0][:300]


def _interrupt(number: int, _) -> NoReturn:
    signals.hush()
    raise Interrupted(number)


def _nobody_reads() -> bool:
    """Return whether standard output is a pipe that its reader has closed, as `head` does after its lines."""
    if not hasattr(select, "poll"):  # Windows.
        return False
    output = select.poll()
    output.register(1, 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def _mistake(error: Exception) -> Optional[UserError]:
    """Return the UserError for an exception that a user's mistake has caused, or None for a bug."""
    if isinstance(error, OSError) and error.errno in _USERS_FILE and error.filename is not None:
        return UserError(f"{error.filename}: {first_line(error)}")
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return UserError(f"the output cannot be written ({first_line(error)}); make room, or send it elsewhere")
    if isinstance(error, MemoryError) or "Memory not enough" in str(error):  # MindSpore's.
        return UserError(
            "there is not enough memory; choose fewer images at a time, smaller ones, or a smaller network"
        )
    return error if isinstance(error, UserError) else user_error_within(error)


def _check_shell() -> None:
    """Raise UserError for a folder or a limit of the shell with which MindSpore's libraries fail to load."""
    try:
        os.getcwd()
    except OSError:
        raise UserError("the current folder has been removed; change to another one") from None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if resource.RLIM_INFINITY != limit < _LEAST_ADDRESSES:
        least = _LEAST_ADDRESSES >> 10
        raise UserError(f"the address space is limited to {limit >> 10:,} kB; raise it, with ulimit -v {least} or more")


def _end(status: int, message: str = "") -> NoReturn:
    """Exit with a status after a message on stderr. Discards output that stdout or stderr no longer accepts."""
    with contextlib.suppress(OSError):
        print(message, end="\n" if message else "", file=sys.stderr)
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    sys.exit(status)


@contextlib.contextmanager
def _clean_folder() -> Iterator[None]:
    """Keep the current folder free of MindSpore's own files, which go to a temporary folder that is removed.

    Variables that the user has set for such files keep their values.
    """
    elsewhere = Path(os.environ.get("TMPDIR") or "/tmp", f"mindspore_{os.urandom(6).hex()}").absolute()
    set_here = {*_DUMPS, _CACHE} - os.environ.keys()
    if _CACHING in os.environ:  # The user keeps compiled graphs for the next run.
        set_here -= {_CACHE}
    os.environ.update(dict.fromkeys(set_here, str(elsewhere)))
    offload = Path(_OFFLOAD)
    was_there = os.path.lexists(offload)
    try:
        yield
    finally:
        for name in set_here:
            os.environ.pop(name, None)
        shutil.rmtree(elsewhere, ignore_errors=True)
        if not was_there:
            with contextlib.suppress(OSError):  # It is not empty, or not there.
                offload.rmdir()


def run(main: Callable[[], Optional[int]]) -> NoReturn:
    """Run an entry point and exit with its status, turning a UserError into one line on stderr.

    A signal ends the program in order. While a graph runs, MindSpore turns Ctrl-C into SIGTERM, unless signals.watch
    has taken over the signals.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # For file names that the terminal cannot display; and for a full disk to be noticed where something is printed.
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        _check_shell()
        with _clean_folder():
            status = main() or 0
        sys.stdout.flush()  # Here, where a closed pipe is still noticed.
    except (KeyboardInterrupt, Interrupted) as end:
        signals.speak()
        by_sigterm = isinstance(end, Interrupted) and end.number == signal.SIGTERM
        _end(EXIT_TERMINATED if by_sigterm else EXIT_INTERRUPTED, "interrupted")
    except Exception as error:
        signals.speak()
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            _end(EXIT_UNREAD)
        mistake = _mistake(error)
        if mistake is None:
            raise
        _end(EXIT_USER_ERROR, f"error: {mistake}")
    sys.exit(status)
