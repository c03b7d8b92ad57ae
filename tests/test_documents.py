"""README and docs/: their commands parse or run, their links lead somewhere, and the Chinese README is the English one.

docs/TESTING.md lists the commands that no test runs, with the reason.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
import re
import runpy
import shlex
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Iterator

import pytest

from src.cli.errors import UserError
from src.launching import launch
from src.study.config import StudyConfig, base_of, variations
from tests.programs import ROOT, run_here

README, CHINESE = ROOT / "README.md", ROOT / "README_CN.md"
PAGES = [README, CHINESE, *sorted((ROOT / "docs").glob("**/*.md")), ROOT / "benchmarks" / "README.md"]
SHELL = ("bash", "console")
# What each program does once its arguments are parsed.
WORK = {
    "train": ["src.training.run.train"],
    "eval": ["src.inference.evaluation.evaluate_model"],
    "infer": ["src.inference.classify.infer"],
    "export": ["src.inference.export.export_checkpoint"],
    "compress": ["src.compression.compress.compress", "src.compression.compress.decompress"],
    "convert": ["src.conversion.converting.convert"],
    "to_mindrecord": ["src.dataset.packing.pack"],
    "study": ["src.study.study.run_study", "src.study.comparison.compare_runs"],
    "src.summary": ["src.summary.summarize"],
}
DEVICES = {"ascend": "Ascend", "gpu": "GPU", "cpu": "CPU"}
SCRIPTED = {"run_standalone_train": "train", "run_eval": "eval", "run_export": "export"}
# Keys of the programs that name files to read, and names of such files that the reader brings.
INPUTS = ("ckpt_path", "model_path", "pretrained", "images", "decompress", "file", "runs", "labels")
READERS_OWN = ["photo.jpg", "holiday", "squeezenet_v1_0_imagenet.ckpt", "other.ckpt", "weights.npz", "squeezenet.onnx"]
READERS_OWN += ["squeezenet1_1.pth", "compressed_SqueezeNet.net", "squeezenet_v1.1.caffemodel", "labels.csv", "photos"]


def fences(page: Path) -> list[tuple[str, str]]:
    """Return (language, text) of the fenced blocks of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Return the words of each command of a page: those in blocks, and those in its text that leave nothing open."""
    lines = []
    for language, text in fences(page):
        joined = re.sub(r"^\$ .*\nerror: ", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
        if language == "console":
            joined = [line[2:] for line in joined if line.startswith("$ ")]
        lines += joined if language in SHELL else []
    inline = (" ".join(text.split()) for text in re.findall(r"`((?:python|bash) [^`]+)`", prose(page)))
    lines += [line for line in inline if not re.search(r"\$|\.\.\.|\b[A-Z]{2,}\b|<|\{", line.replace("README", ""))]
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        for part in " ".join(shlex.quote(word) for word in words).split(" '&&' "):
            found += [shlex.split(part)] if part else []
    return found


def not_run() -> dict[str, str]:
    """Return the reasons by pattern that docs/TESTING.md has."""
    rows = re.findall(
        r"^\| `(.*?)` \| (.*?) \|$", (ROOT / "docs" / "TESTING.md").read_text().split("as they stand:")[1], re.M
    )
    return dict(rows)


def reason_not_to_run(words: list[str]) -> str | None:
    line = " ".join(words)
    line = line.removeprefix("bash ")
    return next((why for pattern, why in not_run().items() if fnmatch.fnmatch(line + " ", pattern + "*")), None)


class Parsed(BaseException):
    """The dataclasses that a program's arguments have become."""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder that looks like a clone, with the reader's own files."""
    for name in (
        "config",
        "docs",
        "results",
        "scripts",
        "benchmarks",
        "tests",
        "tutorials",
        *(p.name for p in ROOT.glob("*.*t")),
    ):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in READERS_OWN:
        (tmp_path / name).touch()
    with zipfile.ZipFile(tmp_path / "squeezenet1_1.pth", "w") as file:  # As torch.save makes them.
        file.writestr("squeezenet1_1/data.pkl", b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def parse_only() -> Iterator[None]:
    """Have the programs stop where their work begins."""

    def stop(*parsed):
        raise Parsed(*parsed)

    with pytest.MonkeyPatch.context() as patch:
        for name in (name for names in WORK.values() for name in names):
            patch.setattr(name, stop)
        yield


def keys_of(parsed: Parsed) -> dict:
    """Return the values of all keys of parsed dataclasses."""
    found: dict = {}
    pending = list(parsed.args)
    while pending:
        one = pending.pop()
        if hasattr(one, "__dataclass_fields__"):
            found.update(vars(one))
            pending += vars(one).values()
        elif isinstance(one, tuple):
            pending += one
    return found


def keys_of_study(study: StudyConfig, words: dict) -> dict:
    """Return the keys of a study, once each of its trainings has been parsed."""
    base = base_of(words)
    for key, values in variations(study.vary).items():
        for value in values:
            base.varied({key: value})
    return {**vars(study), **keys_of(Parsed(base.config))}


def parse(program: str, arguments: list[str]) -> dict:
    """Return the keys of a program's command line. Raises AssertionError with the message for one that is refused."""
    try:
        with parse_only():
            done = run_here(program, *arguments)
    except Parsed as parsed:
        return keys_of(parsed) if program != "study" else keys_of_study(*parsed.args)
    raise AssertionError(f"{program} {arguments}: {done.stderr}")


