"""State of a run at a step, stored in each of its checkpoints."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter
from typing_extensions import Annotated, NotRequired, TypedDict

from src.cli.errors import UserError
from src.files.bounded import read_text

MAX_RESULT_BYTES = 1 << 20

Number = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


def _with_accuracy(figures: dict) -> dict:
    if "accuracy" not in figures:
        raise ValueError("no accuracy in it")
    return figures


# Step and metrics of an evaluation.
Figures = Annotated[Dict[str, Union[int, float]], AfterValidator(_with_accuracy)]


@dataclasses.dataclass
class ProgressState:
    """State of ProgressLogger: the step of the last record."""

    recorded: Number


@dataclasses.dataclass
class DeadStartState:
    """State of DeadStartWarning."""

    at_level: Number
    epoch_losses: List[float]
    said: bool


@dataclasses.dataclass
class EvaluatorState:
    """State of Evaluator: the best evaluation so far, and the step of the last one."""

    best: Optional[Figures]
    evaluated_step: Number


@dataclasses.dataclass
class Parts:
    """States of the callbacks, and the steps at which the run was resumed."""

    training: ProgressState
    dead_start: DeadStartState
    resumed_at: List[Number]
    evaluator: Optional[EvaluatorState] = None


@dataclasses.dataclass
class State:
    """State of a run.

    step: steps done.
    steps_per_epoch, devices, training_images: these determine the order of the images.
    seconds: time spent so far.
    configuration: the keys that determine the result (decisive_keys); None in a checkpoint of an earlier version.
    """

    step: Number
    steps_per_epoch: Positive
    devices: Positive
    training_images: Positive
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    parts: Parts
    configuration: Optional[Dict[str, Any]] = None

    @property
    def ends_epoch(self) -> bool:
        """Whether the step is the last one of an epoch."""
        return self.step % self.steps_per_epoch == 0

    @classmethod
    def read(cls, values: Any) -> State:
        """Build a State from the values of dataclasses.asdict. Raises ValueError for other values."""
        return TypeAdapter(cls).validate_json(json.dumps(values), strict=True)


class Accuracy(TypedDict):
    """Metrics of an evaluation in a result."""

    __pydantic_config__ = ConfigDict(extra="allow")
    accuracy: float


class Result(TypedDict):
    """The part of result.json that is read again."""

    __pydantic_config__ = ConfigDict(extra="allow")
    epochs: NotRequired[Positive]  # Results of earlier versions have none.
    checkpoint: str
    validation: Optional[Accuracy]
    test: Optional[Accuracy]
    images_per_second: Optional[float]
    images_per_second_per_device: Optional[float]
    seconds: float
    peak_memory_mb: float
    devices: Positive


def read_result(file: Path, advice: str) -> Dict[str, Any]:
    """Return the content of a result.json. Raises UserError, with advice, for another or an unreadable file."""
    try:
        return TypeAdapter(Result).validate_json(read_text(file, MAX_RESULT_BYTES, advice), strict=True)
    except ValueError:
        raise UserError(f"{file}: not the result of a run; {advice}") from None


def read_figures(values: Any) -> dict[str, Any]:
    """Validate the metrics of an evaluation. Raises ValueError for other values."""
    return TypeAdapter(Figures).validate_json(json.dumps(values), strict=True)
