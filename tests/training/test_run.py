from __future__ import annotations

import dataclasses
import json
import os
import shutil
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from src.checkpoint import load_network, read_checkpoint, save_checkpoint
from src.cli.errors import UserError
from src.cli.signals import Interrupted
from src.config import parse_train, to_yaml, with_keys
from src.dataset import open_source
from src.inference.config import EvalConfig, ExportConfig
from src.inference.evaluation import evaluate, evaluate_model
from src.inference.export import export_checkpoint
from src.lr_generator import get_lr
from src.squeezenet import SqueezeNet
from src.training.plan import RUN_ENTRIES, prepare
from src.training.run import run_steps, train
from tests.made_data import by_class, refusal, write_cifar10, write_image_csv, write_image_folder
from tests.runs import BRIEF, CPU, DIGITS, SMALL, configuration, metrics_rows, stop_at, weights, without_pictures

COLORS = [f"color{i}" for i in range(10)]


def scalars_of(folder: Path) -> dict:
    """Return {tag: {step: value}} of the TensorBoard event file in a folder."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.iterdir()
    data, tags = file.read_bytes(), {}
    while data:
        length = struct.unpack("<Q", data[:8])[0]
        event = Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            tags.setdefault(value.tag, {})[event.step] = value.simple_value
        data = data[12 + length + 4 :]
    return tags


def test_a_run_leaves_exactly_the_files_it_announces(tiny):
    assert sorted(entry.name for entry in tiny.folder.iterdir()) == sorted(RUN_ENTRIES)


def test_result_holds_what_was_trained_and_how_well(tiny):
    result = json.loads((tiny.folder / "result.json").read_text())
    assert result == tiny.result
    assert result["parameters"] > 146_000 and result["multiply_adds"] == 5_005_312
    assert result["training_images"] == 480 and result["steps"] == 3 * 30
    assert result["checkpoint"] == "best.ckpt"
    assert result["validation"]["images"] == 143 and result["validation"]["step"] in (30, 60, 90)
    assert result["test"]["images"] == 359
    assert result["test"]["accuracy"] > 0.5 and result["test"]["top_5_accuracy"] > result["test"]["accuracy"]
    assert result["processor_cores"] == len(os.sched_getaffinity(0))
    assert result["device"] == "CPU" and result["versions"]["mindspore"] == ms.__version__
    assert result["images_per_second"] > 0 and result["seconds"] > 0 and result["peak_memory_mb"] > 50


def test_metrics_csv_has_training_rows_every_log_steps_and_validation_rows_every_epoch(tiny):
    rows = metrics_rows(tiny.folder)
    training = [row for row in rows if row["loss"]]
    validation = [row for row in rows if row["val_loss"]]
    assert [int(row["step"]) for row in training] == list(range(10, 91, 10))
    assert [(int(row["step"]), int(row["epoch"])) for row in validation] == [(30, 1), (60, 2), (90, 3)]
    rates = get_lr(0, 0, 0.004, 3, 1, 0, 30, "cosine")
    assert [float(row["lr"]) for row in training] == pytest.approx([rates[step - 1] for step in range(10, 91, 10)])
    assert float(training[-1]["loss"]) < float(training[0]["loss"])
    assert max(float(row["val_accuracy"]) for row in validation) == tiny.result["validation"]["accuracy"]


def test_the_resolved_configuration_reads_back_as_the_one_that_ran(tiny):
    assert parse_train(["--config", str(tiny.folder / "config.yaml")], "") == tiny.config


def test_best_checkpoint_has_the_validation_and_test_accuracy_of_the_result(tiny):
    net, card = load_network(tiny.folder / "best.ckpt")
    for split, expected in (("val", tiny.result["validation"]), ("test", tiny.result["test"])):
        found = evaluate(net, open_source(tiny.config.data, split), card.preprocessing, 50, 1).summary()
        assert found["accuracy"] == expected["accuracy"] and found["images"] == expected["images"]
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)


def test_last_checkpoint_equals_the_newest_of_the_run_bit_for_bit(tiny):
    last, card = load_network(tiny.folder / "squeezenet.ckpt")
    newest, newest_card = load_network(tiny.folder / "checkpoints" / "SqueezeNet-3_30.ckpt")
    assert card == newest_card and card.dataset == "digits" and card.val_split == 0.1
    for (name, a), (_, b) in zip(weights(last).items(), weights(newest).items()):
        assert np.array_equal(a, b), name


def test_the_checkpoints_are_the_newest_keep_checkpoint_max(tiny):
    names = sorted(file.name for file in (tiny.folder / "checkpoints").glob("*.ckpt"))
    assert names == ["SqueezeNet-2_30.ckpt", "SqueezeNet-3_30.ckpt"]


def test_the_log_has_lines_of_progress_and_validation(tiny):
    log = (tiny.folder / "train.log").read_text()
    assert "step 90/90  epoch 3" in log and "images/s" in log
    assert log.count("validation at step") == 3 and "(best so far)" in log


def test_lossmonitor_and_timemonitor_have_a_log_of_their_own(tiny):
    log = (tiny.folder / "train.log").read_text()
    assert "loss is" not in log and "Train epoch time" not in log
    printed = (tiny.folder / "mindspore.log").read_text()
    assert "epoch: 1 step: 10, loss is" in printed and printed.count("Train epoch time:") == 3


def test_the_terminal_gets_plain_lines_but_none_of_mindspores_own(tiny):
    assert "step 90/90  epoch 3" in tiny.output and "validation at step 90" in tiny.output
    assert "loss is" not in tiny.output and "Train epoch time" not in tiny.output


def test_pictures_are_png_images(tiny):
    for name in ("training_batch.png", "learning_rate.png", "curves.png", "predictions.png"):
        with Image.open(tiny.folder / name) as picture:
            picture.load()
            assert picture.format == "PNG" and min(picture.size) > 200


def test_pictures_say_what_they_show(tiny):
    test = tiny.result["test"]
    assert {name: figure.get_suptitle() for name, figure in tiny.figures.items()} == {
        "training_batch.png": "First training batch as the network sees it, 16x16 pixels: 16 images",
        "learning_rate.png": "",
        "curves.png": f"SqueezeNet cifar on digits, run {tiny.folder.name}",
        "predictions.png": f"32 of {test['images']} test images; {test['accuracy']:.2%} of all are right",
    }
    assert tiny.figures["learning_rate.png"].axes[0].get_title() == "Learning rate of 90 steps"
    epochs = tiny.figures["curves.png"].axes[1].get_lines()[1].get_xdata()  # Of the validation.
    assert epochs.tolist() == [1, 2, 3]


def test_scalars_in_the_tensorboard_file_are_those_of_metrics_csv(tiny):
    tags = scalars_of(tiny.folder / "scalars")
    assert set(tags) == {"train/lr", "train/loss", "train/accuracy", "val/loss", "val/accuracy"}
    for row in metrics_rows(tiny.folder):
        kind = "val" if row["val_loss"] else "train"
        for name in ("loss", "accuracy"):
            value = float(row[f"val_{name}" if kind == "val" else name])
            assert tags[f"{kind}/{name}"][int(row["step"])] == pytest.approx(value, rel=1e-6)


def test_a_folder_with_a_run_is_refused_and_left_alone(tiny):
    before = {file: file.stat().st_mtime_ns for file in tiny.folder.rglob("*")}
    with pytest.raises(UserError, match=r"already contains a run.*--overwrite"):
        train(tiny.config)
    assert {file: file.stat().st_mtime_ns for file in tiny.folder.rglob("*")} == before


@pytest.fixture(scope="module")
def overwritten(tmp_path_factory):
    """The folder and the result of a run without validation images that replaced a former one."""
    folder = tmp_path_factory.mktemp("overwritten")
    (folder / "checkpoints").mkdir()
    for name in ("notes.txt", "best.ckpt", "predictions.png", "result.json", "checkpoints/SqueezeNet-9_9.ckpt"):
        (folder / name).write_text("old")
    with without_pictures():
        return folder, train(configuration(**BRIEF, output_path=str(folder), overwrite=True))


def test_overwrite_replaces_all_of_a_run_and_keeps_the_users_files(overwritten):
    folder, result = overwritten
    assert (folder / "notes.txt").read_text() == "old"
    assert json.loads((folder / "result.json").read_text()) == result
    assert [file.name for file in (folder / "checkpoints").glob("*.ckpt")] == ["SqueezeNet-1_4.ckpt"]
    assert not (folder / "predictions.png").exists()


def test_without_validation_images_the_last_checkpoint_counts_and_none_is_best(overwritten):
    folder, result = overwritten
    assert result["checkpoint"] == "squeezenet.ckpt" and result["validation"] is None
    assert result["test"]["images"] == 359 and not (folder / "best.ckpt").exists()
    assert [row["step"] for row in metrics_rows(folder)] == ["4"]


def test_scalars_none_writes_no_scalars(overwritten):
    assert not (overwritten[0] / "scalars").exists()


def test_an_output_path_that_is_a_file_is_refused_and_kept(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="this is a file, not a folder"):
        train(configuration(**BRIEF, output_path=str(tmp_path / "run")))
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"dataset": "cifar10", "data_path": "nowhere"}, "CIFAR-10 not found"),
        ({"pretrained": "nowhere.ckpt"}, "no such checkpoint"),
        ({"version": "1_0", "image_size": 16}, "image_size: 16 is too small"),
        ({"num_classes": 9}, "num_classes: 9 is too small: the data set has "),
        ({"batch_size": 65}, "batch_size: 65"),
        ({"amp_level": "O3"}, "amp_level: O3"),
        ({"scalars": "visualdl"}, "scalars: visualdl is not installed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_used_is_refused_before_the_folder_is_made_or_emptied(tmp_path, monkeypatch, keys, message):
    monkeypatch.setitem(sys.modules, "visualdl", None)
    with pytest.raises(UserError, match=message):
        train(configuration(**{**BRIEF, "output_path": str(tmp_path / "run"), **keys}))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        train(configuration(**{**BRIEF, "output_path": str(tmp_path), "overwrite": True, **keys}))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("result.json", "{}")]


def test_more_classes_than_the_data_set_has_get_names_of_their_own():
    plan = prepare(configuration(**BRIEF, num_classes=12))
    assert plan.card.classes[-3:] == ["9", "class 10", "class 11"]
    assert plan.net.classifier[1].weight.shape[0] == 12


def test_pretrained_weights_are_what_training_starts_from(tiny):
    keys = {**BRIEF, "batch_norm": "all"}
    start = prepare(configuration(**keys, pretrained=str(tiny.folder / "best.ckpt"))).net
    saved = weights(load_network(tiny.folder / "best.ckpt")[0])
    assert all(np.array_equal(value, saved[name]) for name, value in weights(start).items())
    fresh = weights(prepare(configuration(**keys)).net)
    assert not np.array_equal(fresh["features.0.conv.weight"], saved["features.0.conv.weight"])


def test_the_seed_decides_weights_and_order_of_the_images():
    def start(seed: int) -> tuple:
        plan = prepare(configuration(**BRIEF, seed=seed, augment="crop_flip"))
        batch = next(plan.batches().create_dict_iterator(num_epochs=1, output_numpy=True))
        return plan.net.features[0].conv.weight.asnumpy(), batch["label"], batch["image"]

    first, again, other = start(3), start(3), start(4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other))


@pytest.mark.thorough
def test_pynative_mode_trains_from_the_same_seed_the_weights_of_graph_mode(tmp_path, no_pictures):
    def trained(name: str, mode: str) -> dict:
        train(configuration(**{**BRIEF, "train_images": 32}, dropout=0, mode=mode, output_path=str(tmp_path / name)))
        assert ms.get_context("mode") == {"graph": ms.GRAPH_MODE, "pynative": ms.PYNATIVE_MODE}[mode]
        return weights(load_network(tmp_path / name / "squeezenet.ckpt")[0])

    graph, pynative = trained("a", "graph"), trained("b", "pynative")
    for name, value in graph.items():
        np.testing.assert_allclose(pynative[name], value, atol=1e-6, err_msg=name)


def test_accelerators_are_fed_about_64_steps_at_a_time_that_divide_epochs_and_what_is_done_in_between():
    plan = prepare(configuration(**BRIEF))

    def sink_size(steps: int, target: str = "Ascend", **keys) -> int | None:
        return dataclasses.replace(plan, target=target, config=with_keys(plan.config, **keys)).sink_size(steps)

    assert sink_size(390, "CPU") is None and sink_size(390, "CPU", dataset_sink=True) is None
    assert sink_size(390, dataset_sink=False) is None
    assert [sink_size(steps) for steps in (1562, 390, 5004, 8)] == [71, 65, 36, 8]
    assert sink_size(400, eval_steps=30) == 10
    assert sink_size(400, save_checkpoint_steps=100, eval_steps=40) == 20


@pytest.mark.slow
def test_label_smoothing_reaches_the_training_loss_and_not_the_validation_loss(tmp_path, no_pictures, tiny):
    """A net that is right and sure pays for its sureness under smoothing; its validation loss stays what it was."""
    train(
        configuration(
            **{**BRIEF, "batch_norm": "all", "pretrained": str(tiny.folder / "best.ckpt"), "val_split": 0.1},
            **{"label_smoothing": 0.9, "lr_max": 0.0, "dropout": 0.0, "output_path": str(tmp_path / "run")},
        )
    )
    training, validation = metrics_rows(tmp_path / "run")
    assert float(training["loss"]) > 2.3
    assert float(validation["val_loss"]) < 2.0


def test_a_run_that_dies_warns_within_the_first_epoch(tmp_path, no_pictures, capsys):
    keys = {**BRIEF, "train_images": 400, "batch_size": 8, "lr_max": 0.2, "log_steps": 10, "dropout": 0}
    train(configuration(**keys, output_path=str(tmp_path / "run")))
    last = metrics_rows(tmp_path / "run")[-1]
    assert float(last["loss"]) == pytest.approx(np.log(10), abs=1e-4)
    warnings = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: the network is dead")
    ]
    assert len(warnings) == 1 and "--final_relu false" in warnings[0]
    assert warnings[0] in (tmp_path / "run" / "train.log").read_text()


def test_a_recipe_for_an_accelerator_says_how_long_it_takes_on_a_cpu(no_pictures, monkeypatch, capsys):
    monkeypatch.setattr("src.training.run.picture_batch", lambda plan: None)
    session = SimpleNamespace(run=lambda: None)
    hours = []
    for epochs in (1, 1000, 2000):
        plan = prepare(
            configuration(**{**BRIEF, "train_images": None, "image_size": 224, "epochs": epochs}, output_path="run")
        )
        run_steps(plan, session)
        hours.append(plan.hours_on_cpu)
        said = capsys.readouterr().out
        line = f"warning: this takes about {hours[-1]:,.0f} hours on this CPU; squeezenet_cifar10_paper"
        assert (line in said) == (epochs > 1)
    assert hours[2] == pytest.approx(2 * hours[1]) and hours[0] < 1 < 12 < hours[1]


def test_a_loss_that_overflows_ends_the_run_with_step_and_rate_and_saves_nothing_broken(tmp_path, no_pictures):
    keys = {**BRIEF, "optimizer": "adam", "lr_max": 1e4, "lr_decay_mode": "steps", "save_checkpoint_steps": 1}
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d \(epoch 1, learning rate 1e\+04\)"):
        train(configuration(**keys, final_relu=False, dropout=0, output_path=str(tmp_path / "run")))
    assert not (tmp_path / "run" / "result.json").exists()
    for file in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        load_network(file)


@pytest.fixture(scope="module")
def colors(tmp_path_factory, made_images):
    """The made images as image_csv and image_folder, in one folder."""
    folder = tmp_path_factory.mktemp("colors")
    train, test = made_images.train, made_images.test
    write_image_csv(
        folder,
        by_class(train.images, train.labels, COLORS),
        [(image, COLORS[label]) for image, label in zip(test.images[:20], test.labels[:20])],
    )
    write_image_folder(folder, {"val": by_class(test.images, test.labels, COLORS)})
    return folder


def train_evaluate_and_export(output: Path, data_path: Path, file_formats: tuple, **keys) -> SimpleNamespace:
    """Do the three, check that they agree, and return what each gave and the checkpoint's card."""
    result = train(configuration(**keys, data_path=str(data_path), device_target="CPU", output_path=str(output)))
    checkpoint = output / result["checkpoint"]
    evaluated = evaluate_model(
        EvalConfig(ckpt_path=str(checkpoint), data_path=str(data_path), batch_size=7, output_path=str(output / "eval")),
        CPU,
    )
    expected = result["test"] or result["validation"]
    for name in ("images", "accuracy", "top_5_accuracy"):
        assert evaluated[name] == expected[name]
    assert evaluated["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    exported = [export_checkpoint(ExportConfig(str(checkpoint), file_format), CPU) for file_format in file_formats]
    for specification in exported:
        assert specification["largest_difference"] < 1e-4 and Path(specification["file"]).stat().st_size > 100_000
    card = load_network(checkpoint)[1]
    return SimpleNamespace(result=result, evaluated=evaluated, exported=exported, card=card)


@pytest.mark.thorough
def test_r1_v1_0_on_resized_cifar10_trains_evaluates_and_exports(tmp_path, no_pictures, made_images):
    train, test = ((split.images, split.labels) for split in (made_images.train, made_images.test))
    write_cifar10(tmp_path, train, test)
    keys = {"image_size": 64, "epochs": 1, "warmup_epochs": 0, "batch_size": 25}
    done = train_evaluate_and_export(tmp_path / "run", tmp_path, ("MINDIR",), **keys)
    assert done.result["parameters"] == 740_554 and done.result["steps"] == 4
    assert done.evaluated["dataset"] == "cifar10" and done.evaluated["split"] == "test"
    assert done.card.preprocessing.mean == (0.4914, 0.4822, 0.4465)
    assert done.exported[0]["classes"][:2] == ["airplane", "automobile"]
    assert (tmp_path / "run" / "checkpoints" / "SqueezeNet-1_4.ckpt").is_file()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "bypass, parameters", [("simple", 740_554), pytest.param("complex", 1_081_802, marks=pytest.mark.slow)]
)
def test_r2_bypass_on_image_csv_logs_training_and_validation_accuracy_every_five_steps(
    tmp_path, no_pictures, colors, bypass, parameters
):
    keys = {"dataset": "image_csv", "bypass": bypass, "image_size": 48, "batch_size": 8, "lr_max": 1e-4}
    steps = {"epochs": 1, "warmup_epochs": 0, "eval_steps": 5, "log_steps": 5, "scalars": "tensorboard"}
    done = train_evaluate_and_export(tmp_path / "run", colors, ("ONNX",), **keys, **steps)
    rows = metrics_rows(tmp_path / "run")
    assert [int(row["step"]) for row in rows if row["accuracy"]] == [5, 10, 12]
    assert [int(row["step"]) for row in rows if row["val_accuracy"]] == [5, 10, 12]
    tags = scalars_of(tmp_path / "run" / "scalars")
    assert sorted(tags["train/accuracy"]) == sorted(tags["val/accuracy"]) == [5, 10, 12]
    assert done.result["parameters"] == parameters
    assert done.evaluated["split"] == "val" and done.evaluated["images"] == 20
    assert done.exported[0]["input"]["shape"] == [1, 3, 48, 48] and done.exported[0]["classes"] == COLORS