def note_outputs(program: str, keys: dict, arguments: list[str]) -> None:
    """Make empty files where a program would write its own, for the commands that follow on a page."""
    made = []
    if program in ("train", "study"):
        run = Path(keys["output_path"])
        made = [run / name for name in ("best.ckpt", "squeezenet.ckpt")]
        run.mkdir(parents=True, exist_ok=True)
        config = arguments[arguments.index("--config") + 1] if "--config" in arguments else "squeezenet_cifar10"
        if not keys["resume"]:
            shutil.copy(ROOT / "config" / f"{Path(config).stem}.yaml", run / "config.yaml")
    elif program == "export":
        default = Path(keys["ckpt_path"]).with_suffix("." + keys["file_format"].lower())
        made = [Path(keys["file_name"] or default)]
        made.append(made[0].with_name(made[0].name + ".json"))
    elif program == "compress":
        source = Path(keys["decompress"] or keys["ckpt_path"])
        name = "best.sqz" if not keys["decompress"] else f"{source.stem}.ckpt"
        made = [Path(keys["output_path"] or source.with_name(f"compressed_{source.stem}")) / name]
    elif program == "convert":
        made = [Path(keys["ckpt_path"] if keys["from_format"] else keys["file"])]
    elif program == "to_mindrecord":
        Path(keys["output_path"]).mkdir(parents=True, exist_ok=True)
    for path in made:
        if not path.resolve().is_relative_to(ROOT):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def check_program(program: str, arguments: list[str]) -> None:
    if "--help" in arguments:
        return
    keys = parse(program, arguments)
    reads = [name for name in INPUTS if not (program == "convert" and name == "ckpt_path" and keys["from_format"])]
    reads = [name for name in reads if not (program == "convert" and name == "file" and keys["to_format"])]
    for name in reads:
        for path in keys[name] if isinstance(keys.get(name), list) else [keys.get(name)]:
            assert path is None or Path(path).exists(), f"{program} {' '.join(arguments)}: no {name} {path}"
    note_outputs(program, keys, arguments)


def check(words: list[str]) -> None:
    """Check one command: its program exists and takes these arguments, and the files that it names are there."""
    first, *rest = words
    if (reason_not_to_run(words) or "").startswith("an example"):
        return
    if first == "bash" or (first == "python" and rest[0].endswith(".py")):
        assert (ROOT / rest[0]).is_file(), words
    if first == "bash":
        name, _, device = Path(rest[0]).stem.rpartition("_")
        target = ["--device_target", DEVICES.get(device, "CPU"), "--strict_device"]
        if name in SCRIPTED:
            check_program(SCRIPTED[name], [*target, *rest[1:]])
        elif name == "run_distribute_train":
            options, flags = launch.parser().parse_known_args(rest[1:])
            check_program("train", [*target, *launch._flags(options, flags)])
        else:
            assert rest[0] == "scripts/test.sh" or len(rest) == 1 or reason_not_to_run(words), words
    elif first == "python" and Path(rest[0]).stem in WORK and "/" not in rest[0]:
        check_program(Path(rest[0]).stem, rest[1:])
    elif rest[:1] == ["-m"] and rest[1] in WORK:
        check_program(rest[1], rest[2:])
    elif rest[:1] == ["-m"] and rest[1] == "pytest":
        paths = [word for word in rest[2:] if word.startswith("tests")]
        assert paths and all((ROOT / path).exists() for path in paths), words
    elif first == "python" and rest[0].endswith(".py"):
        source = (ROOT / rest[0]).read_text()
        for flag in (word for word in rest if word.startswith("--")):  # Of argparse, or a dataclass's field.
            assert re.search(rf'"{flag}"|^    {flag[2:]}: ', source, re.MULTILINE), words
    elif rest[:1] == ["-m"] and rest[1].startswith("tests."):
        assert (ROOT / rest[1].replace(".", "/")).with_suffix(".py").is_file(), words
    elif first == "cp":
        shutil.copy(*rest)
    else:
        assert reason_not_to_run(words), f"{words}: docs/TESTING.md says nothing of it"
        for made in re.findall(r"--output(?:File)?=(\S+)", " ".join(rest)):
            for suffix in ("", ".mindir", ".ms"):
                Path(made + suffix).touch()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_parses_and_names_files_that_are_there(folder, page):
    for words in commands(page):
        check(words)


