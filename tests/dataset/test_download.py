import hashlib
import http.server
import io
import itertools
import os
import shutil
import socket
import tarfile
import threading
import zipfile

import numpy as np
import pytest

from src.config import DataConfig
from src.dataset import cifar10, cifar10_binary, open_source
from src.dataset import download as download_module
from src.dataset.download import Archive, download, unpacked
from src.dataset.registry import DATASETS
from tests.made_data import refusal, write_cifar10, write_image_folder

SUFFIXES = ("zip", "tar", "tar.gz", "tgz")


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(download_module, "PAUSE_SECONDS", 0)


@pytest.fixture
def images(tmp_path):
    """A folder with train/ and val/ of one class, outside of the folder of archives."""
    folder = tmp_path / "images"
    write_image_folder(folder, {"train": {"a": [np.zeros((2, 2, 3), np.uint8)]}, "val": {"a": []}})
    return folder


@pytest.fixture
def archives(tmp_path):
    """An empty folder for archives."""
    folder = tmp_path / "archives"
    folder.mkdir()
    return folder


def pack(folder, archive, prefix="."):
    """Write an archive of a folder's content, inside of a folder `prefix`."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in sorted(folder.rglob("*")):
                packed.write(file, f"{prefix}/{file.relative_to(folder)}")
    else:
        with tarfile.open(archive, "w:gz" if archive.suffix in (".gz", ".tgz") else "w") as packed:
            packed.add(folder, prefix)
    return archive


def content(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("suffix", [*SUFFIXES, "ZIP", "Tar.GZ"])
def test_an_archive_is_unpacked_beside_itself_and_nothing_else_is_left(images, archives, suffix):
    archive = pack(images, archives / "data set.zip" if suffix == "ZIP" else archives / f"data set.{suffix.lower()}")
    archive = archive.rename(archives / f"data set.{suffix}")
    folder = unpacked(archive)
    assert folder == archives / "data set"
    assert content(folder) == content(images)
    assert content(archives) == sorted([archive.name, "data set", *(f"data set/{name}" for name in content(images))])


def test_an_archive_is_unpacked_once(images, archives):
    archive = pack(images, archives / "data.zip")
    mark = unpacked(archive) / "mark"
    mark.write_text("still here")
    archive.write_bytes(b"not looked at again")
    assert unpacked(archive) == archives / "data"
    assert mark.read_text() == "still here"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("prefix", ["inner", "data", "pack", "a b"])
def test_the_folder_that_an_archive_holds_alone_is_the_data_set(images, archives, suffix, prefix):
    archive = pack(images, archives / f"pack.{suffix}", prefix)
    for _ in range(2):
        assert unpacked(archive) == archives / "pack" / prefix
    assert content(archives / "pack" / prefix) == content(images)


def test_what_a_mac_adds_to_an_archive_does_not_count(images, archives):
    (images / "__MACOSX").mkdir()
    (images / ".DS_Store").touch()
    (images / "inner").mkdir()
    (images / "train").rename(images / "inner" / "train")
    shutil.rmtree(images / "val")
    assert unpacked(pack(images, archives / "data.zip")) == archives / "data" / "inner"


@pytest.mark.parametrize("prefix", ["a/b/c", "pack/data"])
def test_a_data_set_some_folders_down_is_found(images, archives, prefix):
    assert unpacked(pack(images, archives / "data.zip", prefix)) == archives / "data" / prefix


def test_backslashes_in_the_names_of_a_zip_are_folders(archives):
    with zipfile.ZipFile(archives / "data.zip", "w") as packed:
        packed.writestr("train\\a\\1.png", b"one")
        packed.writestr("train\\b\\", b"")
    assert content(unpacked(archives / "data.zip")) == ["train", "train/a", "train/a/1.png", "train/b"]


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("a/1.txt", "b/2.png/"),
        ("a/b/c/1.png", "d/b/c/1.png"),
        ("pictures/a/1.txt",),
        ("train/", "train/a/"),
        ("1.png",),
    ],
)
def test_an_archive_without_a_data_set_is_refused_and_leaves_nothing_for_the_next_try(archives, names):
    with zipfile.ZipFile(archives / "data.zip", "w") as packed:
        for name in names:
            packed.writestr(name, b"")
    config = DataConfig(dataset="image_folder", data_path=str(archives / "data.zip"))
    for _ in range(2):
        message = refusal(open_source, config, "train")
        assert message.startswith(
            f"{archives}/data.zip: there is no train/ or val/ or test/ or <class>/ with files in it"
        )
        assert message.endswith("nothing was unpacked") and content(archives) == ["data.zip"]


@pytest.mark.parametrize("kind", ["image_folder", "image_csv", "imagenet", "cifar10"])
def test_a_tar_archive_with_backslashes_in_its_names_leaves_nothing(archives, kind):
    with tarfile.open(archives / "data.tar", "w") as packed:
        packed.addfile(tarfile.TarInfo("train\\a\\1.png"))
    for _ in range(2):
        refusal(open_source, DataConfig(dataset=kind, data_path=str(archives / "data.tar")), "train")
        assert content(archives) == ["data.tar"]


def test_an_archive_of_class_folders_alone_is_a_data_set(archives, images):
    folder = unpacked(pack(images / "train", archives / "data.zip", "photos"), flat=True)
    assert folder == archives / "data" / "photos"


def test_train_alone_is_not_taken_for_the_data_sets_folder(images, archives):
    shutil.rmtree(images / "val")
    assert unpacked(pack(images, archives / "data.tar")) == archives / "data"


def test_a_folder_is_its_own_data_set_whatever_its_name(tmp_path):
    (tmp_path / "data.zip").mkdir()
    assert unpacked(tmp_path / "data.zip") == tmp_path / "data.zip"
    assert unpacked(tmp_path / "missing.zip") == tmp_path / "missing.zip"


def test_an_archive_can_be_given_as_data_path(images, archives):
    config = DataConfig(dataset="image_folder", data_path=str(pack(images, archives / "data.tgz")))
    assert open_source(config, "train").classes == ["a"]


def test_the_published_archive_of_cifar10_can_be_given_as_data_path(tmp_path, archives, made_images):
    splits = [(split.images, split.labels) for split in (made_images.train, made_images.test)]
    write_cifar10(tmp_path / "made", *splits)
    archive = pack(tmp_path / "made", archives / "cifar-10-python.tar.gz")
    assert len(open_source(DataConfig(data_path=str(archive)), "train")) == 100


def tar_of(archive, *members):
    """Write a tar archive of (TarInfo, content) after an innocent file."""
    with tarfile.open(archive, "w") as packed:
        for member, data in ((tarfile.TarInfo("train/a/good.txt"), b"good"), *members):
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return archive


def member(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "name", ["../evil.txt", "train/../../evil.txt", "{outside}/evil.txt", "../archives-of-another/evil.txt"]
)
@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_a_member_outside_of_the_folder_is_refused_and_nothing_is_unpacked(tmp_path, archives, name, suffix):
    name, archive = name.format(outside=tmp_path), archives / f"data.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("train/a/good.txt", "good")
            packed.writestr(name, "evil")
    else:
        tar_of(archive, (member(name), b"evil"))
    message = refusal(unpacked, archive)
    assert str(archive) in message and name in message and "nothing was unpacked" in message
    assert content(tmp_path) == ["archives", f"archives/data.{suffix}"]


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "good.txt"),
        (tarfile.LNKTYPE, "train/a/good.txt"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
    ids=["symlink out", "symlink in", "hard link", "character device", "block device", "pipe"],
)
def test_a_link_or_device_is_refused_and_nothing_is_unpacked(archives, kind, target):
    archive = tar_of(archives / "data.tar", (member("train/a/odd", kind, target), b""))
    message = refusal(unpacked, archive)
    assert message == f"{archive}: train/a/odd is neither a file nor a folder; nothing was unpacked"
    assert content(archives) == ["data.tar"]


def test_a_symlink_in_a_zip_becomes_a_plain_file(archives):
    link = zipfile.ZipInfo("train/a/odd")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(archives / "data.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
        packed.writestr("val/b", "")
    file = unpacked(archives / "data.zip") / "train" / "a" / "odd"
    assert not file.is_symlink() and file.read_text() == "/etc/passwd"


def damaged(content, how):
    middle = len(content) // 2
    return {
        "empty": b"",
        "text": b"<html>404 not found</html>" * 20,
        "truncated": content[:middle],
        "overwritten": content[:middle] + b"\xa5" * 200 + content[middle + 200 :],
    }[how]


@pytest.mark.parametrize(
    ("suffix", "how"),
    [
        *itertools.product(SUFFIXES, ("empty", "text", "truncated")),
        *itertools.product(("zip", "tar.gz", "tgz"), ("overwritten",)),  # A plain tar has no check sums of its content.
    ],
)
def test_a_damaged_archive_is_named_and_nothing_is_left(images, archives, suffix, how):
    for i in range(5):  # Random content, so that damage anywhere hits compressed data.
        (images / "train" / "a" / f"{i}.bin").write_bytes(np.random.RandomState(i).bytes(3000))
    archive = pack(images, archives / f"data.{suffix}")
    archive.write_bytes(damaged(archive.read_bytes(), how))
    message = refusal(unpacked, archive)
    assert message.startswith(f"{archive}: cannot unpack it (") and message.endswith("fetch it again")
    assert content(archives) == [archive.name]


@pytest.mark.parametrize("blocks", [0, 1, 2, 3, 4, 5])
def test_a_tar_archive_that_ends_anywhere_too_early_is_refused(archives, blocks):
    archive = tar_of(archives / "data.tar", (member("train/a/b"), b"b"))
    archive.write_bytes(archive.read_bytes()[: blocks * 512 - 256 * (blocks % 2)])  # After a block, or within one.
    assert "cannot unpack it" in refusal(unpacked, archive)
    assert content(archives) == ["data.tar"]


def test_an_encrypted_zip_is_named_and_nothing_is_left(images, archives):
    archive = pack(images, archives / "data.zip")
    encrypted = bytearray(archive.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = encrypted.find(signature)
        while position >= 0:
            encrypted[position + flags] |= 1
            position = encrypted.find(signature, position + 1)
    archive.write_bytes(encrypted)
    message = refusal(unpacked, archive)
    assert str(archive) in message and "password" in message
    assert content(archives) == ["data.zip"]


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT under paths that are named for what goes wrong."""

    protocol_version = "HTTP/1.1"
    content = b""

    def do_GET(self):
        type(self).requests.append(self.path)
        kind = self.path.strip("/").split("/")[0]
        if kind == "missing":
            self.send_error(404)
            return
        if kind == "garbage":
            self.wfile.write(b"220 this is not http\r\n\r\n")
            self.close_connection = True
            return
        body = self.content * 2 if kind == "long" else self.content
        self.send_response(200)
        if kind == "broken-chunks":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"ffff\r\n" + body[:100])
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if kind == "short" else body)
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, made_images, monkeypatch):
    """A function that gives the Archive of a small CIFAR-10 as served under one of Server's kinds of path."""
    splits = [(split.images, split.labels) for split in (made_images.train, made_images.test)]
    write_cifar10(tmp_path / "served", *splits)
    handler = type("Handler", (Server,), {"requests": []})
    handler.content = pack(tmp_path / "served", tmp_path / "cifar-10-python.tar.gz").read_bytes()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    listening = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()

    def archive(kind):
        url = f"http://127.0.0.1:{listening.server_port}/{kind}/cifar-10-python.tar.gz"
        return Archive(url, hashlib.md5(handler.content).hexdigest(), len(handler.content))

    archive.requests = handler.requests
    yield archive
    listening.shutdown()
    listening.server_close()
    thread.join()


