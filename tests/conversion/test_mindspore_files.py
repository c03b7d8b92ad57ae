"""Checkpoints of other MindSpore projects: read with the padding, pooling and bypass of their networks."""

from __future__ import annotations

import shlex

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.checkpoint import load_network, load_pretrained
from src.conversion.converting import import_network
from src.dataset import cifar10
from src.squeezenet import SqueezeNet
from tests.conversion.made_weights import config
from tests.conversion.mindspore_squeezenets import MindCV, Residual, Zoo
from tests.made_data import refusal
from tests.made_models import write_checkpoint
from tests.programs import one_line_error

MAKERS = {
    "zoo": (Zoo, {"version": "1_0", "bypass": "none", "stem": "imagenet"}),
    "residual": (Residual, {"version": "1_0", "bypass": "simple", "stem": "imagenet"}),
    "mindcv 1_1": (MindCV, {"version": "1_1", "bypass": "none", "stem": "padded"}),
    "mindcv 1_0": (lambda classes: MindCV(classes, "1_0"), {"version": "1_0", "bypass": "none", "stem": "imagenet"}),
}


def saved(folder, maker, classes: int = 10):
    """Write a checkpoint as Model.train does, with the optimizer's state; return the network and the file."""
    ms.set_seed(3)
    net = maker(classes)
    for cell in (cell for _, cell in net.cells_and_names() if isinstance(cell, nn.Conv2d)):
        cell.weight.set_data(ms.common.initializer.initializer("he_uniform", cell.weight.shape))
    path = folder / "net.ckpt"
    extra = [{"name": "global_step", "data": Tensor([7])}]
    extra += [{"name": f"moments.{p.name}", "data": Tensor(p.asnumpy() * 0)} for p in net.get_parameters()]
    ms.save_checkpoint([{"name": p.name, "data": p} for p in net.get_parameters()] + extra, str(path))
    return net.set_train(False), path


@pytest.mark.parametrize("which", MAKERS)
def test_the_logits_are_those_of_the_network_it_was_saved_from(tmp_path, which):
    maker, model = MAKERS[which]
    theirs, path = saved(tmp_path, maker)
    net, card = import_network(config("mindspore", path))
    assert {**card.model, **model} == card.model
    for size in (64, 71):  # Even and odd maps, which pools and padding treat differently.
        inputs = Tensor(np.random.RandomState(0).standard_normal((2, 3, size, size)).astype(np.float32))
        expected = theirs(inputs).asnumpy()
        assert np.abs(net(inputs).asnumpy() - expected).max() < 1e-5 * expected.max()


def test_ten_classes_of_the_zoo_are_those_of_cifar10_with_its_preprocessing(tmp_path):
    _, card = import_network(config("mindspore", saved(tmp_path, Zoo)[1]))
    assert (card.classes, card.dataset) == (list(cifar10.CLASSES), "cifar10")
    made = card.preprocessing
    assert (made.image_size, made.fit, made.mean, made.std) == (227, "resize", cifar10.MEAN, cifar10.STD)
    _, card = import_network(config("mindspore", saved(tmp_path, Zoo, 1000)[1]))
    assert (card.classes[0], card.dataset, card.preprocessing.fit) == ("tench", "imagenet", "center_crop")


def test_a_checkpoint_of_this_project_saved_without_its_card_is_read(tmp_path):
    net = SqueezeNet(3, "1_1", dropout=0.0)
    ms.save_checkpoint(net, str(tmp_path / "plain.ckpt"))
    back, card = import_network(config("mindspore", tmp_path / "plain.ckpt"))
    assert card.model["version"] == "1_1" and card.model["ceil_mode"] is False
    inputs = Tensor(np.ones((1, 3, 48, 48), np.float32))
    assert (back(inputs).asnumpy() == net.set_train(False)(inputs).asnumpy()).all()


def test_one_with_its_card_needs_no_conversion(tmp_path):
    assert "is a checkpoint of this project" in refusal(import_network, config("mindspore", write_checkpoint(tmp_path)))


def test_the_programs_name_the_command_that_converts_such_a_file(tmp_path, program):
    folder = tmp_path / "my run"
    folder.mkdir()
    _, path = saved(folder, Residual)
    error = one_line_error(program("export", "--ckpt_path", path, "--device_target", "CPU"))
    command = shlex.split(error.partition("python ")[2])
    assert command[0] == "convert.py" and refusal(load_network, path) in error
    assert refusal(load_pretrained, SqueezeNet(10), path, None) in error
    done = program("convert", *command[1:])
    assert done.returncode == 0, done.stderr
    assert load_network(command[-1])[1].model["bypass"] == "simple"
