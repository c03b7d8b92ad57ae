"""compress.py's work: a network into a compressed file with its report, a curve of sizes, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Optional

from src.checkpoint import build_network, read_compressed, save_checkpoint
from src.cli.errors import UserError
from src.compression import int8
from src.compression.config import CompressConfig, Compression
from src.compression.evaluator import Evaluator, make_evaluator
from src.compression.reading import read_weights
from src.compression.report import layer_rows, totals
from src.compression.pipeline import Parameters, Steps, accuracy, pruned, shared
from src.devices.device import select_device
from src.files.atomic import write_bytes, write_json
from src.files.run_folder import check_run_folder, make_run_folder, output_folder
from src.inference.exported_model import spec_path
from src.inference.fold import fold_batch_norm
from src.model_card import ModelCard
from src.sqz.fileformat import SUFFIX, decode, encode, pack
from src.sqz.layout import lay_out

REPORT, CURVE = "report.json", "curve.json"
HISTOGRAMS_PICTURE, BYTES_PICTURE, CURVE_PICTURE = "histograms.png", "bytes.png", "curve.png"
# More convolutions would make the picture of histograms too large to look at.
_MOST_HISTOGRAMS = 64


def compress(configuration: Compression, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Compress as configured, write the folder of results, and return what is in report.json.

    Raises UserError for anything that cannot be used, before anything is written.
    """
    config, measuring, retrain, device = configuration
    original, card = read_weights(config.ckpt_path, config.classes)
    choices = config.layer_choices(convolutions(original))
    source = Path(config.ckpt_path)
    folder = Path(config.output_path or source.with_name(f"compressed_{source.stem}"))
    file = folder / f"{source.stem}{SUFFIX}"
    if measuring.images or measuring.dataset or config.target_bytes:
        select_device(device)
    measure = make_evaluator(measuring, card)
    if measure is None:
        say("no images are given (--images or --dataset): sizes only, no accuracy")
    onnx = [source.stem + ending for ending in (int8.FLOAT32_ENDING, int8.INT8_ENDING)]
    onnx += [spec_path(Path(name)).name for name in onnx]
    entries = (file.name, REPORT, CURVE, HISTOGRAMS_PICTURE, BYTES_PICTURE, CURVE_PICTURE, *onnx)
    check_run_folder(folder, entries, config.overwrite)
    with output_folder(folder):
        # All that takes long comes before anything is written: an interrupted run leaves the folder as it was.
        steps = Steps(configuration, choices, measure, say)
        outcome = steps.run(original, card)
        layout = lay_out(outcome.parameters)
        data = pack(layout, outcome.card.to_json())
        _check(data, outcome.parameters)
        rows = layer_rows(outcome.parameters, layout)
        report = {
            "source": str(source),
            "file": str(file),
            "trained": retrain.trains,
            "steps": outcome.steps,
            "missed": missed(config, outcome.steps),
            "totals": totals(rows, len(data)),
            "layers": rows,
        }
        points = _curve(original, card, config, measure, say) if config.curve else None
        make_run_folder(folder, entries, config.overwrite)
        write_bytes(file, data)
        if config.int8:
            models = int8.export_int8(original, card, steps.calibration(card), folder, source.stem, device)
            report["int8"] = int8.comparison(models, file, outcome.steps[-1], measure)
        write_json(folder / REPORT, report)
        before = original if outcome.card.model == card.model else fold_batch_norm(original, card)[0]
        _draw(folder, before, outcome.parameters, rows, points)
    return report


def missed(config: CompressConfig, steps: list[dict[str, Any]]) -> list[str]:
    """Return a line for each target that the last step does not reach."""
    first, last = steps[0], steps[-1]
    lines = []
    if config.target_bytes and last["file_bytes"] > config.target_bytes:
        lines.append(f"target_bytes: {config.target_bytes:,} are not reached; the smallest is {last['file_bytes']:,}")
    if config.max_drop is not None and first["accuracy"] - last["accuracy"] > config.max_drop:
        drop = first["accuracy"] - last["accuracy"]
        lines.append(f"max_drop: {config.max_drop:.2%} is not reached; the file's accuracy is {drop:.2%} lower")
    return lines


def decompress(config: CompressConfig) -> Path:
    """Turn a compressed file back into a checkpoint, and return its path. Raises UserError as compress does."""
    source = Path(config.decompress)
    parameters, card = read_compressed(source)
    folder = Path(config.output_path or source.parent)
    file = folder / f"{source.stem}.ckpt"
    if file.exists() and not config.overwrite:
        raise UserError(f"{file}: is there already; choose another --output_path, or replace it with --overwrite")
    with output_folder(folder):
        save_checkpoint(build_network(parameters, card, source), file, card)
    return file


def convolutions(parameters: Parameters) -> list[str]:
    """Return the names of the weights that are pruned and shared: those of convolutions, and no vectors."""
    return [name for name, array in parameters.items() if array.ndim == 4]


def _check(data: bytes, parameters: Parameters) -> None:
    """Raise RuntimeError unless a file decodes to these weights bit for bit."""
    decoded, _ = decode(data)
    for name, array in parameters.items():
        if decoded[name].shape != array.shape or decoded[name].tobytes() != array.tobytes():
            raise RuntimeError(f"{name} does not come back from the compressed file")


def _curve(
    original: Parameters,
    card: ModelCard,
    config: CompressConfig,
    measure: Optional[Evaluator],
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Return size and accuracy for each bit width at each sparsity."""
    original, card = fold_batch_norm(original, card)
    points = []
    for sparsity in config.curve_sparsities:
        for bits in config.curve_bits:
            chosen = dict.fromkeys(convolutions(original), (sparsity, bits))
            parameters = shared(pruned(original, chosen, None), chosen, config.start, config.seed)
            size = len(encode(parameters, card.to_json()))
            point = {"bits": bits, "sparsity": sparsity, "file_bytes": size}
            points.append({**point, **({} if measure is None else measure(parameters, card))})
            say(f"{bits} bits, sparsity {sparsity:g}: {size:,} bytes" + accuracy(points[-1]))
    return points


def _draw(
    folder: Path, original: Parameters, parameters: Parameters, rows: list[dict], points: Optional[list[dict]]
) -> None:
    from src.compression import pictures  # Here, because matplotlib is slow to import.

    few = convolutions(parameters)[:_MOST_HISTOGRAMS]
    pictures.histograms(folder / HISTOGRAMS_PICTURE, [(name, original[name], parameters[name]) for name in few])
    pictures.layer_bytes(folder / BYTES_PICTURE, rows)
    if points is not None:
        write_json(folder / CURVE, points)
        pictures.curve(folder / CURVE_PICTURE, points)
