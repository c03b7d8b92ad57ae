"""ONNX models of MindSpore and of torch: found by the graph, and run beside the network that is made of them."""

from __future__ import annotations

import os
import shutil

import numpy as np
import onnx
import onnx.version_converter
import pytest
from mindspore import Tensor
from onnx import helper, numpy_helper

from src.checkpoint import load_network, weights_of
from src.conversion.converting import import_network, imported
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


def in_precision(model: onnx.ModelProto, dtype, ends: bool = True) -> onnx.ModelProto:
    """Change the floating point numbers of a model; without `ends` its input and output stay, and are cast."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    images, logits = graph.input[0], graph.output[0]
    if ends:
        images.type.tensor_type.elem_type = logits.type.tensor_type.elem_type = kind
        return model
    for node in graph.node:
        node.input[:] = ["cast" if name == images.name else name for name in node.input]
        node.output[:] = ["inner" if name == logits.name else name for name in node.output]
    graph.node.insert(0, helper.make_node("Cast", [images.name], ["cast"], to=kind))
    graph.node.append(helper.make_node("Cast", ["inner"], [logits.name], to=onnx.TensorProto.FLOAT))
    return model


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("ends", [True, False])
def test_models_in_other_precisions_are_read(small_onnx, tmp_path, dtype, ends):
    onnx.save(in_precision(onnx.load(small_onnx.onnx), dtype, ends), tmp_path / "net.onnx")
    net, card = import_network(config("onnx", tmp_path / "net.onnx", **TOLD))
    original, _ = load_network(small_onnx.ckpt)
    assert {**card.model, **small_onnx.model} == card.model
    for name, parameter in weights_of(original).items():
        expected = parameter.asnumpy().astype(dtype).astype(np.float32)
        assert weights_of(net)[name].asnumpy().tobytes() == expected.tobytes(), name


def test_the_shape_may_be_computed_around_the_end(small_onnx, tmp_path):
    """As version converters and exporters write the former Softmax of several dimensions."""

    def flatten(graph):
        logits = graph.output[0].name
        for node in graph.node:
            node.output[:] = ["inner" if name == logits else name for name in node.output]
        constants = {"axes": np.array([2, 3]), "first": np.array([0]), "rest": np.array([-1])}
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
        graph.node.extend(
            [
                helper.make_node("Shape", ["inner"], ["sides"]),
                helper.make_node("Gather", ["sides", "first"], ["batch"], axis=0),
                helper.make_node("Concat", ["batch", "rest"], ["flat"], axis=0),
                helper.make_node("Reshape", ["inner", "flat"], ["row"]),
                helper.make_node("Flatten", ["row"], ["flattened"], axis=1),
                helper.make_node("Softmax", ["flattened"], ["probabilities"], axis=-1),
                helper.make_node("Reshape", ["probabilities", "sides"], [logits]),
            ]
        )

    model = onnx.version_converter.convert_version(onnx.load(small_onnx.onnx), 13)
    flatten(model.graph)
    onnx.save(model, tmp_path / "net.onnx")
    assert {**small_onnx.model}.items() <= import_network(config("onnx", tmp_path / "net.onnx", **TOLD))[
        1
    ].model.items()


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Operations of the model from the first convolution to its input, which takes images from 0 to 255 or to 1.
NORMALIZATIONS = {
    "mean and deviation": [("Div", STD), ("Sub", MEAN)],
    "of bytes": [("Div", STD), ("Sub", MEAN), ("Div", 255)],
    "of bytes, multiplied": [("Mul", 1 / np.array(STD)), ("Add", -np.array(MEAN)), ("Mul", 1 / 255)],
    "of bytes, in one": [("Div", 255 * np.array(STD)), ("Sub", 255 * np.array(MEAN))],
    "reversed": [("Add", (0, 0, 0)), ("Div", -np.array(STD)), ("Sub reversed", MEAN)],
}


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_the_normalisation_in_a_model_is_that_of_its_images(small_onnx, tmp_path, kind):
    def normalize(graph):
        for operation, value in NORMALIZATIONS[kind]:
            name, *reverse = operation.split()
            changed_input(graph, name, np.reshape(value, (1, -1, 1, 1)), bool(reverse))

    path = edited(small_onnx.onnx, tmp_path / "net.onnx", normalize)
    _, card, lines = imported(config("onnx", path, fit="resize"))
    assert card.preprocessing.mean == pytest.approx(MEAN, abs=1e-5)
    assert card.preprocessing.std == pytest.approx(STD, abs=1e-5)
    assert card.model["bypass"] == "simple"
    assert "leave them out" in refusal(import_network, config("onnx", path, **TOLD))
    assert any(line.startswith("read in the file: ") and "--mean 0.485 0.456 0.406" in line for line in lines)


@pytest.fixture
def external(small_onnx, tmp_path):
    """A model whose weights are in a file beside it."""
    model = onnx.load(small_onnx.onnx)
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.onnx.data", size_threshold=100)
    assert (tmp_path / "net.onnx").stat().st_size < 100_000 < (tmp_path / "net.onnx.data").stat().st_size
    return tmp_path / "net.onnx"


def test_weights_in_a_file_beside_the_model_are_read(small_onnx, external):
    net, _ = import_network(config("onnx", external, **TOLD))
    original, _ = load_network(small_onnx.ckpt)
    for name, parameter in weights_of(original).items():
        assert weights_of(net)[name].asnumpy().tobytes() == parameter.asnumpy().tobytes(), name


def placed(path, **changes) -> None:
    """Change where a model says that its weights are."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = str(changes.get(entry.key, entry.value))
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data, path: data.unlink(), "put both into one folder"),
        (lambda data, path: (data.unlink(), os.mkfifo(data)), "not a plain file"),
        (lambda data, path: (data.unlink(), data.symlink_to("/dev/zero")), "not a plain file"),
        (lambda data, path: data.write_bytes(data.read_bytes()[:-1]), "too few for net.onnx; copy both files again"),
        (lambda data, path: data.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda data, path: placed(path, location="/etc/passwd"), "outside of its folder"),
        (lambda data, path: placed(path, location="a/../../net.onnx.data"), "outside of its folder"),
        (lambda data, path: placed(path, offset=-8), "too few"),
        (lambda data, path: placed(path, length=1 << 62), "too few"),
        (lambda data, path: placed(path, offset="x"), "damaged"),
        (lambda data, path: placed(path, offset=0, length=100_000), "damaged"),
    ],
)
def test_weights_that_are_not_beside_the_model_are_named(external, change, message):
    change(external.with_name("net.onnx.data"), external)
    assert message in refusal(import_network, config("onnx", external, **TOLD))


