"""Programs that cannot write: full disks, something else in a file's place, and names that no file may have."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Callable

import numpy as np
import pytest
from PIL import Image

from src.inference import evaluation
from tests.faults.conftest import fill
from tests.programs import ROOT, one_line_error
from tests.runs import BRIEF

CPU = ("--device_target", "CPU")
# The names of what each program writes.
OUTPUTS = {
    "infer": ("predictions.json", "predictions.png", "features.npz"),
    "eval": ("result.json", "confusion_matrix.csv", "confusion_matrix.png", "worst_mistakes.png"),
    "export": ("net.onnx", "net.onnx.json"),
    "export MINDIR": ("net.mindir", "net.mindir.json"),
    "convert --from": ("net.ckpt",),
    "convert --to": ("net.npz",),
    "compress": ("net.sqz", "report.json", "report.txt", "histograms.png", "bytes.png"),
    "compress --decompress": ("net.ckpt",),
    "to_mindrecord": ("packed",),
}


@pytest.fixture(scope="module")
def inputs(models, tmp_path_factory) -> SimpleNamespace:
    """The models, and of the same network npz and sqz; an image, and a folder of images."""
    from src.checkpoint import load_network, weights_of
    from src.conversion.config import ConvertConfig
    from src.conversion.converting import convert
    from src.sqz.fileformat import encode

    folder = tmp_path_factory.mktemp("inputs")
    npz = folder / "net.npz"
    convert(ConvertConfig(file=str(npz), ckpt_path=str(models.ckpt), to_format="npz"))
    net, card = load_network(models.ckpt)
    arrays = {name: parameter.asnumpy() for name, parameter in weights_of(net).items()}
    (folder / "net.sqz").write_bytes(encode(arrays, card.to_json()))
    (folder / "data" / "train" / "a").mkdir(parents=True)
    for file in (folder / "image.png", folder / "data" / "train" / "a" / "1.png"):
        Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8)).save(file)
    return SimpleNamespace(
        ckpt=models.ckpt, npz=npz, sqz=folder / "net.sqz", image=folder / "image.png", data=folder / "data"
    )


def command(what: str, inputs: SimpleNamespace, out: Path) -> tuple:
    """A program and its flags, to write into a folder."""
    folder = ("--output_path", out)
    return {
        "infer": ("infer", "--ckpt_path", inputs.ckpt, "--images", inputs.image, "--features", "true", *folder, *CPU),
        "eval": ("eval", "--ckpt_path", inputs.ckpt, *folder, *CPU),
        "export": ("export", "--ckpt_path", inputs.ckpt, "--file_format", "ONNX", "--file_name", out / "net", *CPU),
        "export MINDIR": ("export", "--ckpt_path", inputs.ckpt, "--file_name", out / "net.mindir", *CPU),
        "convert --from": ("convert", "--from", "npz", inputs.npz, "--ckpt_path", out / "net.ckpt"),
        "convert --to": ("convert", "--to", "npz", out / "net.npz", "--ckpt_path", inputs.ckpt),
        "compress": ("compress", "--ckpt_path", inputs.ckpt, "--overwrite", "true", *folder),
        "compress --decompress": ("compress", "--decompress", inputs.sqz, "--overwrite", "true", *folder),
        "to_mindrecord": (
            *("to_mindrecord", "--dataset", "image_folder", "--data_path", inputs.data),
            *("--output_path", out / "packed"),
        ),
    }[what]


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def outcomes() -> dict:
    """What has been computed once in this module."""
    return {}


@pytest.fixture(autouse=True)
def computed_once(monkeypatch, outcomes):
    """The programs write again and again what they evaluate once, which is not what can fail here."""
    original = evaluation.evaluate

    def evaluate(*arguments, **options):
        if "evaluation" not in outcomes:
            outcomes["evaluation"] = original(*arguments, **options)
        return outcomes["evaluation"]

    monkeypatch.setattr(evaluation, "evaluate", evaluate)


@pytest.fixture
def small_pictures(monkeypatch):
    """Pictures that are drawn fast, and written all the same."""
    monkeypatch.setattr("matplotlib.figure.Figure.tight_layout", lambda figure, **_: None)
    drawn = b"x" * 9000
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **_: Path(file).write_bytes(drawn))


@pytest.mark.thorough
@pytest.mark.parametrize("what", OUTPUTS)
def test_every_program_works_in_folders_of_any_name_and_leaves_nothing_else(
    program: Callable, inputs, tmp_path, monkeypatch, small_pictures, what
):
    here = tmp_path / "my run (1)" / "Netz ü 猫"
    (here / "out").mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("TMPDIR", str(here))
    monkeypatch.setattr("tempfile.tempdir", None)
    ours = SimpleNamespace(**{name: here / f"{path.stem}{path.suffix}" for name, path in vars(inputs).items()})
    for name, path in vars(inputs).items():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, getattr(ours, name))
    before = left(here)
    done = program(*command(what, ours, here / "out"))
    assert done.returncode == 0, done.stderr
    new = [name for name in left(here) if name not in before]
    assert {name.split("/")[1] for name in new} == set(OUTPUTS[what]), new


@pytest.mark.parametrize("what", [what for what in OUTPUTS if what != "to_mindrecord"])
def test_what_lies_in_the_place_of_a_file_is_named_and_stays(
    faults, program: Callable, inputs, tmp_path, small_pictures, what
):
    overwriting = ("--overwrite", "true") if what.startswith("convert") else ()
    makers = {"a folder": lambda path: (path / "mine").mkdir(parents=True), "a pipe": os.mkfifo}
    if what == "compress":  # --overwrite replaces whatever has the name of one of its files.
        makers = {}
    with faults(f"something in the place of a file of {what}", "one line, exit code 2") as inject:
        for kind, make in makers.items():
            for name in OUTPUTS[what]:
                with inject.fault(f"{kind} called {name}"):
                    out = tmp_path / f"{kind} {name}"
                    out.mkdir()
                    make(out / name)
                    before = left(out)
                    line = one_line_error(program(*command(what, inputs, out), *overwriting))
                    assert str(out / name) in line and left(out) == before
        with inject.fault("a link that leads nowhere, which is replaced"):
            out = tmp_path / "link"
            out.mkdir()
            for name in OUTPUTS[what]:
                (out / name).symlink_to(tmp_path / "nowhere")
            assert program(*command(what, inputs, out), *overwriting).returncode == 0
            assert not (tmp_path / "nowhere").exists() and all((out / name).is_file() for name in OUTPUTS[what])


@pytest.mark.parametrize("what", OUTPUTS)
def test_a_full_disk_is_one_line_and_nothing_is_half_written(
    faults, program: Callable, inputs, tmpfs, small_pictures, what
):
    with faults(f"full disks, {what}", "one line, exit code 2") as inject:
        for room in (0, 20_480) if what in ("eval", "export") else (0, 4096, 20_480, 57_344):
            with inject.fault(f"{room} bytes left"):
                disk = tmpfs("1m")
                (disk / "out").mkdir()
                fill(disk, room)
                done = program(*command(what, inputs, disk / "out"))
                if done.returncode == 0:
                    assert set(OUTPUTS[what]) <= set(os.listdir(disk / "out"))
                    continue
                assert "make room" in one_line_error(done)
                assert not list((disk / "out").rglob(".*"))


FULL = """
    import contextlib, json, sys
    import src
    from tests.programs import run_here

    for what, name, arguments in json.loads(sys.argv[1]):
        with contextlib.suppress(OSError), open("/dev/full", "w") as full:
            done = run_here(name, *arguments, out=full)
        sys.stderr.write(json.dumps([what, done.returncode, done.stderr]) + "\\n")
        sys.stderr.flush()
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_to_a_full_device_is_one_line_of_every_program(faults, inputs, tmp_path):
    commands = [(what, *command(what, inputs, tmp_path / what)) for what in OUTPUTS]
    commands += [
        ("summary", "src.summary", "--version", "cifar"),
        ("train", "train", *(str(part) for item in BRIEF.items() for part in (f"--{item[0]}", item[1]))),
    ]
    commands = [(what, name, [str(argument) for argument in arguments]) for what, name, *arguments in commands]
    for what in OUTPUTS:
        (tmp_path / what).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), json.dumps(commands)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with faults("standard output on a full device", "one line, exit code 2") as inject:
        for line in done.stderr.splitlines():
            what, status, errors = json.loads(line)
            with inject.fault(what):
                assert status == 2 and len(errors.splitlines()) == 1
                place = str(tmp_path) if what == "to_mindrecord" else "error: the output cannot be written"
                assert place in errors and "(No space left on device); make room" in errors, errors
        assert inject.tried == len(commands)


