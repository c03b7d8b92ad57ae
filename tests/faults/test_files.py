"""Checkpoints, exported models and their specifications that are none: one line, nothing written, and no waiting."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import shutil
import socket
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from tests.programs import one_line_error


def strange_contents(models: SimpleNamespace) -> dict[str, bytes]:
    """What may lie under the name of a model and is none; the models themselves under their kind."""
    random, packed, picture = np.random.RandomState(0), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": [1.0]}))
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    return {
        "nothing": b"",
        "a byte": b"\x0a",
        "zeros": bytes(100_000),
        "ones": b"\xff" * 100_000,
        **{f"{size} random bytes": random.bytes(size) for size in (2, 10, 100, 1000, 100_000, 1_000_000)},
        "a text": b"no model\n" * 100,
        "a page": b"<html>404</html>",
        "JSON": b'{"weights": [1, 2]}',
        "a zip": packed.getvalue(),
        "a pickle": pickle.dumps({"weight": [1.0]}),
        "a picture": picture.getvalue(),
        "protobuf's longest number": b"\x08" + b"\xff" * 9 + b"\x01",
        "protobuf's groups in groups": b"\x0b" * 50_000,
        "a field of 2 GiB": b"\x0a\xff\xff\xff\xff\x07" + bytes(100),
        "messages in messages": nested(3000),
        ".ckpt": models.ckpt.read_bytes(),
        ".mindir": models.mindir.read_bytes(),
        ".onnx": models.onnx.read_bytes(),
    }


def nested(depth: int) -> bytes:
    """A message of protobuf that holds one that holds one."""
    content = b""
    for _ in range(depth):
        length, size = b"", len(content)
        while True:
            length += bytes([size & 127 | (128 if size > 127 else 0)])
            size >>= 7
            if not size:
                break
        content = b"\x0a" + length + content
    return content


def no_files(folder: Path, suffix: str) -> dict[str, Path]:
    """Paths that lead to no file that could be read to its end."""
    places = {
        what: folder / f"{what}{suffix}" for what in ("folder", "pipe", "loop", "dangling", "socket", "zero", "null")
    }
    places["folder"].mkdir()
    os.mkfifo(places["pipe"])
    places["loop"].symlink_to(places["loop"])
    places["dangling"].symlink_to(folder / "nowhere")
    places["zero"].symlink_to("/dev/zero")
    places["null"].symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as bound, in_folder(folder):
        bound.bind(f"socket{suffix}")
    return {
        **places,
        "missing": folder / f"missing{suffix}",
        "below a file": folder / f"file{suffix}" / f"x{suffix}",
        "a name of 300 bytes": folder / ("x" * 300 + suffix),
        "a path of 5,000 bytes": folder / ("x/" * 2500 + suffix),
        "a name with line ends": folder / f"a\nerror: b\n{suffix}",
    }


class in_folder:
    """Work in a folder; the path of a socket may have 107 bytes only."""

    def __init__(self, folder: Path):
        self.folder, self.before = folder, os.getcwd()

    def __enter__(self):
        os.chdir(self.folder)

    def __exit__(self, *_):
        os.chdir(self.before)


@pytest.fixture
def place(tmp_path, monkeypatch, no_pictures) -> Path:
    """The folder to work in, with one image."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "image.png")
    return tmp_path


def commands(checkpoint: Path) -> dict[str, tuple]:
    """The programs that take a checkpoint, with their flags."""
    return {
        "eval": ("--ckpt_path", checkpoint, "--output_path", "out", "--device_target", "CPU"),
        "infer": ("--ckpt_path", checkpoint, "--images", "image.png", "--output_path", "out", "--device_target", "CPU"),
        "export": ("--ckpt_path", checkpoint, "--file_name", "out.mindir", "--device_target", "CPU"),
    }


def require_refused(program: Callable, name: str, arguments: tuple, file: Path, here: Path) -> str:
    """Check that a program ends in one line that names the file, and leaves nothing."""
    before = sorted(here.iterdir())
    line = one_line_error(program(name, *arguments))
    assert " ".join(str(file).split())[-60:] in line and len(line) < len(str(file)) + 500
    assert sorted(here.iterdir()) == before
    return line


