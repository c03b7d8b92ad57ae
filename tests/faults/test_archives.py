"""Archives from strangers: nothing outside the folder, no links or devices, and no more than a stated size."""

from __future__ import annotations

import gzip
import io
import shutil
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src.dataset import archives as archives_module
from src.dataset.download import unpacked
from tests.made_data import refusal

# What archives may unpack to in the tests of bombs, and the memory that refusing one may take.
LIMIT, MEMORY = 32 << 20, 16 << 20
NAMES_OUTSIDE = (
    *("../evil", "../../evil", "a/../../evil", "./../evil", "a/./../../evil", "..", "../", "/evil", "//evil"),
    *("/tmp/../evil", "{outside}/evil", "../data2/evil", "../data.tar", "../data.zip", "a/b/c/../../../../evil"),
)


@pytest.fixture
def place(tmp_path):
    """A folder for the archive, inside of one where nothing else may appear."""
    folder = tmp_path / "outside" / "archives"
    folder.mkdir(parents=True)
    return SimpleNamespace(outside=folder.parent, folder=folder)


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def tar(*members, compressed: bool = False) -> bytes:
    """A tar archive of (header or name, content), with an innocent file first."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz" if compressed else "w") as archive:
        for member, content in (("train/a/good", b"good"), *members):
            member = header(member) if isinstance(member, str) else member
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def raw_tar(*blocks: bytes) -> bytes:
    """A tar archive of these blocks, each padded, and an end."""
    return b"".join(block + bytes(-len(block) % 512) for block in blocks) + bytes(1024)


def negative(name: str) -> bytes:
    """The header of a file with a size of -1024, as base-256."""
    block = bytearray(header(name, 0).tobuf())
    block[124:136] = (-1024).to_bytes(12, "big", signed=True)
    block[148:156] = b"%06o\x00 " % (sum(block[:148]) + 8 * 32 + sum(block[156:512]))
    return bytes(block)


def pax(**records: str) -> bytes:
    """A pax header with these records."""
    content = b""
    for key, value in records.items():
        record = f" {key}={value}\n".encode()
        length = len(record) + 1
        while len(str(length)) + len(record) != length:
            length += 1
        content += str(length).encode() + record
    return header("pax", len(content), tarfile.XHDTYPE).tobuf() + content + bytes(-len(content) % 512)


def gzipped(*parts: bytes | int) -> bytes:
    """These bytes, or as many zeros, compressed."""
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1) as packed:
        for part in parts:
            if isinstance(part, bytes):
                packed.write(part)
            else:
                for _ in range(part >> 20):
                    packed.write(bytes(1 << 20))
    return stream.getvalue()


def zipped(*members, kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive of (ZipInfo or name, content), with an innocent file first."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name, content in (("train/a/good", b"good"), *members):
            archive.writestr(name, content)
    return stream.getvalue()


def overlapping(files: int, size: int) -> bytes:
    """A zip archive of many files that are all the same compressed bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/0", bytes(size))
        first = archive.infolist()[0]
        for i in range(1, files):
            other = zipfile.ZipInfo(f"train/{i}")
            for field in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(other, field, getattr(first, field))
            archive.filelist.append(other)
    return stream.getvalue()


