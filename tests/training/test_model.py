from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from src.cli.errors import UserError
from src.config import OptimizerConfig, parse_train
from src.dataset.preprocessing import Preprocessing
from src.loss import CrossEntropy
from src.network.input_layer import with_input_layer
from src.squeezenet import SqueezeNet
from src.training.model import build_model, check_precision, loss_scale_manager
from src.training.resume import GLOBAL_STEP, restore
from tests.programs import ROOT
from tests.runs import weights

RATES = np.array([0.1, 0.2, 0.3], np.float32)


@pytest.mark.parametrize(
    ("level", "scale", "on_ascend", "on_cpu"),
    [
        ("O0", None, None, None),
        ("O1", None, None, None),
        ("auto", None, "dynamic", None),
        ("O2", None, "dynamic", 1),
        ("O2", 0.0, "dynamic", 1),
        ("O2", 1.0, 1, 1),
        ("O3", 1024.0, 1024, 1),
        ("auto", 1024.0, 1024, None),
        ("O0", 1024.0, 1024, None),
        ("O0", 1.0, None, None),
    ],
)
def test_the_loss_scale_is_the_one_of_the_configuration(monkeypatch, level, scale, on_ascend, on_cpu):
    for target, expected in (("Ascend", on_ascend), ("CPU", on_cpu)):
        monkeypatch.setattr(ms, "get_context", lambda name, target=target: target)
        manager = loss_scale_manager(OptimizerConfig(amp_level=level, loss_scale=scale))
        if expected in (None, "dynamic"):
            assert type(manager) is (type(None) if expected is None else ms.amp.DynamicLossScaleManager)
        else:
            # Updates that overflow are left out: on a 910B they would make the weights NaN. Not so on a CPU, which has
            # no check of overflow.
            dropped = target == "Ascend"
            assert (manager.get_loss_scale(), manager.get_drop_overflow_update()) == (expected, dropped)


def on_device(fit: str, normalize: str) -> Preprocessing:
    return Preprocessing(16, fit, normalize, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 8, "device")


def step_of(net, amp_level: str):
    """Return one training step on pixels, as a graph, and its inputs."""
    config = OptimizerConfig(amp_level=amp_level)
    train = build_model(net, CrossEntropy(), config, RATES).train_network.set_train()
    pixels = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    return train, Tensor(pixels), Tensor(np.arange(4), ms.int32)


@pytest.mark.parametrize("level, normalize", [("O2", "dataset"), ("O3", "dataset"), ("O2", "per_image")])
def test_mixed_precision_compiles_behind_pixels_that_are_resized_in_the_graph(level, normalize):
    """On the CPU it cannot run, but a product of float16 and float32 would fail to compile."""
    inner = SqueezeNet(4, "cifar", batch_norm="squeeze", base_e=8, incr_e=8)
    net = with_input_layer(inner, on_device("resize", normalize))
    train, *inputs = step_of(net, level)
    train.compile(*inputs)
    assert net.input_layer.fp32 and not net.input_layer.fp16
    assert net.net.features[0].conv.fp16, "the network itself is float16"


def test_layers_have_their_own_rates_behind_pixels_that_are_normalised_in_the_graph():
    net = with_input_layer(SqueezeNet(4, "cifar", base_e=8, incr_e=8), on_device("resize", "dataset"))
    optimizer = build_model(net, CrossEntropy(), OptimizerConfig(layer_decay=0.5), RATES)._optimizer
    assert len(optimizer.parameters) == len(net.trainable_params())
    assert len(optimizer.learning_rate) > 2


@pytest.mark.thorough
@pytest.mark.parametrize("preprocess", ["host", "device"])
def test_amp_level_o1_trains_the_network_and_writes_nothing_into_the_current_folder(tmp_path, monkeypatch, preprocess):
    """MindSpore rewrites the network's source for it, as a file, and gives the result parameters of other names."""
    monkeypatch.chdir(tmp_path)
    ms.set_seed(0)
    net = SqueezeNet(4, "cifar", bypass="complex", batch_norm="squeeze", final_relu=False, base_e=8, incr_e=8)
    names, before = [parameter.name for parameter in net.get_parameters()], weights(net)
    whole = with_input_layer(net, on_device("resize", "dataset")) if preprocess == "device" else net
    train, pixels, labels = step_of(whole, "O1")
    if preprocess == "host":
        pixels = Tensor(np.random.RandomState(0).standard_normal((4, 3, 8, 8)).astype(np.float32))
    losses = [float(train(pixels, labels).asnumpy()) for _ in range(2)]
    assert np.isfinite(losses).all()
    assert [parameter.name for parameter in net.get_parameters()] == names
    assert all(np.abs(value - before[name]).max() > 0 for name, value in weights(net).items() if "weight" in name)
    assert int(net.classifier[0].step.asnumpy()) == 2, "dropout counts its steps in the network that is saved"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("level", ["O2", "O3"])
def test_a_precision_that_mindspore_cannot_train_with_on_the_cpu_is_refused_there_only(level):
    with pytest.raises(UserError, match=f"^amp_level: {level} needs .* give --amp_level O0$"):
        check_precision(OptimizerConfig(amp_level=level), "CPU")
    assert check_precision(OptimizerConfig(amp_level=level), "Ascend") is None


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_trains_on_a_cpu_at_amp_level_o0_and_says_that_its_loss_scale_is_not_used(path, capsys):
    optimizer = parse_train(["--config", str(path), "--amp_level", "O0"], "").optimizer
    check_precision(optimizer, "CPU")
    scaled = "loss_scale: 1024 is not used on a CPU, where float32 needs none\n"
    assert capsys.readouterr().out == (scaled if optimizer.loss_scale else "")
    assert loss_scale_manager(optimizer) is None


@pytest.mark.parametrize(
    ("devices", "step", "updates"),
    [(2, 10, 7), (1, 8, 8)],
    ids=["three were left out", "by the steps on another number of devices"],
)
def test_a_resumed_run_goes_on_at_the_learning_rate_of_its_updates(devices, step, updates):
    def network(count):
        net = nn.Cell()
        net.count = Parameter(Tensor([count], ms.int32), name=GLOBAL_STEP)
        return net

    saved = SimpleNamespace(
        path=Path("10.ckpt"), state=SimpleNamespace(step=10, devices=2), parameters=network(7).parameters_dict()
    )
    resumed = network(0)
    restore(resumed, saved, SimpleNamespace(size=devices, rank=0), step)
    assert resumed.count.asnumpy().tolist() == [updates]