def test_checkpoints_that_are_none_are_refused_by_every_program(faults, program, models, place):
    with faults("checkpoints that are none", "refused") as inject:
        for what, content in strange_contents(models).items():
            if what == ".ckpt":
                continue
            file = place / "net.ckpt"
            file.write_bytes(content)
            for name, arguments in commands(file).items():
                with inject.fault(f"{what}, {name}.py"):
                    require_refused(program, name, arguments, file, place)
        (place / "folder").mkdir()
        (place / "folder" / "file.ckpt").touch()
        for what, file in no_files(place / "folder", ".ckpt").items():
            for name, arguments in commands(file).items():
                with inject.fault(f"{what}, {name}.py"):
                    require_refused(program, name, arguments, file, place)
        for suffix in (".onnx", ".mindir", "", ".CKPT", ".pth"):
            file = place / f"whole{suffix}"
            shutil.copy(models.ckpt, file)
            for name, arguments in commands(file).items():
                with inject.fault(f"a checkpoint called {suffix or 'nothing'}, {name}.py"):
                    require_refused(program, name, arguments, file, place)


def infer_with(model: Path) -> tuple:
    flags = ("--images", "image.png", "--output_path", "out", "--device_target", "CPU")
    return ("--model_path", model, *flags)


@pytest.mark.parametrize("kind", [".mindir", ".onnx"])
def test_models_that_are_none_are_refused(faults, program, models, place, kind):
    """Beside each lies a sound specification, without the sum that would tell at once."""
    original = {".mindir": models.mindir, ".onnx": models.onnx}[kind]
    spec = json.loads(Path(f"{original}.json").read_text())
    spec.pop("sha256", None)
    with faults(f"{kind} files that are none", "refused") as inject:
        for what, content in strange_contents(models).items():
            if what == kind:
                continue
            file = place / f"net{kind}"
            file.write_bytes(content)
            Path(f"{file}.json").write_text(json.dumps(spec))
            with inject.fault(what):
                require_refused(program, "infer", infer_with(file), file, place)
        (place / "folder").mkdir()
        (place / "folder" / f"file{kind}").touch()
        for what, file in no_files(place / "folder", kind).items():
            with inject.fault(what):
                require_refused(program, "infer", infer_with(file), file, place)
        for suffix in ("", ".air", ".pb", kind.upper()):
            file = place / f"whole{suffix}"
            shutil.copy(original, file)
            Path(f"{file}.json").write_text(json.dumps(spec))
            with inject.fault(f"a model called {suffix or 'nothing'}"):
                require_refused(program, "infer", infer_with(file), file, place)


@pytest.mark.parametrize("with_sum", [True, False], ids=["its own specification", "one without a sum"])
@pytest.mark.parametrize("kind", [".mindir", ".onnx"])
def test_damaged_models_are_refused(faults, program, models, place, kind, with_sum):
    """Without the sum in its specification a model is refused when it is cut; changed weights nothing tells."""
    original = {".mindir": models.mindir, ".onnx": models.onnx}[kind]
    whole, random, file = original.read_bytes(), np.random.RandomState(0), place / f"net{kind}"
    spec = json.loads(Path(f"{original}.json").read_text())
    if not with_sum:
        spec.pop("sha256", None)
    Path(f"{file}.json").write_text(json.dumps(spec))
    cuts = [*range(1, 40, 5), *np.linspace(40, len(whole) - 1, 20, dtype=int).tolist()]
    with faults(f"{kind} files damaged, with {'a' if with_sum else 'no'} sum", "refused") as inject:
        for size in cuts:
            file.write_bytes(whole[:size])
            with inject.fault(f"cut at {size}"):
                require_refused(program, "infer", infer_with(file), file, place)
        for position in random.randint(0, len(whole), 100 if with_sum else 0).tolist():
            damaged = bytearray(whole)
            damaged[position] ^= 1 << random.randint(8)
            file.write_bytes(damaged)
            with inject.fault(f"bit flipped at {position}"):
                require_refused(program, "infer", infer_with(file), file, place)
        if with_sum:
            shutil.copy(original, file)
            with inject.fault("nothing, and it runs"):
                assert program("infer", *infer_with(file)).returncode == 0


def mutations(spec: dict) -> Iterator[tuple[str, Any]]:
    """Yield a specification with each of its values in turn missing, or another one."""
    values: tuple = (None, True, -1, 7, 10**9, float("nan"), "x", [], {"a": 1})
    paths = [()]
    while paths:
        path = paths.pop()
        inner = spec
        for key in path:
            inner = inner[key]
        for value in values:
            changed = copy.deepcopy(spec)
            if path:
                place_of(changed, path)[path[-1]] = value
            yield f"{'.'.join(map(str, path)) or 'all'} is {value!r}", changed if path else value
        if path:
            changed = copy.deepcopy(spec)
            del place_of(changed, path)[path[-1]]
            yield f"no {'.'.join(map(str, path))}", changed
        keys = inner if isinstance(inner, dict) else range(min(2, len(inner))) if isinstance(inner, list) else ()
        paths += [(*path, key) for key in keys]


def place_of(spec: Any, path: tuple) -> Any:
    for key in path[:-1]:
        spec = spec[key]
    return spec