@pytest.mark.thorough
@pytest.mark.parametrize("what", OUTPUTS)
def test_a_limit_of_file_sizes_is_one_line_and_nothing_is_half_written(
    faults, program: Callable, inputs, tmp_path, small_pictures, what
):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with faults(f"limits of file sizes, {what}", "one line, exit code 2") as inject:
        for limit in (4096, 8192):
            with inject.fault(f"{limit} bytes"):
                out = tmp_path / str(limit)
                out.mkdir()
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
                try:
                    done = program(*command(what, inputs, out))
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, before)
                assert str(out) in one_line_error(done) and not list(out.rglob(".*"))


NAMES = {
    "a name of 300 bytes": "x" * 300,
    "one of 250, too long with what is added": "x" * 250,
    "a path of 5,000 bytes": "x/" * 2500 + "x",
    "not UTF-8": "\udcff",
    "an emoji": "😀",
    "a dot": ".",
    "two dots": "..",
    "nothing": "",
    "a line end": "a\nb",
}
# The flag that names what each program writes.
NAMED = {
    **dict.fromkeys(("infer", "eval", "compress", "compress --decompress", "to_mindrecord"), "--output_path"),
    **dict.fromkeys(("export", "export MINDIR"), "--file_name"),
    "convert --from": "--ckpt_path",
    "convert --to": "npz",
    "comparison": "--output_path",
}


@pytest.mark.thorough
@pytest.mark.parametrize("what", NAMED)
def test_whatever_the_name_of_the_output_a_program_writes_it_or_says_why_not_in_a_line(
    faults, program: Callable, inputs, tmp_path, monkeypatch, small_pictures, what
):
    comparison = ("study", "--runs", ROOT / "results" / "squeezenet_cifar10_paper", "--output_path", "comparison")
    arguments = comparison if what == "comparison" else command(what, inputs, tmp_path)
    at = arguments.index(NAMED[what]) + 1
    with faults(f"names of the output of {what}", "written, or one line and exit code 2") as inject:
        for number, (kind, name) in enumerate(NAMES.items()):
            with inject.fault(kind):
                here = tmp_path / str(number)
                here.mkdir()
                monkeypatch.chdir(here)
                suffix = Path(arguments[at]).suffix if name.strip(".") else ""
                done = program(*arguments[:at], f"{name}{suffix}", *arguments[at + 1 :])
                if done.returncode:
                    assert len(one_line_error(done)) < 2000 and left(here) == []
                else:
                    assert len(name) < 300
