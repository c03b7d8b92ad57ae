from __future__ import annotations

import dataclasses
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

from src.checkpoint import load_network, save_checkpoint
from src.cli.errors import UserError
from src.cli.signals import Interrupted
from src.compression.reading import read_weights
from src.config import OptimizerConfig, with_keys
from src.loss import CrossEntropy
from src.squeezenet import SqueezeNet
from src.training.finetuning import freeze
from src.training.model import build_model
from src.training.plan import prepare, resumed_plan
from src.training.run import train
from tests.made_data import refusal
from tests.runs import SMALL, assert_same, configuration, metrics_rows, stop_at, weights, without_pictures

RATES = np.array([0.1, 0.2, 0.3], np.float32)
OTHER = {"mean": (0.2, 0.3, 0.4), "std": (0.5, 0.6, 0.7)}  # Than the digits' statistics.


def net_of_two_fires() -> SqueezeNet:
    return SqueezeNet(4, "cifar", batch_norm="squeeze", dropout=0, base_e=8, incr_e=8)


# Freezing


@pytest.mark.parametrize(
    "parts, trained",
    [
        (["features"], ["classifier.1"]),
        (["features.0-4"], ["classifier.1", "features.5", "features.6"]),
        (["features.0", "features.2-5"], ["classifier.1", "features.6"]),
        (["classifier"], ["features.0", "features.2", "features.3", "features.5", "features.6"]),
        ([], ["classifier.1", "features.0", "features.2", "features.3", "features.5", "features.6"]),
    ],
    ids=str,
)
def test_freezing_leaves_the_layers_that_are_named_out_of_the_training(parts, trained):
    net = net_of_two_fires()
    freeze(net, parts)
    assert sorted({".".join(parameter.name.split(".")[:2]) for parameter in net.trainable_params()}) == trained


@pytest.mark.parametrize(
    "part", ["fire2", "features.7", "features.5-7", "features.4-2", "features.x", "", "classifier.3"]
)
def test_what_is_no_part_of_the_network_is_refused_with_what_there_is(part):
    assert "it has features.0 to features.6" in refusal(freeze, net_of_two_fires(), ["features.0", part])


def test_freezing_everything_is_refused():
    assert refusal(freeze, net_of_two_fires(), ["features", "classifier"]).endswith("leave nothing to train")


def test_freezing_without_pretrained_weights_is_refused():
    with pytest.raises(UserError, match=r"^freeze: requires a pretrained network"):
        configuration(freeze=["features"]).check()


def test_no_gradient_of_the_frozen_layers_is_asked_for():
    net = net_of_two_fires()
    freeze(net, ["features.0-4"])
    model = build_model(net, CrossEntropy(), OptimizerConfig(), RATES)
    assert [p.name for p in model.train_network.weights] == [p.name for p in net.trainable_params()]


# Runs


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A fine-tuning that was never stopped: its configuration, the pretrained network, and the run's folder."""
    folder = tmp_path_factory.mktemp("tuned")
    config = configuration(
        **{**SMALL, "batch_norm": "all", "pretrained": str(folder / "pretrained.ckpt"), "weight_decay": 0.01},
        **{"freeze": ["features.0-3"], "layer_decay": 0.5, "optimizer": "nesterov", "decay_biases": False},
        output_path=str(folder / "whole"),
    )
    plan = prepare(with_keys(config, pretrained=None))
    for name, statistics in plan.net.parameters_and_names():
        if ".moving_" in name:
            statistics.set_data(Tensor(np.linspace(0.5, 1.5, statistics.size).astype(np.float32)))
    preprocessing = dataclasses.replace(plan.card.preprocessing, **OTHER)
    save_checkpoint(plan.net, folder / "pretrained.ckpt", dataclasses.replace(plan.card, preprocessing=preprocessing))
    with without_pictures():
        train(config)
    return SimpleNamespace(config=config, pretrained=plan.net, folder=folder)


def test_training_changes_all_but_the_frozen_weights_and_statistics(tuned):
    before, after = weights(tuned.pretrained), weights(load_network(tuned.folder / "whole" / "squeezenet.ckpt")[0])
    frozen = {name for name in before if name.startswith(("features.0.", "features.2.", "features.3."))}
    assert any(name.endswith("moving_variance") for name in frozen)
    for name, value in before.items():
        assert (value.tobytes() == after[name].tobytes()) == (name in frozen or name.endswith(".step")), name


