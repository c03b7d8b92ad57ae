"""The scripts: those of the shell with a stand-in for Python that says how it was called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.dataset import open_source
from src.dataset.cifar10 import CLASSES
from src.dataset.options import DataConfig
from tests.made_data import write_cifar10
from tests.programs import ROOT, one_line_error

SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
ZOO_NAMES = [ROOT / "scripts" / f"run_{name}.sh" for name in ("standalone_train", "distribute_train", "eval")]
RUN_PROGRAM, INFER_310 = (ROOT / "scripts" / f"run_{name}.sh" for name in ("program", "infer_310"))
LAUNCHERS = [p for p in SCRIPTS if p.name.startswith("run_") and p not in (*ZOO_NAMES, RUN_PROGRAM, INFER_310)]
OTHERS = [
    INFER_310,
    *(ROOT / "scripts" / f"{name}.sh" for name in ("quickstart", "first_run_ascend", "test", "test_versions")),
]
PROGRAMS = {"run_standalone_train": "train.py", "run_eval": "eval.py", "run_export": "export.py"}
DISTRIBUTED = "run_distribute_train"
DEVICES = {"ascend": "Ascend", "gpu": "GPU", "cpu": "CPU"}


@pytest.fixture
def fake_python(tmp_path) -> Path:
    """A "python" that has MindSpore, prints its arguments one a line, and exits with $STATUS."""
    path = tmp_path / "fake python"
    path.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\nprintf "%s\\n" "$@"\nexit "${STATUS:-0}"\n')
    path.chmod(0o755)
    return path


def run(script: Path, *arguments: str, cwd: Path = ROOT, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(script), *arguments],
        cwd=cwd,
        env={**os.environ, **{key: str(value) for key, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_there_is_a_launcher_for_every_program_and_device():
    names = [*PROGRAMS, DISTRIBUTED]
    assert {path.stem for path in LAUNCHERS} == {f"{name}_{device}" for name in names for device in DEVICES}


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda path: path.stem)
def test_a_launcher_passes_device_and_all_flags_on_from_any_folder(launcher, fake_python, tmp_path):
    name, device = launcher.stem.rsplit("_", 1)
    flags = ["--config", "squeezenet a.yaml", "--lr_max=0.1", "--overwrite"]
    done = run(launcher, *flags, cwd=tmp_path, PYTHON=fake_python)
    assert done.returncode == 0, done.stderr
    if name == DISTRIBUTED:  # Its module says the rest to train.py (tests/launching/test_workers.py).
        start = ["-m", "src.launching.launch", "--start_folder", str(tmp_path), "--device_target", DEVICES[device]]
    else:
        start = [str(ROOT / PROGRAMS[name]), "--device_target", DEVICES[device], "--strict_device"]
    assert done.stdout.splitlines() == [*start, *flags]


@pytest.mark.parametrize(
    ("script", "arguments", "flags"),
    [
        (
            "standalone_train",
            "squeezenet cifar10 3 ./data",
            "--config squeezenet_cifar10_zoo --data_path ./data --device_id 3",
        ),
        (
            "standalone_train",
            "squeezenet_residual imagenet 0 /d a.ckpt",
            "--config squeezenet_imagenet_simple_bypass --data_path /d --pretrained a.ckpt --device_id 0",
        ),
        (
            "distribute_train",
            "squeezenet cifar10 table.json ./data",
            "--config squeezenet_cifar10_zoo --data_path ./data",
        ),
        (
            "distribute_train",
            "table.json squeezenet_residual cifar10 ./data a.ckpt",
            "--config squeezenet_residual_cifar10_zoo --data_path ./data --pretrained a.ckpt",
        ),
        ("eval", "squeezenet imagenet 1 /d a.ckpt", "--ckpt_path a.ckpt --data_path /d --device_id 1"),
    ],
)
@pytest.mark.parametrize("suffix", ["", "_ascend", "_gpu"])
def test_the_model_zoos_arguments_become_flags_which_are_said(fake_python, script, arguments, flags, suffix):
    done = run(ROOT / "scripts" / f"run_{script}{suffix}.sh", *arguments.split(), PYTHON=fake_python)
    assert done.returncode == 0, done.stderr
    words = [Path(word).stem if word.endswith(".yaml") else word for word in done.stdout.split()]
    assert " ".join(words).endswith(flags)
    assert done.stderr.startswith("in this project: bash ") and flags.split()[-1] in done.stderr
    for config in (word for word in done.stdout.split() if word.endswith(".yaml")):
        assert Path(config).is_file()


@pytest.mark.parametrize(
    ("script", "arguments", "problem"),
    [
        ("standalone_train", "squeezenet cifar10 0", "the model zoo's arguments are NET DATASET DEVICE_ID DATA [CKPT]"),
        ("standalone_train", "squeezenet mnist 0 ./data", "squeezenet mnist: the model zoo has squeezenet"),
        ("eval", "squeezenet cifar10 0 ./data", "a checkpoint is missing"),
    ],
)
def test_the_model_zoos_arguments_that_are_wrong_are_one_line(fake_python, script, arguments, problem):
    done = run(ROOT / "scripts" / f"run_{script}.sh", *arguments.split(), PYTHON=fake_python)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {problem}") and len(done.stderr.splitlines()) == 1


def test_a_checkpoint_in_a_folder_named_for_the_network_is_no_argument_of_the_model_zoo(fake_python):
    arguments = ["runs/squeezenet_digits/best.ckpt", "--data_path", "./data"]
    done = run(ROOT / "scripts" / "run_eval_ascend.sh", *arguments, PYTHON=fake_python)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-3:] == arguments


@pytest.fixture
def models(tmp_path) -> Path:
    """A folder with exported models, of a name with a space, and stand-ins for converter_lite and atc on its bin/."""
    folder = tmp_path / "models of mine"
    (folder / "bin").mkdir(parents=True)
    for suffix in ("mindir", "mindir.json", "onnx", "onnx.json", "air"):
        (folder / f"best.{suffix}").write_text(suffix)
    for tool in ("converter_lite", "atc"):
        (folder / "bin" / tool).write_text('#!/bin/sh\nprintf "%s\\n" "${0##*/}" "$@"\nexit "${CONVERTED:-0}"\n')
        (folder / "bin" / tool).chmod(0o755)
    return folder


def infer_310(models: Path, fake_python: Path, *arguments: str, **environment) -> subprocess.CompletedProcess:
    path = f"{models / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return run(INFER_310, *arguments, cwd=models, PYTHON=fake_python, PATH=path, **environment)


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["./data"], ["--device_id", "0", "--data_path", "./data"]),
        (["cifar10", "./data", "2"], ["--device_id", "2", "--dataset", "cifar10", "--data_path", "./data"]),
        (
            ["./my data", "imagenet", "1", "--batch_size", "8"],
            ["--device_id", "1", "--data_path", "./my data", "--dataset", "imagenet", "--batch_size", "8"],
        ),
    ],
)
@pytest.mark.parametrize("form", ["mindir", "onnx"])
def test_a_model_is_converted_for_a_310_and_evaluated_with_each_command_shown(
    models, fake_python, form, arguments, flags
):
    done = infer_310(models, fake_python, f"best.{form}", *arguments, CONFIG="ascend.cfg")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    shown = [line.split()[1] for line in lines if line.startswith("+ ")]
    assert [Path(word.replace("\\", "")).name for word in shown] == ["converter_lite", "cp", "fake"]
    ran = [line for line in lines if not line.startswith("+ ")]
    converter = ["converter_lite", f"--fmk={form.upper()}", "--saveType=MINDIR", "--optimize=ascend_oriented"]
    converter += [f"--modelFile=best.{form}", "--outputFile=best_310", "--configFile=ascend.cfg"]
    evaluation = [str(ROOT / "eval.py"), "--model_path", "best_310.mindir", "--runtime", "lite"]
    assert ran == [*converter, *evaluation, "--device_target", "Ascend", *flags]
    assert (models / "best_310.mindir.json").read_text() == f"{form}.json"


def test_an_air_is_converted_by_atc(models, fake_python):
    done = infer_310(models, fake_python, "best.air", SOC_VERSION="Ascend310B4")
    assert done.returncode == 0, done.stderr
    expected = ["atc", "--framework=1", "--model=best.air", "--output=best", "--soc_version=Ascend310B4"]
    assert done.stdout.splitlines()[1:6] == expected


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["best.mindir", "./data"], "converter_lite: not found; it comes with MindSpore Lite"),
        (["best.air"], "atc: not found; it comes with CANN"),
        (["none.mindir", "./data"], "none.mindir: there is no such model"),
        (["best.mindir"], "a folder of data is missing"),
        (["./data"], "a model is missing"),
    ],
)
def test_what_a_310_lacks_is_one_line(models, fake_python, arguments, problem):
    for tool in ("converter_lite", "atc"):
        (models / "bin" / tool).unlink()
    done = infer_310(models, fake_python, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {problem}") and len(done.stderr.splitlines()) == 1


def test_a_failed_conversion_ends_with_its_status_and_nothing_is_evaluated(models, fake_python):
    done = infer_310(models, fake_python, "best.mindir", "./data", CONVERTED="3")
    assert done.returncode == 3 and "eval.py" not in done.stdout


def test_a_launcher_exits_with_the_status_of_the_program(fake_python):
    assert run(LAUNCHERS[0], PYTHON=fake_python, STATUS=7).returncode == 7


@pytest.mark.parametrize(
    "script",
    [*LAUNCHERS, *OTHERS],
    ids=lambda p: p.stem,
)
def test_help_shows_the_head_comment_without_running_anything(script, fake_python):
    done = run(script, "--help", PYTHON=fake_python)
    head = [line[2:] for line in script.read_text().splitlines()[1:] if line.startswith("# ")]
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == head[0]
    assert f"bash scripts/{script.name}" in done.stdout
    assert "set -euo" not in done.stdout


def test_help_of_a_distributed_training_lists_the_launchers_options():
    done = run(ROOT / "scripts" / f"{DISTRIBUTED}_cpu.sh", "--help", PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert "--master_addr ADDRESS" in done.stdout and "Within 15 s of the" in done.stdout


def test_a_python_given_by_a_relative_path_is_found_from_the_users_folder(fake_python):
    script = ROOT / "scripts" / f"{DISTRIBUTED}_cpu.sh"
    done = run(script, cwd=fake_python.parent, PYTHON=f"./{fake_python.name}")
    assert done.returncode == 0, done.stderr


def test_a_python_without_mindspore_is_one_line(tmp_path):
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    done = run(ROOT / "scripts" / "run_eval_cpu.sh", PYTHON=bare)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {bare} has no MindSpore: run pip install -r requirements.txt, or bash scripts/quickstart.sh"
    ]


def test_quickstart_refuses_arguments_before_it_sets_anything_up():
    done = run(ROOT / "scripts" / "quickstart.sh", "--epochs", "3")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: unexpected argument '--epochs': quickstart.sh takes none"]


def test_an_unsupported_python_alone_on_path_is_one_line(tmp_path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    source = f'source "{ROOT}/scripts/environment.sh"; found=$(find_supported_python) && echo "$found"'
    bash = shutil.which("bash")
    done = subprocess.run([bash, "-c", source], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: MindSpore needs Python 3.9 to 3.12 and none is on PATH: install one, or name it with PYTHON=..."
    ]


@pytest.mark.parametrize("active", [True, False], ids=["of an active environment", "of the system"])
def test_a_mindspore_that_is_installed_is_kept(tmp_path, active):
    """A .venv made by the Python of a virtual environment would not see the packages of that environment."""
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ncase "$*" in *m.version*) exit 0 ;; *base_prefix*) exit "$PLAIN" ;; '
        '-c*) echo /an/environment ;; *) echo "$*" ;; esac\n'
    )
    python.chmod(0o755)
    source = f'source "{ROOT}/scripts/environment.sh"; root="{tmp_path}"; set_up_environment requirements.txt'
    environment = {**os.environ, "PYTHON": str(python), "PLAIN": "0" if active else "1"}
    done = subprocess.run(["bash", "-c", source], env=environment, capture_output=True, text=True, timeout=60)
    if active:
        installed = "-m pip install --quiet --disable-pip-version-check -r requirements.txt"
        said = ["using /an/environment, which has MindSpore", "installing requirements.txt", installed]
        assert (done.stdout.splitlines(), done.returncode) == (said, 0), done.stderr
    else:
        assert f"-m venv --system-site-packages {tmp_path}/.venv" in done.stdout.splitlines()


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_a_script_is_valid_bash_and_deletes_nothing(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert "rm -" not in script.read_text()


def test_cifar10_as_files_makes_one_folder_for_image_folders_and_for_labels_in_a_table(tmp_path, made_images, program):
    train, test = ((part.images, part.labels) for part in (made_images.train, made_images.test))
    write_cifar10(tmp_path / "data", train, test)
    given = ("--data_path", tmp_path / "data", "--output_path", tmp_path / "files")
    done = program("scripts.cifar10_as_files", *given)
    assert not done.returncode, done.stderr
    config, files = DataConfig(data_path=str(tmp_path / "data"), val_split=0.1), str(tmp_path / "files")
    for split in ("train", "val", "test"):
        expected = open_source(config, split)
        found = [open_source(DataConfig(dataset="image_folder", data_path=files), split)]
        found += [open_source(DataConfig(dataset="image_csv", data_path=files), "val")] if split == "val" else []
        for source in found:
            assert source.classes == list(CLASSES)
            assert pixels_by_class(source) == pixels_by_class(expected), split
    assert "already exists" in one_line_error(program("scripts.cifar10_as_files", *given))
    assert "output_path" in one_line_error(program("scripts.cifar10_as_files"))
    assert sorted(path.name for path in (tmp_path / "files").parent.iterdir()) == ["data", "files"]


def pixels_by_class(source) -> list[tuple[int, bytes]]:
    return sorted((int(label), source.image(index).tobytes()) for index, label in enumerate(source.labels))
