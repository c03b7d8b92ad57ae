"""The table of names: what it lists is what the networks have."""

from __future__ import annotations

import itertools

import pytest

from src.checkpoint import weights_of
from src.conversion.names import NAMINGS, parameters
from src.network.convolutions import convolutions
from src.network.design_space import STEMS
from src.squeezenet import BATCH_NORMS, BYPASSES, VERSIONS, SqueezeNet

OTHERS = [{"batch_norm": batch_norm, "stem": stem} for batch_norm, stem in itertools.product(BATCH_NORMS, STEMS)] + [
    {"squeeze_ratio": 0.25, "base_e": 32, "incr_e": 16},
    {"in_channels": 1},
]


@pytest.mark.parametrize("version, bypass", itertools.product(VERSIONS, BYPASSES))
def test_parameters_are_those_of_the_network(version, bypass):
    for others in OTHERS if bypass == "complex" else OTHERS[:1]:
        model = {"num_classes": 7, "version": version, "bypass": bypass, **others}
        expected = {name: parameter.shape for name, parameter in weights_of(SqueezeNet(**model)).items()}
        for naming in NAMINGS.values():
            found = parameters(model, naming)
            assert {parameter.own: parameter.shape for parameter in found} == expected
            assert len({parameter.name for parameter in found}) == len(expected)


def test_names_are_those_of_the_published_files():
    """torchvision/models/squeezenet.py; deploy.prototxt of SqueezeNet_v1.0 and of SqueezeNet-Deep-Compression; the
    MindSpore model zoo's research/cv/squeezenet/src/squeezenet.py."""
    layers = convolutions({"num_classes": 1000})
    found = {key: [naming.layer(layer) for layer in layers] for key, naming in NAMINGS.items() if naming}
    assert found["torchvision"][:2] == ["features.0", "features.3.squeeze"]
    assert found["torchvision"][-2:] == ["features.12.expand3x3", "classifier.1"]
    assert found["caffe"][:3] == ["conv1", "fire2/squeeze1x1", "fire2/expand1x1"]
    assert found["caffe"][-2:] == ["fire9/expand3x3", "conv10"]
    assert found["deep_compression"][-3:] == ["fire9/conv1x1_2", "fire9/conv3x3_2", "conv_final"]
    assert found["zoo"][1] == "features.3.squeeze" and found["zoo"][-1] == "final_conv"
    assert found["zoo_residual"][:2] == ["conv1", "fire2.squeeze"] and found["zoo_residual"][-1] == "conv10"
    later = [NAMINGS["torchvision"].layer(layer) for layer in convolutions({"num_classes": 1000, "version": "1_1"})]
    fires = [name for name in later if name.endswith("squeeze")]
    assert fires == [f"features.{i}.squeeze" for i in (3, 4, 6, 7, 9, 10, 11, 12)]
