"""Safe unpacking of untrusted archives: every member must be a plain file or folder within limits."""

from __future__ import annotations

import gzip
import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import BinaryIO, NoReturn

from src.cli.errors import UserError, first_line
from src.dataset.source import printable

# Limit of the unpacked size: in bytes, or as a multiple of the archive's size if larger. (Photographs do not shrink in
# an archive, CIFAR-10 does by a tenth.) Each file counts at least as a disk block.
MAX_BYTES, MAX_RATIO, BLOCK_BYTES = 1 << 30, 20, 4096
MAX_DEPTH = 100
# Of the headers of one member of a tar archive; the longest name that Linux allows needs nine blocks of 512 bytes.
MAX_HEADER_BYTES = 1 << 16


def unpack(file: Path, folder: Path) -> None:
    """Unpack a zip or tar archive of plain files and folders into an empty folder.

    Raises UserError, before anything is unpacked, for a damaged archive, and for one that would write outside
    `folder`, contains anything but files and folders, or unpacks to far more than its own size.
    """
    try:
        with open(file, "rb") as stream:
            start = stream.read(2)
            stream.seek(0)
            if start == b"PK":
                _unpack_zip(stream, _Contents(file, folder))
            elif start == b"\x1f\x8b":
                with gzip.open(stream) as plain:
                    _unpack_tar(plain, _Contents(file, folder))
            else:
                _unpack_tar(stream, _Contents(file, folder))
    except UserError:
        raise
    except Exception as error:  # A damaged archive raises nearly anything.
        raise UserError(f"{file}: cannot unpack it ({printable(first_line(error))}); fetch it again") from None


class _Contents:
    """Members of an archive, checked by name and size and then written."""

    def __init__(self, file: Path, folder: Path):
        self.file, self.folder = file, os.path.abspath(folder)
        self.bytes, self.limit = 0, max(MAX_BYTES, MAX_RATIO * file.stat().st_size)
        self.files: set[str] = set()

    def add(self, name: str, size: int, is_folder: bool) -> None:
        """Check and count a member. Raises UserError for an unsafe one."""
        target = self._target(name)
        if target != self.folder and not target.startswith(self.folder + os.sep):
            self.refuse(f"{printable(name)} would be unpacked outside {self.folder}")
        if target.count(os.sep) - self.folder.count(os.sep) > MAX_DEPTH:
            self.refuse(f"{printable(name)[:80]}... is more than {MAX_DEPTH} folders deep")
        if target in self.files:
            self.refuse(f"{printable(name)} occurs twice")
        if size < 0:
            self.refuse(f"{printable(name)} has a size of {size}")
        if not is_folder:
            self.files.add(target)
        self.bytes += max(size, BLOCK_BYTES)
        if self.bytes > self.limit:
            self.refuse(f"it unpacks to more than {self.limit} bytes; if that is right, unpack it by hand")

    def check_room(self) -> None:
        """Raise UserError unless all members fit on the disk."""
        free = shutil.disk_usage(self.folder).free
        if self.bytes > free:
            self.refuse(f"it unpacks to {self.bytes} bytes, and {free} are free on the disk")

    def write(self, name: str, size: int, content: BinaryIO | None) -> None:
        """Write a member: a file with its content, or a folder without content."""
        target = self._target(name)
        if content is None:
            os.makedirs(target, exist_ok=True)
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with content, open(target, "xb") as out:
            shutil.copyfileobj(content, out)
            if out.tell() != size:
                raise ValueError(f"{name} differs in length from its header")

    def refuse(self, reason: str) -> NoReturn:
        """Raise UserError for the whole archive."""
        raise UserError(f"{self.file}: {reason}; nothing was unpacked")

    def _target(self, name: str) -> str:
        return os.path.abspath(os.path.join(self.folder, name))


def _unpack_zip(stream: BinaryIO, contents: _Contents) -> None:
    with zipfile.ZipFile(stream) as archive:
        # Some programs for Windows write backslashes.
        members = [(member.filename.replace("\\", "/"), member) for member in archive.infolist()]
        for name, member in members:
            contents.add(name, member.file_size, name.endswith("/"))
        contents.check_room()
        for name, member in members:
            contents.write(name, member.file_size, None if name.endswith("/") else archive.open(member))


def _unpack_tar(stream: BinaryIO, contents: _Contents) -> None:
    headers = _TarHeaders(stream)
    with tarfile.TarFile(fileobj=headers) as archive:
        for member in archive:
            headers.left = MAX_HEADER_BYTES
            if not (member.isreg() or member.isdir()):
                contents.refuse(f"{printable(member.name)} is neither a file nor a folder")
            contents.add(member.name, member.size, member.isdir())
        _require_end(stream, archive.offset, contents)
        contents.check_room()
        headers.left = sys.maxsize
        for member in archive:
            contents.write(member.name, member.size, None if member.isdir() else archive.extractfile(member))


class _TarHeaders:
    """A stream that limits the bytes that tarfile reads for each member's headers."""

    def __init__(self, stream: BinaryIO):
        self.seek, self.tell, self._stream, self.left = stream.seek, stream.tell, stream, MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            raise tarfile.ReadError("a header in it is too long")
        return self._stream.read(size)


def _require_end(stream: BinaryIO, offset: int, contents: _Contents) -> None:
    """Raise ReadError for a truncated archive or a wrong check sum, which tarfile does not notice."""
    stream.seek(offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end is missing")
    for _ in range(contents.limit >> 20):
        if not stream.read(1 << 20):
            return
    contents.refuse("data follows its end")
