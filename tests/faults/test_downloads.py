"""Downloads from a server that breaks in every way: what comes in the end is the published archive, or nothing."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import multiprocessing
import os
import re
import signal
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from src.dataset import download
from src.dataset.download import Archive, unpacked
from tests.made_data import refusal

FOLDER = "cifar"
PART, LOCK = ".data.tar.gz.part", ".squeezenet.lock"


def packed() -> bytes:
    """An archive of a folder with one file that does not compress."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        content = np.random.RandomState(0).bytes(100_000)
        info = tarfile.TarInfo(f"{FOLDER}/batch")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


CONTENT = packed()
SIZE = len(CONTENT)
WRONG = bytes(SIZE)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the first part of the path says what goes wrong, once or each time.

    requests: (path, Range, bytes sent) of each request.
    """

    def do_GET(self):
        kind = self.path.split("/")[1]
        self.server.requests.append([self.path, self.headers.get("Range"), 0])
        self.nth = sum(path == self.path for path, *_ in self.server.requests)
        self.entry = self.server.requests[-1]
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        self.start = int(found[1]) if found else 0
        getattr(self, kind, self.missing)()
        self.close_connection = True

    def send(self, body: bytes, status: int = 200, length: int | None = -1, **headers):
        """Send a response; its Content-Length is the body's unless another one, or None, is given."""
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.entry[2] += len(body)

    def ranged(self, upto: int = SIZE):
        """Send what is asked for, or less of it."""
        if not self.start:
            self.send(CONTENT[:upto], length=SIZE)
        elif self.start >= SIZE:
            self.send(b"", 416, Content_Range=f"bytes */{SIZE}")
        else:
            body, sent = CONTENT[self.start :], f"bytes {self.start}-{SIZE - 1}/{SIZE}"
            self.send(body[: max(0, upto - self.start)], 206, len(body), Content_Range=sent)

    # What the download survives.

    def good(self):
        self.ranged()

    def breaks_once(self):
        self.ranged(SIZE // 3 if self.nth == 1 else SIZE)

    def breaks_often(self):
        self.ranged(self.nth * SIZE // 8)

    def breaks_at_once(self):
        self.ranged() if self.nth > 2 else None

    def breaks_without_range(self):
        self.send(CONTENT[: SIZE // 2 if self.nth == 1 else SIZE], length=SIZE)

    def breaks_without_length(self):
        self.send(CONTENT[: SIZE // 2 if self.nth == 1 else SIZE], length=None)

    def breaks_in_chunks(self):
        if self.nth > 1:
            return self.ranged()
        self.send(b"", length=None, Transfer_Encoding="chunked")
        self.wfile.write(b"%x\r\n" % SIZE + CONTENT[:1000])

    def other_range(self):
        if self.start and self.nth == 2:
            return self.send(CONTENT[100:], 206, Content_Range=f"bytes 100-{SIZE - 1}/{SIZE}")
        self.ranged(SIZE // 2 if self.nth == 1 else SIZE)

    def refuses_ranges(self):
        if self.start:
            return self.send(b"", 416)
        self.ranged(SIZE // 2 if self.nth == 1 else SIZE)

    def busy_first(self):
        statuses = {1: 503, 2: 429}
        self.send(b"", statuses[self.nth]) if self.nth in statuses else self.ranged()

    def stalls_once(self):
        self.ranged(SIZE // 2 if self.nth == 1 else SIZE)
        if self.nth == 1:
            self.server.stop.wait(3)

    def redirects(self):
        self.send(b"", 302, Location=f"/good{self.path}")

    def no_length(self):
        self.send(CONTENT, length=None)

    # What it has to refuse.

    def missing(self):
        self.send_error(404)

    def forbidden(self):
        self.send_error(403)

    def gone(self):
        self.send_error(410)

    def broken(self):
        self.send_error(500)

    def busy(self):
        self.send_error(503)

    def wrong(self):
        self.send(WRONG)

    def wrong_rest(self):
        if self.start:
            return self.send(WRONG[self.start :], 206, Content_Range=f"bytes {self.start}-{SIZE - 1}/{SIZE}")
        self.ranged(SIZE // 2)

    def page(self):
        self.send(b"<html>log in first</html>")

    def longer(self):
        self.send(CONTENT + b"x")

    def says_longer(self):
        self.send(CONTENT, length=SIZE * 1000)

    def says_shorter(self):
        self.send(CONTENT, length=SIZE - 1)

    def says_nonsense(self):
        self.send_response(200)
        self.send_header("Content-Length", "many")
        self.end_headers()

    def always_half(self):
        self.send(CONTENT[: SIZE // 2], length=SIZE)

    def endless(self):
        self.send(b"", length=None)
        while not self.server.stop.is_set():
            self.wfile.write(bytes(1 << 16))
            self.entry[2] += 1 << 16

    def endless_chunks(self):
        self.send(b"", length=None, Transfer_Encoding="chunked")
        while not self.server.stop.is_set():
            self.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
            self.entry[2] += 1 << 16

    def endless_header(self):
        self.wfile.write(b"HTTP/1.0 200 OK\r\n")
        while not self.server.stop.is_set():
            self.wfile.write(b"X: " + b"y" * 1000 + b"\r\n")

    def long_header(self):
        self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
        while not self.server.stop.is_set():
            self.wfile.write(b"y" * 1000)

    def bad_chunks(self):
        self.send(b"", length=None, Transfer_Encoding="chunked")
        self.wfile.write(b"zz\r\nhello")

    def compressed_bomb(self):
        self.send(WRONG[:1000], length=None, Content_Encoding="gzip")

    def garbage(self):
        self.wfile.write(b"220 this is not http\r\n\r\n")

    def nothing(self):
        pass

    def silent(self):
        self.server.stop.wait(3)

    def stalls(self):
        self.ranged(SIZE // 2)
        self.server.stop.wait(3)

    def trickles(self):
        self.send(b"", length=SIZE)
        while not self.server.stop.wait(0.05):
            self.wfile.write(b"x")

    def turns(self):
        self.send(b"", 302, Location=self.path)

    def to_a_file(self):
        self.send(b"", 302, Location="file:///etc/passwd")

    def to_another_scheme(self):
        self.send(b"", 302, Location="gopher://127.0.0.1/")

    def to_nowhere(self):
        self.send(b"", 302, Location="http://127.0.0.1:1/data.tar.gz")

    def finish(self):
        with contextlib.suppress(OSError):  # The client has gone.
            super().finish()

    def log_message(self, *arguments):
        pass


class Listening(http.server.ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False

    def handle_error(self, request, client_address):
        """Say nothing of a client that has gone."""


@pytest.fixture
def server(monkeypatch):
    """The running server, with `archive(kind)`, what it serves under a kind of fault."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.4)
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0)
    listening = Listening(("127.0.0.1", 0), Server)
    listening.requests, listening.stop = [], threading.Event()
    address = f"http://127.0.0.1:{listening.server_port}"
    md5 = hashlib.md5(CONTENT).hexdigest()
    listening.archive = lambda kind: Archive(f"{address}/{kind}/data.tar.gz", md5, SIZE, FOLDER)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield listening
    listening.stop.set()
    listening.shutdown()
    listening.server_close()
    thread.join()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def require_whole(folder: Path) -> None:
    """Check that the archive has been unpacked, and nothing is left beside it."""
    assert names(folder) == [FOLDER]
    assert (
        hashlib.md5((folder / FOLDER / "batch").read_bytes()).hexdigest()
        == hashlib.md5(np.random.RandomState(0).bytes(100_000)).hexdigest()
    )


def require_refused(archive: Archive, folder: Path) -> str:
    """Check that a download ends soon, in a line that says what to do, with nothing but the beginning of it kept."""
    began = time.monotonic()
    message = refusal(download.download, archive, folder)
    assert time.monotonic() - began < 20
    assert archive.url in message and f"by other means and unpack it in {folder}" in message and message.isprintable()
    kept = names(folder)
    assert kept == ([PART] if "repeat the command" in message else []), kept
    assert not kept or 0 < (folder / PART).stat().st_size < SIZE
    return message


SURVIVED = (
    *("good", "redirects", "no_length", "busy_first", "breaks_once", "breaks_often", "breaks_at_once", "stalls_once"),
    *("breaks_without_range", "breaks_without_length", "breaks_in_chunks", "other_range", "refuses_ranges"),
)
REFUSED = (
    *("missing", "forbidden", "gone", "broken", "busy", "wrong", "wrong_rest", "page", "longer", "says_longer"),
    *("says_shorter", "says_nonsense", "always_half", "endless", "endless_chunks", "endless_header", "long_header"),
    *("bad_chunks", "compressed_bomb", "garbage", "nothing", "silent", "stalls", "turns", "to_a_file"),
    *("to_another_scheme", "to_nowhere"),
)


def test_connections_that_break_are_taken_up_again(faults, server, tmp_path):
    with faults("broken connections", "taken up again") as inject:
        for kind in SURVIVED:
            with inject.fault(kind):
                download.download(server.archive(kind), tmp_path / kind)
                require_whole(tmp_path / kind)
    sent = {kind: sum(n for path, _, n in server.requests if path.startswith(f"/{kind}/")) for kind in SURVIVED}
    # Not a byte twice, where the server sends parts.
    assert sent["breaks_once"] == sent["breaks_often"] == sent["stalls_once"] == SIZE


def test_what_is_not_the_published_archive_is_refused(faults, server, tmp_path):
    with faults("servers with something else", "refused") as inject:
        for kind in REFUSED:
            with inject.fault(kind):
                require_refused(server.archive(kind), tmp_path / kind)
        with inject.fault("trickles, slower than the least speed"):
            require_refused(server.archive("trickles"), tmp_path / "trickles")
        with inject.fault("no server"):
            require_refused(Archive("http://127.0.0.1:1/data.tar.gz", "0" * 32, SIZE, FOLDER), tmp_path / "none")
        with inject.fault("no such host"):
            require_refused(Archive("http://nowhere.invalid/data.tar.gz", "0" * 32, SIZE, FOLDER), tmp_path / "host")
        most = max(n for *_, n in server.requests)
        inject.notes.append(f"at most {most} bytes sent for an archive of {SIZE}")
        with inject.fault("more bytes than the archive has, and what lies in the sockets"):
            assert most < SIZE + (16 << 20)


def test_what_an_earlier_download_has_left_is_used_or_replaced(faults, server, tmp_path):
    leftovers = {
        "nothing": b"",
        "a byte": CONTENT[:1],
        "a half": CONTENT[: SIZE // 2],
        "all but a byte": CONTENT[:-1],
        "all": CONTENT,
        "the beginning of something else": WRONG[: SIZE // 2],
        "as much of something else": WRONG,
        "more than there is": CONTENT + b"x",
    }
    with faults("leftovers of a download", "used or replaced") as inject:
        for what, content in leftovers.items():
            folder = tmp_path / what
            (folder / ".unpacking" / FOLDER).mkdir(parents=True)  # Of a process that was killed while unpacking.
            (folder / ".unpacking" / FOLDER / "batch").write_bytes(b"half")
            (folder / LOCK).touch()
            (folder / PART).write_bytes(content)
            server.requests.clear()
            with inject.fault(what):
                download.download(server.archive("good"), folder)
                require_whole(folder)
                fetched = sum(n for *_, n in server.requests)
                sound = CONTENT.startswith(content)
                assert fetched == SIZE - len(content) if sound else fetched <= SIZE + SIZE // 2 + 1


def in_another_process(call, *arguments) -> multiprocessing.Process:
    """Run a function in a fork of this process, which exits with 0 unless it raises."""

    def run():
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background jobs begin with it ignored.
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            with contextlib.redirect_stderr(io.StringIO()):
                call(*arguments)
            code = 0
        finally:
            os._exit(code)  # Nothing of pytest's may run here.

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    return process


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["kill", "term", "ctrl-c"])
def test_a_download_that_is_interrupted_leaves_nothing_half_under_its_name(
    faults, server, tmp_path, monkeypatch, number
):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 10)
    with faults(f"downloads interrupted by {signal.Signals(number).name}") as inject, inject.fault("in the middle"):
        process = in_another_process(download.download, server.archive("stalls_once"), tmp_path)
        wait_for(lambda: (tmp_path / PART).exists() and (tmp_path / PART).stat().st_size == SIZE // 2)
        os.kill(process.pid, number)
        process.join(10)
        assert process.exitcode not in (0, None)
        assert set(names(tmp_path)) <= {PART, LOCK}
        download.download(server.archive("good"), tmp_path)
        require_whole(tmp_path)
        assert [asked for path, asked, _ in server.requests if path.startswith("/good")] == [f"bytes={SIZE // 2}-"]


@pytest.mark.parametrize("kind", ["good", "breaks_often", "breaks_without_range"])
def test_of_several_processes_one_downloads_and_the_others_wait(faults, server, tmp_path, kind):
    with faults(f"4 processes at once, {kind}") as inject:
        for attempt in range(5):
            folder = tmp_path / str(attempt)
            server.requests.clear()
            with inject.fault(f"attempt {attempt}"):
                processes = [in_another_process(download.download, server.archive(kind), folder) for _ in range(4)]
                for process in processes:
                    process.join(30)
                assert [process.exitcode for process in processes] == [0] * 4
                require_whole(folder)
                alone = {"good": 1, "breaks_often": 8, "breaks_without_range": 2}[kind]
                assert len(server.requests) == alone


def test_a_process_that_waits_takes_over_from_one_that_is_killed(faults, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 10)
    with faults("downloads taken over from a killed process") as inject, inject.fault("killed in the middle"):
        first = in_another_process(download.download, server.archive("stalls_once"), tmp_path)
        wait_for(lambda: (tmp_path / PART).exists() and (tmp_path / PART).stat().st_size == SIZE // 2)
        others = [in_another_process(download.download, server.archive("stalls_once"), tmp_path) for _ in range(3)]
        time.sleep(0.3)
        assert len(server.requests) == 1 and all(process.is_alive() for process in others)
        first.kill()
        for process in others:
            process.join(20)
        assert [process.exitcode for process in others] == [0] * 3
        require_whole(tmp_path)
        assert len(server.requests) == 2


def test_of_several_processes_one_unpacks_an_archive(faults, tmp_path, monkeypatch):
    counted = download.unpack

    def unpack(file: Path, folder: Path) -> None:
        with open(tmp_path / f"unpacked by {os.getpid()}", "x"):
            counted(file, folder)
            time.sleep(0.2)

    monkeypatch.setattr(download, "unpack", unpack)
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "data.tgz").write_bytes(CONTENT)
    with faults("4 processes that unpack one archive") as inject, inject.fault("at once"):
        processes = [in_another_process(unpacked, tmp_path / "archives" / "data.tgz", [FOLDER]) for _ in range(4)]
        for process in processes:
            process.join(20)
        assert [process.exitcode for process in processes] == [0] * 4
        assert len([*tmp_path.glob("unpacked by *")]) == 1
        assert names(tmp_path / "archives") == ["data", "data.tgz"]
