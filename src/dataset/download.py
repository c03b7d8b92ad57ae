"""Fetching and unpacking of data set archives."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from typing import NamedTuple

from src.errors import UserError
from src.output import make_folder

TIMEOUT_SECONDS = 30
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


class Archive(NamedTuple):
    """A published archive: its address, md5 sum and size in bytes."""

    url: str
    md5: str
    size: int


def download(archive: Archive, folder: Path) -> None:
    """Fetch an archive and unpack it in `folder`. Raises UserError unless the published one comes, whole."""
    name = archive.url.rsplit("/", 1)[1]
    manually = f"fetch {archive.url} by other means and unpack it in {folder}"
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
        file = Path(temporary) / name
        digest = hashlib.md5()
        try:
            with urllib.request.urlopen(archive.url, timeout=TIMEOUT_SECONDS) as response, open(file, "wb") as out:
                for chunk in iter(lambda: response.read(1 << 20), b""):
                    digest.update(chunk)
                    if out.write(chunk) and out.tell() > archive.size:
                        raise UserError(f"{archive.url}: more than its {archive.size} bytes came; {manually}")
                    if sys.stderr.isatty():
                        print(f"\r{name}: {out.tell() / archive.size:4.0%}", end="", file=sys.stderr, flush=True)
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"cannot download {archive.url} ({reason}); {manually}") from None
        if digest.hexdigest() != archive.md5:
            raise UserError(f"{archive.url}: md5 {digest.hexdigest()} instead of {archive.md5}; {manually}")
        inside = Path(temporary) / "unpacked"
        inside.mkdir()
        unpack(file, inside)
        for entry in inside.iterdir():
            if not (folder / entry.name).exists():  # Another process may have been faster.
                entry.rename(folder / entry.name)


def unpacked(path: Path) -> Path:
    """Return the folder that `path` is, or that it is unpacked to beside itself when it is an archive.

    Where the archive holds one folder alone, that is the folder returned. An archive is unpacked once.
    """
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None or not path.is_file():
        return path
    folder = path.parent / path.name[: -len(suffix)]
    if not folder.exists():
        make_folder(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unpack-") as temporary:
            inside = Path(temporary) / folder.name
            inside.mkdir()
            unpack(path, inside)
            if not folder.exists():  # Another process may have been faster.
                inside.rename(folder)
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name != "train":
        return entries[0]
    return folder


def unpack(file: Path, folder: Path) -> None:
    """Unpack a zip or tar archive of plain files and folders, none of which may lie outside `folder`."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    _require_inside(member.filename, folder, file)
                archive.extractall(folder)
        else:
            with tarfile.open(file) as archive:
                for member in archive:
                    _require_inside(member.name, folder, file)
                    if not (member.isreg() or member.isdir()):
                        raise UserError(f"{file}: {member.name} is neither a file nor a folder; nothing was unpacked")
                for member in archive:
                    if member.isdir():
                        (folder / member.name).mkdir(parents=True, exist_ok=True)
                    else:
                        (folder / member.name).parent.mkdir(parents=True, exist_ok=True)
                        with archive.extractfile(member) as source, open(folder / member.name, "wb") as out:
                            shutil.copyfileobj(source, out)
                _require_end(archive)
    except UserError:
        raise
    except Exception as error:  # A damaged archive raises nearly anything; tarfile lists what it tried, a line each.
        reason = str(error).partition(":\n")[0]
        raise UserError(f"{file}: cannot unpack it ({reason}); fetch it again") from None


def _require_inside(name: str, folder: Path, file: Path) -> None:
    if not Path(os.path.abspath(folder / name)).is_relative_to(os.path.abspath(folder)):
        raise UserError(f"{file}: {name} would be unpacked outside {folder}; nothing was unpacked")


def _require_end(archive: tarfile.TarFile) -> None:
    """Raise ReadError for an archive cut short or with a wrong check sum, which tarfile does not notice by itself."""
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end is missing")
    while archive.fileobj.read(1 << 20):
        pass