def test_images_are_normalised_as_the_pretrained_network_has_it_and_the_result_says_so(tuned):
    card = load_network(tuned.folder / "whole" / "squeezenet.ckpt")[1]
    assert {"mean": card.preprocessing.mean, "std": card.preprocessing.std} == OTHER
    assert card.preprocessing.image_size == SMALL["image_size"]
    batch, own = (
        next(prepare(config).batches().create_dict_iterator(num_epochs=1, output_numpy=True))
        for config in (tuned.config, with_keys(tuned.config, pretrained=None, freeze=[]))
    )
    assert np.array_equal(batch["label"], own["label"]) and not np.allclose(batch["image"], own["image"])


@pytest.mark.thorough
def test_a_fine_tuning_stopped_and_resumed_without_its_pretrained_file_ends_bit_identical(
    tuned, tmp_path, monkeypatch, no_pictures
):
    config = with_keys(tuned.config, output_path=str(tmp_path / "run"), resume=True)
    stop_at(monkeypatch, 6)
    with pytest.raises(Interrupted) as end:
        train(config)
    assert end.value.number == signal.SIGTERM
    stop_at(monkeypatch, None)
    pretrained = Path(config.run.pretrained)
    pretrained.rename(tmp_path / "elsewhere.ckpt")
    try:
        train(config)
    finally:
        (tmp_path / "elsewhere.ckpt").rename(pretrained)
    assert_same(tmp_path / "run", tuned.folder / "whole")


def test_a_run_stopped_before_its_first_checkpoint_begins_again_from_the_pretrained_weights(tuned, tmp_path):
    config = with_keys(tuned.config, output_path=str(tmp_path), resume=True)
    plan = resumed_plan(prepare(config))
    expected = weights(tuned.pretrained)
    assert all(value.tobytes() == expected[name].tobytes() for name, value in weights(plan.net).items())
    assert plan.card.preprocessing.mean == OTHER["mean"]


def test_photographs_in_folders_fine_tune_the_published_network(shared, tmp_path, no_pictures):
    """The authors' ImageNet weights, whose input has a scale of its own, tell ten photographs apart by a new head."""
    source = shared / "data" / "imagenet_squeezenet"
    arrays, card = read_weights(str(source / "compressed_SqueezeNet.net"))
    parameters = [ms.Parameter(array, name=name) for name, array in arrays.items()]
    save_checkpoint(parameters, tmp_path / "imagenet.ckpt", card)
    for photograph in sorted((source / "images").iterdir())[::20]:
        _, _, name = photograph.stem.partition("_")
        for split in ("train", "val"):
            (tmp_path / split / name).mkdir(parents=True)
        shutil.copy(photograph, tmp_path / "train" / name)
        with Image.open(photograph) as image:
            image.convert("RGB").transpose(Image.FLIP_LEFT_RIGHT).save(tmp_path / "val" / name / "mirrored.jpg")
    result = train(
        configuration(
            **{"dataset": "image_folder", "data_path": str(tmp_path), "image_size": 96, "fit": "center_crop"},
            **{"pretrained": str(tmp_path / "imagenet.ckpt"), "freeze": ["features"], "classifier_padding": 1},
            **{"batch_size": 10, "epochs": 12, "warmup_epochs": 0, "lr_decay_mode": "cosine", "lr_max": 0.003},
            **{"optimizer": "adam", "dropout": 0.0, "eval_steps": 12, "log_steps": 4, "device_target": "CPU"},
            **{"output_path": str(tmp_path / "run"), "scalars": "none"},
        )
    )
    assert result["validation"]["accuracy"] >= 0.8  # Chance is 0.1.
    losses = [float(row["loss"]) for row in metrics_rows(tmp_path / "run") if row["loss"]]
    assert losses[-1] < 0.3 * losses[0]
    assert load_network(Path(tmp_path / "run" / "best.ckpt"))[1].preprocessing.std == (1 / 255,) * 3
