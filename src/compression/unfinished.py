"""The state of a compression that still trains, kept in its folder, so that --resume continues it."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.train import Callback
from pydantic import TypeAdapter

from src.checkpoint import read_checkpoint, read_json, save_checkpoint
from src.cli import signals
from src.cli.errors import UserError
from src.cli.signals import Interrupted
from src.compression.distillation import TEACHER
from src.model_card import ModelCard
from src.training.checkpoints import NOT_SAVED
from src.training.resume import fill

FILE = "unfinished.ckpt"
_STATE, _START = "compression_state", "start."
_SECONDS = 300.0  # Between two states within an epoch.


@dataclasses.dataclass
class State:
    """State of a compression within a phase of training.

    step: steps done in this phase.
    sparsities: of the convolutions, while pruning.
    records: of the steps before, as in report.json.
    configuration: what determines the result.
    """

    phase: str
    step: int
    sparsities: Dict[str, float]
    records: List[Dict[str, Any]]
    configuration: Dict[str, Any]


class Unfinished:
    """The kept state of a compression, and the file that it is kept in.

    file: in the folder of results. configuration: what determines the result, as JSON values. resume: continue from the
    file, if it exists. Raises UserError for a damaged file, or one of another configuration.
    """

    def __init__(self, file: Path, configuration: Mapping[str, Any], resume: bool):
        self.file, self.configuration = file, json.loads(json.dumps(configuration))
        self.state: Optional[State] = None
        self.parameters: dict[str, ms.Parameter] = {}
        if resume and file.is_file():
            self._read()

    def _read(self) -> None:
        self.parameters = read_checkpoint(self.file)
        try:
            state = TypeAdapter(State).validate_python(read_json(self.parameters, _STATE))
        except (KeyError, ValueError):
            raise UserError(f"{self.file}: contains no state of a compression; start again with --overwrite") from None
        keys = state.configuration.keys() | self.configuration.keys()
        others = [key for key in sorted(keys) if state.configuration.get(key) != self.configuration.get(key)]
        if others:
            words = "; ".join(f"{key} {state.configuration.get(key)}" for key in others)
            raise UserError(
                f"{self.file.parent}: was started with other values ({words}); resume with those, or choose another "
                "--output_path"
            )
        self.state = state

    @property
    def phase(self) -> Optional[str]:
        """The phase of training that the kept state is of, or None without one."""
        return self.state.phase if self.state else None

    def begin(self, phase: str, records: list[dict], sparsities: Callable[[], dict[str, float]] = dict) -> State:
        """Return the kept state, if it is of this phase, or that before its first step."""
        if self.phase == phase:
            return self.state
        return State(phase, 0, sparsities(), records, self.configuration)

    def start(self) -> dict[str, np.ndarray]:
        """Return the weights at the start of the phase."""
        names = [name for name in self.parameters if name.startswith(_START)]
        return {name.removeprefix(_START): self.parameters[name].asnumpy() for name in names}

    def keep(self, state: State, trained: nn.Cell, card: ModelCard, start: Mapping[str, np.ndarray]) -> None:
        """Write the state, with the parameters of the training step, to the file."""
        arrays = {_START + name: array for name, array in start.items()}
        save_checkpoint(_kept(trained), self.file, card, **{_STATE: dataclasses.asdict(state)}, **arrays)

    def restore(self, trained: nn.Cell) -> None:
        """Set the parameters of a training step to the kept ones. Raises UserError if they do not fit."""
        fill(_kept(trained), self.parameters, self.file)

    def finish(self) -> None:
        """Remove the file."""
        self.file.unlink(missing_ok=True)


def _kept(trained: nn.Cell) -> list[ms.Parameter]:
    return [p for p in trained.get_parameters() if not p.name.startswith((*NOT_SAVED, TEACHER))]


class Keeping(Callback):
    """Callback that keeps the state every few minutes, at the end of each epoch, and at a signal, where it stops.

    unfinished, state, trained, card, start: see Unfinished.keep.
    """

    def __init__(
        self,
        unfinished: Unfinished,
        state: State,
        trained: nn.Cell,
        card: ModelCard,
        start: Mapping[str, np.ndarray],
        steps_per_epoch: int,
        log: Callable[[str], None],
    ):
        super().__init__()
        self.unfinished, self.state, self.trained, self.card, self.start = unfinished, state, trained, card, start
        self.steps_per_epoch, self.log = steps_per_epoch, log
        self._kept_at = time.monotonic()

    def on_train_step_end(self, run_context):
        step = run_context.original_args().cur_step_num
        if step % self.steps_per_epoch and (signals.received() or time.monotonic() - self._kept_at >= _SECONDS):
            self._keep(step)

    def on_train_epoch_end(self, run_context):
        self._keep(run_context.original_args().cur_step_num)

    def _keep(self, step: int) -> None:
        state = dataclasses.replace(self.state, step=step)
        self.unfinished.keep(state, self.trained, self.card, self.start)
        self._kept_at = time.monotonic()
        if signals.received():
            self.log(f"{state.phase}: stopped at step {step}; continue with the same command and --resume")
            raise Interrupted(signals.received())
