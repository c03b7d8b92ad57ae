"""Configuration: R1's recipe by default, a YAML file over it, flags over that; every mistake one line."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from src.config import (
    DeviceConfig,
    EvalConfig,
    ExportConfig,
    InferConfig,
    ModelConfig,
    ScheduleConfig,
    TrainConfig,
    load_yaml,
    parse,
    parse_train,
    reference,
    to_yaml,
)
from src.errors import UserError
from src.lr_generator import LR_DECAY_MODES
from src.network.design_space import STEMS
from src.network.geometry import feature_size
from src.squeezenet import BATCH_NORMS, BYPASSES, VERSIONS, SqueezeNet
from src.training import learning_rates

ROOT = Path(__file__).resolve().parent.parent
KEYS = [field.name for kind in get_type_hints(TrainConfig).values() for field in dataclasses.fields(kind)]


def train_config(*argv: str) -> TrainConfig:
    return parse_train(list(argv), "a test")


def values(config: TrainConfig) -> dict:
    """All keys of a configuration in one mapping."""
    return {key: value for concern in dataclasses.asdict(config).values() for key, value in concern.items()}


def mistake(*argv: str) -> str:
    """The line that a user gets for a command line."""
    with pytest.raises(UserError) as error:
        train_config(*argv)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def yaml_file(tmp_path):
    """A function that writes a YAML file and returns its path."""

    def write(content: str | bytes) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_the_defaults_are_the_recipe_of_the_mindspore_tutorial():
    recipe = {
        "version": "1_0",
        "bypass": "none",
        "batch_norm": "none",
        "final_relu": True,
        "dropout": 0.5,
        "dataset": "cifar10",
        "batch_size": 32,
        "image_size": 224,
        "fit": "resize",
        "augment": "none",
        "normalize": "dataset",
        "optimizer": "momentum",
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "decay_biases": True,
        "label_smoothing": 0,
        "epochs": 30,
        "lr_decay_mode": "reference_linear",
        "lr_init": 0,
        "lr_max": 0.01,
        "lr_end": 0,
        "warmup_epochs": 5,
        "pretrain_epochs": 0,
        "mode": "graph",
        "keep_checkpoint_max": 10,
    }
    config = values(train_config())
    assert {key: config[key] for key in recipe} == recipe


def test_the_recipe_of_the_mindspore_tutorial_is_also_a_file():
    recipe, defaults = (
        values(train_config(*argv)) for argv in (["--config", str(ROOT / "config" / "squeezenet_cifar10.yaml")], [])
    )
    assert recipe.pop("num_classes") == 10
    assert defaults.pop("num_classes") is None, "as many as CIFAR-10 has"
    assert recipe == defaults


@pytest.mark.parametrize(
    ("name", "version", "bypass", "size", "epochs", "decay", "rate"),
    [
        ("v1_0", "1_0", "none", 227, 200, "poly", 0.01),
        ("v1_1", "1_1", "none", 224, 200, "poly", 0.01),
        ("simple_bypass", "1_0", "simple", 227, 300, "cosine", 0.01),
        ("complex_bypass", "1_0", "complex", 227, 300, "cosine", 0.003),  # It diverges at the zoo's 0.01.
    ],
)
def test_the_imagenet_recipes_are_the_model_zoos(name, version, bypass, size, epochs, decay, rate):
    recipe = values(train_config("--config", str(ROOT / "config" / f"squeezenet_imagenet_{name}.yaml")))
    expected = {
        **{"version": version, "bypass": bypass, "image_size": size, "epochs": epochs, "lr_decay_mode": decay},
        # squeezenet_imagenet_config.yaml and squeezenet_residual_imagenet_config.yaml of mindspore-ai/models, made for
        # eight devices.
        **{"batch_size": 32, "momentum": 0.9, "weight_decay": 7e-5, "label_smoothing": 0.1},
        **{"lr_init": 0, "lr_max": rate, "lr_end": 0, "lr_batch_size": 256, "num_classes": 1000},
        "warmup_epochs": 1 if bypass == "complex" else 0,
        **{"dataset": "imagenet", "fit": "center_crop", "resizer": "pillow", "augment": "crop_flip"},
    }
    assert {key: recipe[key] for key in expected} == expected


def test_flags_take_precedence_over_the_file_and_the_file_over_the_defaults(yaml_file):
    path = yaml_file("lr_max: 0.2\nbatch_size: 64\n")
    config = train_config("--batch_size", "128", "--config", path)
    assert (config.schedule.lr_max, config.data.batch_size, config.schedule.epochs) == (0.2, 128, 30)


def test_the_last_of_two_flags_wins():
    assert train_config("--version=1_1", "--version", "cifar").model.version == "cifar"


def test_the_run_folder_is_named_after_the_configuration(yaml_file):
    assert train_config().run.output_path == "runs/squeezenet_cifar10"
    assert train_config("--config", yaml_file("")).run.output_path == "runs/recipe"
    assert train_config("--config", yaml_file("output_path: here")).run.output_path == "here"


@pytest.mark.parametrize(
    "text, key, value",
    [
        ("version: 1_0", "version", "1_0"),  # Ten, in YAML 1.1.
        ("version: 1_1 # later", "version", "1_1"),
        ("weight_decay: 1e-4", "weight_decay", 1e-4),  # A text, in YAML 1.1.
        ("lr_init: 0", "lr_init", 0.0),
        ("lr_max: 5.e-2", "lr_max", 0.05),
        ("batch_size: 010", "batch_size", 10),  # Eight, in YAML 1.1.
        ("num_classes: null", "num_classes", None),
        ("num_classes: 7", "num_classes", 7),
        ("final_relu: false", "final_relu", False),
        ("augment: crop_flip", "augment", "crop_flip"),
        ("augment: [crop_flip, cutout]", "augment", ["crop_flip", "cutout"]),
        ("csv_columns: [file, '1']", "csv_columns", ["file", "1"]),
        ("csv_columns: [Größe, 😀]", "csv_columns", ["Größe", "😀"]),
        ("data_path: 2024", "data_path", "2024"),
        ("data_path: ü 😀", "data_path", "ü 😀"),
    ],
)
def test_yaml_values_mean_what_they_say(yaml_file, text, key, value):
    read = values(train_config("--config", yaml_file(text)))[key]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "argv, key, value",
    [
        (["--weight_decay", "1e-4"], "weight_decay", 1e-4),
        (["--overwrite"], "overwrite", True),
        (["--overwrite", "--download"], "overwrite", True),
        (["--overwrite", "false"], "overwrite", False),
        (["--final_relu", "False"], "final_relu", False),
        (["--dataset_sink"], "dataset_sink", True),
        (["--dataset_sink", "null"], "dataset_sink", None),
        (["--csv_columns", "file", "class"], "csv_columns", ["file", "class"]),
        (["--csv_columns", "[file, class]"], "csv_columns", ["file", "class"]),
        (["--csv_columns", "null", "1"], "csv_columns", ["null", "1"]),
        (["--csv_columns", "[x]", "y"], "csv_columns", ["[x]", "y"]),
        (["--csv_columns", "😀", "ü"], "csv_columns", ["😀", "ü"]),
        (["--augment", "crop_flip"], "augment", "crop_flip"),
        (["--augment", "crop_flip", "cutout"], "augment", ["crop_flip", "cutout"]),
        (["--augment", "[crop_flip,", "cutout]"], "augment", ["crop_flip", "cutout"]),
        (["--data_path", "-x"], "data_path", "-x"),
        (["--data_path", "a b"], "data_path", "a b"),
    ],
)
def test_flags_mean_what_they_say(argv, key, value):
    read = values(train_config(*argv))[key]
    assert read == value
    assert type(read) is type(value)


def test_one_image_or_many_with_any_name_are_a_list():
    for names in (["a.jpg"], ["a.jpg", "b c.jpg"], ["[1].jpg", "😀.png"]):
        config, _ = parse(["--images", *names, "--ckpt_path", "x"], "a test", InferConfig, DeviceConfig)
        assert config.images == names


@pytest.mark.parametrize("program", [EvalConfig, InferConfig, ExportConfig])
def test_a_required_key_may_come_from_the_file_or_from_a_flag(program, yaml_file):
    required = "images" if program is InferConfig else "ckpt_path"
    expected = ["x"] if program is InferConfig else "x"
    path = yaml_file(f"{required}: {expected}")
    for argv in (["--config", path], [f"--{required}", "x"], ["--config", yaml_file(""), f"--{required}", "x"]):
        yaml_file(f"{required}: {expected}" if len(argv) == 2 else "")
        config, _ = parse(argv, "a test", program, DeviceConfig)
        assert getattr(config, required) == expected
    with pytest.raises(UserError, match=required):
        parse([], "a test", program, DeviceConfig)


@pytest.mark.parametrize(
    "key, value, allowed",
    [
        ("version", "2_0", "1_0, 1_1, cifar"),
        ("version", "1.0", "1_0, 1_1, cifar"),
        ("epochs", "-1", "a whole number from 1 to 100000"),
        ("epochs", "0", "a whole number from 1 to 100000"),
        ("epochs", "2.5", "a whole number from 1 to 100000"),
        ("epochs", "many", "a whole number from 1 to 100000"),
        ("batch_size", "true", "a whole number"),
        ("batch_size", "99999999999", "a whole number"),
        ("lr_max", "nan", "a number, at least 0"),
        ("lr_max", "inf", "a number, at least 0"),
        ("lr_max", "1e999", "a number, at least 0"),
        ("lr_max", "9" * 400, "a number, at least 0"),
        ("lr_max", "-0.1", "a number, at least 0"),
        ("lr_max", "[1]", "a number, at least 0"),
        ("dropout", "1", "from 0 to below 1"),
        ("pct_3x3", "0", "between 0 and 1"),
        ("squeeze_ratio", "0", "above 0"),
        ("final_relu", "maybe", "true or false"),
        ("final_relu", "1", "true or false"),
        ("augment", "[none]", "crop_flip, color_jitter, cutout, mixup, cutmix"),
        ("mix_alpha", "0", "above 0"),
        ("lr_decay_mode", "cosin", "steps, poly, linear, cosine"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_key_and_what_is(yaml_file, key, value, allowed):
    for argv in ([f"--{key}={value}"], [f"--{key}", value]):
        message = mistake(*argv)
        assert message.startswith(f"{key}: {value!r} is not allowed")
        assert allowed in message
    path = yaml_file(f"seed: 3\n{key}: {value}\n")
    message = mistake("--config", path)
    assert message.startswith(f"{path}: {key}: ")
    assert "is not allowed" in message and allowed in message


def test_one_text_in_a_file_is_no_list(yaml_file):
    message = mistake("--config", yaml_file("csv_columns: image"))
    assert message.endswith("csv_columns: 'image' is not allowed; it takes a list of: a text")


@pytest.mark.parametrize("key", ["lr_max", "data_path", "csv_columns"])
def test_a_flag_without_its_value_says_what_it_takes(key):
    assert mistake(f"--{key}").startswith(f"{key}: a value is missing")
    assert mistake(f"--{key}", "--overwrite").startswith(f"{key}: a value is missing")


@pytest.mark.parametrize("key, suggestion", [("verison", "version"), ("lr-max", "lr_max"), ("Bypass", "bypass")])
def test_an_unknown_key_is_refused_with_the_likely_one(yaml_file, key, suggestion):
    expected = f"unknown key {key!r}; did you mean {suggestion!r}?"
    assert mistake(f"--{key}", "1") == mistake(f"--{key}=1") == expected
    path = yaml_file(f"{key}: 1")
    assert mistake("--config", path) == f"{path}: {expected}"


def test_an_unknown_key_like_no_other_points_to_the_list(yaml_file):
    assert mistake("--net_name", "x") == "unknown key 'net_name'; --help lists all"
    assert mistake("--config", yaml_file("net_name: x")).endswith("unknown key 'net_name'; --help lists all")


def test_an_abbreviated_flag_is_unknown():
    assert "unknown key 'vers'" in mistake("--vers", "1_1")


def test_a_stray_word_is_refused():
    assert mistake("--overwrite", "true", "stray") == "unexpected argument 'stray'"


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--epochs", "3"], "warmup_epochs: 5 is not allowed: at most epochs (3)"),
        (["--pretrain_epochs", "31"], "pretrain_epochs: 31 is not allowed: at most epochs (30)"),
        (["--pretrain_epochs", "30"], "pretrain_epochs: 30 leaves no epoch to train"),
        (["--early_size", "24"], "early_size and early_epochs: the one says nothing without the other"),
        (["--early_epochs", "2"], "early_size and early_epochs: the one says nothing without the other"),
        (["--early_size", "24", "--early_epochs", "31"], "early_epochs: 31 is not allowed: at most epochs (30)"),
        (
            ["--dataset", "image_folder", "--val_split", "0.1"],
            "val_split: image_folder has validation images of its own",
        ),
        (["--csv_columns", "a", "b", "c"], "csv_columns: ['a', 'b', 'c'] is not allowed"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(argv, message):
    assert mistake(*argv).startswith(message)


@pytest.mark.parametrize(
    "text, line",
    [
        ("seed: 1\nversion: 1_1\n bad: x\n", 3),
        ("seed: 1\n\tversion: 1_1\n", 2),
        ("seed: 1\nversion: *nope\n", 2),
        ("seed: 1\nversion: !!python/object:os.system x\n", 2),
        ("seed: 1\naugment: [a\n", 3),
        ("--- a\n--- b\n", 2),
    ],
)
def test_a_yaml_syntax_error_names_file_and_line(yaml_file, text, line):
    path = yaml_file(text)
    assert mistake("--config", path).startswith(f"{path}, line {line}: not valid YAML: ")


def test_a_key_that_stands_twice_is_refused_where_it_stands_again(yaml_file):
    path = yaml_file("seed: 1\nlr_max: 0.1\nepochs: 9\nlr_max: 0.2\n")
    assert mistake("--config", path) == f"{path}, line 4: not valid YAML: key 'lr_max' stands twice"


@pytest.mark.parametrize("text", ["- a", "3", "just words", "1: 2", "[a, b]", "&a [*a]"])
def test_yaml_that_is_no_mapping_is_refused(yaml_file, text):
    path = yaml_file(text)
    assert mistake("--config", path) == f"{path}: a configuration is a list of lines `key: value`"


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n\x00",
        b"\xff\xfe\x00\x01",
        b"seed: 1\x00\n",
        b"seed: 1\x07\n",
        b"[" * 1500,
        b"seed: " + b"9" * 5000,
        b"version: !!bool maybe",
        b"lr_max: !!int ''",
        b"lr_max: !!timestamp soon",
        b"version: &a [*a]",
        b"version: &a {b: *a}",
        b"augment: {!!binary aGk=: 1}",
        b"? [a]\n: b",
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(yaml_file, content):
    path = yaml_file(content)
    assert mistake("--config", path).startswith(path)


def test_a_configuration_file_that_cannot_be_read_is_named(tmp_path):
    missing = str(tmp_path / "missing.yaml")
    assert mistake("--config", missing) == f"{missing}: cannot read the configuration: No such file or directory"
    assert mistake("--config", str(tmp_path)) == f"{tmp_path}: cannot read the configuration: Is a directory"
    assert "No such file" in mistake("--config", "two\nlines")
    assert "null byte" in mistake("--config", "a\0b")
    assert "--config" in mistake("--config")


def test_an_empty_file_leaves_the_defaults(yaml_file):
    assert load_yaml(yaml_file("# nothing yet\n")) == {}
    path = yaml_file("")
    assert values(train_config("--config", path, "--output_path", "x")) == values(train_config("--output_path", "x"))


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--version", "1_1", "--bypass", "complex", "--squeeze_ratio", "0.25", "--num_classes", "3", "--freq", "1"],
        ["--augment", "[crop_flip, cutout]", "--csv_columns", "file name", "1_0", "--weight_decay", "1e-9"],
        ["--augment", "[]", "--dataset_sink", "false", "--eval_steps", "5", "--final_relu", "false"],
        ["--data_path", "a: b # c", "--output_path", "ü 😀/null", "--pretrained", " 'x' "],
        ["--data_path", "1_0", "--output_path", "1e5", "--pretrained", "true"],
    ],
)
def test_the_resolved_configuration_reads_back_to_itself(argv, yaml_file):
    config = train_config(*argv)
    assert train_config("--config", yaml_file(to_yaml(config))) == config


def test_choices_of_the_configuration_are_those_of_the_code():
    model = get_type_hints(ModelConfig)
    for key, choices in (("version", VERSIONS), ("bypass", BYPASSES), ("batch_norm", BATCH_NORMS), ("stem", STEMS)):
        assert get_args(model[key]) == tuple(choices), key
    assert get_args(get_type_hints(ScheduleConfig)["lr_decay_mode"]) == LR_DECAY_MODES


def test_help_lists_every_key_and_exits_with_0(capsys):
    with pytest.raises(SystemExit) as end:
        train_config("--help")
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert [key for key in KEYS if f"--{key}" not in shown] == []


def test_the_configuration_reference_is_up_to_date():
    """If this fails: python -m src.config > docs/CONFIGURATION.md."""
    assert (ROOT / "docs" / "CONFIGURATION.md").read_text(encoding="utf-8") == reference()


@pytest.mark.parametrize("recipe", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_describes_a_run_that_can_start(recipe):
    config = train_config("--config", str(recipe))
    for key, value in yaml.load(recipe.read_text(encoding="utf-8"), yaml.BaseLoader).items():
        assert key in KEYS, key
        assert value not in ("", None), key
    net = SqueezeNet(**{**dataclasses.asdict(config.model), "num_classes": config.model.num_classes or 10})
    assert feature_size(net.stem, net.layers, config.data.image_size, net.ceil_mode) >= 1
    rates = learning_rates(config, 10, 8)
    assert np.isfinite(rates).all() and rates.max() > 0
    assert config.run.output_path == f"runs/{recipe.stem}"


@pytest.mark.parametrize("names", [("wide", "wide_continued"), ("wide_continued", "wide_continued_twice")])
def test_a_continued_recipe_starts_from_the_net_of_the_one_before_and_validates_on_the_same_images(names):
    first, continued = (
        train_config("--config", str(ROOT / "config" / f"squeezenet_cifar10_{name}.yaml")) for name in names
    )
    assert continued.run.pretrained == f"{first.run.output_path}/best.ckpt"
    assert continued.model == first.model
    assert (continued.data.val_split, continued.run.seed) == (first.data.val_split, first.run.seed)


@pytest.mark.parametrize("recipe", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_begins_with_the_command_that_runs_it(recipe):
    head = re.match(r"(#.*\n)+", recipe.read_text(encoding="utf-8"))
    assert f"python train.py --config config/{recipe.name}" in head.group()


NASTY = st.sampled_from(
    [
        *("", " ", "null", "true", "nan", "-inf", "1e999", "-1", "0", "1_0", "9" * 400, "[", "]", "{}", "[a, b]"),
        *("{a: b}", "*a", "&a", "!!int ''", "!!bool x", "!!set {a}", "!!binary aGk=", "<<", "a: b", "|", ">", "%", "@"),
        *("`", "#", "'", '"', "\\", "-", "--", "---", "...", "?", ": :", "=", "\x00", "\x07", "\x85", "\ufeff"),
        *("\u2028", "\n", "\t", "😀"),
    ]
)
VALUES = NASTY | st.text(max_size=12) | st.integers().map(str) | st.floats().map(str)
# --help is no mistake, and --config has a test of its own.
NAMES = st.sampled_from([key for key in KEYS if key != "config"]) | NASTY | st.text(max_size=8)
ARGUMENTS = st.one_of(
    st.tuples(NAMES, VALUES).map(lambda pair: [f"--{pair[0]}={pair[1]}"]),
    st.tuples(NAMES, VALUES).map(lambda pair: [f"--{pair[0]}", pair[1]]),
    st.tuples(NAMES, VALUES, VALUES).map(lambda three: [f"--{three[0]}", *three[1:]]),
    NAMES.map(lambda name: [f"--{name}"]),
    VALUES.map(lambda value: [value]),
)
YAML_LINES = st.lists(st.tuples(NAMES, VALUES).map(lambda pair: f"{pair[0]}: {pair[1]}"), max_size=4).map("\n".join)
YAML_TEXTS = YAML_LINES | st.text(max_size=60) | st.text("seed: 1[]{}&a*!|>'\"%@`#,?-\n\t\x00", max_size=40)
# The same examples each time, so that a red run is never by chance; raise max_examples to search further.
FUZZ = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def config_or_one_line(argv: list[str]) -> None:
    try:
        config = parse_train(argv, "a test")
    except UserError as error:
        assert str(error) and len(str(error).splitlines()) == 1, repr(str(error))
    else:
        assert isinstance(config, TrainConfig)


@FUZZ
@given(st.lists(ARGUMENTS, max_size=4).map(lambda parts: [token for part in parts for token in part]))
def test_any_command_line_is_a_configuration_or_one_line(argv):
    config_or_one_line(argv)


@FUZZ
@given(text=YAML_TEXTS)
def test_any_text_in_a_file_is_a_configuration_or_one_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode())
    config_or_one_line(["--config", str(path)])