def test_specifications_with_other_values_are_refused_or_make_no_difference(faults, program, models, place):
    """Values which say nothing of how the model is run, such as the version of MindSpore, may be any."""
    shutil.copy(models.onnx, place / "net.onnx")
    spec = json.loads(Path(f"{models.onnx}.json").read_text())
    spec.pop("sha256", None)
    with faults("changed specifications", "refused or used as they are") as inject:
        used = 0
        for what, changed in mutations(spec):
            (place / "net.onnx.json").write_text(json.dumps(changed))
            with inject.fault(what):
                done = program("infer", *infer_with(place / "net.onnx"))
                if done.returncode == 0:
                    used += 1
                    assert done.stderr == ""
                    (result,) = json.loads((place / "out" / "predictions.json").read_text())
                    assert 0 <= result["top_k"][0]["probability"] <= 1
                else:
                    assert "net.onnx" in one_line_error(done) and not (place / "out").exists()
            shutil.rmtree(place / "out", ignore_errors=True)
        inject.notes.append(f"{used} of them used")


def test_specifications_that_are_none_or_of_another_model_are_refused(faults, program, models, place):
    whole = json.loads(Path(f"{models.onnx}.json").read_text())
    whole.pop("sha256", None)
    mindir = json.loads(Path(f"{models.mindir}.json").read_text())
    larger = copy.deepcopy(whole)
    larger["preprocessing"]["image_size"], larger["input"]["shape"] = 24, [None, 3, 24, 24]
    pixels = {**whole, "input": {**whole["input"], "shape": [None, 16, 16, 3], "dtype": "uint8"}}
    contents = {
        "nothing": b"",
        "random bytes": np.random.RandomState(0).bytes(1000),
        "not UTF-8": b'{"classes": ["\xff"]}',
        "zeros": bytes(1000),
        "half of it": json.dumps(whole).encode()[:200],
        "lists in lists": b"[" * 100_000,
        "objects in objects": b'{"a":' * 100_000,
        "a number of 100,000 digits": b'{"input": ' + b"9" * 100_000 + b"}",
        "20 MB": json.dumps({**whole, "more": "x" * 20_000_000}).encode(),
        "the weights": models.onnx.read_bytes(),
        "of fewer classes": json.dumps({**whole, "classes": whole["classes"][:9]}).encode(),
        "of more classes": json.dumps({**whole, "classes": [*whole["classes"], "ten"]}).encode(),
        "of larger images": json.dumps(larger).encode(),
        "of pixels": json.dumps(pixels).encode(),
        "of another file": json.dumps({**whole, "sha256": mindir.get("sha256", "0" * 64)}).encode(),
    }
    model = place / "net.onnx"
    shutil.copy(models.onnx, model)
    file = Path(f"{model}.json")
    with faults("specifications that are none, or of another model", "refused") as inject:
        with inject.fault("missing"):
            assert "keep next to the model" in require_refused(program, "infer", infer_with(model), file, place)
        for what, content in contents.items():
            file.write_bytes(content)
            with inject.fault(what):
                require_refused(program, "infer", infer_with(model), model, place)
        file.unlink()
        (place / "folder").mkdir()
        (place / "folder" / "file.json").touch()
        for what, strange in no_files(place / "folder", ".json").items():
            if not os.path.lexists(strange):
                continue
            file.symlink_to(strange)
            with inject.fault(what):
                require_refused(program, "infer", infer_with(model), file, place)
            file.unlink()


@pytest.mark.thorough
def test_the_programs_themselves_end_in_one_line_and_do_not_wait(faults, script, models, place):
    (place / "random.ckpt").write_bytes(np.random.RandomState(0).bytes(10_000))
    os.mkfifo(place / "pipe.onnx")
    (place / "folder.ckpt").mkdir()
    (place / "net.mindir").write_bytes(models.mindir.read_bytes()[:100_000])
    shutil.copy(f"{models.mindir}.json", place / "net.mindir.json")
    runs = {
        "eval.py, random bytes": ("eval.py", commands(place / "random.ckpt")["eval"]),
        "infer.py, a pipe": ("infer.py", infer_with(place / "pipe.onnx")),
        "infer.py, a cut MINDIR": ("infer.py", infer_with(place / "net.mindir")),
        "export.py, a folder": ("export.py", commands(place / "folder.ckpt")["export"]),
    }
    before = sorted(place.iterdir())
    with faults("files that are none, given to the programs", "one line, exit code 2") as inject:
        for what, (name, arguments) in runs.items():
            with inject.fault(what):
                one_line_error(script(name, *arguments, cwd=place))
                assert sorted(place.iterdir()) == before
