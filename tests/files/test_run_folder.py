import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from src.cli.errors import UserError
from src.files.atomic import write_json, write_text
from src.files.locks import held, locked
from src.files.run_folder import make_folder, make_run_folder
from tests.made_data import refusal
from tests.programs import ROOT

ENTRIES = ("config.yaml", "result.json", "checkpoints")


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def read_only(tmp_path):
    folder = tmp_path / "read only"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("nothing is read-only for root")
    yield folder
    folder.chmod(0o700)


@pytest.fixture
def run(tmp_path):
    """The folder of a run, which also holds files of the user's."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "mine").mkdir()
    for name in ("config.yaml", "result.json", "checkpoints/old.ckpt", "mine/thesis.tex", "notes.txt"):
        (folder / name).write_text(name)
    return folder


def test_a_folder_is_made_with_its_parents_and_nothing_in_it(tmp_path):
    make_folder(tmp_path / "a" / "b")
    assert content(tmp_path) == {"a": None, "a/b": None}


def test_a_folder_that_is_there_keeps_what_it_holds(run):
    (run / ".writable").write_text("mine too")
    before = content(run)
    make_folder(run)
    assert content(run) == before


def test_a_file_where_the_folder_should_be_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("precious")
    message = refusal(make_folder, tmp_path / "file")
    assert message.startswith(f"{tmp_path / 'file'}: this is a file") and "--output_path" in message
    assert str(tmp_path / "file" / "below") in refusal(make_folder, tmp_path / "file" / "below")
    assert content(tmp_path) == {"file": "precious"}


@pytest.mark.parametrize("below", [".", "new", "new/newer"])
def test_a_read_only_folder_is_named_with_the_remedy(read_only, below):
    message = refusal(make_folder, read_only / below)
    assert str(read_only) in message and "cannot write here (Permission denied)" in message
    assert "choose another folder" in message


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that not even root can write to")
def test_a_folder_that_nobody_can_write_to_is_named_with_the_remedy():
    for folder in (Path("/proc"), Path("/proc/new")):
        message = refusal(make_folder, folder)
        assert message.startswith(f"{folder}: cannot write here (") and "choose another folder" in message


def test_a_new_run_gets_its_folder_also_where_strangers_files_are(tmp_path):
    make_run_folder(tmp_path / "new", ENTRIES, overwrite=False)
    (tmp_path / "new" / "notes.txt").write_text("mine")
    make_run_folder(tmp_path / "new", ENTRIES, overwrite=False)
    assert content(tmp_path / "new") == {"notes.txt": "mine"}


def test_a_folder_with_a_run_is_refused_and_left_as_it_is(run):
    before = content(run)
    message = refusal(make_run_folder, run, ENTRIES, overwrite=False)
    assert (
        message.startswith(f"{run}: already contains a run") and "--overwrite" in message and "--output_path" in message
    )
    assert content(run) == before


@pytest.mark.parametrize("entry", ENTRIES)
def test_any_one_file_of_a_run_is_enough_to_refuse(tmp_path, entry):
    (tmp_path / entry).write_text("")
    assert "already contains a run" in refusal(make_run_folder, tmp_path, ENTRIES, overwrite=False)


def test_overwriting_removes_the_run_and_nothing_else(run):
    make_run_folder(run, ENTRIES, overwrite=True)
    assert content(run) == {"mine": None, "mine/thesis.tex": "mine/thesis.tex", "notes.txt": "notes.txt"}


def test_overwriting_removes_a_link_and_not_what_it_points_to(run, tmp_path):
    elsewhere = tmp_path / "big disk"
    (run / "checkpoints").rename(elsewhere)
    (run / "checkpoints").symlink_to(elsewhere)
    make_run_folder(run, ENTRIES, overwrite=True)
    assert content(elsewhere) == {"old.ckpt": "checkpoints/old.ckpt"}
    assert not (run / "checkpoints").is_symlink()


def test_a_file_where_the_run_should_be_is_refused_also_for_overwriting(tmp_path):
    (tmp_path / "file").write_text("precious")
    assert "this is a file" in refusal(make_run_folder, tmp_path / "file", ENTRIES, overwrite=True)
    assert content(tmp_path) == {"file": "precious"}


def test_text_is_written_in_utf_8_and_leaves_no_other_file(tmp_path):
    write_text(tmp_path / "a.txt", "狗 is a dog\n")
    assert (tmp_path / "a.txt").read_bytes() == "狗 is a dog\n".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch, failing):
    file = tmp_path / "result.json"
    write_json(file, {"accuracy": 0.9})

    def broken(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, broken)
    assert "cannot be written (No space left on device)" in refusal(write_json, file, {"accuracy": 0.95})
    assert json.loads(file.read_bytes()) == {"accuracy": 0.9}
    assert os.listdir(tmp_path) == ["result.json"]


def test_json_is_indented_and_keeps_letters_as_they_are(tmp_path):
    write_json(tmp_path / "a.json", {"name": "été", "values": [1, 2.5]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == '{\n  "name": "été",\n  "values": [\n    1,\n    2.5\n  ]\n}\n'


def test_a_folder_is_kept_to_one_process_while_that_lives(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from src.files.locks import held, locked
with locked(Path({str(tmp_path)!r})):
    print("locked", flush=True)
    time.sleep(60)
""",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "locked\n"
    message = "another run is writing here; wait, or choose another --output_path"
    with pytest.raises(UserError, match=message), locked(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path), pytest.raises(UserError), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_lock_that_is_no_file_is_one_line(tmp_path, make):
    make(tmp_path / ".lock")
    with pytest.raises(UserError, match=r"\.lock: cannot be locked \(.*\); remove it"), locked(tmp_path):
        pass


def test_a_lock_leaves_no_file_and_is_not_shared_by_one_that_waited_for_it(tmp_path):
    entered, order = threading.Event(), []

    def second():
        with held(tmp_path / "lock", "waiting", wait=True):
            order.append("second")

    with held(tmp_path / "lock", "waiting", wait=True):
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"] and os.listdir(tmp_path) == []


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path):
        pass
    assert "cannot be locked (Operation not supported): make sure that no other process" in capsys.readouterr().err
