"""Configuration: R1's recipe by default, a YAML file over it, flags over that; every mistake one line."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import runpy
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from src.cli.errors import UserError
from src.compression.config import parse_compress
from src.config import (
    DeviceConfig,
    MindRecordConfig,
    ModelConfig,
    ScheduleConfig,
    TrainConfig,
    parse,
    parse_train,
    to_yaml,
)
from src.dataset.options import data_config
from src.inference.config import CHECKPOINTS, MODELS_AND_IMAGES, EvalConfig, ExportConfig, InferConfig
from src.keys import RETIRED_KEYS
from src.lr_generator import LR_DECAY_MODES
from src.network.design_space import STEMS
from src.network.geometry import feature_size
from src.squeezenet import BATCH_NORMS, BYPASSES, VERSIONS, SqueezeNet
from src.training.plan import learning_rates

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
        ("version: 1.1", "version", "1_1"),
        ("weight_decay: 1e-4", "weight_decay", 1e-4),  # A text, in YAML 1.1.
        ("lr_init: 0", "lr_init", 0.0),
        ("lr_max: 5.e-2", "lr_max", 0.05),
        ("batch_size: 010", "batch_size", 10),  # Eight, in YAML 1.1.
        ("num_classes: null", "num_classes", None),
        ("num_classes: 7", "num_classes", 7),
        ("final_relu: false", "final_relu", False),
        ("augment: crop_flip", "augment", "crop_flip"),
        ("augment: [crop_flip, cutout]", "augment", ["crop_flip", "cutout"]),
        ("augment: crop_flip, cutout", "augment", ["crop_flip", "cutout"]),  # As after the flag.
        ("class_weights: 1,2.5", "class_weights", [1, 2.5]),
        ("csv_columns: [file, '1']", "csv_columns", ["file", "1"]),
        ("csv_columns: [Größe, 😀]", "csv_columns", ["Größe", "😀"]),
        ("data_path: 2024", "data_path", "2024"),
        ("data_path: 0123", "data_path", "0123"),
        ("data_path: 1e5", "data_path", "1e5"),
        ("data_path: true", "data_path", "true"),
        ("pretrained: null", "pretrained", None),
        ("pretrained: 'null'", "pretrained", "null"),
        ("augment: [Crop-Flip, CUTOUT]", "augment", ["crop_flip", "cutout"]),
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
        (["--augment", "crop_flip,cutout"], "augment", ["crop_flip", "cutout"]),
        (["--class_weights", "Balanced"], "class_weights", "balanced"),
        (["--class_weights", "1", "2.5"], "class_weights", [1, 2.5]),
        (["--class_weights", "1,2.5"], "class_weights", [1, 2.5]),
        (["--class_weights", "[1, 2.5]"], "class_weights", [1, 2.5]),
        (["--augment", "crop_flip,", "cutout"], "augment", ["crop_flip", "cutout"]),
        (["--augment", "None"], "augment", "none"),
        (["--batch-size", "7"], "batch_size", 7),
        (["--batch-size=7"], "batch_size", 7),
        (["--device_target", "cpu"], "device_target", "CPU"),
        (["--device_target", "ascend"], "device_target", "Ascend"),
        (["--dataset", "CIFAR-10"], "dataset", "cifar10"),
        (["--fit", "center-crop"], "fit", "center_crop"),
        (["--amp_level", "o2"], "amp_level", "O2"),
        *(
            (["--version", name], "version", "1_1")
            for name in ("1.1", "v1.1", "v1_1", "SqueezeNet1_1", "squeezenet-1.1")
        ),
        (["--version", "squeezenet_cifar"], "version", "cifar"),
        (["--pretrained", "null"], "pretrained", None),
        (["--pretrained", ""], "pretrained", ""),
        (["--seed", " 40"], "seed", 40),
        (["--data_path", "\udcff \x85\u2028'[a]"], "data_path", "\udcff \x85\u2028'[a]"),
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


@pytest.mark.parametrize("program", [InferConfig, ExportConfig])
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


def test_files_without_a_flag_are_what_their_suffix_says():
    infer, _ = parse(["a.jpg", "best.ckpt", "folder"], "", InferConfig, DeviceConfig, positional=MODELS_AND_IMAGES)
    assert (infer.images, infer.ckpt_path) == (["a.jpg", "folder"], "best.ckpt")
    infer, _ = parse(["net.ONNX", "a.jpg"], "", InferConfig, DeviceConfig, positional=MODELS_AND_IMAGES)
    assert (infer.images, infer.model_path) == (["a.jpg"], "net.ONNX")
    for program in (EvalConfig, ExportConfig):
        for name in ("best.ckpt", "best.sqz"):
            assert parse([name], "", program, DeviceConfig, positional=CHECKPOINTS)[0].ckpt_path == name
    assert parse_compress(["a.net", "--bits", "null"], "").compress.ckpt_path == "a.net"
    assert mistake("best.ckpt") == "unexpected argument 'best.ckpt'"


@pytest.mark.parametrize(
    "key, value, allowed",
    [
        ("version", "2_0", "1_0, 1_1, cifar"),
        ("version", "1.2", "1_0, 1_1, cifar"),
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
        ("lr_max", "'0.1'", "a number, at least 0"),
        ("final_relu", '"true"', "true or false"),
        ("log_steps", "1_000", "a whole number"),
        ("log_steps", "null", "a whole number"),
        ("dropout", "1", "from 0 to below 1"),
        ("pct_3x3", "0", "above 0 and below 1"),
        ("squeeze_ratio", "0", "above 0"),
        ("final_relu", "maybe", "true or false"),
        ("final_relu", "1", "true or false"),
        ("augment", "[none]", "crop_flip, color_jitter, randaugment, cutout, mixup, cutmix"),
        ("mixup_alpha", "0", "above 0"),
        ("augment", "crop_flip, none", "one of none, or one of crop_flip"),
        ("device_target", "auto CPU", "auto, Ascend, GPU, CPU"),
        ("lr_decay_mode", "cosin", "steps, poly, linear, cosine"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_key_and_what_is(yaml_file, key, value, allowed):
    for argv in ([f"--{key}={value}"], [f"--{key}", value]):
        message = mistake(*argv)
        assert message.startswith(f"{key}: {value!r} is not allowed"[:200])
        assert allowed in message
    path = yaml_file(f"seed: 3\n{key}: {value}\n")
    message = mistake("--config", path)
    assert message.startswith(f"{path}: {key}: ")
    assert "is not allowed" in message and allowed in message


def test_one_text_in_a_file_is_no_list(yaml_file):
    message = mistake("--config", yaml_file("csv_columns: image"))
    assert message.endswith(
        "csv_columns: 'image' is not allowed; it takes two names: the column of the file and the column of the class"
    )


def test_an_empty_word_is_no_value_but_of_a_text():
    message = mistake("--num_classes", "")
    assert message == "num_classes: '' is not allowed; it takes a whole number from 1 to 1000000, or null"


@pytest.mark.parametrize("key", ["lr_max", "data_path", "csv_columns"])
def test_a_flag_without_its_value_says_what_it_takes(key):
    assert mistake(f"--{key}").startswith(f"{key}: a value is missing")
    assert mistake(f"--{key}", "--overwrite").startswith(f"{key}: a value is missing")


@pytest.mark.parametrize("key, suggestion", [("verison", "version"), ("lr-maxx", "lr_max"), ("Bypass", "bypass")])
def test_an_unknown_key_is_refused_with_the_likely_one(yaml_file, key, suggestion):
    expected = f"unknown key {key!r}; did you mean {suggestion!r}?"
    assert mistake(f"--{key}", "1") == mistake(f"--{key}=1") == expected
    path = yaml_file(f"{key}: 1")
    assert mistake("--config", path) == f"{path}: {expected}"


def test_an_unknown_key_like_no_other_points_to_the_list(yaml_file):
    assert mistake("--quux", "x") == "unknown key 'quux'; --help lists all"
    assert mistake("--config", yaml_file("quux: x")).endswith("unknown key 'quux'; --help lists all")


@pytest.mark.parametrize(
    "word, key",
    [
        *(("lr", "lr_max"), ("learning_rate", "lr_max"), ("learning-rate", "lr_max"), ("device", "device_target")),
        *(("model", "version"), ("net_name", "version"), ("checkpoint", "pretrained"), ("ckpt_path", "pretrained")),
        *(("config_path", "config"), ("epoch_size", "epochs"), ("class_num", "num_classes"), ("data", "data_path")),
    ],
)
def test_the_words_of_other_programs_are_answered_with_the_key(yaml_file, word, key):
    assert mistake(f"--{word}", "1") == f"unknown key {word!r}; did you mean {key!r}?"
    if key != "config":
        assert mistake("--config", yaml_file(f"{word}: 1")).endswith(f"unknown key {word!r}; did you mean {key!r}?")


def test_the_words_of_other_programs_are_answered_with_a_key_of_the_same_program():
    for program, word, key in (
        (EvalConfig, "checkpoint_file_path", "ckpt_path"),
        (EvalConfig, "pretrained", "ckpt_path"),
        (EvalConfig, "flip", "tta"),
        (InferConfig, "image", "images"),
        (ExportConfig, "format", "file_format"),
    ):
        with pytest.raises(UserError) as error:
            parse([f"--{word}", "x"], "a test", program, DeviceConfig)
        assert str(error.value) == f"unknown key {word!r}; did you mean {key!r}?"


def test_the_number_of_devices_is_answered_with_the_launcher():
    for word in ("device_num", "devices"):
        answer = f"unknown key {word!r}; did you mean --devices of scripts/run_distribute_train_*.sh?"
        assert mistake(f"--{word}", "8") == answer


def test_a_short_flag_is_answered_with_the_long_one():
    assert mistake("-c", "x.yaml") == "unexpected argument '-c'; did you mean '--config'?"
    assert mistake("-lr=1", "x") == "unexpected argument '-lr=1'; did you mean '--lr_max'?"


def test_an_abbreviated_flag_is_unknown():
    assert "unknown key 'vers'" in mistake("--vers", "1_1")


def test_a_stray_word_is_refused():
    assert mistake("--overwrite", "true", "stray") == "unexpected argument 'stray'"


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--epochs", "3", "--warmup_epochs", "5"], "warmup_epochs: 5 is not allowed: at most epochs (3)"),
        (["--warmup_epochs", "31"], "warmup_epochs: 31 is not allowed: at most epochs (30)"),
        (["--pretrain_epochs", "31"], "pretrain_epochs: 31 is not allowed: at most epochs (30)"),
        (["--pretrain_epochs", "30"], "pretrain_epochs: 30 leaves no epoch to train"),
        (["--resume", "--overwrite"], "resume: cannot be combined with overwrite"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(argv, message):
    assert mistake(*argv).startswith(message)


PROGRAMS = {
    "train": (lambda argv: parse_train(argv, "a test"), []),
    "eval": (lambda argv: parse(argv, "a test", EvalConfig, DeviceConfig), ["--ckpt_path", "x"]),
    "to_mindrecord": (lambda argv: parse(argv, "a test", MindRecordConfig), ["--output_path", "x"]),
    "compress": (lambda argv: parse_compress(argv, "a test"), ["--ckpt_path", "x"]),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("names", [["image"], ["a", "b", "c"], []])
def test_other_than_two_columns_are_refused_by_every_program_that_reads_images(yaml_file, program, names):
    read, required = PROGRAMS[program]
    path = yaml_file(f"csv_columns: {json.dumps(names)}")
    for where, argv in (("", ["--csv_columns", *names]), (f"{path}: ", ["--config", path])):
        with pytest.raises(UserError) as error:
            read([*required, *argv])
        assert str(error.value).startswith(f"{where}csv_columns: ") and "two names" in str(error.value)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_that_reads_images_takes_the_keys_of_a_data_source(program):
    read, required = PROGRAMS[program]
    keys = {"dataset": "imagenet", "data_path": "there", "val_labels": "labels.txt", "max_broken_images": 3}
    config = read([*required, *(f"--{key}={value}" for key, value in keys.items()), "--csv_columns", "file", "class"])
    source = config.data if program == "train" else config.measure if program == "compress" else config[0]
    expected = {**keys, "csv_columns": ["file", "class"]}
    assert {key: getattr(source, key) for key in expected} == expected
    made = data_config(source, val_split=0.1)
    assert {key: getattr(made, key) for key in expected} == expected and made.val_split == 0.1


def test_a_warm_up_of_the_recipe_that_is_longer_than_the_epochs_of_the_command_line_is_cut(yaml_file, capsys):
    for argv, warmup in ((["--epochs", "3"], 5), (["--config", yaml_file("warmup_epochs: 9"), "--epochs", "3"], 9)):
        config = train_config(*argv)
        assert (config.schedule.warmup_epochs, config.schedule.epochs) == (3, 3)
        lines = capsys.readouterr().err.splitlines()
        assert lines == [f"warning: warmup_epochs: reduced from {warmup} to 3, the number of epochs"]
    assert train_config("--epochs", "6").schedule.warmup_epochs == 5 and capsys.readouterr().err == ""
    path = yaml_file("epochs: 3")
    assert mistake("--config", path) == "warmup_epochs: 5 is not allowed: at most epochs (3); give --warmup_epochs too"


def test_resume_takes_the_folder_of_a_run(tmp_path):
    former = train_config("--version", "cifar", "--output_path", "elsewhere")
    (tmp_path / "config.yaml").write_text(to_yaml(former))
    for argv in (["--resume", str(tmp_path)], [f"--resume={tmp_path}"], ["--resume", "--output_path", str(tmp_path)]):
        config = train_config(*argv, "--epochs", "40")
        assert (config.run.resume, config.run.output_path) == (True, str(tmp_path))
        assert (config.model.version, config.schedule.epochs) == ("cifar", 40)
    assert mistake("--resume", "no/run") == "resume: 'no/run' contains no run to resume; give the folder of a run"
    assert mistake("--resume", "x" * 5000).startswith("resume: ")
    assert "--output_path" in mistake("--resume", str(tmp_path), "--output_path", "other")
    assert train_config("--resume", "false").run.resume is False


def test_a_configuration_is_found_by_its_bare_name():
    named = train_config("--config", "squeezenet_digits")
    assert named == train_config("--config", str(ROOT / "config" / "squeezenet_digits.yaml"))
    assert named == train_config(str(ROOT / "config" / "squeezenet_digits.yaml"))
    assert named.run.output_path == "runs/squeezenet_digits"


def test_an_unknown_name_of_a_configuration_lists_those_there_are():
    message = mistake("--config", "squeezenet_digit")
    assert message.startswith("squeezenet_digit: cannot be read (No such file or directory); config/ has ")
    assert [path.stem for path in (ROOT / "config").glob("*.yaml") if path.stem not in message] == []


def test_the_keys_of_the_last_release_are_taken_with_a_warning(yaml_file, capsys):
    path = yaml_file("mix_alpha: 0.2\nlr_layer_decay: 0.9\n")
    config = train_config("--config", path)
    assert (config.data.mixup_alpha, config.data.cutmix_alpha, config.optimizer.layer_decay) == (0.2, 0.2, 0.9)
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {path}: mix_alpha is now called mixup_alpha and cutmix_alpha",
        f"warning: {path}: lr_layer_decay is now called layer_decay",
    ]
    config = train_config("--config", path, "--mixup_alpha", "0.5", "--lr_layer_decay", "0.8")
    assert (config.data.mixup_alpha, config.data.cutmix_alpha, config.optimizer.layer_decay) == (0.5, 0.2, 0.8)
    assert mistake("--mix_alpha", "0").startswith("mixup_alpha: '0' is not allowed")


def test_a_key_that_is_no_more_is_passed_over_where_it_means_nothing(yaml_file, monkeypatch, capsys):
    for key, value in {"old_size": None, "old_way": "stop", "old_switch": False}.items():
        monkeypatch.setitem(RETIRED_KEYS, key, value)
    path = yaml_file("old_size: null\nold_way: stop\nold_switch: false\nseed: 3\n")
    assert train_config("--config", path, "--output_path", "x", "--old_size", "null") == train_config(
        *("--seed", "3", "--output_path", "x")
    )
    assert capsys.readouterr().err == ""
    path = yaml_file("old_size: 24\n")
    assert mistake("--config", path) == f"{path}: old_size: is not supported any more; leave it out"
    assert mistake("--old_switch") == "old_switch: is not supported any more; leave it out"


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
    assert mistake("--config", path) == f"{path}, line 4: not valid YAML: duplicate key 'lr_max'"


@pytest.mark.parametrize("text", ["- a", "3", "just words", "1: 2", "[a, b]", "&a [*a]"])
def test_yaml_that_is_no_mapping_is_refused(yaml_file, text):
    path = yaml_file(text)
    assert mistake("--config", path) == f"{path}: a configuration consists of `key: value` lines"


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
    assert mistake("--config", missing) == f"{missing}: cannot be read (No such file or directory)"
    assert mistake("--config", str(tmp_path)) == f"{tmp_path}: cannot be read (is a folder)"
    assert "No such file" in mistake("--config", "two\nlines")
    assert "null byte" in mistake("--config", "a\0b")
    assert "--config" in mistake("--config")


def test_a_pipe_and_a_huge_file_are_refused_at_once(tmp_path):
    pipe, huge = tmp_path / "pipe.yaml", tmp_path / "huge.yaml"
    os.mkfifo(pipe)
    huge.write_text("# a comment\n" * 1_000_000)
    assert mistake("--config", str(pipe)) == f"{pipe}: cannot be read (not a plain file)"
    assert mistake("--config", str(huge)) == f"{huge}: is longer than 262,144 bytes"


def test_an_empty_file_leaves_the_defaults(yaml_file):
    for text in ("", "# nothing yet\n"):
        path = yaml_file(text)
        expected = values(train_config("--output_path", "x"))
        assert values(train_config("--config", path, "--output_path", "x")) == expected


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--version", "1_1", "--bypass", "complex", "--squeeze_ratio", "0.25", "--num_classes", "3", "--freq", "1"],
        ["--augment", "[crop_flip, cutout]", "--csv_columns", "file name", "1_0", "--weight_decay", "1e-9"],
        ["--augment", "[]", "--dataset_sink", "false", "--eval_steps", "5", "--final_relu", "false"],
        ["--data_path", "0123", "--output_path", "'null'", "--val_labels", "null ", "--pretrained", "=", "--seed", "7"],
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
    """If this fails: python docs/make_configuration.py > docs/CONFIGURATION.md."""
    made = runpy.run_path(str(ROOT / "docs" / "make_configuration.py"))["reference"]()
    assert (ROOT / "docs" / "CONFIGURATION.md").read_text(encoding="utf-8") == made


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