def test_one_file_is_not_taken_more_often_than_the_memory_allows(external, monkeypatch):
    monkeypatch.setattr("src.conversion.onnx_models.MAX_BYTES", external.with_name("net.onnx.data").stat().st_size)
    model = onnx.load(external, load_external_data=False)
    model.graph.initializer.append(next(tensor for tensor in model.graph.initializer if tensor.external_data))
    model.graph.initializer[-1].name = "again"
    external.write_bytes(model.SerializeToString())
    assert "too few" in refusal(import_network, config("onnx", external, **TOLD))


@pytest.mark.parametrize(
    "program, message",
    [
        ("import time; time.sleep(600)", "onnxruntime does not come to an end with it"),
        ("import os; os.abort()", "onnxruntime ended with -6"),
        ("raise MemoryError", "MemoryError"),
    ],
)
def test_what_onnxruntime_does_not_survive_is_one_line(small_onnx, monkeypatch, program, message):
    monkeypatch.setattr("src.conversion.onnx_models._RUN", program)
    monkeypatch.setattr("src.conversion.onnx_models.MAX_SECONDS", 2)
    assert message in refusal(import_network, config("onnx", small_onnx.onnx, **TOLD))


def unknown(graph):
    graph.node[0].op_type = "LSTM"


def huge(graph):
    for dimension in graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = 1 << 20


def circle(graph):
    activation = next(node for node in graph.node if node.op_type == "Relu")
    activation.input[0] = activation.output[0]


def quantized(graph):
    graph.node.append(helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["y"]))


def integer(graph):
    tensor = graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.int8), tensor.name))


def changed_input(graph, kind: str, value: np.ndarray, reverse: bool = False) -> None:
    """Let a model change its input by an arithmetic operation with a constant."""
    images, number = graph.input[0].name, len(graph.node)
    for node in graph.node:
        node.input[:] = [f"changed{number}" if name == images else name for name in node.input]
    graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), f"constant{number}"))
    inputs = [images, f"constant{number}"]
    graph.node.insert(0, helper.make_node(kind, inputs[::-1] if reverse else inputs, [f"changed{number}"]))


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
        (circle, "not in the order in which they are computed"),
        (lambda graph: graph.node.insert(0, graph.node.pop()), "not in the order in which they are computed"),
        (quantized, "is quantised to int8 (DequantizeLinear); convert the float32 model"),
        (lambda graph: attribute(graph, "MaxPool", 0, "kernel_shape", [2, (1 << 31) - 1]), "onnxruntime"),
        (lambda graph: attribute(graph, "MaxPool", 0, "strides", [1 << 40, 0]), "onnxruntime"),
        (lambda graph: changed_input(graph, "Div", 2, reverse=True), "its input is a divisor"),
        (lambda graph: changed_input(graph, "Sub", 2, reverse=True), "its input is inverted"),
        (lambda graph: changed_input(graph, "Mul", np.ones((1, 1, 1, 5))), "not normalised by channel"),
        (unknown, "nodes that no SqueezeNet has: LSTM"),
        (huge, "not a batch of square RGB or grey images"),
        (integer, "is int8, as in a quantised network"),
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
