"""Export to ONNX with 8-bit weights and activations by onnxruntime's quantizer, and compare it with other forms."""

from __future__ import annotations

import tempfile
import timeit
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Callable

import numpy as np

from src.compression.evaluator import Evaluator
from src.config import DeviceConfig
from src.devices.silence import quiet, silent
from src.files.atomic import write_json, written
from src.inference.config import ExportConfig
from src.inference.export import export_checkpoint
from src.inference.exported_model import ExportedModel, digest, read_spec, spec_path
from src.model_card import ModelCard
from src.sqz.fileformat import SUFFIX, decode, encode

FLOAT32_ENDING, INT8_ENDING = ".onnx", ".int8.onnx"
_ROUNDS = 30
# The first opset with a scale for each output channel of the weights; MindSpore exports 11.
_LEAST_OPSET = 13


def export_int8(
    parameters: Mapping[str, np.ndarray],
    card: ModelCard,
    inputs: Iterable[np.ndarray],
    folder: Path,
    name: str,
    device: DeviceConfig,
) -> tuple[ExportedModel, ExportedModel]:
    """Write folder/name.onnx and folder/name.int8.onnx with their specifications, and return both.

    inputs: real images (3, H, W) float32, which determine the ranges of the activations.
    """
    float32, int8 = folder / f"{name}{FLOAT32_ENDING}", folder / f"{name}{INT8_ENDING}"
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / f"network{SUFFIX}"
        source.write_bytes(encode(parameters, card.to_json()))
        export_checkpoint(ExportConfig(str(source), "ONNX", str(float32)), device)
    with written(int8) as temporary:
        quantize_onnx(float32, temporary, inputs)
    write_json(spec_path(int8), {**read_spec(float32), "sha256": digest(int8)})
    return tuple(ExportedModel(path, read_spec(path)) for path in (float32, int8))


def quantize_onnx(source: Path, target: Path, inputs: Iterable[np.ndarray]) -> None:
    """Quantize an ONNX model of batch 1 statically: weights by output channel, activations by their range on inputs."""
    import onnx
    import onnx.version_converter
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(str(source))
    input_name = model.graph.input[0].name

    class Inputs(quantization.CalibrationDataReader):
        def __init__(self):
            self._left = iter(inputs)

        def get_next(self):
            image = next(self._left, None)
            return None if image is None else {input_name: image[None]}

    newer, prepared = (target.with_name(name) for name in ("newer.onnx", "prepared.onnx"))
    with quiet(), silent():  # It prints its progress.
        onnx.save(onnx.version_converter.convert_version(model, _LEAST_OPSET), str(newer))
        quant_pre_process(str(newer), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(target),
            Inputs(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Weights of 7 bits: with 8, x86 processors without VNNI overflow in the sums of two products.
            reduce_range=True,
        )


def comparison(
    models: tuple[ExportedModel, ExportedModel], compressed: Path, last_step: Mapping[str, Any], evaluator: Evaluator
) -> list[dict[str, Any]]:
    """Return bytes, milliseconds per image and accuracy of the float32 model, the int8 model and the compressed file.

    Milliseconds are medians on one image. Those of the compressed file are for decoding, which happens once: it then
    runs like the float32 model.
    """
    data = compressed.read_bytes()
    rows = []
    for form, model in zip(("float32 ONNX", "int8 ONNX"), models):
        image = np.zeros(model.spec["input"]["shape"], np.float32)
        figures = {"bytes": model.path.stat().st_size, "milliseconds": _median_ms(lambda m=model, i=image: m(i))}
        rows.append({"what": form, **figures, **evaluator.of_model(model)})
    kept = {key: last_step[key] for key in ("accuracy", "agreement") if key in last_step}
    decoding = _median_ms(lambda: decode(data))
    return [*rows, {"what": "compressed file, decoding", "bytes": len(data), "milliseconds": decoding, **kept}]


def comparison_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows of a comparison as a table in Markdown."""
    lines = ["| form | bytes | ms | top-1 | same class |", "|---|---|---|---|---|"]
    for row in rows:
        fractions = (f"{row[key]:.2%}" if key in row else "" for key in ("accuracy", "agreement"))
        lines.append(f"| {row['what']} | {row['bytes']:,} | {row['milliseconds']:.1f} | {' | '.join(fractions)} |")
    return "\n".join(lines)


def _median_ms(call: Callable[[], Any]) -> float:
    return 1000 * float(np.median(timeit.repeat(call, number=1, repeat=_ROUNDS)))