def test_cifar10_is_downloaded_when_it_is_not_there_and_only_then(tmp_path, server, monkeypatch):
    archive = server("good")._replace(folder=cifar10.FOLDER)
    monkeypatch.setitem(DATASETS, "cifar10", DATASETS["cifar10"]._replace(archive=archive))
    config = DataConfig(data_path=str(tmp_path / "new" / "data"), download=True)
    for split, count in (("train", 100), ("test", 20), ("train", 100)):
        assert len(open_source(config, split)) == count
    assert len(server.requests) == 1
    assert content(tmp_path / "new" / "data") == sorted(
        [cifar10.FOLDER, *(f"{cifar10.FOLDER}/{name}" for name in content(tmp_path / "served" / cifar10.FOLDER))]
    )


def test_nothing_is_downloaded_unasked(tmp_path, server, monkeypatch):
    archive = server("good")._replace(folder=cifar10.FOLDER)
    monkeypatch.setitem(DATASETS, "cifar10", DATASETS["cifar10"]._replace(archive=archive))
    assert "--download" in refusal(open_source, DataConfig(data_path=str(tmp_path / "data")), "train")
    assert not server.requests and not (tmp_path / "data").exists()


def test_a_download_leaves_what_is_in_the_folder_alone(tmp_path, server):
    (tmp_path / "data" / cifar10.FOLDER).mkdir(parents=True)
    (tmp_path / "data" / cifar10.FOLDER / "mine").write_text("mine")
    (tmp_path / "data" / "notes").write_text("notes")
    download(server("good"), tmp_path / "data")
    assert content(tmp_path / "data") == [cifar10.FOLDER, f"{cifar10.FOLDER}/mine", "notes"]


