"""Compress a network into a file with its report and pictures, and decompress one into a checkpoint."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Callable

from src.checkpoint import build_network, read_compressed, save_checkpoint
from src.cli.errors import UserError
from src.compression import int8
from src.compression.config import CompressConfig, Compression
from src.compression.evaluator import Evaluator
from src.compression.pipeline import Parameters, Pipeline
from src.compression.reading import read_weights
from src.compression.report import layer_rows, table, totals
from src.compression.unfinished import FILE as UNFINISHED
from src.compression.unfinished import Unfinished
from src.devices.device import select_device
from src.files.atomic import write_bytes, write_json, write_text
from src.files.locks import locked
from src.files.run_folder import check_run_folder, make_run_folder, output_folder
from src.inference.exported_model import spec_path
from src.inference.fold import fold_batch_norm
from src.sqz.fileformat import SUFFIX, decode, pack
from src.sqz.layout import lay_out

REPORT, TABLE = "report.json", "report.txt"
HISTOGRAMS_PICTURE, BYTES_PICTURE = "histograms.png", "bytes.png"
# More convolutions would make the picture of histograms too large to look at.
_MOST_HISTOGRAMS = 64


def compress(configuration: Compression, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Compress as configured, write the folder of results, and return the content of report.json.

    log: prints a line of progress. Raises UserError for unusable input before anything is written.
    """
    config, measuring, retrain, device = configuration
    original, card = read_weights(config.ckpt_path, config.classes)
    choices = config.layer_choices(convolutions(original))
    source = Path(config.ckpt_path)
    folder = Path(config.output_path or source.with_name(f"compressed_{source.stem}"))
    file = folder / f"{source.stem}{SUFFIX}"
    measures = bool(measuring.images or measuring.dataset)
    if measures or config.target_bytes:
        select_device(device)
    evaluator = Evaluator(measuring, card) if measures else None
    if evaluator is None:
        log("no images are given (--images or --dataset): sizes only, no accuracy")
    onnx = [source.stem + ending for ending in (int8.FLOAT32_ENDING, int8.INT8_ENDING)]
    onnx += [spec_path(Path(name)).name for name in onnx]
    entries = (file.name, REPORT, TABLE, HISTOGRAMS_PICTURE, BYTES_PICTURE, *onnx)
    decisive = {**configuration.decisive(), "contents of ckpt_path": _fingerprint(original)}
    unfinished = Unfinished(folder / UNFINISHED, decisive, config.resume)
    if config.resume and not unfinished.state:
        log(f"{folder}: no state to resume from yet; starting from the first step")
    # Results next to the state of an interrupted training are those that it was writing when it was killed.
    replaces = config.overwrite or unfinished.state is not None
    check_run_folder(folder, entries if config.resume else (*entries, UNFINISHED), replaces, (UNFINISHED,))
    with output_folder(folder), locked(folder):
        # All that takes long comes before results are written: until then, an interrupted run leaves the folder as it
        # was, but for the state of its training.
        pipeline = Pipeline(configuration, choices, evaluator, unfinished, log)
        network = pipeline.run(original, card)
        layout = lay_out(network.parameters)
        data = pack(layout, network.card.to_json())
        _check(data, network.parameters)
        rows = layer_rows(network.parameters, layout)
        report = {
            "source": str(source),
            "file": str(file),
            "trained": retrain.trains,
            "steps": network.steps,
            "missed": missed(config, network.steps),
            "totals": totals(rows, len(data)),
            "layers": rows,
        }
        make_run_folder(folder, entries, replaces)
        write_bytes(file, data)
        if config.int8:
            models = int8.export_int8(original, card, pipeline.calibration(card), folder, source.stem, device)
            report["int8"] = int8.comparison(models, file, network.steps[-1], evaluator)
        write_json(folder / REPORT, report)
        write_text(folder / TABLE, table(rows, report["totals"]) + "\n")
        before = original if network.card.model == card.model else fold_batch_norm(original, card)[0]
        _draw(folder, before, network.parameters, report)
        unfinished.finish()
    return report


def missed(config: CompressConfig, steps: list[dict[str, Any]]) -> list[str]:
    """Return a line for each target that the final network misses."""
    first, last = steps[0], steps[-1]
    lines = []
    if config.target_bytes and last["file_bytes"] > config.target_bytes:
        lines.append(
            f"target_bytes: the file has {last['file_bytes']:,} bytes, more than {config.target_bytes:,}; "
            "prune more of its weights (--sparsity), or set a larger target"
        )
    if config.max_drop is not None and first["accuracy"] - last["accuracy"] > config.max_drop:
        drop = first["accuracy"] - last["accuracy"]
        lines.append(f"max_drop: accuracy fell by {100 * drop:.2f} points, more than {100 * config.max_drop:.2f}")
    return lines


def decompress(config: CompressConfig) -> Path:
    """Decompress a file into a checkpoint, and return its path. Raises UserError as compress does."""
    source = Path(config.decompress)
    parameters, card = read_compressed(source)
    folder = Path(config.output_path or source.parent)
    file = folder / f"{source.stem}.ckpt"
    if os.path.lexists(file) and not config.overwrite:
        raise UserError(f"{file}: already exists; choose another --output_path, or replace it with --overwrite")
    with output_folder(folder, file.name):
        save_checkpoint(build_network(parameters, card, source), file, card)
    return file


def convolutions(parameters: Parameters) -> list[str]:
    """Return the names of the convolutions' weights, which are pruned and quantized."""
    return [name for name, array in parameters.items() if array.ndim == 4]


def _fingerprint(parameters: Parameters) -> str:
    found = hashlib.sha256()
    for name, array in parameters.items():
        found.update(f"{name} {array.shape} ".encode() + array.tobytes())
    return f"sha256 {found.hexdigest()[:12]}"


def _check(data: bytes, parameters: Parameters) -> None:
    """Raise RuntimeError unless a file decodes to these weights bit for bit."""
    decoded, _ = decode(data)
    for name, array in parameters.items():
        if decoded[name].shape != array.shape or decoded[name].tobytes() != array.tobytes():
            raise RuntimeError(f"{name} does not come back from the compressed file")


def _draw(folder: Path, original: Parameters, parameters: Parameters, report: dict[str, Any]) -> None:
    from src.compression import pictures  # Here, because matplotlib is slow to import.
    from src.visualize import save

    few = convolutions(parameters)[:_MOST_HISTOGRAMS]
    layers = [pictures.Layer(name, original[name], parameters[name]) for name in few]
    save(pictures.histograms(layers), folder / HISTOGRAMS_PICTURE)
    save(pictures.layer_bytes(report["layers"], report["totals"]["file_bytes"]), folder / BYTES_PICTURE)
