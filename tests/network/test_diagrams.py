from __future__ import annotations

import pytest

from src.network.design_space import LAYERS
from src.network.diagrams import boxes, fire_diagram, network_diagram
from src.network.summary import summarize
from src.squeezenet import BYPASSES, VERSIONS, Fire, SqueezeNet


def bypasses(net: SqueezeNet) -> list[str | None]:
    """Return the kind of each Fire module's bypass in a network."""
    kinds = {"NoneType": None, "Identity": "identity", "ConvUnit": "1x1 convolution"}
    return [kinds[type(cell.shortcut).__name__] for cell in net.features if isinstance(cell, Fire)]


@pytest.mark.parametrize("bypass", BYPASSES)
@pytest.mark.parametrize("version", VERSIONS)
def test_each_layer_of_the_table_is_drawn_with_its_output_and_the_bypass_that_the_network_has(version, bypass):
    model = {"version": version, "bypass": bypass}
    drawn, rows = boxes(model, 64), summarize(model, 64)
    fires = [box for box in drawn if box.kind == "Fire"]
    table = VERSIONS[version][1]
    expected = [layer for layer in table if not isinstance(layer, str)]
    texts = [f"fire{i}: {s}, {e1} + {e3}" for i, (s, e1, e3) in enumerate(expected, 2)]
    assert [box.text for box in fires] == texts
    pools = [LAYERS[layer] for layer in table if layer in ("M", "m")]
    drawn_pools = [box.text for box in drawn if box.kind == "max pool"]
    assert drawn_pools == [f"max pool: {p.kernel_size}x{p.kernel_size}, stride {p.stride}" for p in pools]
    assert [box.bypass for box in fires] == bypasses(SqueezeNet(10, version, bypass))
    shapes = [row.output for row in rows if row.kind in ("ConvUnit", "MaxPool2d", "Fire", "Conv2d")]
    assert [box.output for box in drawn] == [*shapes, (10,)]


def test_the_first_and_last_convolution_have_the_papers_numbers():
    drawn = boxes({"version": "1_0", "num_classes": 1000}, 227)
    assert drawn[0].text == "conv1: 7x7, 96, stride 2" and drawn[-2].text == "conv10: 1x1, 1000"


def test_networks_stand_side_by_side_with_their_size_and_the_bypasses_that_they_have():
    models = {bypass: {"version": "1_0", "num_classes": 1000, "bypass": bypass} for bypass in BYPASSES}
    figure = network_diagram(models, 227)
    titles = [axes.get_title().splitlines() for axes in figure.axes]
    assert [title[:2] for title in titles] == [
        ["none", "1,248,424 parameters"],
        ["simple", "1,248,424 parameters"],
        ["complex", "1,589,672 parameters"],
    ]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-2:] == ["bypass: identity", "bypass: 1x1 convolution"]
    (axes,) = network_diagram({"plain": models["none"]}, 227).axes
    assert not axes.get_lines()


def test_a_fire_module_is_drawn_with_the_weights_that_the_cell_has():
    weights = sum(p.size for p in Fire(96, 6, 5, 4).get_parameters() if p.name.endswith("weight"))
    texts = [text.get_text() for text in fire_diagram(96, 6, 5, 4).axes[0].texts]
    assert weights == 822 and "Fire module: 822 weights" in texts and "plain convolution: 7,776 weights" in texts
