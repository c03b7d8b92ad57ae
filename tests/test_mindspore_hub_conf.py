"""What MindSpore Hub takes from the project's root."""

from __future__ import annotations

import pytest

from mindspore_hub_conf import create_network
from src.squeezenet import SqueezeNet


def shapes(net: SqueezeNet) -> dict[str, tuple[int, ...]]:
    return {parameter.name: parameter.shape for parameter in net.trainable_params()}


@pytest.mark.parametrize(
    "name, args, kwargs, same",
    [
        ("squeezenet", (), {}, (10, "1_0")),
        ("squeezenet", (), {"dataset": "imagenet"}, (1000, "1_0")),
        ("squeezenet_residual", (), {"dataset": "cifar10", "num_classes": 7}, (7, "1_0", "simple")),
        ("squeezenet1_1", (5,), {"ceil_mode": True}, (5, "1_1", "none", "none", "imagenet", True)),
    ],
)
def test_the_hub_gets_the_model_zoos_networks_by_its_names(name, args, kwargs, same):
    net, same = create_network(name, *args, **kwargs), SqueezeNet(*same)
    assert shapes(net) == shapes(same)
    assert [type(fire.shortcut) for fire in net.features if hasattr(fire, "shortcut")] == [
        type(fire.shortcut) for fire in same.features if hasattr(fire, "shortcut")
    ]
    assert [type(layer) for layer in net.features] == [type(layer) for layer in same.features]


def test_another_name_and_another_dataset_are_refused():
    with pytest.raises(NotImplementedError, match="resnet50 is not implemented in the repo; it has squeezenet, "):
        create_network("resnet50")
    with pytest.raises(ValueError, match="dataset: 'mnist' is not known"):
        create_network("squeezenet", dataset="mnist")
