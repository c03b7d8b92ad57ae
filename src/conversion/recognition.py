"""Recognition of the SqueezeNet variant that a file's tensors belong to, by their names and shapes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Iterator, Optional

from src.checkpoint import Shapes, check_fit, differences
from src.conversion.names import NAMINGS, Naming, Parameter, parameters
from src.squeezenet import BATCH_NORMS, VERSIONS

# Arguments of SqueezeNet that show in names and shapes, with the values to try, in order of preference. A simple bypass
# looks like none, a small stem like v1.1's, and a padded one like any: there the file or the user tells.
_TRIED = {
    "version": tuple(VERSIONS),
    "stem": ("imagenet", "small"),
    "bypass": ("none", "complex"),
    "batch_norm": BATCH_NORMS,
}


def recognise(shapes: Shapes, known: dict[str, Any], path: str | Path) -> tuple[dict[str, Any], list[Parameter]]:
    """Return the arguments of the SqueezeNet with exactly these tensors, and its parameters with their foreign names.

    known: arguments known in advance. Raises UserError, which names the differences from the nearest network, if no
    network fits.
    """
    model, naming = min(
        _candidates(shapes, known),
        key=lambda candidate: len(differences(_shapes(parameters(*candidate)), shapes)),
    )
    found = parameters(model, naming)
    words = ", ".join(f"{key} {model[key]}" for key in _TRIED)
    check_fit(_shapes(found), shapes, path, f"a SqueezeNet; the nearest has {words}")
    return model, found


def _candidates(shapes: Shapes, known: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Optional[Naming]]]:
    for naming in NAMINGS.values():
        for values in itertools.product(*([known[key]] if key in known else _TRIED[key] for key in _TRIED)):
            model = {"num_classes": 1, **known, **dict(zip(_TRIED, values))}
            kernels = [parameter.name for parameter in parameters(model, naming) if len(parameter.shape) == 4]
            first, last = shapes.get(kernels[0], ()), shapes.get(kernels[-1], ())
            if len(first) == 4 and first[1] != 3:
                model["in_channels"] = first[1]
            if len(last) == 4:
                model["num_classes"] = last[0]
            yield model, naming


def _shapes(found: list[Parameter]) -> Shapes:
    return {parameter.name: parameter.shape for parameter in found}
