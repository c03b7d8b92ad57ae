"""Process groups: distributed training with one process on each device."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.communication import get_group_size, get_rank, init

from src.cli.errors import UserError
from src.files.bounded import open_file


def is_worker() -> bool:
    """Return whether this process belongs to a process group, started by src/launching, msrun or with a rank table.

    A rank table alone does not suffice: ModelArts and users of the model zoo export one for a single device as well.
    """
    size = os.environ.get("RANK_SIZE", "")
    by_rank_table = {"RANK_TABLE_FILE", "RANK_ID"} <= os.environ.keys() and size.isdigit() and int(size) > 1
    return os.environ["MS_ROLE"] == "MS_WORKER" if "MS_ROLE" in os.environ else by_rank_table


def serve_as_scheduler() -> None:
    """Serve as the scheduler of a process group and exit, if this process was started in that role.

    The scheduler runs the same program as the workers, with src/launching and with msrun.
    """
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        ms.set_device("CPU")
        init()  # Returns when all workers have left.
        sys.exit(0)


class ProcessGroup:
    """The processes of a training, with `rank` from 0 to size - 1; size 1 for a training on one device.

    All processes must call sum, mean, all_gather and file in the same order, and get the same results.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size
        self._copies: list[tempfile.TemporaryDirectory] = []  # Removed when the process ends.

    @classmethod
    def join(cls) -> ProcessGroup:
        """Join the process group, if there is one, and set data parallelism. Call this after setting the device."""
        if not is_worker():
            return cls()
        init()
        group = cls(get_rank(), get_group_size())
        if group.size > 1:
            # The mean of the gradients, so that a step equals that of one device with the whole batch.
            ms.set_auto_parallel_context(
                parallel_mode=ms.ParallelMode.DATA_PARALLEL,
                gradients_mean=True,
                device_num=group.size,
                # One allreduce of all gradients: those of biases are so small that each would cost its latency alone.
                comm_fusion={"allreduce": {"mode": "auto", "config": None}},
            )
        return group

    @property
    def is_main_process(self) -> bool:
        """Whether this is the main process (rank 0), which writes the run's folder."""
        return self.rank == 0

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of the processes' arrays of equal shape, float32."""
        values = np.asarray(values, np.float32)
        if self.size == 1:
            return values
        return ops.AllReduce()(Tensor(values)).asnumpy()

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of the processes' arrays of equal shape, float32."""
        return self.sum(values) / np.float32(self.size)

    def all_gather(self, values: np.ndarray) -> np.ndarray:
        """Gather the processes' arrays of equal shape as (size, ...), float32."""
        # A sum with zeros is exact, and AllReduce the one collective that every device supports.
        everyones = np.zeros((self.size, *np.shape(values)), np.float32)
        everyones[self.rank] = values
        return self.sum(everyones)

    def file(self, path: str | Path) -> Path:
        """Return a file of the main process for reading: on other hosts a temporary copy.

        Raises UserError, on all processes, for a file that the main process cannot read.
        """
        if self.size == 1:
            return Path(path)
        content, reason = b"", None
        if self.is_main_process:
            try:
                with open_file(path) as stream:
                    content = stream.read()
            except OSError as error:
                reason = error.strerror
        # A float32 holds 24 bits exactly.
        low, high, unreadable = self.sum(np.array([len(content) % 2**24, len(content) // 2**24, reason is not None]))
        if unreadable:
            raise UserError(f"{path}: cannot be read ({reason or 'see the error of the main process'})")
        length = int(low) + int(high) * 2**24
        if length:
            values = np.frombuffer(content, np.uint8) if self.is_main_process else np.zeros(length)
            content = self.sum(values).astype(np.uint8).tobytes()
        if self.is_main_process:
            return Path(path)
        self._copies.append(tempfile.TemporaryDirectory(prefix="squeezenet_"))
        copy = Path(self._copies[-1].name) / Path(path).name
        copy.write_bytes(content)
        return copy


ALONE = ProcessGroup()


def average_statistics(net: nn.Cell, group: ProcessGroup) -> None:
    """Average the batch norm statistics over the processes, since each device keeps its own during training.

    They are linear in the batches, so that it does not matter how often they are averaged.
    """
    norms = [cell for _, cell in net.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    trained = [norm for norm in norms if norm.use_batch_statistics is not False]  # Frozen ones are alike, to the bit.
    statistics = [p for norm in trained for p in (norm.moving_mean, norm.moving_variance)]
    if group.size > 1 and statistics:
        set_vector(statistics, group.mean(vector(statistics)))


def vector(parameters: list[ms.Parameter]) -> np.ndarray:
    """Return parameters as one vector, float32."""
    return np.concatenate([p.asnumpy().ravel().astype(np.float32) for p in parameters])


def set_vector(parameters: list[ms.Parameter], values: np.ndarray) -> None:
    """Set parameters from the vector that `vector` returned."""
    for parameter in parameters:
        own, values = values[: parameter.size], values[parameter.size :]
        parameter.set_data(Tensor(own.reshape(parameter.shape), parameter.dtype))
