from __future__ import annotations

import dataclasses
import json
import os
import re
from typing import get_args

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.checkpoint import (
    CARD_KEY,
    load_network,
    load_pretrained,
    load_weights,
    read_checkpoint,
    save_checkpoint,
    weights_of,
)
from src.cli.errors import UserError
from src.dataset.options import Dataset
from src.dataset.preprocessing import Preprocessing
from src.model_card import ModelCard
from src.squeezenet import SqueezeNet

SMALL = {"num_classes": 4, "version": "cifar", "base_e": 8, "incr_e": 8}
# Names whose JSON is longer than its characters, and has characters of JSON's own.
CLASSES = ["cat", "Käfer", '"a", b', "日本"]


def card_of(**model) -> ModelCard:
    preprocessing = Preprocessing(8, "resize", "dataset", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    arguments = {**SMALL, **model}
    classes = [*CLASSES, *"efghijklmn"][: arguments["num_classes"]]
    return ModelCard(arguments, classes, preprocessing, "image_folder", 0.25)


def weights(net) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy().copy() for name, parameter in weights_of(net).items()}


@pytest.fixture
def saved(tmp_path):
    """A checkpoint file with its network."""
    net = card_of().build()
    save_checkpoint(net, tmp_path / "net.ckpt", card_of())
    return net, tmp_path / "net.ckpt"


def rewrite(file, change) -> None:
    """Apply a function to the dictionary of parameters in a checkpoint and save it, as MindSpore does."""
    parameters = ms.load_checkpoint(str(file))
    change(parameters)
    records = [{"name": name, "data": Tensor(value.asnumpy())} for name, value in parameters.items()]
    os.remove(file)
    ms.save_checkpoint(records, str(file), crc_check=True)


