"""What an entry point's failure looks like to a user."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore import nn

from src.cli.errors import EXIT_UNREAD, UserError, first_line, run, user_error_within

ROOT = Path(__file__).resolve().parents[2]
MESSAGE = "cat.jpg: not an image; remove it or replace it"


@pytest.fixture(autouse=True)
def sigterm_restored():
    """`run` takes SIGTERM over for the rest of the process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def raising(error: BaseException):
    def main():
        raise error

    return main


def exit_code(main) -> int:
    with pytest.raises(SystemExit) as end:
        run(main)
    return end.value.code


class Broken:
    """A source of images whose third cannot be read."""

    def __init__(self, error: Exception):
        self.error = error

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            raise self.error
        return (np.zeros(3, np.float32),)


def failed_iteration(dataset: ds.Dataset) -> RuntimeError:
    """The exception that MindSpore makes of one raised in a data set."""
    with pytest.raises(RuntimeError) as error:
        list(dataset.create_dict_iterator(num_epochs=1))
    return error.value


def generator(error: Exception, workers: int) -> ds.Dataset:
    return ds.GeneratorDataset(
        Broken(error), ["image"], shuffle=False, num_parallel_workers=workers, python_multiprocessing=False
    )


@pytest.mark.parametrize("status", [None, 0, 1])
def test_the_status_of_a_program_is_what_it_returns(status):
    assert exit_code(lambda: status) == (status or 0)


def test_a_user_error_is_one_line_on_stderr_and_exit_code_2(capsys):
    assert exit_code(raising(UserError(MESSAGE))) == 2
    assert capsys.readouterr() == ("", f"error: {MESSAGE}\n")


def test_a_user_error_of_several_lines_is_shown_as_one(capsys):
    assert exit_code(raising(UserError("two\n  lines\tand more"))) == 2
    assert capsys.readouterr().err == "error: two lines and more\n"


def test_ctrl_c_ends_with_130_and_no_traceback(capsys):
    assert exit_code(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_sigterm_ends_with_143_in_order_and_no_traceback(capsys):
    left_in_order = []

    def main():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except Exception:
            pytest.fail("it was taken for an error")
        finally:
            left_in_order.append(True)

    assert exit_code(main) == 143
    assert left_in_order == [True]
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_mindspore_prints_because_of_a_signal_is_not_shown(number, status, capfd):
    def main():
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            os.write(2, b"[ERROR] ANALYZER: a page of what was being compiled\n")

    assert exit_code(main) == status
    assert capfd.readouterr() == ("", "interrupted\n")
    os.write(2, b"heard again\n")
    assert capfd.readouterr().err == "heard again\n"


def test_a_progress_bar_does_not_stay_in_the_line_of_an_interruption(monkeypatch, capfd):
    def main():
        os.write(2, b"classifying: 30%")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(os, "isatty", lambda descriptor: descriptor == 2)
    assert exit_code(main) == 130
    assert capfd.readouterr().err == "classifying: 30%\r\x1b[Kinterrupted\n"


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), RuntimeError("a bug"), ValueError("UserError:a bug")])
def test_a_bug_is_raised_as_it_is(error, capsys):
    with pytest.raises(type(error)) as raised:
        run(raising(error))
    assert raised.value is error
    assert capsys.readouterr().err == ""


def test_a_program_shows_the_traceback_of_a_bug_and_none_of_a_user_error():
    def outcome(error):
        program = f"from src.cli.errors import UserError, run\ndef main():\n    raise {error}\nrun(main)"
        return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    bug, mistake = outcome("KeyError('a bug')"), outcome("UserError('a mistake')")
    assert bug.returncode == 1
    assert bug.stderr.startswith("Traceback") and bug.stderr.endswith("KeyError: 'a bug'\n")
    assert (mistake.returncode, mistake.stderr) == (2, "error: a mistake\n")


