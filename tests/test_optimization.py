from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.config import OptimizerConfig
from src.dataset.transforms import Preprocessing
from src.errors import UserError
from src.loss import CrossEntropy
from src.network.input_layer import with_input_layer
from src.optimization import build_model, check_precision
from src.squeezenet import SqueezeNet

RATES = np.array([0.1, 0.2, 0.3], np.float32)


def weights(net) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in net.trainable_params()}


def one_step(optimizer: OptimizerConfig, rate: float = 0.1) -> dict[str, np.ndarray]:
    """Return by how much one training step moves each parameter of a small net whose weights are all alike."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        ms.set_seed(0)
        net = SqueezeNet(4, "cifar", dropout=0, final_relu=False, base_e=8, incr_e=8)
        for parameter in net.trainable_params():
            if parameter.name.endswith(".bias"):
                parameter.set_data(Tensor(np.full(parameter.shape, 0.5, np.float32)))
        before = weights(net)
        model = build_model(net, CrossEntropy(), optimizer, np.full(3, rate, np.float32))
        random = np.random.RandomState(0)
        images, labels = random.standard_normal((8, 3, 8, 8)).astype(np.float32), random.randint(0, 4, 8)
        model.train_network.set_train(True)
        model.train_network(Tensor(images), Tensor(labels, ms.int32))
        return {name: value - before[name] for name, value in weights(net).items()}
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize("optimizer", ["momentum", "muon"])
def test_a_loss_scale_does_not_change_the_step(optimizer):
    plain, scaled = (one_step(OptimizerConfig(optimizer, loss_scale=scale, amp_level="O0")) for scale in (1.0, 1024.0))
    for name, step in plain.items():
        np.testing.assert_allclose(scaled[name], step, rtol=1e-3, atol=1e-6, err_msg=name)


def on_device(fit: str, normalize: str) -> Preprocessing:
    return Preprocessing(16, fit, normalize, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 8, "device")


def step_of(net, amp_level: str):
    """Return one training step on pixels, as a graph, and its inputs."""
    config = OptimizerConfig(amp_level=amp_level, loss_scale=1024.0)
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


@pytest.mark.parametrize(
    "keys, key",
    [
        ({"amp_level": "O2"}, "amp_level"),
        ({"amp_level": "O3"}, "amp_level"),
        ({"loss_scale": 1024.0}, "loss_scale"),
        ({"loss_scale": 0.0}, "loss_scale"),
        ({"amp_level": "O1", "loss_scale": 0.0}, "loss_scale"),
        ({"amp_level": "auto", "loss_scale": 0.0}, "loss_scale"),
    ],
    ids=str,
)
def test_a_precision_that_mindspore_cannot_train_with_on_the_cpu_is_refused_there_only(keys, key):
    with pytest.raises(UserError, match=f"^{key}: "):
        check_precision(OptimizerConfig(**keys), "CPU")
    assert check_precision(OptimizerConfig(**keys), "Ascend") is None
