"""Exported models on each runtime. MindSpore Lite is a stand-in for its Python API, which computes with onnxruntime."""

from __future__ import annotations

import enum
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from src.cli.errors import UserError
from src.config import DeviceConfig
from src.inference.classify import infer
from src.inference.config import EvalConfig, ExportConfig, InferConfig
from src.inference.evaluation import evaluate_model
from src.inference.export import export_checkpoint
from src.inference.exported_model import open_model

CPU = DeviceConfig(device_target="CPU")
pytestmark = pytest.mark.usefixtures("no_pictures")
FORMS = {
    "mindir": ("MINDIR", {"dynamic_batch": True}),
    "onnx": ("ONNX", {"batch_size": 7}),
    "pixels": ("ONNX", {"uint8_input": True, "softmax": True, "dynamic_batch": True}),
}


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory) -> dict[str, str]:
    """The tiny run's best checkpoint in each of FORMS."""
    folder, files = tmp_path_factory.mktemp("exported"), {}
    for name, (file_format, keys) in FORMS.items():
        config = ExportConfig(str(tiny.folder / "best.ckpt"), file_format, str(folder / name), **keys)
        files[name] = export_checkpoint(config, CPU)["file"]
    return files


@pytest.fixture(scope="module")
def by_checkpoint(tiny, tmp_path_factory):
    """Return eval.py's result for the checkpoint itself, by the value of tta."""
    found, folder = {}, tmp_path_factory.mktemp("by_checkpoint")

    def evaluated(tta: str) -> dict:
        if tta not in found:
            config = EvalConfig(str(tiny.folder / "best.ckpt"), batch_size=50, tta=tta, output_path=str(folder / tta))
            found[tta] = evaluate_model(config, CPU)
        return found[tta]

    return evaluated


