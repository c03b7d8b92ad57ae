"""compress.py's work: a network into a compressed file with its report, a curve of sizes, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Mapping, Optional

import mindspore as ms
import numpy as np

from src.checkpoint import ModelCard, load_weights, save_checkpoint
from src.compression.config import CompressConfig, MeasureConfig
from src.compression.fileformat import SUFFIX, decode, encode, pack
from src.compression.layout import lay_out
from src.compression.measuring import Measure, make_measure
from src.compression.prune import prune
from src.compression.reading import read_compressed, read_weights
from src.compression.report import layer_rows, totals
from src.compression.share import share
from src.config import DeviceConfig
from src.device import select_device
from src.errors import UserError
from src.output import make_run_folder, output_folder, write_bytes, write_json

REPORT, CURVE = "report.json", "curve.json"
HISTOGRAMS_PICTURE, BYTES_PICTURE, CURVE_PICTURE = "histograms.png", "bytes.png", "curve.png"
# More convolutions would make the picture of histograms too large to look at.
_MOST_HISTOGRAMS = 64

Parameters = Mapping[str, np.ndarray]


def compress(
    config: CompressConfig, measuring: MeasureConfig, device: DeviceConfig, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Compress as configured, write the folder of results, and return what is in report.json.

    Raises UserError for anything that cannot be used, before anything is written.
    """
    original, card = read_weights(config.ckpt_path, config.classes)
    names = convolutions(original)
    choices = config.layer_choices(names)
    source = Path(config.ckpt_path)
    folder = Path(config.output_path or source.with_name(f"compressed_{source.stem}"))
    file = folder / f"{source.stem}{SUFFIX}"
    if measuring.images or measuring.dataset:
        select_device(device)
    measure = make_measure(measuring, card)
    if measure is None:
        say("no images are given (--images or --dataset): sizes only, no accuracy")
    entries = (file.name, REPORT, CURVE, HISTOGRAMS_PICTURE, BYTES_PICTURE, CURVE_PICTURE)
    make_run_folder(folder, entries, config.overwrite)
    with output_folder(folder):
        steps, parameters = _steps(original, card, choices, config, measure)
        layout = lay_out(parameters)
        data = pack(layout, card.to_json())
        _check(data, parameters)
        rows = layer_rows(parameters, layout)
        report = {
            "source": str(source),
            "file": str(file),
            "trained": False,
            "steps": steps,
            "totals": totals(rows, len(data)),
            "layers": rows,
        }
        write_bytes(file, data)
        write_json(folder / REPORT, report)
        _draw(folder, original, parameters, rows, names)
        if config.curve:
            report["curve"] = _curve(folder, original, card, config, measure, say)
    return report


def decompress(config: CompressConfig) -> Path:
    """Turn a compressed file back into a checkpoint, and return its path. Raises UserError as compress does."""
    source = Path(config.decompress)
    parameters, card = read_compressed(source)
    folder = Path(config.output_path or source.parent)
    file = folder / f"{source.stem}.ckpt"
    if file.exists() and not config.overwrite:
        raise UserError(f"{file}: is there already; choose another --output_path, or replace it with --overwrite")
    with output_folder(folder):
        save_checkpoint(build(parameters, card, source), file, card)
    return file


def build(parameters: Parameters, card: ModelCard, path: str | Path):
    """Return the network of a card with these weights. Raises UserError when they do not fit; `path` is for that."""
    try:
        net = card.build()
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: its model card cannot be read ({error}); is it from a newer version?") from None
    given = {name: ms.Parameter(ms.Tensor(array), name=name) for name, array in parameters.items()}
    load_weights(net, given, path)
    return net.set_train(False)


def convolutions(parameters: Parameters) -> list[str]:
    """Return the names of the weights that are pruned and shared: those of convolutions, and no vectors."""
    return [name for name, array in parameters.items() if array.ndim == 4]


def pruned(parameters: Parameters, choices: Mapping[str, tuple], tolerance: Optional[float]) -> dict[str, np.ndarray]:
    """Return the parameters with their convolutions pruned, each as its choice (sparsity, bits) says."""
    done = dict(parameters)
    for name, (sparsity, _) in choices.items():
        done[name] = prune(parameters[name], sparsity, None if sparsity is not None else tolerance)
    return done


def shared(parameters: Parameters, choices: Mapping[str, tuple], start: str, seed: int) -> dict[str, np.ndarray]:
    """Return the parameters with their convolutions shared, each as its choice (sparsity, bits) says."""
    done = dict(parameters)
    for name, (_, bits) in choices.items():
        if bits is not None:
            done[name] = share(parameters[name], bits, start, seed)
    return done


def _steps(
    original: Parameters,
    card: ModelCard,
    choices: Mapping[str, tuple],
    config: CompressConfig,
    measure: Optional[Measure],
) -> tuple[list[dict[str, Any]], Parameters]:
    """Return size and accuracy of the original and after each step that is asked for, and the last weights."""
    steps, parameters = [], original

    def add(name: str) -> None:
        figures = {} if measure is None else measure(parameters)
        steps.append({"step": name, "file_bytes": len(encode(parameters, card.to_json())), **figures})

    add("original")
    if config.tolerance is not None or any(sparsity is not None for sparsity, _ in choices.values()):
        parameters = pruned(parameters, choices, config.tolerance)
        add("pruned")
    if any(bits is not None for _, bits in choices.values()):
        parameters = shared(parameters, choices, config.start, config.seed)
        add("shared")
    return steps, parameters


def _check(data: bytes, parameters: Parameters) -> None:
    """Raise RuntimeError unless a file decodes to these weights bit for bit."""
    decoded, _ = decode(data)
    for name, array in parameters.items():
        if decoded[name].shape != array.shape or decoded[name].tobytes() != array.tobytes():
            raise RuntimeError(f"{name} does not come back from the compressed file")


def _curve(
    folder: Path,
    original: Parameters,
    card: ModelCard,
    config: CompressConfig,
    measure: Optional[Measure],
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Write size and accuracy for each bit width at each sparsity, and return them."""
    from src.compression import pictures  # Here, because matplotlib is slow to import.

    points = []
    for sparsity in config.curve_sparsities:
        for bits in config.curve_bits:
            chosen = dict.fromkeys(convolutions(original), (sparsity, bits))
            parameters = shared(pruned(original, chosen, None), chosen, config.start, config.seed)
            size = len(encode(parameters, card.to_json()))
            point = {"bits": bits, "sparsity": sparsity, "file_bytes": size}
            points.append({**point, **({} if measure is None else measure(parameters))})
            say(f"{bits} bits, sparsity {sparsity:g}: {size:,} bytes" + accuracy(points[-1]))
    write_json(folder / CURVE, points)
    pictures.curve(folder / CURVE_PICTURE, points)
    return points


def accuracy(figures: Mapping[str, Any]) -> str:
    """Return top-1 and agreement, as far as they were measured, to go behind a size."""
    words = [f", top-1 {figures['accuracy']:.2%}"] if "accuracy" in figures else []
    words += [f", agreement with the original {figures['agreement']:.1%}"] if "agreement" in figures else []
    return "".join(words)


def _draw(folder: Path, original: Parameters, parameters: Parameters, rows: list[dict], names: list[str]) -> None:
    from src.compression import pictures  # Here, because matplotlib is slow to import.

    few = names[:_MOST_HISTOGRAMS]
    pictures.histograms(folder / HISTOGRAMS_PICTURE, [(name, original[name], parameters[name]) for name in few])
    pictures.layer_bytes(folder / BYTES_PICTURE, rows)
