"""Exact resume: find and restore the newest valid checkpoint of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Callable, Iterator

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.dataset import Dataset

from src.checkpoint import read_card, read_checkpoint, read_json
from src.cli.errors import UserError
from src.config import RUN_CONFIG, TrainConfig, changed_keys, decisive_keys, parse_train
from src.devices.processes import ProcessGroup, set_vector
from src.files.atomic import remove_leftovers
from src.model_card import ModelCard
from src.training.checkpoints import CHECKPOINT_PREFIX, LOCAL, LOCAL_KEY, NOT_SAVED, STATE_KEY
from src.training.state import State

GLOBAL_STEP = "global_step"
_ADDED = "train_loss_sum"  # Missing in checkpoints of earlier versions.


@dataclasses.dataclass
class Saved:
    """A checkpoint of a run, read and checked."""

    path: Path
    state: State
    card: ModelCard
    parameters: dict[str, ms.Parameter]


def newest(folder: Path, devices: int) -> tuple[Saved | None, list[tuple[Path, bool]]]:
    """Return the newest valid checkpoint that this number of devices can resume from, and all others, oldest first.

    Unreadable checkpoints are skipped with a warning. Another number of devices resumes from an epoch's end. Raises
    UserError if there are checkpoints but none is usable.
    """
    remove_leftovers(folder)
    paths, found = list(folder.glob(f"{CHECKPOINT_PREFIX}-*.ckpt")), []
    for path in paths:
        try:
            found.append(read_saved(path))
        except UserError as error:
            print(f"warning: skipped: {error}", flush=True)
    found.sort(key=lambda saved: saved.state.step / saved.state.steps_per_epoch)
    usable = [saved for saved in found if saved.state.devices == devices or saved.state.ends_epoch]
    if paths and not usable:
        raise UserError(f"{folder}: none of the checkpoints can be resumed from; start again with --overwrite")
    return (usable[-1] if usable else None), [(saved.path, saved.state.ends_epoch) for saved in found]


def newest_for_all(folder: Path, group: ProcessGroup) -> tuple[Saved | None, list[tuple[Path, bool]]]:
    """Return to all processes of a group the newest checkpoint that the main process finds; see `newest`."""
    saved, earlier = newest(folder, group.size) if group.is_main_process else (None, [])
    if not group.sum(np.float32(saved is not None)):
        return None, []
    path = group.file(saved.path if saved else f"{CHECKPOINT_PREFIX}-newest.ckpt")
    return saved or read_saved(path), earlier


def read_saved(path: Path) -> Saved:
    """Read a checkpoint of a run. Raises UserError for a damaged file or one without a run's state."""
    parameters = read_checkpoint(path)
    try:
        state = State.read(read_json(parameters, STATE_KEY))
    except (KeyError, ValueError):
        raise UserError(f"{path}: contains no state of a run") from None
    return Saved(path, state, read_card(parameters, path), parameters)


def begun_run(folder: Path, group: ProcessGroup) -> TrainConfig | None:
    """Return the configuration of the run in a folder of the main process, or None if there is no run."""
    file = folder / RUN_CONFIG
    if not group.sum(np.float32(group.is_main_process and file.is_file())):
        return None
    return parse_train([f"--config={group.file(file)}"], "")


def is_complete(begun: TrainConfig, result: Path, config: TrainConfig, group: ProcessGroup) -> bool:
    """Return whether a run has its result and the requested number of epochs.

    Raises UserError, which names the keys, if the run was started with a configuration that gives other results.
    """
    differences = changed_keys(config, decisive_keys(begun))
    if differences:
        raise UserError(
            f"{result.parent}: was started with other values ({'; '.join(differences)}); resume with those, or choose "
            "another --output_path"
        )
    finished = group.sum(np.float32(group.is_main_process and result.is_file()))
    return bool(finished) and begun.schedule.epochs == config.schedule.epochs


def restore(network: nn.Cell, saved: Saved, group: ProcessGroup, step: int) -> None:
    """Restore a train network from a checkpoint, with its optimizer at `step`.

    Raises UserError as `fill`.
    """
    parameters = [p for p in network.get_parameters() if not p.name.startswith(NOT_SAVED)]
    for parameter in parameters:
        if parameter.name == _ADDED and parameter.name not in saved.parameters:
            saved.parameters[_ADDED] = parameter  # In a checkpoint of an earlier version; 0 after each record.
    fill(parameters, saved.parameters, saved.path)
    for parameter in parameters:
        if parameter.name == GLOBAL_STEP:
            # Updates left out by a loss scale do not count for the learning rate.
            left_out = saved.state.step - int(saved.parameters[GLOBAL_STEP].asnumpy().item())
            updates = step - left_out if saved.state.devices == group.size and 0 <= left_out <= step else step
            parameter.set_data(Tensor(np.full(parameter.shape, updates), parameter.dtype))
    if LOCAL_KEY in saved.parameters and saved.state.devices == group.size:
        everyones = saved.parameters[LOCAL_KEY].asnumpy()
        local = [p for p in parameters if p.name.endswith(LOCAL)]
        if everyones.shape[1] < sum(p.size for p in local):  # Likewise.
            local = [p for p in local if p.name != _ADDED]
        set_vector(local, everyones[group.rank])


def fill(parameters: list[ms.Parameter], held: dict[str, ms.Parameter], path: Path) -> None:
    """Set parameters to those that a checkpoint holds.

    Raises UserError, which names the first, for parameters that are missing or have another shape or type.
    """
    for parameter in parameters:
        _check(parameter, held.get(parameter.name), path)
    for parameter in parameters:
        parameter.set_data(Tensor(held[parameter.name].asnumpy(), parameter.dtype))


def stretches(
    step: int, steps: int, steps_per_epoch: int, batches: Callable[[int, int], Dataset]
) -> Iterator[tuple[int, Dataset]]:
    """Yield numbers of steps and their batches: the rest of a resumed epoch, and the whole epochs after it.

    step: steps done, of all `steps`. batches: returns those from an epoch on, and from a step in it.
    """
    epoch, within = divmod(step, steps_per_epoch)
    if within:
        yield steps_per_epoch - within, batches(epoch, within)
        epoch += 1
    if epoch * steps_per_epoch < steps:
        yield steps - epoch * steps_per_epoch, batches(epoch, 0)


def _check(parameter: ms.Parameter, held: ms.Parameter | None, path: Path) -> None:
    """Raise UserError unless a checkpoint's parameter fits the network's."""
    if held is None:
        raise UserError(f"{path}: {parameter.name} is missing; it belongs to another network or optimizer")
    for wanted, found in ((parameter.shape, held.shape), (parameter.dtype, held.dtype)):
        if found != wanted:
            raise UserError(
                f"{path}: {parameter.name} is {found} instead of {wanted}; it belongs to another network or optimizer"
            )
    if not np.isfinite(held.asnumpy()).all():
        raise UserError(f"{path}: {parameter.name} holds values that are not finite; remove this file")
