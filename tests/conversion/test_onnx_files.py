"""ONNX models of MindSpore and of torch: found by the graph, and run beside the network that is made of them."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
from mindspore import Tensor
from onnx import helper, numpy_helper

from src.checkpoint import load_network, weights_of
from src.conversion.converting import import_network
from tests.conversion.made_weights import config
from tests.made_data import refusal
from tests.made_models import write_checkpoint

# Of a network that is no published one, what its graph does not show.
TOLD = {"fit": "resize", "mean": [0.5] * 3, "std": [0.25] * 3}


def edited(file, path, edit):
    """Write a model that an edit has been made to, and return its path."""
    model = onnx.load(file)
    edit(model.graph)
    onnx.save(model, path)
    return path


def attribute(graph, kind: str, which: int, name: str, value) -> None:
    node = [node for node in graph.node if node.op_type == kind][which]
    kept = [a for a in node.attribute if a.name not in (name, "auto_pad")]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def test_an_export_of_this_project_is_recognised_without_its_specification(small_onnx):
    net, card = import_network(config("onnx", small_onnx.onnx, **TOLD))
    original, _ = load_network(small_onnx.ckpt)
    assert {**card.model, **small_onnx.model} == card.model and card.preprocessing.image_size == 15
    for name, parameter in weights_of(original).items():
        assert weights_of(net)[name].asnumpy().tobytes() == parameter.asnumpy().tobytes(), name


def test_of_a_model_without_a_card_only_what_its_graph_does_not_show_is_asked_for(small_onnx):
    said = refusal(import_network, config("onnx", small_onnx.onnx))
    assert said.endswith("give also --fit, --mean and --std")


def test_a_model_of_export_carries_its_card(small_onnx):
    assert import_network(config("onnx", small_onnx.with_card))[1] == load_network(small_onnx.ckpt)[1]


def test_a_model_whose_batch_norm_was_folded_is_read_as_one_without(tmp_path):
    from src.config import DeviceConfig
    from src.inference.config import ExportConfig
    from src.inference.export import export_checkpoint

    checkpoint = write_checkpoint(tmp_path, batch_norm="squeeze")
    made = export_checkpoint(ExportConfig(str(checkpoint), "ONNX"), DeviceConfig(device_target="CPU", mode="pynative"))
    (net, card), (original, before) = import_network(config("onnx", made["file"])), load_network(checkpoint)
    assert card.model == {**before.model, "batch_norm": "none"} and card.preprocessing == before.preprocessing
    inputs = Tensor(np.random.RandomState(0).standard_normal((2, 3, 16, 16)).astype(np.float32))
    assert np.abs(net(inputs).asnumpy() - original(inputs).asnumpy()).max() < 1e-4


def test_with_its_specification_beside_it_has_its_card_back(small_onnx, tmp_path):
    shutil.copy(small_onnx.onnx, tmp_path / "net.onnx")
    shutil.copy(small_onnx.spec, tmp_path / "net.onnx.json")
    assert import_network(config("onnx", tmp_path / "net.onnx"))[1] == load_network(small_onnx.ckpt)[1]


def test_names_do_not_matter(small_onnx, tmp_path):
    def rename(graph):
        for i, tensor in enumerate(graph.initializer):
            for node in graph.node:
                node.input[:] = [f"w{i}" if name == tensor.name else name for name in node.input]
            tensor.name = f"w{i}"

    _, card = import_network(config("onnx", edited(small_onnx.onnx, tmp_path / "net.onnx", rename), **TOLD))
    assert {**card.model, **small_onnx.model} == card.model


@pytest.mark.filterwarnings("ignore")
def test_torchs_own_export_gives_torchs_network(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install -r requirements-dev.txt")
    from tests.conversion.torchvision_squeezenet import SqueezeNet

    theirs = SqueezeNet("1_1", 7).eval()
    torch.onnx.export(theirs, torch.zeros(1, 3, 64, 64), tmp_path / "net.onnx", dynamo=False)
    net, card = import_network(config("onnx", tmp_path / "net.onnx"))
    told = {"version": "1_1", "num_classes": 7, "ceil_mode": True, "classifier_padding": 0, "bypass": "none"}
    assert {**card.model, **told} == card.model and card.preprocessing.image_size == 64
    state = theirs.state_dict()
    assert (
        weights_of(net)["features.2.squeeze.conv.weight"].asnumpy() == state["features.3.squeeze.weight"].numpy()
    ).all()


@pytest.mark.parametrize("keys", [{"softmax": True, "dynamic_batch": True}, {"batch_size": 3}])
def test_exports_with_probabilities_and_of_several_images_are_read(small_onnx, tmp_path, keys):
    from src.config import DeviceConfig
    from src.inference.config import ExportConfig
    from src.inference.export import export_checkpoint

    file = str(tmp_path / "net.onnx")
    export_checkpoint(ExportConfig(str(small_onnx.ckpt), "ONNX", file, **keys), DeviceConfig(device_target="CPU"))
    assert import_network(config("onnx", tmp_path / "net.onnx"))[1].model == small_onnx.model


def unknown(graph):
    graph.node[0].op_type = "LSTM"


def huge(graph):
    for dimension in graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = 1 << 20


def external(graph):
    tensor = graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")


def double(graph):
    tensor = graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


@pytest.mark.parametrize(
    "edit, message",
    [
        (
            lambda graph: attribute(graph, "Conv", 0, "strides", [2, 2]),
            "its output differs from that of the SqueezeNet with its weights",
        ),
        (lambda graph: attribute(graph, "Conv", 3, "dilations", [2, 2]), "damaged"),
        (lambda graph: attribute(graph, "Conv", -1, "pads", [0, 0, 1, 1]), "differs from side to side"),
        (lambda graph: graph.node.pop(), "damaged"),
        (lambda graph: graph.initializer.pop(), "damaged"),
        (external, "another file"),
        (unknown, "nodes that no SqueezeNet has: LSTM"),
        (huge, "not a batch of square RGB or grey images"),
        (double, "float64"),
        (lambda graph: [graph.node.remove(n) for n in list(graph.node) if n.op_type == "Conv"], "no convolution"),
        (lambda graph: [graph.node.remove(n) for n in list(graph.node) if n.op_type == "Concat"], "0 Fire modules"),
    ],
)
def test_a_graph_that_is_another_is_refused(small_onnx, tmp_path, edit, message):
    path = edited(small_onnx.onnx, tmp_path / "net.onnx", edit)
    said = refusal(import_network, config("onnx", path, **TOLD))
    assert said.startswith(str(path)) and message in said


def test_what_the_file_says_and_the_user_says_otherwise_is_refused(small_onnx):
    assert "ceil_mode: False contradicts" in refusal(import_network, config("onnx", small_onnx.onnx, ceil_mode=False))
