from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import mindspore as ms
import numpy as np
import onnx
import pytest
from mindspore import Tensor, nn

from src.checkpoint import load_network, save_checkpoint
from src.cli.errors import UserError
from src.config import DeviceConfig
from src.inference.config import ExportConfig
from src.inference.export import export_checkpoint
from src.inference.exported_model import ExportedModel, read_spec
from src.squeezenet import VERSIONS, SqueezeNet
from tests.made_models import NARROW, write_checkpoint

# Without compiling the network that the exported file is compared with. Other tests export in GRAPH_MODE.
CPU = DeviceConfig(device_target="CPU", mode="pynative")
SUFFIXES = {"MINDIR": ".mindir", "ONNX": ".onnx"}


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path)


def export(checkpoint: Path, file_format: str, **keys) -> dict:
    return export_checkpoint(ExportConfig(str(checkpoint), file_format, **keys), CPU)


def run(result: dict, inputs: np.ndarray) -> np.ndarray:
    """Run an exported file with what lies beside it."""
    file = Path(result["file"])
    return ExportedModel(file, read_spec(file))(inputs)


def expected(checkpoint: Path, inputs: np.ndarray) -> np.ndarray:
    return load_network(checkpoint)[0](Tensor(inputs)).asnumpy()


def random_inputs(count: int, size: int = 16) -> np.ndarray:
    return np.random.RandomState(5).standard_normal((count, 3, size, size)).astype(np.float32)


# Images whose size leaves a remainder at a pooling, where the two ways to round differ.
SIZES = {"1_0": 50, "1_1": 38, "cifar": 17, "cifar_wide": 9}


def each_version_in_each_format_with_each_pooling() -> list:
    """Return (version, size, ceil_mode, format): all pairs of them, the formats in turn with the poolings."""
    cases = []
    for i, version in enumerate(VERSIONS):
        for ceil_mode in (False, True):
            cases.append((version, SIZES.get(version, 33), ceil_mode, list(SUFFIXES)[(i + ceil_mode) % 2]))
    for version, ceil_mode, file_format in (("1_0", True, "ONNX"), ("1_1", False, "MINDIR")):
        cases.append(pytest.param(version, 224, ceil_mode, file_format, marks=pytest.mark.slow))
    return cases