@pytest.mark.thorough
def test_r3_v1_1_with_ceil_mode_on_image_folders_trains_evaluates_and_exports(tmp_path, no_pictures, colors):
    keys = {"dataset": "image_folder", "version": "1_1", "ceil_mode": True, "fit": "center_crop", "image_size": 32}
    steps = {"epochs": 1, "warmup_epochs": 0, "batch_size": 25}
    done = train_evaluate_and_export(tmp_path / "run", colors, ("ONNX",), **keys, **steps)
    assert done.result["parameters"] == 727_626 and done.card.model["ceil_mode"] is True
    assert done.evaluated["images"] == 50 and done.evaluated["split"] == "val"
    assert done.result["checkpoint"] == "best.ckpt" and done.result["test"] is None


def test_r4_the_cifar_net_with_crops_and_adam_trains_evaluates_and_exports(tmp_path, no_pictures, made_images):
    train, test = ((split.images, split.labels) for split in (made_images.train, made_images.test))
    write_cifar10(tmp_path, train, test)
    keys = {"version": "cifar", "fit": "crop", "image_size": 24, "augment": "crop_flip", "crop_padding": 0}
    steps = {"optimizer": "adam", "lr_max": 0.001, "normalize": "per_image", "epochs": 2, "warmup_epochs": 0}
    done = train_evaluate_and_export(tmp_path / "run", tmp_path, ("ONNX",), **keys, **steps, batch_size=10)
    assert done.result["parameters"] == 146_570
    assert (done.card.preprocessing.fit, done.card.preprocessing.normalize) == ("crop", "per_image")
    losses = [float(row["loss"]) for row in metrics_rows(tmp_path / "run") if row["loss"]]
    assert losses[-1] < losses[0]