@pytest.mark.parametrize(
    ("kind", "problem"), [("missing", "404"), ("long", "bytes instead of"), ("garbage", "cannot download")]
)
def test_a_failed_download_says_what_to_do_instead_and_leaves_nothing(tmp_path, server, kind, problem):
    archive, folder = server(kind), tmp_path / "data"
    message = refusal(download, archive, folder)
    assert archive.url in message and problem in message
    assert f"fetch {archive.url} by other means and unpack it in {folder}" in message
    assert content(folder) == []


def test_another_archive_than_the_published_one_is_not_unpacked(tmp_path, server):
    archive = server("good")._replace(md5="c58f30108f718f92721af3b95e74349a")
    message = refusal(download, archive, tmp_path / "data")
    assert "instead of c58f30108f718f92721af3b95e74349a" in message and server("good").md5 in message
    assert content(tmp_path / "data") == []


def test_no_network_says_what_to_do_instead_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:  # Bound but not listening, so that connecting is refused.
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/cifar-10-python.tar.gz"
        message = refusal(download, Archive(url, "0" * 32, 10), tmp_path / "data")
    assert message.startswith(f"cannot download {url}") and "by other means" in message
    assert content(tmp_path / "data") == []


def test_a_folder_that_cannot_be_made_is_named_before_anything_is_fetched(tmp_path, server):
    (tmp_path / "data").write_text("a file")
    assert str(tmp_path / "data") in refusal(download, server("good"), tmp_path / "data")
    assert not server.requests


def test_an_archive_in_a_folder_that_cannot_be_written_to_says_so(images, archives):
    archive = pack(images, archives / "data.zip")
    archives.chmod(0o500)
    try:
        if os.access(archives, os.W_OK):
            pytest.skip("nothing is read-only for root")
        assert "cannot write here" in refusal(unpacked, archive)
    finally:
        archives.chmod(0o700)


def test_the_published_archives_are_those_of_the_official_page():
    # https://www.cs.toronto.edu/~kriz/cifar.html lists the md5 sums.
    assert cifar10.ARCHIVE.md5 == "c58f30108f718f92721af3b95e74349a"
    assert cifar10_binary.ARCHIVE.md5 == "c32a1d4ab5d03f1284b67883e8d87530"
