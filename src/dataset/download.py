"""Download and unpack data set archives, over connections that may break.

Of several processes on a host that need the same archive, one works and the others wait.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import ContextManager, Iterator, NamedTuple, Sequence

from src.cli.errors import UserError, first_line
from src.dataset.archives import unpack
from src.dataset.image_files import is_hidden
from src.dataset.image_folder import SPLIT_NAMES, is_flat, split_folder
from src.dataset.source import printable
from src.files.locks import held
from src.files.run_folder import make_folder

TIMEOUT_SECONDS = 30
# Consecutive connections without data before a download is given up, and the pause after the first of them.
IDLE_CONNECTIONS, PAUSE_SECONDS = 3, 1
# Connections in total, and bytes per second below which one counts as broken, so that every download ends.
MAX_CONNECTIONS, MIN_SPEED = 20, 1000
_TEMPORARY_REFUSALS = (408, 429, 500, 502, 503, 504)  # HTTP status codes after which asking again may help.
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


class Archive(NamedTuple):
    """A published archive: URL, MD5 sum, size in bytes, and the name of its only folder, if any."""

    url: str
    md5: str
    size: int
    folder: str | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[1]


def download(archive: Archive, folder: Path) -> None:
    """Download an archive and unpack it in `folder`, once for all processes.

    An interrupted download is continued, in this call and in the next one, from a hidden file. Raises UserError unless
    the published archive arrives completely.
    """
    manually = f"fetch {archive.url} by other means and unpack it in {folder}"
    make_folder(folder)
    with _one_at_a_time(folder):
        if archive.folder and (folder / archive.folder).is_dir():  # Another process was faster.
            return
        part = folder / f".{archive.name}.part"
        _fetch(archive, part, manually)
        try:
            with _unpacked_aside(part, folder) as inside:
                for entry in inside.iterdir():
                    if not (folder / entry.name).exists():
                        entry.rename(folder / entry.name)
        finally:
            part.unlink()


def _fetch(archive: Archive, part: Path, manually: str) -> None:
    """Complete `part`, which may hold the beginning already, to the published archive. Raises UserError on failure."""
    for _ in range(2 if _size(part) else 1):  # The leftover of an earlier call may be another file's.
        if _size(part) != archive.size:
            _fetch_all(archive, part, manually)
        digest = hashlib.md5()
        with open(part, "rb") as stream:
            for chunk in iter(lambda: stream.read(1 << 20), b""):
                digest.update(chunk)
        if digest.hexdigest() == archive.md5:
            return
        part.unlink()
    raise UserError(f"{archive.url}: md5 {digest.hexdigest()} instead of {archive.md5}; {manually}")


def _fetch_all(archive: Archive, part: Path, manually: str) -> None:
    """Connect repeatedly until `part` is as long as the archive. Raises UserError when no more data arrives."""
    idle, reason = 0, "the connection broke"
    for _ in range(MAX_CONNECTIONS):
        before = _size(part)
        try:
            _fetch_rest(archive, part)
        except UserError as error:  # The server offers another file than the published archive.
            part.unlink(missing_ok=True)
            raise UserError(f"{archive.url}: {error}; {manually}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(f"{part.parent}: no room for {archive.url}; it takes {archive.size} bytes") from None
            reason = printable(first_line(error))
            code = error.code if isinstance(error, urllib.error.HTTPError) else None
            if code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)  # Not the beginning of the server's file.
            elif code is not None and code not in _TEMPORARY_REFUSALS:
                break
        if _size(part) == archive.size:
            return
        idle = 0 if _size(part) > before else idle + 1
        if idle == IDLE_CONNECTIONS:
            break
        time.sleep(PAUSE_SECONDS * idle)
    kept = f"; repeat the command to go on after {_size(part)} of {archive.size} bytes" if _size(part) else ""
    if not kept:
        part.unlink(missing_ok=True)
    raise UserError(f"cannot download {archive.url} ({reason}){kept}; or {manually}")


def _fetch_rest(archive: Archive, part: Path) -> None:
    """Append the missing bytes to `part`, as many as one connection delivers; start over if the server requires so."""
    start = _size(part)
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        sent = response.headers.get("Content-Range", "")
        if response.status == http.HTTPStatus.PARTIAL_CONTENT and not sent.startswith(f"bytes {start}-"):
            raise ValueError(f"asked for bytes from {start}, got {sent!r}")
        start = start if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        if length is not None and start + int(length) != archive.size:
            raise UserError(f"{start + int(length)} bytes instead of {archive.size}")
        with open(part, "ab" if start else "wb") as out:
            began = time.monotonic()
            for chunk in iter(lambda: response.read1(1 << 16), b""):
                out.write(chunk)
                if out.tell() > archive.size:
                    raise UserError(f"more than its {archive.size} bytes came")
                seconds = time.monotonic() - began
                if seconds > TIMEOUT_SECONDS and out.tell() - start < seconds * MIN_SPEED:
                    raise TimeoutError("too slow")
                if sys.stderr.isatty():
                    print(f"\r{archive.name}: {out.tell() / archive.size:4.0%}", end="", file=sys.stderr, flush=True)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def unpacked(path: Path, expected: Sequence[str] = ("train", "val", "test"), flat: bool = False) -> Path:
    """Return the folder of a data set; an archive is first unpacked, once.

    expected: folders of which the data set has at least one, searched also some levels down in the archive; empty for
        a data set without files. flat: whether class folders of images will do. Raises UserError, and leaves nothing,
        for an archive without them.
    """
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None or not expected or not os.path.isfile(path):  # Path.is_file raises for a name that is too long.
        return path
    folder = path.parent / path.name[: -len(suffix)]
    if not folder.exists():
        make_folder(path.parent)
        with _one_at_a_time(path.parent):
            if not folder.exists():  # No other process was faster.
                with _unpacked_aside(path, path.parent) as inside:
                    root = _root(inside, expected, flat)
                    if not _holds(root, expected, flat) or not any(files for *_, files in os.walk(root)):
                        wanted = " or ".join(f"{name}/" for name in (*expected, *(["<class>"] if flat else [])))
                        raise UserError(f"{path}: there is no {wanted} with files in it; nothing was unpacked")
                    inside.rename(folder)
    return _root(folder, expected, flat)


def _root(folder: Path, expected: Sequence[str], flat: bool) -> Path:
    """Return the folder of the data set: this one, or the only folder in it."""
    while not _holds(folder, expected, flat):
        entries = [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
        if len(entries) != 1 or not entries[0].is_dir():
            break
        folder = entries[0]
    return folder


def _holds(folder: Path, expected: Sequence[str], flat: bool) -> bool:
    folders = (split_folder(folder, name) if name in SPLIT_NAMES else folder / name for name in expected)
    return any(found.is_dir() for found in folders) or (flat and is_flat(folder))


@contextlib.contextmanager
def _unpacked_aside(file: Path, folder: Path) -> Iterator[Path]:
    """Unpack an archive to a hidden folder in `folder`, and remove that folder unless the body renames it."""
    inside = folder / ".unpacking"
    shutil.rmtree(inside, ignore_errors=True)  # Of a process that was killed.
    inside.mkdir()
    try:
        unpack(file, inside)
        yield inside
    finally:
        shutil.rmtree(inside, ignore_errors=True)


def _one_at_a_time(folder: Path) -> ContextManager[None]:
    busy = f"waiting for another process that fetches or unpacks in {folder}"
    return held(folder / ".squeezenet.lock", busy, wait=True)