@pytest.mark.parametrize("lines", [1, 100_000])  # Less than a buffer holds, and more.
def test_a_program_whose_output_nobody_reads_any_more_ends_quietly(lines):
    program = f"from src.cli.errors import run\ndef main():\n    [print('a line') for _ in range({lines})]\nrun(main)"
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (EXIT_UNREAD, "")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_user_error_is_found_in_what_mindspore_makes_of_it_in_a_source(workers, capsys):
    error = failed_iteration(generator(UserError(MESSAGE), workers))
    assert str(user_error_within(error)) == MESSAGE
    assert exit_code(raising(error)) == 2
    assert capsys.readouterr().err == f"error: {MESSAGE}\n"


def test_a_user_error_is_found_in_what_mindspore_makes_of_it_in_a_transform():
    def transform(image):
        raise UserError(MESSAGE)

    dataset = ds.NumpySlicesDataset(np.zeros((4, 3), np.float32), ["image"]).map(transform, ["image"])
    assert str(user_error_within(failed_iteration(dataset))) == MESSAGE


def test_a_bug_in_a_data_set_is_no_user_error():
    error = failed_iteration(generator(ZeroDivisionError("a bug"), 1))
    assert user_error_within(error) is None
    with pytest.raises(RuntimeError):
        run(raising(error))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    "program", ["print('x')", "[print('x') for _ in range(100_000)]", "raise UserError('a mistake')"]
)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_that_a_full_device_does_not_take_is_one_line(program, stream):
    code = f"from src.cli.errors import UserError, run\ndef main():\n    {program}\nrun(main)"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, **{**streams, stream: full})
    if "raise" in program:
        assert (ended.returncode, ended.stderr or "") == (2, "error: a mistake\n" if stream == "stdout" else "")
    elif stream == "stderr":
        assert ended.returncode == 0 and ended.stdout.startswith("x\n")
    else:
        assert ended.returncode == 2
        assert ended.stderr.startswith("error: the output cannot be written (No space left on device)")
        assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO])
def test_what_the_system_says_of_a_file_is_one_line(number, capsys):
    assert exit_code(raising(OSError(number, os.strerror(number), "my file"))) == 2
    assert capsys.readouterr().err == f"error: my file: {os.strerror(number)}\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError(" first\nsecond"), "first"),
        (ValueError(), "ValueError"),
        (KeyError("key"), "'key'"),
    ],
)
def test_the_first_line_of_an_exception_is_its_reason(error, line):
    assert first_line(error) == line


class Unfit(nn.Cell):
    """Does not compile."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def construct(self, x):
        return self.convolution(x)


@pytest.mark.parametrize("temporary", ["tmp", "my run (1)/Netz ü 猫"])
def test_nothing_of_mindspores_stays_in_the_current_or_the_temporary_folder(tmp_path, monkeypatch, temporary):
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / temporary).mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("TMPDIR", str(tmp_path / temporary))
    monkeypatch.setenv("RANK_ID", "3")
    before = sorted(tmp_path.rglob("*"))

    def main():
        (here / "offload").mkdir()  # As on an Ascend.
        ms.set_context(mode=ms.GRAPH_MODE)
        Unfit()(ms.Tensor(np.zeros((1, 1, 8, 8), np.float32)))

    with pytest.raises(RuntimeError, match="C_in"):
        run(main)
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_of_the_users_for_mindspores_files_stay_and_are_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "offload").mkdir()
    monkeypatch.setenv("MS_OM_PATH", str(tmp_path / "dumps"))
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    seen = {}

    def main():
        seen.update(os.environ)

    assert exit_code(main) == 0
    assert seen["MS_OM_PATH"] == os.environ["MS_OM_PATH"] and "MS_COMPILER_CACHE_PATH" not in seen
    assert os.listdir(tmp_path) == ["offload"]


@pytest.mark.parametrize("name", ["x" * 4000, "x/" * 2000, "猫" * 4000, "two words " * 400])
def test_a_message_does_not_repeat_a_name_of_thousands_of_characters(name):
    message = str(UserError(f"{name}: no such file; {name} is too long"))
    assert len(message) < 2000 and "is too long" in message and message.startswith(name[:50])


def test_a_current_folder_that_has_been_removed_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert exit_code(lambda: pytest.fail("it has begun")) == 2
    assert capsys.readouterr().err == "error: the current folder has been removed; change to another one\n"
