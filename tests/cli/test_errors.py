"""What an entry point's failure looks like to a user."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mindspore.dataset as ds
import numpy as np
import pytest

from src.cli.errors import EXIT_UNREAD, UserError, run, user_error_within

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
