"""Design of a study: its configurations, each once, with their folders and sizes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any, Iterator

from src.cli.errors import UserError
from src.config import RUN_CONFIG, TrainConfig, decisive_keys, parse_train
from src.dataset import open_source
from src.dataset.options import DataSourceConfig
from src.network.convolutions import METAPARAMETERS, layers_of
from src.network.summary import check_image_size, summarize, totals
from src.study.config import Base, StudyConfig, variations

BASE = "base"


@dataclasses.dataclass(frozen=True)
class Point:
    """A configuration of a study.

    name: of its folder within the study's. values: the value of each varied key.
    """

    name: str
    values: dict[str, str]
    config: TrainConfig
    parameters: int
    multiply_adds: int

    @property
    def bytes(self) -> int:
        """Size of the parameters in float32."""
        return 4 * self.parameters


@dataclasses.dataclass(frozen=True)
class Design:
    """A study's configurations, each trained with each of the seeds.

    axes: values by varied key. own: the base's value of each.
    """

    base: TrainConfig
    points: list[Point]
    seeds: list[int]
    axes: dict[str, list[str]]
    own: dict[str, str]

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return Path(self.base.run.output_path)

    def subject(self) -> str:
        """Return what is trained, in words."""
        config, seeds = self.base, ", ".join(map(str, self.seeds))
        return (
            f"SqueezeNet {config.model.version} on {config.data.dataset}, {config.schedule.epochs} epochs, "
            f"seed{'s' * (len(self.seeds) > 1)} {seeds}"
        )

    def runs(self) -> Iterator[tuple[Point, int, Path]]:
        """Yield the point, the seed and the folder of each run."""
        for point, seed in itertools.product(self.points, self.seeds):
            yield point, seed, self.run_folder(point, seed)

    def run_folder(self, point: Point, seed: int) -> Path:
        """Return the folder of a run."""
        return self.folder / point.name / f"seed_{seed}"


def make_design(study: StudyConfig, base: Base) -> Design:
    """Return the design of a study. Raises UserError, before anything is written, for what cannot be trained."""
    axes = variations(study.vary)
    if not axes:
        raise UserError("vary: a value is missing, as in --vary squeeze_ratio=0.125,0.25,0.5")
    for key, values in axes.items():  # The first mistake is that of a value alone.
        for value in values:
            base.varied({key: value})
    if study.grid:
        combinations = [dict(zip(axes, values)) for values in itertools.product(*axes.values())]
    else:
        combinations = [{key: value} for key, values in axes.items() for value in values]
    own, classes = _own_values(axes, base), _Classes()
    points: dict[str, Point] = {}
    for changes in combinations:
        with contextlib.redirect_stderr(io.StringIO()):  # Warnings that the base has given rise to already.
            config = base.varied(changes)
            needed = _needed(changes, base)
        size = config.data.image_size
        found = classes.of(config)
        model = {**dataclasses.asdict(config.model), "num_classes": config.model.num_classes or found}
        check_image_size(model, size)
        name = "-".join(f"{key}_{_file_name(value)}" for key, value in needed.items()) or BASE
        point = Point(name, {**own, **changes}, config, *totals(summarize(model, size)))
        points.setdefault(_identity(config), point)
    seeds = list(dict.fromkeys(study.seeds)) or [base.config.run.seed]
    design = Design(base.config, list(points.values()), seeds, axes, own)
    for point, seed, folder in design.runs():
        _check_run(point, seed, folder)
    return design


class _Classes:
    """Numbers of classes of data sets, each of which is opened once."""

    def __init__(self):
        self._known: dict[str, int] = {}

    def of(self, config: TrainConfig) -> int:
        """Return the number of classes of a configuration's data set. Raises UserError for unusable data."""
        keys = [field.name for field in dataclasses.fields(DataSourceConfig)] + ["val_split", "train_images"]
        key = repr([getattr(config.data, name) for name in keys])
        if key not in self._known:
            self._known[key] = len(open_source(config.data, "train").classes)
        return self._known[key]


def fixed_keys(config: TrainConfig) -> dict[str, Any]:
    """Return the keys that decide the results of a study, apart from the seed."""
    keys = {**decisive_keys(config), "epochs": config.schedule.epochs, "pretrained": config.run.pretrained}
    del keys["seed"]
    return keys


def differences(config: TrainConfig, former: TrainConfig) -> str:
    """Return the fixed keys whose values differ, as `key: former -> new`."""
    old = fixed_keys(former)
    return "; ".join(f"{key}: {old[key]} -> {new}" for key, new in fixed_keys(config).items() if old[key] != new)


def _check_run(point: Point, seed: int, folder: Path) -> None:
    """Raise UserError if the folder contains a run of another configuration."""
    if os.path.isfile(folder / RUN_CONFIG):
        with contextlib.redirect_stderr(io.StringIO()):
            begun = parse_train([f"--config={folder / RUN_CONFIG}"], "")
        found = differences(point.config, begun) or (begun.run.seed != seed and f"seed: {begun.run.seed} -> {seed}")
        if found:
            raise UserError(f"{folder}: contains a run with other values ({found}); choose another --output_path")


def _identity(config: TrainConfig) -> str:
    """Return a text that is equal for configurations of equal trainings, however the network is described."""
    concerns = dataclasses.asdict(config)
    layers = layers_of(concerns["model"])
    concerns["model"] = {key: value for key, value in concerns["model"].items() if key not in METAPARAMETERS}
    return repr((layers, concerns))


def _needed(changes: dict[str, str], base: Base) -> dict[str, str]:
    """Return the changes without those that change nothing, such as the base's own value."""
    needed = dict(changes)
    for key in changes:
        fewer = {name: value for name, value in needed.items() if name != key}
        if _identity(base.varied(fewer)) == _identity(base.varied(needed)):
            needed = fewer
    return needed


def _own_values(axes: dict[str, list[str]], base: Base) -> dict[str, str]:
    """Return the base's value of each varied key, in the words of --vary where they name it."""
    own = {}
    for key, values in axes.items():
        same = [value for value in values if _identity(base.varied({key: value})) == _identity(base.varied({}))]
        plain = next(getattr(c, key) for c in vars(base.config).values() if hasattr(c, key))
        own[key] = same[0] if same else as_word(plain)
    return own


def as_word(value: Any) -> str:
    """Return the value of a key in the words of --vary."""
    if isinstance(value, list):
        return "+".join(map(str, value)) or "[]"
    return value if isinstance(value, str) else json.dumps(value)


def _file_name(value: str) -> str:
    """Return a value as part of a file's name, different for each value."""
    plain = re.sub(r"[^A-Za-z0-9.+]", "_", value)
    return plain if plain == value else f"{plain[-40:]}_{hashlib.sha1(value.encode()).hexdigest()[:6]}"
