"""Any flags and any YAML, for each program: it would start, or it ends in one line; never in a traceback."""

from __future__ import annotations

import dataclasses
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.config import DeviceConfig, TrainConfig
from src.inference.config import EvalConfig, ExportConfig, InferConfig
from tests.programs import one_line_error

CASES = 250  # For each of the four programs.
# Where each program goes to work when its configuration is sound, and what it gets there.
WORK = {
    "train": ("src.training.run.train", list(get_type_hints(TrainConfig).values())),
    "eval": ("src.inference.evaluation.evaluate_model", [EvalConfig, DeviceConfig]),
    "infer": ("src.inference.classify.infer", [InferConfig, DeviceConfig]),
    "export": ("src.inference.export.export_checkpoint", [ExportConfig, DeviceConfig]),
}
NASTY = st.sampled_from(
    [
        *("", " ", "null", "~", "true", "yes", "nan", "-inf", "1e999", "-1", "0", "1_0", "0x10", "9" * 5000, "1" * 300),
        *(
            "[",
            "]",
            "{}",
            "[]",
            "[a, b]",
            "[[a], b]",
            "{a: b}",
            "{a: {b: c}}",
            "*a",
            "&a",
            "&a [*a]",
            "!!int ''",
            "!!bool x",
        ),
        *(
            "!!set {a}",
            "!!binary aGk=",
            "!!python/object/apply:os.system [true]",
            "!!timestamp 2001-01-01",
            "2001-01-01",
        ),
        *(
            "<<",
            "<<: a",
            "a: b",
            "|",
            ">",
            "%",
            "@",
            "`",
            "#",
            "'",
            '"',
            "\\",
            "-",
            "--",
            "---",
            "...",
            "?",
            ": :",
            "=",
        ),
        *(
            "\x00",
            "\x07",
            "\x1b[2J",
            "\x85",
            "\x7f",
            "\ufeff",
            "\ufffe",
            "\u2028",
            "\n",
            "\t",
            "\r",
            "😀",
            "\udcff",
            "\ud800",
        ),
        *(
            "12:30:45",
            "1e-4",
            ".5",
            "5.",
            "+.inf",
            "0o7",
            "1 000",
            "1,5",
            "½",
            "٣",
            "None",
            "False",
            "../..",
            "~root",
            "/",
        ),
        *("${HOME}", "$HOME", "%s", "{0}", "x" * 5000, "[" * 500, "{" * 500, "a\nb", "--lr_max=3", "--config=x.yaml"),
    ]
)


def keys_of(name: str) -> dict[str, Any]:
    """The keys of a program with their types."""
    return {key: kind for concern in WORK[name][1] for key, kind in get_type_hints(concern).items()}


def values_of(kind: Any) -> st.SearchStrategy[str]:
    """Values of a type, as they are written, so that a good part of all configurations is sound."""
    choices = [str(choice) for choice in literals(kind)]
    if choices:
        return st.sampled_from(choices)
    kind = get_args(kind)[0] if get_origin(kind) is Union else kind
    if get_origin(kind) is list:
        return st.sampled_from(["[a, b]", "[a.png, 狗.png]"])
    if kind is str:
        return st.text("abcXYZ019 ._/é狗😀", min_size=1, max_size=12)
    return st.sampled_from(
        ["true", "false"]
        if kind is bool
        else ["1", "2", "5", "32"]
        if issubclass(kind, int)
        else ["0.5", "0.25", "1e-3"]
    )


def literals(kind: Any) -> list:
    if get_origin(kind) is None:
        return []
    return [
        choice for option in get_args(kind) for choice in ([option] if isinstance(option, str) else literals(option))
    ]


@st.composite
def settings_of(draw, name: str, wild: bool) -> list[tuple[str, str]]:
    """Some keys of a program with values: all that they take, or some of them anything."""
    keys = keys_of(name)
    pairs = []
    for key in draw(st.lists(st.sampled_from(sorted(keys)), max_size=5, unique=not wild)):
        value = draw(values_of(keys[key]))
        if wild and draw(st.booleans()):
            value = draw(NASTY | st.text(max_size=12) | st.integers().map(str) | st.floats().map(str))
        if wild and draw(st.integers(0, 5)) == 0:
            key = draw(NASTY | st.text(max_size=8) | st.sampled_from(["config", "lr-max", "model.version", "Bypass"]))
        pairs.append((key, value))
    return pairs


@st.composite
def command_lines(draw, name: str) -> tuple[list[str], str | None]:
    """Flags, and the text of a YAML file or none: most of them as they should be, or none of it."""
    argv: list[str] = []
    wild = draw(st.booleans())
    required = {"train": [], "infer": [("images", "a.png")]}.get(name, [("ckpt_path", "a.ckpt")])
    for key, value in draw(settings_of(name, wild)) + (required if not wild or draw(st.booleans()) else []):
        form = draw(st.integers(0 if wild else 4, 9))
        if form == 0:
            argv += [f"--{key}"]
        elif form == 1:
            argv += [f"--{key}", value, draw(NASTY)]
        elif form == 2:
            argv += [value]
        else:
            argv += [f"--{key}={value}"] if form % 2 else [f"--{key}", value]
    if draw(st.booleans()):
        return argv, None
    lines = [f"{key}: {value}" for key, value in draw(settings_of(name, wild))]
    text = st.text("seed: 1[]{}&a*!|>'\"%@`#,?-\n\t\x00", max_size=40)
    return argv, draw(text | NASTY) if wild and draw(st.booleans()) else "\n".join(lines)


class Started:
    """Stands for a program's work: keeps the configuration, and ends the program as if all were done."""

    def __init__(self):
        self.configs: tuple = ()

    def __call__(self, *configs):
        self.configs = configs
        raise SystemExit(0)


@pytest.mark.parametrize("name", WORK)
def test_any_configuration_starts_or_ends_in_one_line(faults, program, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    work = Started()
    monkeypatch.setattr(WORK[name][0], work)

    with faults(f"configurations of {name}.py", "sound or refused in one line") as inject:
        sound = 0

        # The same cases each time, so that a red run is never by chance; raise CASES to search further.
        @settings(
            max_examples=CASES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(command_lines(name))
        def try_one(case):
            nonlocal sound
            argv, text = case
            if text is not None:
                (tmp_path / "any.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
                argv = [*argv, "--config", "any.yaml"]
            work.configs = ()
            with inject.fault(f"{argv!r}, {text!r}"):
                done = program(name, *argv)
                if done.returncode == 0 and work.configs:
                    sound += 1
                    said = done.stderr.splitlines()
                    assert all(line.startswith("warning: ") for line in said), done.stderr
                    assert all(map(dataclasses.is_dataclass, work.configs))
                elif done.returncode == 0:
                    assert done.stdout.startswith("usage: ") and {"-h", "--help"} & {*argv}
                else:
                    assert one_line_error(done) != "error: " and not work.configs

        try_one()
        inject.notes.append(f"{sound} of them sound")
        assert sound > CASES // 5  # The search is of both kinds.
        assert {entry.name for entry in tmp_path.iterdir()} <= {"any.yaml"}
