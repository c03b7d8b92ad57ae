"""Run folders that were damaged, or in which something else lies: a resume goes on, or ends in one line and loses
nothing."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from mindspore.train import Model

from src.checkpoint import CARD_KEY, read_checkpoint, read_json
from src.cli.errors import UserError
from src.config import with_keys
from src.training.checkpoints import STATE_KEY
from src.training.plan import BEST, RUN_ENTRIES
from src.training.run import train
from src.training.session import EVALUATION_KEY
from src.training.state import State, read_result
from tests.faults.conftest import fill
from tests.programs import one_line_error
from tests.runs import SMALL, configuration, metrics_rows, without_pictures

NEWEST = "checkpoints/SqueezeNet-3_4.ckpt"
VALUES: tuple = (None, True, -1, 0, 6.5, float("inf"), 10**400, "text", [], [1], {}, {"a": 1})
METRICS = {
    "bytes of no text": b"\xff\xfe\x00garbage\n",
    "UTF-16": "step,epoch,loss\r\n3,1,2.0\r\n".encode("utf-16"),
    "a text in a number": b"step,epoch,loss\n3,1,two\n",
    "too many columns": b"step,epoch,loss\n3,1,2.0,5,6\n",
    "columns of another table": b"name,price\nx,1\n",
    "a step of 5,000 digits": b"step,epoch,loss\n" + b"9" * 5000 + b",1,2.0\n",
    "no step": b"step,epoch,loss\n,1,2.0\n",
    "one line": b"step\n",
}
HARMLESS_METRICS = {
    "a BOM": b"\xef\xbb\xbfstep,epoch,loss\n3,1,2.0\n",
    "digits of another script": "step,epoch,loss\n３,1,2.0\n".encode(),
    "nothing": b"",
    "half a head": b"step,ep",
    "zeros": bytes(1000),
    "half a row": b"step,epoch,loss\n3,1,2.0\n7,2",
}
RESULTS = {
    "nothing": b"",
    "no JSON": b"{'a': 1}",
    "null": b"null",
    "an empty object": b"{}",
    "a list": b"[1, 2]",
    "bytes of no text": b"\xff\xfe",
    "a text for a number": b'{"checkpoint": "best.ckpt", "devices": "one"}',
    "lists in lists": b"[" * 100_000,
}


# Written anew, with the same content but for the epochs, before the metrics are read.
CONFIGURED = ("config.yaml", "train.log", "mindspore.log")


class Began(Exception):
    """A training would now take its steps."""


@pytest.fixture
def no_steps(monkeypatch):
    """End a training where its steps begin."""

    def begin(*_, **__):
        raise Began

    monkeypatch.setattr(Model, "train", begin)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> SimpleNamespace:
    """A finished run: folder, config. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    config = configuration(**SMALL, output_path=str(folder))
    with without_pictures():
        train(config)
    return SimpleNamespace(folder=folder, config=config)


@pytest.fixture
def run(finished, tmp_path, no_pictures) -> SimpleNamespace:
    """A copy of it, and the configuration that resumes it for one more epoch."""
    shutil.copytree(finished.folder, tmp_path / "run")
    return SimpleNamespace(
        folder=tmp_path / "run",
        more=with_keys(finished.config, output_path=str(tmp_path / "run"), resume=True, epochs=4),
    )


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def require_begun_or_refused(run: SimpleNamespace, begins: bool | None) -> None:
    """Check that a resume begins, as it should or with None may, or is refused in a line and leaves all files."""
    before = bytes_of(run.folder)
    try:
        train(run.more)
    except Began:
        assert begins in (True, None)
    except UserError as error:
        assert begins in (False, None), error
        after = bytes_of(run.folder)
        assert str(run.folder) in str(error)
        assert [name for name in before if after.get(name) != before[name] and name not in CONFIGURED] == []