def test_the_pages_have_commands_and_each_reason_not_to_run_one_is_used():
    found = [words for page in PAGES for words in commands(page)]
    assert len(found) > 80
    used = {reason_not_to_run(words) for words in found}
    assert set(not_run().values()) <= used


def test_a_stale_command_is_noticed(folder):
    for line in ("train.py --learning_rates 1", "eval.py nowhere/best.ckpt", "benchmarks/latency.py --no_such_flag"):
        with pytest.raises((AssertionError, UserError)):
            check(["python", *line.split()])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_mistake_is_shown_as_it_is_printed(folder, page):
    """What a page shows below a command in a console block is what the program prints."""
    (folder / "runs" / "squeezenet_digits").mkdir(parents=True)
    (folder / "runs" / "squeezenet_digits" / "checkpoints").mkdir()
    for command, shown in re.findall(r"^\$ python (.*)\n(error: .*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        program, *arguments = shlex.split(command)
        done = run_here(Path(program).stem, *arguments)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(shown.removesuffix("...").rstrip()), done.stderr


def files_listed(page: str, first: str) -> set[str]:
    """Return the files in the first column of a page's table that begins with one of them."""
    table = next(t for t in re.findall(r"(?:^\|.*\n)+", (ROOT / "docs" / page).read_text(), re.MULTILINE) if first in t)
    cells = " ".join(re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE))
    return set(re.findall(r"`([^`]+)`", cells))


def test_the_table_of_the_run_folder_lists_what_is_in_one(tiny):
    found = {path.name for path in tiny.folder.iterdir() if not path.name.startswith(".")} - {"scalars", "checkpoints"}
    assert files_listed("TRAINING.md", "`best.ckpt`") == {*found, "scalars/", "checkpoints/SqueezeNet-*.ckpt"}


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page)) + re.findall(r"^\[\w+\]: (\S+)", prose(page), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in links(page):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_readme():
    reached, pending = set(), [README]
    while pending:
        page = pending.pop()
        reached.add(page)
        found = [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link]
        pending += [path for path in found if path.suffix == ".md" and path not in reached]
    assert set(PAGES) <= reached


def outline(page: Path) -> SimpleNamespace:
    """Return what the two READMEs have in common: heading levels, blocks without their comments, and links."""
    text = prose(page)
    return SimpleNamespace(
        levels=[len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)],
        blocks=[(language, re.sub(r"  # .*", "", block)) for language, block in fences(page)],
        links=[link for link in links(page) if not link.startswith("README")],
        rows=len(re.findall(r"^\|", text, re.MULTILINE)),
        figures=re.findall(r"\d[\d.,]*%|\d{1,3}(?:,\d{3})+", text),
    )


def test_the_chinese_readme_has_the_same_headings_commands_links_and_figures():
    assert outline(CHINESE) == outline(README)


def test_the_readme_can_be_read_in_three_minutes():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 180


@pytest.mark.thorough
def test_every_command_of_the_readme_runs(folder):
    """Training is shortened; the Python block runs too."""
    ran = []
    for words in commands(README):
        if reason_not_to_run(words):
            continue
        assert words[0] == "python", words
        program = Path(words[1]).stem
        short = ["--epochs", "1", "--train_images", "64", "--warmup_epochs", "0"] if program == "train" else []
        done = run_here(program, *words[2:], *short)
        assert done.returncode == 0, (words, done.stderr)
        ran.append(program)
        if program == "infer":
            for file in (folder / "docs" / "samples" / "photographs").glob("*.jpg"):
                shown = re.search(rf"^{file.relative_to(folder)} +(\w+) ", README.read_text(), re.MULTILINE)
                assert shown and re.search(rf"^{file.relative_to(folder)} +{shown[1]} ", done.stdout, re.MULTILINE)
    assert {"train", "eval", "infer", "export", "compress"} <= set(ran)


def test_the_python_block_of_the_readme_runs(folder):
    ((_, text),) = [fence for fence in fences(README) if fence[0] == "python"]
    assert len(text.strip().splitlines()) <= 8
    (folder / "readme.py").write_text(text)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path("readme.py")
    assert out.getvalue().startswith("cat ")
    assert os.getcwd() == str(folder)
