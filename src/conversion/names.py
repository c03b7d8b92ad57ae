"""Names of SqueezeNet's parameters in other frameworks, from one table."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

from src.network.convolutions import Convolution, convolutions


class Naming(NamedTuple):
    """Naming scheme of a framework: templates of the layers' names, and names of the parts of a Fire module.

    Fields of a template: {index}, from 0 and counting the activation after the first convolution, {number} and {part}.
    """

    stem: str
    fire: str
    last: str
    parts: dict[str, str]

    def layer(self, convolution: Convolution) -> str:
        """Return the name of a convolution."""
        template = {"stem": self.stem, "last": self.last}.get(convolution.part, self.fire)
        part = self.parts.get(convolution.part, convolution.part)
        return template.format(index=convolution.index + 1, number=convolution.number, part=part)


NAMINGS = {
    # torchvision has no shortcuts and no batch norm; their names follow its style.
    "torchvision": Naming("features.0", "features.{index}.{part}", "classifier.1", {}),
    # The authors' prototxt files for v1.0 and v1.1. The shortcut's name is this project's.
    "caffe": Naming("conv1", "fire{number}/{part}", "conv{number}", {"squeeze": "squeeze1x1", "shortcut": "bypass1x1"}),
    # MindSpore's model zoo, and its network with simple bypass. mindcv has torchvision's names.
    "zoo": Naming("features.0", "features.{index}.{part}", "final_conv", {}),
    "zoo_residual": Naming("conv1", "fire{number}.{part}", "conv{number}", {}),
    # This project's own, in a checkpoint without a model card.
    "own": None,
    # The prototxt of SqueezeNet-Deep-Compression.
    "deep_compression": Naming(
        "conv1",
        "fire{number}/{part}",
        "conv_final",
        {"squeeze": "conv1x1_1", "expand1x1": "conv1x1_2", "expand3x3": "conv3x3_2"},
    ),
}

# Of a batch norm, in SqueezeNet and elsewhere.
_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


class Parameter(NamedTuple):
    """A parameter of SqueezeNet: its own name, its name in another framework, and its shape."""

    own: str
    name: str
    shape: tuple[int, ...]


def parameters(model: dict[str, Any], naming: Optional[Naming]) -> list[Parameter]:
    """Return the parameters of the SqueezeNet with the arguments `model`, in the network's order.

    naming: None for this project's own.
    """
    batch_norm = model.get("batch_norm", "none")
    found = []
    for convolution in convolutions(model):
        own, vector = convolution.layer, convolution.shape[:1]
        name = naming.layer(convolution) if naming else own
        if convolution.normalised:
            found += _norm(f"features.{convolution.index - 1}", f"{name}.input_norm", convolution.shape[1:2])
        found.append(Parameter(f"{own}.weight", f"{name}.weight", convolution.shape))
        if convolution.has_norm(batch_norm):
            found += _norm(f"{own.rsplit('.', 1)[0]}.norm", f"{name}.norm", vector)
        else:
            found.append(Parameter(f"{own}.bias", f"{name}.bias", vector))
    return found if naming else [parameter._replace(name=parameter.own) for parameter in found]


def _norm(own: str, name: str, shape: tuple[int, ...]) -> list[Parameter]:
    return [Parameter(f"{own}.{kind}", f"{name}.{their}", shape) for kind, their in _NORM.items()]