@pytest.mark.thorough
@pytest.mark.parametrize("form, tta", [("mindir", "none"), ("onnx", "flip"), ("pixels", "none"), ("pixels", "flip")])
def test_an_exported_model_is_evaluated_on_every_image_as_its_checkpoint_is(
    exported, by_checkpoint, tmp_path, form, tta
):
    result = evaluate_model(
        EvalConfig(model_path=exported[form], batch_size=50, tta=tta, output_path=str(tmp_path / "eval")), CPU
    )
    expected = by_checkpoint(tta)
    assert (result["images"], result["model"]) == (359, exported[form])
    assert result["runtime"] == ("mindspore" if form == "mindir" else "onnxruntime")
    assert result["accuracy"] == expected["accuracy"] and result["top_5_accuracy"] == expected["top_5_accuracy"]
    if tta == "none":  # Probabilities of two images have another mean than logits.
        assert result["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    assert json.loads((tmp_path / "eval" / "result.json").read_text())["accuracy"] == result["accuracy"]


def test_the_results_of_an_exported_model_lie_next_to_it_under_its_whole_name(exported, tmp_path):
    for suffix in ("", ".json"):
        shutil.copy(exported["onnx"] + suffix, tmp_path / f"net.onnx{suffix}")
    result = evaluate_model(EvalConfig(model_path=str(tmp_path / "net.onnx"), batch_size=50), CPU)
    assert result["output_path"] == str(tmp_path / "eval_net.onnx_test")


@pytest.mark.parametrize(("resizer", "normalizer"), [("mindspore", "host"), ("device", "host"), ("pillow", "device")])
def test_a_model_preprocessed_on_the_device_takes_float32_from_the_host(tiny, tmp_path, exported, resizer, normalizer):
    spec = json.loads(Path(exported["onnx"] + ".json").read_text())
    spec["preprocessing"] |= {"resizer": resizer, "normalizer": normalizer}
    shutil.copy(exported["onnx"], tmp_path / "net.onnx")
    (tmp_path / "net.onnx.json").write_text(json.dumps(spec))
    by_file = evaluate_model(EvalConfig(model_path=str(tmp_path / "net.onnx"), batch_size=50), CPU)
    config = EvalConfig(
        str(tiny.folder / "best.ckpt"), batch_size=50, resizer=resizer, output_path=str(tmp_path / "eval")
    )
    assert by_file["loss"] == pytest.approx(evaluate_model(config, CPU)["loss"], abs=1e-4)


class Lite:
    """mindspore_lite's Python API as far as it is used. A converted model is an ONNX file with another name.

    nhwc: whether models take (N, H, W, 3), as the converter makes them of ONNX.
    gears: the batch sizes that models were converted for; None for the one of the file.
    """

    class ModelType(enum.Enum):
        MINDIR, MINDIR_LITE = 0, 4

    def __init__(self, nhwc: bool = False, gears: tuple | None = None):
        lite, self.built = self, []

        class Context:
            def __init__(self):
                self.target, self.ascend = ["cpu"], SimpleNamespace(device_id=0)

        class Tensor:
            def __init__(self, shape, dtype):
                self.shape, self.dtype, self.data = shape, dtype, None

            def set_data_from_numpy(self, array):
                if array.dtype != self.dtype:
                    raise RuntimeError("data type not equal!")
                if array.size != np.prod(self.shape):
                    raise RuntimeError("data size not equal!")
                self.data = array.reshape(self.shape)

            def get_data_to_numpy(self):
                return self.data

        class Model:
            def build_from_file(self, path, kind, context):
                assert isinstance(path, str) and isinstance(kind, lite.ModelType) and isinstance(context, Context)
                lite.built.append((Path(path).name, kind, context.target, context.ascend.device_id))
                self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
                (given,) = self.session.get_inputs()
                batch, *sides = given.shape
                sides = sides[1:] + sides[:1] if nhwc and sides[0] == 3 else sides
                dtype = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[given.type]
                self.tensor = Tensor([-1 if gears else batch, *sides], dtype)

            def get_inputs(self):
                return [self.tensor]

            def resize(self, inputs, dims):
                assert inputs == [self.tensor] and all(type(n) is int for n in dims[0])
                if dims[0][0] not in (gears or ()):
                    raise RuntimeError("resize failed!")
                self.tensor = Tensor(dims[0], self.tensor.dtype)

            def predict(self, inputs):
                data = inputs[0].data
                if nhwc and data.dtype == np.float32:
                    data = data.transpose(0, 3, 1, 2)
                output = Tensor(None, np.float32)
                output.data = self.session.run(None, {self.session.get_inputs()[0].name: data})[0]
                return [output]

        self.Context, self.Model = Context, Model


def converted(exported: dict[str, str], form: str, folder: Path, name: str) -> str:
    """Return an ONNX file under the name of a converted one, with the specification that run_infer_310.sh copies."""
    content = Path(exported[form]).read_bytes()
    # Another file, of the same meaning, that begins with an unknown field: nobody takes it for an ONNX file.
    (folder / name).write_bytes(b"\x92\x03\x00" + content)
    shutil.copy(exported[form] + ".json", folder / f"{name}.json")
    return str(folder / name)


def stand_in(monkeypatch, **options) -> Lite:
    lite, module = Lite(**options), ModuleType("mindspore_lite")
    module.Context, module.Model, module.ModelType = lite.Context, lite.Model, lite.ModelType
    monkeypatch.setitem(sys.modules, "mindspore_lite", module)
    return lite


@pytest.mark.parametrize(
    "form, options",
    [("onnx", {}), ("onnx", {"nhwc": True}), ("pixels", {"nhwc": True, "gears": (1, 50)})],
    ids=["NCHW", "NHWC of converted ONNX", "pixels in gears"],
)
def test_lite_gives_the_accuracy_of_the_checkpoint(exported, by_checkpoint, tmp_path, monkeypatch, form, options):
    lite = stand_in(monkeypatch, **options)
    model = converted(exported, form, tmp_path, "net_310.mindir")
    config = EvalConfig(model_path=model, batch_size=50, output_path=str(tmp_path / "eval"))
    result = evaluate_model(config, DeviceConfig(device_target="Ascend", device_id=3))
    assert (result["runtime"], result["device"], result["images"]) == ("lite", "Ascend", 359)
    assert result["accuracy"] == by_checkpoint("none")["accuracy"]
    assert lite.built == [("net_310.mindir", lite.ModelType.MINDIR, ["ascend"], 3)]


def test_lite_classifies_images_with_an_ms_file_on_a_cpu(exported, tmp_path, monkeypatch):
    lite = stand_in(monkeypatch, nhwc=True)
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 8, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    found = []
    for model in (converted(exported, "onnx", tmp_path, "net.ms"), exported["onnx"]):
        config = InferConfig([str(tmp_path / "a.png")], model_path=model, output_path=str(tmp_path / "out"))
        found.append(infer(config, DeviceConfig())[0])
    assert found[0] == found[1]
    assert lite.built == [("net.ms", lite.ModelType.MINDIR_LITE, ["cpu"], 0)]


def test_any_mindir_runs_on_lite_when_asked(exported, tmp_path, monkeypatch):
    stand_in(monkeypatch)
    model = converted(exported, "onnx", tmp_path, "net.mindir")
    assert open_model(model, "lite", CPU)(np.zeros((7, 3, 16, 16), np.float32)).shape == (7, 10)
    with pytest.raises(UserError, match="damaged, or not the model that"):
        open_model(model, None, CPU)


def test_what_lite_refuses_is_one_line(exported, tmp_path, monkeypatch):
    stand_in(monkeypatch, gears=(4,))
    model = converted(exported, "pixels", tmp_path, "net_310.mindir")
    with pytest.raises(UserError, match=r"net_310.mindir: does not take what .* says \(resize failed!\)"):
        open_model(model, None, CPU)(np.zeros((3, 16, 16, 3), np.uint8))
    (tmp_path / "net_310.mindir").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"net_310.mindir: not a MINDIR model, or damaged"):
        open_model(model, None, CPU)


def test_without_mindspore_lite_one_line_says_where_it_comes_from(exported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mindspore_lite", None)
    model = converted(exported, "onnx", tmp_path, "net_310.mindir")
    with pytest.raises(UserError, match=r"mindspore_lite, a wheel from https://www.mindspore.cn/lite") as caught:
        open_model(model, None, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["net.sqz", "net.ckpt"])
def test_a_checkpoint_given_as_a_model_is_told_its_flag(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: is a checkpoint.*--ckpt_path"):
        evaluate_model(EvalConfig(model_path=str(tmp_path / name)), CPU)


def test_what_does_not_go_with_an_exported_model_is_refused(exported, tmp_path):
    with pytest.raises(UserError, match=r"lite runs \.ms and \.mindir files"):
        open_model(exported["onnx"], "lite", CPU)
    with pytest.raises(UserError, match="resizer: an exported model always uses its own"):
        evaluate_model(EvalConfig(model_path=exported["onnx"], resizer="pillow"), CPU)
    with pytest.raises(UserError, match="give either --ckpt_path"):
        evaluate_model(EvalConfig(), CPU)