@pytest.mark.parametrize("version, size, ceil_mode, file_format", each_version_in_each_format_with_each_pooling())
def test_every_version_and_pooling_exports_and_gives_the_same_logits(tmp_path, version, size, ceil_mode, file_format):
    file = write_checkpoint(tmp_path, size, version=version, ceil_mode=ceil_mode)
    result = export(file, file_format)
    assert result["largest_difference"] < 1e-4
    inputs = random_inputs(1, size)
    logits = expected(file, inputs)
    assert np.ptp(logits) > 1e-3
    np.testing.assert_allclose(run(result, inputs), logits, atol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_images_exported_for_tell_the_two_poolings_apart(version):
    image = Tensor(random_inputs(1, SIZES[version]))
    floor, ceil = (
        SqueezeNet(7, version, ceil_mode=ceil_mode, **NARROW).features(image).shape for ceil_mode in (False, True)
    )
    assert floor[2] < ceil[2]


@pytest.mark.parametrize(
    "file_format, model",
    [
        ("ONNX", {"bypass": "simple"}),
        ("MINDIR", {"bypass": "simple", "batch_norm": "all"}),
        ("ONNX", {"bypass": "complex", "batch_norm": "all"}),
        ("MINDIR", {"batch_norm": "squeeze", "classifier_padding": 1, "final_relu": True}),
        ("ONNX", {"batch_norm": "squeeze", "classifier_padding": 1, "final_relu": True}),
        ("ONNX", {"stem": "small", "version": "1_1"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_every_option_of_the_network_exports(tmp_path, model, file_format):
    file = write_checkpoint(tmp_path, 16, **model)
    result, inputs = export(file, file_format), random_inputs(1)
    np.testing.assert_allclose(run(result, inputs), expected(file, inputs), atol=1e-4)


@pytest.mark.parametrize(
    "version, classifier_padding, left",
    [("cifar", 0, 0), ("cifar", 1, 0), ("cifar_wide", 0, 0), ("cifar_wide", 1, 6)],
)
def test_batch_norm_is_folded_where_it_can_be_and_the_logits_stay(tmp_path, version, classifier_padding, left):
    file = write_checkpoint(tmp_path, 16, version=version, classifier_padding=classifier_padding, batch_norm="squeeze")
    net, card = load_network(file)
    random = np.random.RandomState(2)
    for name, parameter in net.parameters_and_names():
        if name.endswith((".gamma", ".beta", ".moving_mean", ".moving_variance")):
            parameter.set_data(Tensor(random.uniform(0.5, 2, parameter.shape).astype(np.float32)))
    save_checkpoint(net, file, card)
    result, inputs = export(file, "ONNX"), random_inputs(1)
    model = onnx.load(result["file"])
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == left
    logits = expected(file, inputs)
    np.testing.assert_allclose(run(result, inputs), logits, atol=1e-5 * np.abs(logits).max())


@pytest.mark.parametrize("file_format", SUFFIXES)
def test_a_fixed_batch_takes_so_many_images_a_call_and_any_number_through_its_specification(checkpoint, file_format):
    result, inputs = export(checkpoint, file_format, batch_size=4), random_inputs(6)
    assert result["input"]["shape"] == [4, 3, 16, 16] and result["output"]["shape"] == [4, 7]
    np.testing.assert_allclose(run(result, inputs), expected(checkpoint, inputs), atol=1e-5)


def test_a_fixed_onnx_model_refuses_another_number_of_images(checkpoint):
    file = Path(export(checkpoint, "ONNX", batch_size=4)["file"])
    with pytest.raises(Exception, match="Got: 6 Expected: 4"):
        ExportedModel(file, read_spec(file)).run(random_inputs(6))


@pytest.mark.parametrize("file_format", SUFFIXES)
def test_a_dynamic_batch_takes_any_number_of_images_in_one_call(checkpoint, file_format):
    result = export(checkpoint, file_format, dynamic_batch=True)
    assert result["input"]["shape"] == [None, 3, 16, 16] and result["output"]["shape"] == [None, 7]
    model = ExportedModel(Path(result["file"]), read_spec(Path(result["file"])))
    for count in (1, 3, 8):
        inputs = random_inputs(count)
        np.testing.assert_allclose(model.run(inputs), expected(checkpoint, inputs), atol=1e-5)


@pytest.mark.parametrize("file_format", SUFFIXES)
def test_softmax_gives_probabilities(checkpoint, file_format):
    result, inputs = export(checkpoint, file_format, softmax=True, batch_size=3), random_inputs(3)
    logits = expected(checkpoint, inputs)
    assert result["output"]["what"] == "probabilities"
    np.testing.assert_allclose(run(result, inputs), np.exp(logits) / np.exp(logits).sum(1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("file_format", SUFFIXES)
@pytest.mark.parametrize("normalize", ["dataset", "per_image"])
def test_uint8_input_is_normalised_in_the_graph_as_on_the_host(tmp_path, file_format, normalize):
    file = write_checkpoint(tmp_path, 16, normalize)
    pixels = np.random.RandomState(2).randint(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    pixels[3] = 77  # Without any contrast, the standard deviation is held up by its lower bound.
    pixels[4] = 0
    result = export(file, file_format, uint8_input=True, dynamic_batch=True)
    assert result["input"]["shape"] == [None, 16, 16, 3] and result["input"]["dtype"] == "uint8"
    host = np.stack([load_network(file)[1].preprocessing(image) for image in pixels])
    np.testing.assert_allclose(run(result, pixels), expected(file, host), atol=1e-4)


@pytest.mark.parametrize("keys", [{"uint8_input": True}, {}], ids=["uint8", "float"])
def test_another_image_size_is_exported_and_recorded(tmp_path, keys):
    file = write_checkpoint(tmp_path, 16, "per_image")
    result = export(file, "ONNX", image_size=20, **keys)
    assert result["preprocessing"]["image_size"] == 20
    assert result["input"]["shape"] == ([1, 20, 20, 3] if keys else [1, 3, 20, 20])
    preprocessing = dataclasses.replace(load_network(file)[1].preprocessing, image_size=20)
    pixels = np.random.RandomState(2).randint(100, 103, (1, 20, 20, 3)).astype(np.uint8)
    host = preprocessing(pixels[0])[None]
    np.testing.assert_allclose(run(result, pixels if keys else host), expected(file, host), atol=1e-4)


def test_what_lies_beside_the_model_describes_it(checkpoint):
    result = export(checkpoint, "MINDIR")
    written = json.loads(Path(f"{result['file']}.json").read_text())
    result_as_json = json.loads(json.dumps(result))
    assert {**written, "file": result["file"], "largest_difference": result["largest_difference"]} == result_as_json
    assert written["format"] == "MINDIR" and written["classes"] == [f"class {c}" for c in range(7)]
    assert written["input"] == {
        "shape": [1, 3, 16, 16],
        "dtype": "float32",
        "what": "RGB, normalised, prepared by `steps`",
    }
    assert written["output"] == {"shape": [1, 7], "what": "logits"}
    assert written["preprocessing"]["mean"] == [0.4, 0.5, 0.6]


def test_the_class_count_is_the_checkpoints(tmp_path):
    result = export(write_checkpoint(tmp_path, classes=101), "ONNX")
    assert run(result, random_inputs(1)).shape == (1, 101)


@pytest.mark.parametrize(
    "file_name, file",
    [
        (None, "net.onnx"),
        ("served/model.onnx", "served/model.onnx"),
        ("served/v1.0", "served/v1.0.onnx"),
    ],
)
def test_the_file_lies_where_asked_with_the_ending_of_its_format_and_nothing_else_does(checkpoint, file_name, file):
    folder = checkpoint.parent
    (folder / "served").mkdir()
    result = export(checkpoint, "ONNX", file_name=file_name and str(folder / file_name))
    assert result["file"] == str(folder / file)
    found = sorted(str(entry.relative_to(folder)) for entry in folder.rglob("*") if entry.is_file())
    assert found == sorted(["net.ckpt", file, f"{file}.json"])
    assert (folder / file).stat().st_mode & 0o777 == 0o644


def test_air_off_ascend_is_refused_before_the_checkpoint_is_even_read(checkpoint, monkeypatch):
    monkeypatch.setattr("src.inference.export.load_network", lambda path: pytest.fail("began to work"))
    with pytest.raises(UserError, match=r"AIR is exported on an Ascend only.*export MINDIR.*AIR is deprecated"):
        export(checkpoint, "AIR")
    assert [file.name for file in checkpoint.parent.iterdir()] == ["net.ckpt"]


def test_air_with_a_dynamic_batch_is_refused(checkpoint):
    with pytest.raises(UserError, match=r"^dynamic_batch: AIR has a fixed batch"):
        export(checkpoint, "AIR", dynamic_batch=True)


@pytest.mark.parametrize("softmax", [False, True])
def test_an_onnx_model_names_its_ends_and_holds_what_its_specification_says(checkpoint, softmax):
    result = export(checkpoint, "ONNX", softmax=softmax)
    model = onnx.load(result["file"])
    ends = [value.name for value in (*model.graph.input, *model.graph.output)]
    assert (model.graph.name, ends) == ("squeezenet", ["image", "probabilities" if softmax else "logits"])
    held = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert held["classes"] == result["classes"] and held["steps"] == result["steps"]
    assert (held["mean"], held["std"], held["fit"]) == ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3], "resize")


def on_a_device_that_rounds(monkeypatch, bits: int, error: float = 0.0) -> None:
    """Let the network compute convolutions with so many bits of mantissa once it is exported, on an "Ascend".

    error: added to the weights of the last convolution, which the file does not have.
    """
    real_export, drop = ms.export, 23 - bits

    def rounded(tensor):
        whole = np.ascontiguousarray(tensor.asnumpy()).view(np.int32).astype(np.int64) + (1 << (drop - 1))
        return Tensor((whole >> drop << drop).astype(np.int32).view(np.float32))

    def construct(self, x):
        y = self.conv2d(rounded(x), rounded(self.weight + error))
        return self.bias_add(y, self.bias) if self.has_bias else y

    def then_round(*arguments, **options):
        real_export(*arguments, **options)
        monkeypatch.setattr(nn.Conv2d, "construct", construct)

    monkeypatch.setattr(ms, "export", then_round)
    monkeypatch.setattr("src.inference.export.select_device", lambda device: "Ascend")


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("bits", [11, 10], ids=["HF32", "TF32 and float16"])
def test_a_sound_file_is_kept_where_the_device_rounds_convolutions(tmp_path, monkeypatch, bits, softmax):
    file = write_checkpoint(tmp_path, scale=10)
    on_a_device_that_rounds(monkeypatch, bits)
    difference = export(file, "ONNX", softmax=softmax)["largest_difference"]
    assert softmax or difference > 1e-3  # More than a CPU explains.


def test_a_network_whose_logits_are_all_zero_exports_on_a_device_that_rounds(tmp_path, monkeypatch):
    file = write_checkpoint(tmp_path, scale=0)
    on_a_device_that_rounds(monkeypatch, 10)
    assert export(file, "MINDIR")["largest_difference"] == 0


def test_on_a_device_that_rounds_a_file_with_other_weights_is_still_refused(tmp_path, monkeypatch):
    file = write_checkpoint(tmp_path, scale=10)
    on_a_device_that_rounds(monkeypatch, 10, error=0.01)
    with pytest.raises(RuntimeError, match="differs from the network"):
        export(file, "ONNX")
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.ckpt"]


def test_a_folder_that_is_not_there_is_refused(checkpoint):
    with pytest.raises(UserError, match="there is no such folder to export to"):
        export(checkpoint, "ONNX", file_name=str(checkpoint.parent / "nowhere" / "net"))
    assert not (checkpoint.parent / "nowhere").exists()


def test_a_file_name_that_is_a_folder_is_refused(checkpoint):
    (checkpoint.parent / "net.onnx").mkdir()
    with pytest.raises(UserError, match="a folder has this name"):
        export(checkpoint, "ONNX")


def test_an_image_size_too_small_for_the_network_is_refused(tmp_path):
    file = write_checkpoint(tmp_path, 64, version="1_0")
    with pytest.raises(UserError, match="image_size: 20 is too small"):
        export(file, "ONNX", image_size=20)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.ckpt"]


def break_export(monkeypatch, how: str) -> type:
    """Make an export fail half way, and return the exception that comes of it."""

    def fail(*arguments, file_name, **options):
        Path(file_name).write_bytes(b"half")
        raise ValueError("no such operator")

    if how == "exporting fails":
        monkeypatch.setattr(ms, "export", fail)
        return ValueError
    monkeypatch.setattr(ExportedModel, "__init__", lambda self, path, spec: None)
    monkeypatch.setattr(ExportedModel, "run", lambda self, inputs: np.full((1, 7), 9.0), raising=False)
    return RuntimeError


@pytest.mark.parametrize("how", ["exporting fails", "the file gives other numbers"])
@pytest.mark.parametrize("file_format", SUFFIXES)
def test_a_failed_export_leaves_nothing_and_the_former_files_whole(checkpoint, monkeypatch, file_format, how):
    error = break_export(monkeypatch, how)
    with pytest.raises(error, match=r"no such operator|differs from the network"):
        export(checkpoint, file_format)
    assert [file.name for file in checkpoint.parent.iterdir()] == ["net.ckpt"]
    former = checkpoint.with_suffix(SUFFIXES[file_format])
    former.write_bytes(b"former")
    Path(f"{former}.json").write_text("former")
    with pytest.raises(error):
        export(checkpoint, file_format)
    assert former.read_bytes() == b"former" and Path(f"{former}.json").read_text() == "former"
    assert len(list(checkpoint.parent.iterdir())) == 3
