"""Exponential moving average of the weights (EMA), kept beside the weights that are trained."""

from __future__ import annotations

import contextlib
from typing import Iterator

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.devices.processes import ProcessGroup, set_vector, vector

WEIGHTS, STATISTICS = "ema.weights", "ema.statistics"


class AveragingOptimizer(nn.Cell):
    """An optimizer that also averages the weights that it trains, and the batch norm statistics.

    decay: factor of the past in the average. The weights of steps 0 (the initial ones) to t count decay^(t - i) each,
    divided by the sum of these: the averages start at 0, and their last element, in which a 1 is averaged, holds the
    sum (as the bias correction of Kingma and Ba 2014, section 3, does).

    A step first adds the weights that its forward pass has used, since MindSpore copies each parameter that is read
    after its update; `averaged` adds the newest. All values are one vector, a handful of kernels on an Ascend.
    """

    def __init__(self, optimizer: nn.Optimizer, net: nn.Cell, decay: float):
        super().__init__(auto_prefix=False)
        self.optimizer, self.parameters, self.rate = optimizer, optimizer.parameters, 1 - decay
        self.weights = ms.ParameterTuple(net.trainable_params())
        statistics = [p for p in net.get_parameters() if p.name.endswith((".moving_mean", ".moving_variance"))]
        self.statistics, self.has_statistics = ms.ParameterTuple(statistics), bool(statistics)
        self.one = Tensor(np.ones(1, np.float32))
        self.average = self._zeros(self.weights, WEIGHTS)
        self.average_statistics = self._zeros(self.statistics, STATISTICS)

    @staticmethod
    def _zeros(parameters: tuple, name: str) -> Parameter:
        size = sum(parameter.size for parameter in parameters) + 1
        return Parameter(Tensor(np.zeros(size, np.float32)), name, requires_grad=False)

    def construct(self, gradients):
        past = self.average
        added = ops.assign(past, past + self.rate * (self._values(self.weights) - past))
        if self.has_statistics:
            past = self.average_statistics
            added = added, ops.assign(past, past + self.rate * (self._values(self.statistics) - past))
        return self.optimizer(ops.depend(gradients, added))

    def _values(self, parameters):
        """Return parameters, and a 1, as one vector."""
        parts = ()
        for parameter in parameters:
            parts += (parameter.reshape(-1),)
        return ops.concat((*parts, self.one))

    @contextlib.contextmanager
    def averaged(self, group: ProcessGroup) -> Iterator[None]:
        """Give the network the averages within the body; those of statistics are means over the process group."""
        kept = [(parameters, vector(parameters)) for parameters in (self.weights, self.statistics) if parameters]
        past = self.average.asnumpy()
        newest = past + np.float32(self.rate) * (np.append(kept[0][1], np.float32(1)) - past)
        averages = newest, group.mean(self.average_statistics.asnumpy())
        try:
            for (parameters, _), average in zip(kept, averages):
                set_vector(parameters, average[:-1] / average[-1])
            yield
        finally:
            for parameters, values in kept:
                set_vector(parameters, values)


def averaged(train_network: nn.Cell, group: ProcessGroup) -> contextlib.AbstractContextManager:
    """Give the network the averaged weights within a `with` body, if its optimizer averages them."""
    optimizer = train_network.optimizer
    return optimizer.averaged(group) if isinstance(optimizer, AveragingOptimizer) else contextlib.nullcontext()
