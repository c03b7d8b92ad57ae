"""Weights of unbalanced classes in the training loss: what a run does with them."""

from __future__ import annotations

import numpy as np
import pytest

from src.cli import signals
from src.cli.errors import UserError
from src.training.plan import prepare
from src.training.run import train
from tests.made_data import write_image_folder
from tests.runs import DIGITS, assert_same, configuration, metrics_rows, stop_at

pytestmark = pytest.mark.usefixtures("no_pictures")
KEYS = {
    **{**DIGITS, "dataset": "image_folder", "image_size": 12, "batch_size": 4, "base_e": 8, "incr_e": 8},
    **{"epochs": 2, "warmup_epochs": 0, "scalars": "none", "log_steps": 2},
}


@pytest.fixture
def unbalanced(tmp_path):
    """Two classes of 18 and 6 images."""
    images = np.random.RandomState(0).randint(0, 256, (24, 12, 12, 3)).astype(np.uint8)
    write_image_folder(tmp_path, {"train": {"ant": images[:18], "bee": images[18:]}})
    return str(tmp_path)


def test_balanced_weights_follow_from_the_images_that_are_trained_on(unbalanced, capsys):
    plan = prepare(configuration(**KEYS, data_path=unbalanced, class_weights="balanced", num_classes=3))
    np.testing.assert_allclose(plan.class_weights[:2], [24 / 36, 2], rtol=1e-6)
    assert "weights of the classes in the loss: " in capsys.readouterr().out
    plan = prepare(configuration(**KEYS, data_path=unbalanced, class_weights="balanced", train_images=12))
    np.testing.assert_allclose(plan.class_weights, [1, 1], rtol=1e-6)


def test_another_number_of_weights_is_refused_with_the_classes(unbalanced):
    with pytest.raises(UserError, match=r"class_weights: 3 weights; give one for each of the 2 classes \(ant, bee\)"):
        prepare(configuration(**KEYS, data_path=unbalanced, class_weights=[1, 2, 3]))


@pytest.mark.thorough
@pytest.mark.parametrize("augment", ["none", "mixup"])
def test_a_stopped_run_goes_on_with_its_weights(unbalanced, tmp_path, monkeypatch, graph_mode, augment):
    """Also weighted soft labels; and equal weights are another training than balanced ones."""
    keys = {**KEYS, "data_path": unbalanced, "label_smoothing": 0.1, "augment": augment}
    folders = {name: tmp_path / name for name in ("whole", "stopped", "plain")}
    train(configuration(**keys, class_weights="balanced", output_path=str(folders["whole"])))
    train(configuration(**keys, output_path=str(folders["plain"])))
    stop_at(monkeypatch, 4)
    with pytest.raises(signals.Interrupted):
        train(configuration(**keys, class_weights="balanced", output_path=str(folders["stopped"])))
    stop_at(monkeypatch, None)
    train(configuration(**keys, class_weights="balanced", output_path=str(folders["stopped"]), resume=True))
    assert_same(folders["stopped"], folders["whole"])
    losses = [[row["loss"] for row in metrics_rows(folders[name])] for name in ("whole", "plain")]
    assert losses[0] != losses[1]
    with pytest.raises(UserError, match=r"class_weights: balanced -> none"):
        train(configuration(**keys, output_path=str(folders["stopped"]), resume=True))