def save_with(path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Save a checkpoint again whose contents were changed, with a sound checksum."""
    held = {name: value.asnumpy() for name, value in read_checkpoint(path).items()}
    change(held)
    path.unlink()
    ms.save_checkpoint([{"name": n, "data": Tensor(v)} for n, v in held.items()], str(path), crc_check=True)


def json_bytes(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def changes_of(state: dict) -> Iterator[tuple[str, dict]]:
    """Yield a run's state with each of its values in turn missing, or another one."""
    places: list[tuple[dict, tuple]] = [(state, ())]
    while places:
        inner, path = places.pop()
        for key, value in inner.items():
            if isinstance(value, dict) and key != "configuration":
                places.append((value, (*path, key)))
            for other in (KeyError, *VALUES):
                changed = copy.deepcopy(state)
                owner = changed
                for part in path:
                    owner = owner[part]
                owner[key] = other
                if other is KeyError:
                    del owner[key]
                yield f"{'.'.join((*path, key))} is {'missing' if other is KeyError else repr(other)[:30]}", changed


@pytest.mark.thorough
def test_metrics_that_are_none_are_refused_or_made_anew(faults, run, no_steps, program):
    with faults("metrics.csv of a run damaged", "refused or continued") as inject:
        for what, content in {**METRICS, **HARMLESS_METRICS}.items():
            (run.folder / "metrics.csv").write_bytes(content)
            with inject.fault(what):
                require_begun_or_refused(run, begins=what in HARMLESS_METRICS)
                if what in HARMLESS_METRICS:
                    assert (run.folder / "metrics.csv").read_text(encoding="utf-8").startswith("step,epoch")
            if what in METRICS:
                with inject.fault(f"{what}, comparison"):
                    output = run.folder / "comparison"
                    arguments = ("study", "--runs", run.folder, "--output_path", output)
                    assert "metrics.csv" in one_line_error(program(*arguments)) and not output.exists()


def test_states_with_other_values_are_refused_or_are_states(faults, finished):
    values = read_json(read_checkpoint(finished.folder / NEWEST), STATE_KEY)
    with faults("states of a run changed", "refused or sound") as inject:
        for what, changed in changes_of(values):
            with inject.fault(what):
                try:
                    state = State.read(changed)
                except ValueError:
                    continue
                assert state.ends_epoch in (True, False) and state.seconds < float("inf")
                assert all(step >= 0 for step in state.parts.resumed_at)


def test_a_checkpoint_with_a_damaged_state_is_passed_over(faults, run, no_steps, capsys):
    newest = run.folder / NEWEST
    values = read_json(read_checkpoint(newest), STATE_KEY)
    with faults("newest checkpoints with a damaged state", "passed over") as inject:
        for changes in ({"steps_per_epoch": 0}, {"step": None}, {"step": 6.5}, {"parts": {}}, {"seconds": "long"}):
            save_with(newest, lambda held, c=changes: held.update({STATE_KEY: json_bytes({**values, **c})}))
            with inject.fault(f"{changes}"):
                require_begun_or_refused(run, begins=True)
                assert "skipped: " in capsys.readouterr().out


def test_a_best_checkpoint_without_its_figures_is_replaced_by_the_next_evaluation(faults, run, no_steps):
    content = (run.folder / BEST).read_bytes()
    with faults("best.ckpt with other figures, or none", "continued") as inject:
        for value in (*VALUES, {"accuracy": "high"}, {"accuracy": None}, {"accuracy": [1]}):
            (run.folder / BEST).unlink()
            (run.folder / BEST).write_bytes(content)
            save_with(run.folder / BEST, lambda held, value=value: held.update({EVALUATION_KEY: json_bytes(value)}))
            with inject.fault(f"{value!r:.40}"):
                require_begun_or_refused(run, begins=True)


def test_a_result_that_is_none_is_refused_with_the_way_to_make_it_anew(faults, run, program):
    with faults("result.json of a finished run damaged", "one line, exit code 2") as inject:
        for what, content in RESULTS.items():
            (run.folder / "result.json").write_bytes(content)
            with inject.fault(what):
                before = bytes_of(run.folder)
                line = one_line_error(program("train", "--resume", run.folder))
                assert "result.json: " in line and "remove it and give the same command again" in line
                assert bytes_of(run.folder) == before
        with inject.fault("a folder"):
            (run.folder / "result.json").unlink()
            (run.folder / "result.json").mkdir()
            assert "result.json: cannot be written" in one_line_error(program("train", "--resume", run.folder))
        with inject.fault("removed"):
            (run.folder / "result.json").rmdir()
            assert program("train", "--resume", run.folder).returncode == 0
            read_result(run.folder / "result.json", "")


def test_parameters_of_another_kind_are_refused_before_anything_is_written(faults, run, no_steps):
    newest = run.folder / NEWEST
    content = newest.read_bytes()

    def halve(held):
        for name, value in held.items():
            if value.dtype == np.float32:
                held[name] = value.astype(np.float16)

    changes = {
        "all float16": halve,
        "NaN in the optimizer's state": lambda held: held["moments.features.0.conv.weight"].fill(np.nan),
        "no state of the optimizer": lambda held: held.pop("moments.features.0.conv.weight"),
        "another shape": lambda held: held.update({"moments.features.0.conv.weight": np.zeros((2, 2), np.float32)}),
        "a card of another network": lambda held: held.update(
            {CARD_KEY: json_bytes({**json.loads(held[CARD_KEY].tobytes()), "classes": list("abcdefghij")})}
        ),
    }
    for file in (run.folder / "checkpoints").iterdir():
        if file != newest:
            file.unlink()
    with faults("checkpoints with parameters of another kind", "refused before anything is written") as inject:
        for what, change in changes.items():
            newest.unlink()
            newest.write_bytes(content)
            save_with(newest, change)
            with inject.fault(what):
                require_begun_or_refused(run, begins=False)


@pytest.mark.parametrize("keys", [{"seed": 7}, {"lr_max": 0.01}, {"augment": ["crop_flip"]}], ids=str)
def test_a_checkpoint_of_another_run_of_the_same_network_is_refused(run, tmp_path, no_steps, keys):
    state = read_json(read_checkpoint(run.folder / NEWEST), STATE_KEY)
    state["configuration"] |= keys
    save_with(run.folder / NEWEST, lambda held: held.update({STATE_KEY: json_bytes(state)}))
    before = bytes_of(run.folder)
    with pytest.raises(UserError, match=rf"trained with other values than those in config.yaml \({next(iter(keys))}"):
        train(run.more)
    assert bytes_of(run.folder) == before


def test_a_folder_of_another_programs_files_is_not_taken_for_a_run(tmp_path, no_pictures):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").write_text("of another program")
    with pytest.raises(UserError, match=r"config.yaml is missing.*--overwrite to remove train.log"):
        train(configuration(**SMALL, output_path=str(tmp_path / "run"), resume=True))
    assert bytes_of(tmp_path) == {"run/train.log": b"of another program"}


def test_rows_of_earlier_starts_are_on_the_disk_before_the_first_step(run, monkeypatch):
    """A process killed while the graph is compiled takes nothing away."""
    before, seen = metrics_rows(run.folder), []

    def begin(*_, **__):
        seen.append(metrics_rows(run.folder))
        raise Began

    monkeypatch.setattr(Model, "train", begin)
    with pytest.raises(Began):
        train(run.more)
    assert seen == [before]


@pytest.mark.thorough
def test_more_epochs_that_were_begun_and_killed_are_not_taken_for_done(run, monkeypatch, no_pictures):
    with monkeypatch.context() as patch:
        patch.setattr(Model, "train", lambda *_, **__: (_ for _ in ()).throw(Began))
        with pytest.raises(Began):
            train(run.more)
    assert train(run.more)["steps"] == 16


MAKERS: dict[str, Callable[[Path], None]] = {
    "a folder": lambda path: (path / "mine").mkdir(parents=True),
    "a pipe": os.mkfifo,
    "a file": lambda path: path.write_text("mine"),
    "a link that leads nowhere": lambda path: path.symlink_to(path.parent.parent / "nowhere" / "there"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("resume", [False, True], ids=["overwriting", "resuming"])
def test_what_lies_in_the_place_of_a_file_of_a_run_ends_in_one_line_or_does_not_matter(faults, run, no_steps, resume):
    """It is refused before a file is changed, or replaced, or the training begins without that file."""
    entries = [*RUN_ENTRIES, ".lock", ".writing-x"]
    with faults(f"something in the place of a file of a run, {'resuming' if resume else 'overwriting'}") as inject:
        for name in entries:
            for kind, make in MAKERS.items():
                with inject.fault(f"{kind} called {name}"):
                    folder = run.folder.parent / f"{kind} {name}"
                    shutil.copytree(run.folder, folder)
                    path = folder / name
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                    make(path)
                    keys = {"resume": True} if resume else {"resume": False, "overwrite": True}
                    with pytest.raises((UserError, Began)):
                        train(with_keys(run.more, output_path=str(folder), scalars="tensorboard", **keys))
                    shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["train", "resume"])
def test_a_disk_that_is_full_before_the_first_step_is_one_line(faults, finished, tmpfs, no_steps, program, what):
    with faults(f"full disks before the first step, {what}", "one line, exit code 2, or begun") as inject:
        for room in (0, 4096, 20_480, 57_344):
            with inject.fault(f"{room} bytes left"):
                disk = tmpfs("4m")
                if what == "resume":
                    shutil.copytree(finished.folder, disk / "run")
                fill(disk, room)
                keys = {**SMALL, "epochs": 4, "output_path": disk / "run", "scalars": "tensorboard"}
                flags = [str(part) for key, value in keys.items() for part in (f"--{key}", value)]
                before = bytes_of(disk)
                try:
                    done = program("train", *flags, *(["--resume"] if what == "resume" else []))
                except Began:
                    continue
                assert str(disk) in one_line_error(done)
                lost = [name for name, content in before.items() if bytes_of(disk).get(name) != content]
                assert set(lost) <= {f"run/{name}" for name in CONFIGURED}
