"""The networks by the names of the model zoo, as MindSpore Hub asks for them.

import mindspore_hub
net = mindspore_hub.load("the model's page (.md)", source="local", num_classes=1000)    # calls create_network below
"""

from __future__ import annotations

from typing import Any

from src.squeezenet import SqueezeNet

# The model zoo's names, and what each is here.
NETWORKS = {
    "squeezenet": {"version": "1_0"},
    "squeezenet_residual": {"version": "1_0", "bypass": "simple"},
    "squeezenet1_1": {"version": "1_1"},
}
CLASSES = {"cifar10": 10, "imagenet": 1000}


def create_network(name: str, *args: Any, **kwargs: Any) -> SqueezeNet:
    """Return a network of NETWORKS, without trained weights.

    dataset: "cifar10", the default, or "imagenet", for its number of classes where none is given. All other arguments
    are those of SqueezeNet.
    Raises NotImplementedError for another name, as the hub expects; ValueError for another dataset.
    """
    if name not in NETWORKS:
        raise NotImplementedError(f"{name} is not implemented in the repo; it has {', '.join(NETWORKS)}")
    dataset = kwargs.pop("dataset", "cifar10")
    if dataset not in CLASSES:
        raise ValueError(f"dataset: {dataset!r} is not known; give one of {', '.join(CLASSES)}, or num_classes")
    if not args:
        kwargs.setdefault("num_classes", CLASSES[dataset])
    return SqueezeNet(*args, **{**NETWORKS[name], **kwargs})