def replaced(content: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """A zip archive in which a field is another one behind every signature."""
    damaged, position = bytearray(content), content.find(signature)
    while position >= 0:
        damaged[position + offset : position + offset + len(value)] = value
        position = content.find(signature, position + 1)
    return bytes(damaged)


def unix(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def evil_tars(outside: Path) -> dict[str, bytes]:
    """Tar archives of which nothing may be unpacked."""
    archives = {f"{name} in a tar": tar((name.format(outside=outside), b"evil")) for name in NAMES_OUTSIDE}
    kinds = {"symlink": b"2", "hard link": b"1", "character device": b"3", "block device": b"4", "pipe": b"6"}
    for what, kind in kinds.items():
        for target in ("/etc/passwd", "../..", "train/a/good", "."):
            archives[f"{what} to {target}"] = tar((header("train/a/odd", 0, kind, target), b""))
    archives["a file through a symlink"] = tar((header("x", 0, b"2", ".."), b""), ("x/evil", b"evil"))
    archives["a file over a symlink"] = tar((header("x", 0, b"2", "../evil"), b""), ("x", b"evil"))
    archives["an unknown kind"] = tar((header("x", 0, b"Z"), b""))
    archives["a folder outside"] = tar((header("../evil", 0, tarfile.DIRTYPE), b""))
    archives["a file twice"] = tar(("x", b"1"), ("x", b"2"))
    archives["a file twice by other names"] = tar(("x/y", b"1"), ("./x//y", b"2"))
    archives["a file in a file"] = tar(("x", b"1"), ("x/y", b"2"))
    archives["a file in place of a folder"] = tar(("x/y", b"1"), ("x", b"2"))
    archives["a file in place of the folder itself"] = tar((".", b"1"))
    archives["a name of 300 bytes"] = tar(("x" * 300, b"1"))
    archives["a path of 5,000 bytes"] = tar(("x/" * 2500 + "y", b"1"))
    archives["folders 1,500 deep, one by one"] = tar(
        *((header("d/" * depth, 0, tarfile.DIRTYPE), b"") for depth in range(1, 1500)), compressed=True
    )
    archives["a negative size"] = raw_tar(header("a", 1).tobuf() + b"x", negative("x"))
    archives["a negative size at the start"] = raw_tar(negative("x"))
    for size in ("-1024", "-512", "99999999999999999999999"):
        archives[f"a pax size of {size!r}"] = raw_tar(pax(size=size), header("x", 0).tobuf())
    archives["a pax path outside"] = raw_tar(pax(path="../evil"), header("x", 1).tobuf(), b"1")
    archives["a pax path with a NUL"] = raw_tar(pax(path="x\0y"), header("x", 1).tobuf(), b"1")
    archives["pax headers without a file"] = raw_tar(*[pax(path="x")] * 3000)
    archives["a pax sparse map"] = raw_tar(
        pax(**{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 50)}),
        header("x", 512).tobuf(),
        b"99999999999\n" + b"0\n" * 200,
    )
    return archives


def tar_bombs() -> dict[str, bytes]:
    """Small tar archives that unpack to, or would take the memory of, more than LIMIT."""
    part, end = LIMIT // 8, bytes(1024)
    return {
        "zeros": gzipped(header("zeros", 2 * LIMIT).tobuf(), 2 * LIMIT, end),
        "files of zeros": gzipped(*(each for i in range(9) for each in (header(str(i), part).tobuf(), part)), end),
        "empty files": gzipped(b"".join(header(str(i)).tobuf() for i in range(LIMIT // 4096 + 1)), end),
        "a pax header": gzipped(header("pax", LIMIT, tarfile.XHDTYPE).tobuf(), LIMIT, end),
        "a global pax header": gzipped(header("pax", LIMIT, tarfile.XGLTYPE).tobuf(), LIMIT, end),
        "a long name": gzipped(header("name", LIMIT, tarfile.GNUTYPE_LONGNAME).tobuf(), LIMIT, end),
        "a long link": gzipped(header("name", LIMIT, tarfile.GNUTYPE_LONGLINK).tobuf(), LIMIT, end),
        "a long name at the end": gzipped(header("name", LIMIT, tarfile.GNUTYPE_LONGNAME).tobuf()),
        "a sparse file of 1 PiB": raw_tar(sparse(1 << 50)),
        "zeros after the end": gzipped(header("x").tobuf(), end, 2 * LIMIT),
    }


def sparse(size: int) -> bytes:
    """The header of a file of GNU's old sparse kind."""
    block = bytearray(header("sparse", 0, tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    block[483:495] = size.to_bytes(12, "big")
    block[483] = 0o200
    block[148:156] = b"%06o\x00 " % (sum(block[:148]) + 8 * 32 + sum(block[156:512]))
    return bytes(block)


def evil_zips(outside: Path) -> dict[str, bytes]:
    """Zip archives of which nothing may be unpacked."""
    archives = {f"{name} in a zip": zipped((name.format(outside=outside), b"evil")) for name in NAMES_OUTSIDE}
    plain = zipped(("x", b"content" * 10))
    return {
        **archives,
        "a file twice": zipped(("x", b"1"), ("./x", b"2")),
        "a file in a file": zipped(("x", b"1"), ("x/y", b"2")),
        "a file in place of a folder": zipped(("x/y", b"1"), ("x", b"2")),
        "a name of 300 bytes": zipped(("x" * 300, b"1")),
        "a path of 5,000 bytes": zipped(("x/" * 2500 + "y", b"1")),
        "folders 1,500 deep, one by one": zipped(*(("d/" * depth, b"") for depth in range(1, 1500))),
        "encrypted": replaced(replaced(plain, b"PK\3\4", 6, b"\1\0"), b"PK\1\2", 8, b"\1\0"),
        "an unknown compression": replaced(replaced(plain, b"PK\3\4", 8, b"\x63\0"), b"PK\1\2", 10, b"\x63\0"),
        "a smaller size than it has": replaced(plain, b"PK\1\2", 24, struct.pack("<I", 3)),
        "a larger size than it has": replaced(plain, b"PK\1\2", 24, struct.pack("<I", 1000)),
        "another check sum": replaced(plain, b"PK\1\2", 16, b"evil"),
        "other names in its list": replaced(plain, b"PK\1\2", 46, b"y"),
        "an offset behind its end": replaced(plain, b"PK\1\2", 42, b"\xff\xff\xff\x7f"),
        "no list": plain[: plain.find(b"PK\1\2")],
        "a list of 60,000 names that are not there": replaced(plain, b"PK\5\6", 8, b"\x60\xea\x60\xea\xff\xff\xff\x7f"),
    }


def zip_bombs() -> dict[str, bytes]:
    """Small zip archives that unpack to more than LIMIT."""
    empty = [(f"train/{i}", b"") for i in range(LIMIT // 4096 + 1)]
    bombs = {"files that overlap": overlapping(33, LIMIT // 32), "empty files": zipped(*empty)}
    for kind, name in ((zipfile.ZIP_DEFLATED, "deflate"), (zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")):
        bombs[f"zeros by {name}"] = zipped(("x", bytes(LIMIT)), kind=kind)
        says_less = replaced(bombs[f"zeros by {name}"], b"PK\1\2", 24, struct.pack("<I", 1000))
        bombs[f"zeros by {name}, said to be few"] = says_less
    return bombs


@pytest.fixture
def small_limit(monkeypatch):
    """The stated limit of what an archive unpacks to, made small to make the tests fast."""
    monkeypatch.setattr(archives_module, "MAX_BYTES", LIMIT)


def require_refused(place: SimpleNamespace, archive: Path) -> None:
    """Check that an archive is refused by name, takes little memory, and leaves nothing anywhere."""
    tracemalloc.start()
    try:
        message = refusal(unpacked, archive)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message.startswith(f"{archive}: ") and message.isprintable()
    assert message.endswith(("nothing was unpacked", "fetch it again")), message[-60:]
    assert peak < MEMORY, f"took {peak >> 20} MiB"
    assert [*place.outside.rglob("*")] == [place.folder, archive]


def inject_all(faults, place, kind: str, archives: dict[str, bytes], suffix: str) -> None:
    with faults(kind, "refused") as inject:
        for what, content in archives.items():
            archive = place.folder / f"data{suffix}"
            archive.write_bytes(content)
            with inject.fault(what):
                require_refused(place, archive)
            shutil.rmtree(place.folder / "data", ignore_errors=True)


def test_tar_archives_that_reach_out_or_hold_no_plain_files_are_refused(faults, place):
    inject_all(faults, place, "hostile tar archives", evil_tars(place.outside), ".tar")


def test_zip_archives_that_reach_out_or_do_not_hold_what_they_list_are_refused(faults, place):
    inject_all(faults, place, "hostile zip archives", evil_zips(place.outside), ".zip")


def test_tar_bombs_are_refused(faults, place, small_limit):
    inject_all(faults, place, "tar bombs", tar_bombs(), ".tar.gz")


def test_zip_bombs_are_refused(faults, place, small_limit):
    inject_all(faults, place, "zip bombs", zip_bombs(), ".zip")


def test_an_archive_larger_than_the_disk_is_refused(faults, place, monkeypatch):
    monkeypatch.setattr(archives_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000))
    big = bytes(20_000)
    archives = {".tar": tar(("x", big)), ".tar.gz": tar(("x", big), compressed=True), ".zip": zipped(("x", big))}
    with faults("archives larger than the disk", "refused") as inject:
        for suffix, content in archives.items():
            archive = place.folder / f"data{suffix}"
            archive.write_bytes(content)
            with inject.fault(suffix):
                assert "10000 are free on the disk" in refusal(unpacked, archive)
                assert [*place.outside.rglob("*")] == [place.folder, archive]
            archive.unlink()


def test_links_and_permissions_in_a_zip_become_plain_files_of_this_user(faults, place):
    modes = {"symlink": 0o120777, "device": 0o020666, "pipe": 0o010666, "setuid": 0o104777, "socket": 0o140777}
    with faults("odd kinds of files in a zip", "plain files") as inject:
        for what, mode in modes.items():
            archive = place.folder / f"{what}.zip"
            archive.write_bytes(zipped((unix("train/a/odd", mode), b"/etc/passwd")))
            with inject.fault(what):
                file = unpacked(archive).parent / what / "train" / "a" / "odd"
                assert file.is_file() and not file.is_symlink() and file.read_bytes() == b"/etc/passwd"
                assert file.stat().st_mode & 0o7111 == 0


def test_damaged_archives_are_refused_or_unpacked_as_they_were(faults, place):
    """A plain tar has no check sums of its content: there only what it lists is compared."""
    random = np.random.RandomState(0)
    members = [(f"train/{i}", random.bytes(300)) for i in range(5)]
    whole = {".tar": tar(*members), ".tar.gz": tar(*members, compressed=True), ".zip": zipped(*members)}
    expected = {"train/a/good": b"good", **dict(members)}
    with faults("damaged archives", "refused or whole") as inject:
        for suffix, content in whole.items():
            cuts = [(f"cut at {n}", content[:n]) for n in np.linspace(0, len(content) - 1024, 60, dtype=int)]
            flips = []
            for position in random.randint(0, len(content), 100):
                damaged = bytearray(content)
                damaged[position] ^= 1 << random.randint(8)
                flips.append((f"bit flipped at {position}", bytes(damaged)))
            for what, damaged in cuts + flips:
                archive = place.folder / f"data{suffix}"
                archive.write_bytes(damaged)
                with inject.fault(f"{suffix}, {what}"):
                    try:
                        unpacked(archive)
                    except Exception:
                        require_refused(place, archive)
                    else:
                        check_content(place.folder / "data", expected, compare=suffix != ".tar")
                        shutil.rmtree(place.folder / "data")
                archive.unlink()


def check_content(folder: Path, expected: dict[str, bytes], compare: bool) -> None:
    """Check what was unpacked: all of it, and where there are check sums, with its content."""
    found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert len(found) == len(expected)
    assert not compare or sorted(found.values()) == sorted(expected.values())
