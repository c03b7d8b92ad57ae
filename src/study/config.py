"""Configuration of study.py: which trainings, or which runs to compare."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, Sequence

from src.cli.errors import UserError
from src.cli.flags import Parser
from src.cli.types import Count, CountOrZero
from src.config import CONFIG_FILES, TrainConfig, folder_to_resume, parse_train, train_parser, with_keys

Words = dict[str, Sequence[str]]
_OF_THE_STUDY = {
    "seed": "give --seeds 1 2 3",
    "config": "give it once, with --config",
    **dict.fromkeys(("output_path", "resume", "overwrite"), "it concerns the study as a whole"),
}


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Study: trainings that differ in some keys, or a comparison of runs."""

    vary: list[str] = dataclasses.field(default_factory=list)
    """key of train.py with its values, KEY=VALUE,VALUE,...; the flag may be repeated; in a value of several words they
    are joined by +, as in augment=none,crop_flip+cutout"""
    grid: bool = False
    """train all combinations of the values; false: vary one key at a time around the base"""
    seeds: list[CountOrZero] = dataclasses.field(default_factory=list)
    """seeds, with each of which every configuration is trained; none given: the base's"""
    jobs: Count = 1
    """trainings at the same time, which share the cores"""
    dry_run: bool = False
    """print the plan and stop"""
    runs: list[str] = dataclasses.field(default_factory=list)
    """compare these runs instead of training: their folders, or folders that contain them"""
    x_axis: Literal["epochs", "minutes"] = "epochs"
    """horizontal axis of the comparison's plot"""


@dataclasses.dataclass(frozen=True)
class Base:
    """The configuration that a study varies, and the words of a command line that it was made from.

    config: its output_path is the study's folder.
    """

    config: TrainConfig
    words: Words
    resume: bool

    def varied(self, changes: dict[str, str]) -> TrainConfig:
        """Return the configuration with values for some keys, as --vary has them. Raises UserError for invalid ones."""
        varied = {key: text.split("+") if train_parser("").takes_list(key) else [text] for key, text in changes.items()}
        return with_keys(parse_train(_argv({**self.words, **varied}), ""), resume=False)


def parse_study(argv: Sequence[str]) -> tuple[StudyConfig, Words]:
    """Parse a command line of study.py; return also the words of the other keys. Exits with 0 after --help."""
    train = train_parser("")
    dialect, positional = train.dialect._replace(repeated=("vary",)), {**CONFIG_FILES, "": "runs"}
    words = Parser("Train a study, or compare runs.", [StudyConfig, *train.concerns], dialect, positional).words(argv)
    own = {field.name: words.pop(field.name) for field in dataclasses.fields(StudyConfig) if field.name in words}
    (study,) = Parser("", [StudyConfig]).fill(own)
    return study, words


def read_study(file: Path) -> StudyConfig:
    """Read a StudyConfig from a YAML file. Raises UserError for an invalid one."""
    return Parser("", [StudyConfig]).fill({"config": [str(file)]})[0]


def base_of(words: Words) -> Base:
    """Return the base that the keys of train.py describe. With --resume FOLDER alone it is read from that folder."""
    words = dict(words)
    folder_to_resume(words)
    named = Path(words["config"][0]).stem if words.get("config") else "squeezenet_cifar10"
    words.setdefault("output_path", [f"studies/{named}"])
    config = parse_train(_argv(words), "")
    if config.run.overwrite:
        raise UserError("overwrite: a study replaces no runs; remove its folder, or choose another --output_path")
    return Base(with_keys(config, resume=False), words, config.run.resume)


def variations(vary: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of each key of --vary, each once. Raises UserError for anything else than KEY=VALUE,..."""
    values: dict[str, list[str]] = {}
    for word in vary:
        key, equals, listed = word.partition("=")
        if not (key and equals and listed):
            raise UserError(f"vary: {word!r} is not allowed; it takes KEY=VALUE,VALUE, as in squeeze_ratio=0.125,0.25")
        key = key.lstrip("-").replace("-", "_")
        train_parser("").takes_list(key)
        if key in _OF_THE_STUDY:
            raise UserError(f"vary: {key} cannot be varied: {_OF_THE_STUDY[key]}")
        values[key] = list(dict.fromkeys([*values.get(key, []), *listed.split(",")]))
    return values


def _argv(words: Words) -> list[str]:
    """Return a command line of these words."""
    return [
        token
        for key, given in words.items()
        for token in ([f"--{key}={given[0]}"] if len(given) == 1 else [f"--{key}", *given])
    ]