def message(function, *arguments) -> str:
    """Return the text of the UserError that a call raises, which must be one line."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("model", [{}, {"batch_norm": "all", "bypass": "complex", "num_classes": 7}], ids=str)
def test_what_is_saved_comes_back_bit_for_bit_with_its_card(tmp_path, model):
    card, random = card_of(**model), np.random.RandomState(0)
    net = card.build()
    for parameter in weights_of(net).values():  # Also what training alone would move: running means and variances.
        parameter.set_data(Tensor(random.standard_normal(parameter.shape).astype(np.float32)))
    save_checkpoint(net, tmp_path / "net.ckpt", card)
    loaded, loaded_card = load_network(tmp_path / "net.ckpt")
    assert loaded_card == card
    expected, found = weights(net), weights(loaded)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].tobytes() == value.tobytes(), name


def test_a_loaded_network_is_set_to_evaluation(saved):
    assert not load_network(saved[1])[0].training


@pytest.mark.parametrize("dataset", [None, *get_args(Dataset)])
def test_only_data_sets_without_validation_images_have_some_set_aside(dataset):
    card = ModelCard({}, [], None, dataset="cifar10", val_split=0.1)
    assert card.val_split_of(dataset) == (0.1 if dataset in (None, "cifar10", "cifar10_binary", "digits") else 0)


def test_a_card_survives_json(tmp_path):
    card = card_of()
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card
    assert isinstance(card.preprocessing.mean, tuple)


def test_a_checkpoint_is_readable_by_others_and_no_temporary_file_stays(saved):
    file = saved[1]
    assert file.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in file.parent.iterdir()] == ["net.ckpt"]


def test_a_checkpoint_is_replaced_by_a_new_one(saved):
    other = card_of().build()
    save_checkpoint(other, saved[1], card_of())
    assert np.array_equal(
        load_network(saved[1])[0].features[0].conv.weight.asnumpy(), other.features[0].conv.weight.asnumpy()
    )


@pytest.mark.parametrize("step", ["mindspore.save_checkpoint", "os.fsync", "os.replace"])
def test_the_former_file_stays_whole_when_saving_fails(saved, monkeypatch, step):
    file = saved[1]
    before = file.read_bytes()

    def fail(*arguments, **options):
        if step == "mindspore.save_checkpoint":
            with open(arguments[1], "wb") as half:
                half.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(step, fail)
    assert "net.ckpt: cannot be written (no space left)" in message(save_checkpoint, saved[0], file, card_of())
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == ["net.ckpt"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: os.urandom(5000),
        lambda data: b"not one of ours",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
        lambda data: data[:-400] + bytes([data[-400] ^ 1]) + data[-399:],
        lambda data: data + b"surplus",
    ],
    ids=["empty", "random", "text", "half", "a byte short", "bit flip", "bit flip in the card", "surplus"],
)
def test_a_damaged_file_is_refused_by_name(saved, damage):
    file = saved[1]
    file.write_bytes(damage(file.read_bytes()))
    assert message(load_network, file).startswith(f"{file}: not a checkpoint, or damaged")


def test_a_missing_file_a_folder_and_a_file_of_another_kind_are_refused(saved, tmp_path):
    assert "no such checkpoint; give a .ckpt" in message(load_network, tmp_path / "other.ckpt")
    (tmp_path / "folder.ckpt").mkdir()
    assert "no such checkpoint" in message(load_network, tmp_path / "folder.ckpt")
    saved[1].rename(tmp_path / "net.mindir")
    assert "a checkpoint of this project; give it with --ckpt_path, and name it .ckpt" in message(
        load_network, tmp_path / "net.mindir"
    )


@pytest.mark.parametrize("dropped", ["classifier.1.bias", "features.0.conv.weight"])
def test_a_file_that_lacks_a_parameter_is_refused_by_its_name(saved, dropped):
    rewrite(saved[1], lambda parameters: parameters.pop(dropped))
    assert message(load_network, saved[1]).endswith(f"does not fit the network: {dropped} is missing")


def test_a_file_cut_at_any_parameter_is_refused(saved):
    """MindSpore loads such a file without a word, and leaves the rest of the network as it was."""
    names = list(ms.load_checkpoint(str(saved[1])))
    for kept in (1, len(names) // 2, len(names) - 1):
        save_checkpoint(saved[0], saved[1], card_of())
        rewrite(saved[1], lambda parameters, kept=kept: [parameters.pop(name) for name in names[kept:]])
        assert re.search("contains no model card|is missing", message(load_network, saved[1])), kept


def test_a_parameter_that_the_network_lacks_is_named(saved):
    surplus = {"features.9.weight": ms.Parameter(Tensor([1.0]), name="x")}
    rewrite(saved[1], lambda parameters: parameters.update(surplus))
    assert "features.9.weight is not in the network" in message(load_network, saved[1])


def test_weights_of_another_architecture_are_refused_with_what_differs(saved):
    text = message(load_pretrained, SqueezeNet(**{**SMALL, "base_e": 16}), saved[1], card_of(base_e=16))
    assert "features.2.squeeze.conv.weight is (1, 64, 1, 1) in the file and (2, 64, 1, 1) in the network" in text
    assert re.search(r"and \d+ more; its network has base_e 8 \(here 16\)$", text)


def test_a_network_with_more_layers_names_those_missing(saved):
    text = message(load_pretrained, SqueezeNet(**SMALL, bypass="complex"), saved[1], card_of(bypass="complex"))
    assert re.search(r"features\.\d\.shortcut\S* is missing", text)


def test_an_architecture_with_another_width_before_the_head_is_refused_without_talk_of_classes(saved, capsys):
    message(load_pretrained, SqueezeNet(**{**SMALL, "incr_e": 16}), saved[1], card_of(incr_e=16))
    assert "classes instead of" not in capsys.readouterr().out


def test_another_class_count_is_refused_where_the_head_must_fit(saved):
    text = message(load_weights, SqueezeNet(**{**SMALL, "num_classes": 5}), read_checkpoint(saved[1]), saved[1])
    assert "classifier.1.weight is (4, 16, 1, 1) in the file and (5, 16, 1, 1) in the network" in text


def test_a_card_that_does_not_fit_its_weights_is_refused(saved):
    net, file = saved
    save_checkpoint(net, file, card_of(num_classes=5))
    assert "classifier.1.weight is (4, " in message(load_network, file)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(saved, value):
    net, file = saved
    net.features[0].conv.bias.set_data(Tensor(np.full(64, value, np.float32)))
    save_checkpoint(net, file, card_of())
    assert "features.0.conv.bias holds values that are not finite" in message(load_network, file)


def test_a_checkpoint_without_a_card_is_refused_with_what_to_give_instead(saved, tmp_path):
    ms.save_checkpoint(saved[0], str(tmp_path / "plain.ckpt"), crc_check=True)
    text = message(load_network, tmp_path / "plain.ckpt")
    assert "contains no model card" in text and "python convert.py --from mindspore " in text


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        "[]",
        "{}",
        json.dumps({**card_of().to_json(), "from_the_future": 1}),
        json.dumps({**card_of().to_json(), "model": {**SMALL, "version": "9_9"}}),
        json.dumps({**card_of().to_json(), "model": {**SMALL, "sparsity": 0.5}}),
    ],
    ids=["text", "list", "empty", "unknown entry", "unknown version", "unknown argument"],
)
def test_a_card_that_cannot_be_read_is_refused(saved, text):
    card = ms.Parameter(Tensor(np.frombuffer(text.encode(), np.uint8)), name=CARD_KEY)
    rewrite(saved[1], lambda parameters: parameters.update({CARD_KEY: card}))
    assert "its model card cannot be read" in message(load_network, saved[1])


def test_pretrained_weights_replace_those_of_the_network(saved):
    net = SqueezeNet(**SMALL)
    assert load_pretrained(net, saved[1], card_of()) == card_of()
    expected = weights(saved[0])
    assert all(np.array_equal(value, expected[name]) for name, value in weights(net).items())


def test_pretrained_leaves_a_head_for_other_classes_as_it_is_and_says_so(saved, capsys):
    net = SqueezeNet(**{**SMALL, "num_classes": 9})
    before, given = weights(net), weights(saved[0])
    load_pretrained(net, saved[1], card_of(num_classes=9))
    for name, value in weights(net).items():
        expected = before[name] if name.startswith("classifier.") else given[name]
        assert np.array_equal(value, expected), name
    assert "the last convolution has 4 classes instead of 9 and is initialized anew" in capsys.readouterr().out


def test_a_head_for_other_classes_starts_with_zeros_where_no_relu_follows(saved):
    other = card_of(num_classes=9, final_relu=False)
    net = other.build()
    load_pretrained(net, saved[1], other)
    assert (net.classifier[1].weight.asnumpy() == 0).all()
    same = card_of(final_relu=False).build()
    load_pretrained(same, saved[1], card_of(final_relu=False))
    assert np.array_equal(same.classifier[1].weight.asnumpy(), saved[0].classifier[1].weight.asnumpy())


def test_what_leaves_no_trace_in_the_weights_is_said_where_it_differs(saved, capsys):
    net, file = saved
    other = card_of(classifier_padding=1, bypass="simple", dropout=0.1)
    load_pretrained(SqueezeNet(**other.model), file, other)
    expected = f'{file}: its network has bypass "none" (here "simple"), classifier_padding 0 (here 1)\n'
    assert capsys.readouterr().out == expected
    per_image = dataclasses.replace(
        card_of(), preprocessing=dataclasses.replace(other.preprocessing, normalize="per_image")
    )
    load_pretrained(net, file, per_image)
    assert 'normalize "dataset" (here "per_image")' in capsys.readouterr().out
    load_pretrained(net, file, card_of(final_relu=True))  # The default, which the card leaves out.
    assert capsys.readouterr().out == ""


def test_pretrained_may_lack_a_card(saved, tmp_path):
    ms.save_checkpoint(saved[0], str(tmp_path / "plain.ckpt"))
    net = SqueezeNet(**SMALL)
    assert load_pretrained(net, tmp_path / "plain.ckpt", card_of()) is None
    assert np.array_equal(net.features[0].conv.weight.asnumpy(), saved[0].features[0].conv.weight.asnumpy())


def test_pretrained_with_half_a_head_for_other_classes_is_refused(saved):
    rewrite(saved[1], lambda parameters: parameters.pop("classifier.1.weight"))
    text = message(load_pretrained, SqueezeNet(**{**SMALL, "num_classes": 9}), saved[1], card_of(num_classes=9))
    assert "classifier.1.weight is missing" in text


def test_mindspores_checkpoints_of_a_run_load_although_they_hold_the_optimizer(tiny):
    file = tiny.folder / "checkpoints" / "SqueezeNet-3_30.ckpt"
    held = ms.load_checkpoint(str(file))
    assert any(name.startswith(("moment", "moments")) for name in held) and "global_step" in held
    net, card = load_network(file)
    assert card.classes == [str(i) for i in range(10)]
    assert np.array_equal(net.features[0].conv.weight.asnumpy(), held["features.0.conv.weight"].asnumpy())
    other = card.build()
    load_pretrained(other, file, card)
    assert np.array_equal(other.features[0].conv.weight.asnumpy(), held["features.0.conv.weight"].asnumpy())


def test_a_card_says_how_the_run_was_made(tiny):
    card = load_network(tiny.folder / "best.ckpt")[1]
    assert card.model == {**dataclasses.asdict(tiny.config.model), "num_classes": 10}
    assert (card.dataset, card.val_split, card.preprocessing.image_size) == ("digits", 0.1, 16)
    assert card.mindspore_version == ms.__version__