def test_a_checkpoint_for_other_classes_is_a_start_for_these(tmp_path, tiny, colors, capsys):
    """Fine-tuning: everything but the last convolution comes from the checkpoint."""
    _, card = load_network(tiny.folder / "best.ckpt")
    seven = SqueezeNet(**{**card.model, "num_classes": 7})
    other = dataclasses.replace(card, model={**card.model, "num_classes": 7}, classes=list("abcdefg"))
    save_checkpoint(seven, tmp_path / "seven.ckpt", other)
    keys = {**DIGITS, "batch_norm": "all", "pretrained": str(tmp_path / "seven.ckpt")}
    plan = prepare(configuration(**keys))
    assert "has 7 classes instead of 10" in capsys.readouterr().out
    assert plan.net.classifier[1].weight.shape[0] == 10
    assert np.array_equal(plan.net.features[0].conv.weight.asnumpy(), seven.features[0].conv.weight.asnumpy())


def test_a_folder_that_holds_an_unfinished_run_is_refused_with_the_way_to_continue_it(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    message = refusal(train, configuration(**BRIEF, output_path=str(tmp_path)))
    assert "already contains a run; continue it with --resume, choose another --output_path, or replace it" in message


def test_a_stopped_run_says_how_to_continue_it(tmp_path, no_pictures, monkeypatch, capsys):
    stop_at(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train(configuration(**SMALL, output_path=str(tmp_path / "run")))
    assert f"stopped at step 2; continue with: python train.py --resume {tmp_path / 'run'}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("removed", "problem"),
    [(("config.yaml",), "config.yaml is missing"), (("checkpoints",), "checkpoints/ is empty or missing")],
)
def test_resume_never_removes_the_results_of_a_run_that_cannot_be_resumed(
    tiny, tmp_path, no_pictures, removed, problem
):
    folder = tmp_path / "run"
    shutil.copytree(tiny.folder, folder)
    for name in removed:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    before = sorted(str(path) for path in folder.rglob("*"))
    more = with_keys(tiny.config, output_path=str(folder), resume=True, epochs=4)
    message = refusal(train, more)
    assert problem in message and "--overwrite" in message
    assert sorted(str(path) for path in folder.rglob("*")) == before


@pytest.mark.parametrize("keys", [{"seed": 2}, {"lr_max": 0.01}, {"batch_size": 8}])
def test_a_configuration_edited_by_hand_is_not_resumed_from(tiny, tmp_path, keys):
    folder = tmp_path / "run"
    shutil.copytree(tiny.folder, folder)
    edited = with_keys(tiny.config, output_path=str(folder), **keys)
    (folder / "config.yaml").write_text(to_yaml(edited))
    message = refusal(train, with_keys(edited, resume=True, epochs=4))
    ((key, value),) = keys.items()
    assert "was trained with other values than those in config.yaml" in message
    assert f"{key}: " in message and f"-> {value}" in message


@pytest.mark.thorough
def test_with_ema_decay_the_averages_are_evaluated_and_saved(tmp_path, no_pictures):
    keys = {**SMALL, "batch_norm": "all", "ema_decay": 0.8}
    result = train(configuration(**keys, output_path=str(tmp_path / "run")))
    newest = read_checkpoint(tmp_path / "run" / "checkpoints" / "SqueezeNet-3_4.ckpt")
    last = read_checkpoint(tmp_path / "run" / "squeezenet.ckpt")
    for kind, ends in (
        ("weights", (".weight", ".bias", ".gamma", ".beta")),
        ("statistics", (".moving_mean", "_variance")),
    ):
        average = newest[f"ema.{kind}"].asnumpy()
        names = [name for name in last if name.endswith(ends) and name in newest]
        found = np.concatenate([last[name].asnumpy().ravel() for name in names])
        trained = np.concatenate([newest[name].asnumpy().ravel() for name in names])
        if kind == "weights":  # The newest are not in it yet.
            average = average + np.float32(1 - 0.8) * (np.append(trained, np.float32(1)) - average)
        assert np.array_equal(found, average[:-1] / average[-1]) and np.abs(found - trained).max() > 1e-4
    if result["validation"]["step"] == 12:
        assert_same_weights(read_checkpoint(tmp_path / "run" / "best.ckpt"), last)
    net, card = load_network(tmp_path / "run" / "best.ckpt")
    again = evaluate(net, open_source(configuration(**keys).data, "val"), card.preprocessing, 16, 1)
    assert again.accuracy == result["validation"]["accuracy"]
    assert again.loss == pytest.approx(result["validation"]["loss"], rel=1e-5)


def assert_same_weights(a: dict, b: dict) -> None:
    assert all(
        np.array_equal(a[name].asnumpy(), b[name].asnumpy()) for name in a if name.endswith((".weight", ".bias"))
    )
