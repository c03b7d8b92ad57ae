"""Training under constraints: pruned weights stay zero, and weights that share a value move together.

A training loop of its own on Model.train, with the data sets, the loss, the schedule and the optimizers of train.py.
"""

from __future__ import annotations

from typing import Callable, Mapping, Optional

import mindspore as ms
import numpy as np
from mindspore import Model, Parameter, Tensor, nn, ops
from mindspore.train import Callback

from src.checkpoint import weights_of
from src.cli.errors import UserError
from src.compression.config import RetrainConfig
from src.compression.prune import mask_by_sparsity
from src.compression.share import rounded
from src.config import DataConfig, OptimizerConfig
from src.dataset import training_pipeline
from src.dataset.source import Source
from src.inference.fold import norm_scales
from src.loss import CrossEntropy
from src.lr_generator import get_lr
from src.model_card import ModelCard
from src.squeezenet import SqueezeNet
from src.training.model import make_optimizer

# Share of the pruning epochs in which weights still go; in the rest the network recovers.
_PRUNING_SHARE = 0.6
_PRUNINGS_AN_EPOCH = 10


class ConstrainedStep(nn.TrainOneStepCell):
    """A training step after which masked weights are zero and weights of one code have changed alike.

    masks: for each of the network's convolutions, by its weight's name, which weights live, of their shape.
    codes: the same for the index of each weight's value, or None for those that do not share.

    The gradient of a shared value is the sum of its weights' (Deep Compression, section 3.3). Every weight of a code
    gets it, so that any optimizer that works on each weight for itself keeps them equal, momentum included. Masks act
    on the weights after the step, whatever momentum and weight decay have made of them.
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: nn.Optimizer,
        masks: Mapping[str, np.ndarray],
        codes: Optional[Mapping[str, np.ndarray]] = None,
    ):
        super().__init__(network, optimizer)
        names = [p.name for p in self.weights]
        self.held = tuple(name in masks for name in names)
        self.tied = tuple(codes is not None and name in codes for name in names)
        self.masks = ms.ParameterTuple(
            [_constant(masks.get(name, np.ones(1)).astype(np.float32), f"mask.{name}") for name in names]
        )
        indices = [codes[name].ravel() if tied else np.zeros(1) for name, tied in zip(names, self.tied)]
        self.codes = ms.ParameterTuple(
            [_constant(index.astype(np.int32), f"codes.{name}") for index, name in zip(indices, names)]
        )
        self.values = tuple(int(index.max()) + 1 for index in indices)

    def construct(self, *inputs):
        loss = self.network(*inputs)
        gradients = self.grad(self.network, self.weights)(*inputs, ops.ones_like(loss))
        gradients = self.grad_reducer(gradients)
        summed = ()
        for i in range(len(self.values)):
            gradient = gradients[i]
            if self.tied[i]:
                live = (gradient * self.masks[i]).reshape(-1)
                totals = ops.unsorted_segment_sum(live, self.codes[i], self.values[i])
                gradient = totals[self.codes[i]].reshape(gradient.shape)
            summed += (gradient,)
        loss = ops.depend(loss, self.optimizer(summed))
        for i in range(len(self.values)):
            if self.held[i]:
                loss = ops.depend(loss, ops.assign(self.weights[i], self.weights[i] * self.masks[i]))
        return loss


def _constant(array: np.ndarray, name: str) -> Parameter:
    return Parameter(Tensor(array), name=name, requires_grad=False)


class GradualPruning(Callback):
    """Prunes more and more, fast at first (Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878), and then no more.

    step: the training step with its masks.
    sparsities: of each convolution in the end, by its weight's name.
    steps: training steps in all.
    every: steps between two prunings.
    """

    def __init__(self, step: ConstrainedStep, sparsities: Mapping[str, float], steps: int, every: int):
        super().__init__()
        self.step, self.sparsities, self.every = step, sparsities, every
        self.last = max(1, int(_PRUNING_SHARE * steps))

    def on_train_step_begin(self, run_context):
        done = run_context.original_args().cur_step_num - 1
        if done <= self.last and (done % self.every == 0 or done == self.last):
            self.prune(min(1.0, done / self.last))

    def prune(self, progress: float) -> None:
        """Mask the smallest weights, as many as are due at a progress from 0 to 1. Those that are zero remain it."""
        due = 1 - (1 - progress) ** 3
        arrays = {p.name: p.asnumpy() for p in self.step.network.get_parameters()}
        scales = norm_scales(arrays)
        for weight, mask in zip(self.step.weights, self.step.masks):
            if weight.name in self.sparsities:
                # What counts is a weight's size behind batch norm.
                scale = scales.get(weight.name, np.ones(len(weight)))
                size = np.abs(weight.asnumpy() * scale[:, None, None, None])
                kept = mask_by_sparsity(size * mask.asnumpy(), due * self.sparsities[weight.name])
                mask.set_data(Tensor(kept.astype(np.float32)))
                weight.set_data(Tensor(weight.asnumpy() * kept))


class _Progress(Callback):
    """Says loss and accuracy at the end of each epoch, and ends a training whose loss is not finite."""

    def __init__(self, what: str, epochs: int, loss: CrossEntropy, say: Callable[[str], None]):
        super().__init__()
        self.what, self.epochs, self.loss, self.say = what, epochs, loss, say
        self._losses: list[float] = []

    def on_train_step_end(self, run_context):
        value = float(np.mean(run_context.original_args().net_outputs.asnumpy()))
        if not np.isfinite(value):
            raise UserError(f"{self.what}: the loss is {value}; lower its learning rate")
        self._losses.append(value)

    def on_train_epoch_end(self, run_context):
        right = int(self.loss.correct.asnumpy()) / max(1, int(self.loss.seen.asnumpy()))
        epoch = run_context.original_args().cur_epoch_num
        self.say(f"{self.what}, epoch {epoch}/{self.epochs}: loss {np.mean(self._losses):.4f}, accuracy {right:.2%}")
        self._losses = []
        self.loss.restart()


class Retraining:
    """Trains networks of a card on a source of images, as configured."""

    def __init__(self, config: RetrainConfig, data: DataConfig, source: Source, seed: int, say: Callable[[str], None]):
        self.config, self.data, self.source, self.seed, self.say = config, data, source, seed, say

    def prune(
        self, parameters: Mapping[str, np.ndarray], card: ModelCard, sparsities: Mapping[str, float]
    ) -> dict[str, np.ndarray]:
        """Return the parameters trained while they are pruned gradually, with exactly these sparsities in the end."""
        epochs = self.config.train_epochs
        masks = {name: parameters[name] != 0 for name in sparsities}
        net = self._build(parameters, card)
        dataset, rates = self._schedule(card, epochs, self.config.lr_max)
        loss = CrossEntropy(self.config.label_smoothing)
        optimizer = make_optimizer(
            net,
            OptimizerConfig(optimizer=self.config.optimizer, weight_decay=self.config.weight_decay, decay_biases=False),
            rates,
        )
        step = ConstrainedStep(nn.WithLossCell(net, loss), optimizer, masks)
        every = max(1, len(rates) // epochs // _PRUNINGS_AN_EPOCH)
        pruning = GradualPruning(step, sparsities, len(rates), every)
        self._train(step, epochs, dataset, [pruning, _Progress("pruning", epochs, loss, self.say)])
        return _arrays(net)

    def train_centroids(self, parameters: Mapping[str, np.ndarray], card: ModelCard) -> dict[str, np.ndarray]:
        """Return parameters whose convolutions have the same positions and codes as before, with trained values.

        The other parameters are trained along; the values come rounded. Always with Adam, whose steps do not grow with
        the members of a value.
        """
        epochs = self.config.centroid_epochs
        masks, codes = {}, {}
        for name, array in parameters.items():
            if array.ndim == 4:
                masks[name] = array != 0
                codes[name] = np.unique(array, return_inverse=True)[1].reshape(array.shape)
        net = self._build(parameters, card)
        dataset, rates = self._schedule(card, epochs, self.config.centroid_lr)
        loss = CrossEntropy(self.config.label_smoothing)
        optimizer = make_optimizer(net, OptimizerConfig(optimizer="adam", weight_decay=0.0), rates)
        step = ConstrainedStep(nn.WithLossCell(net, loss), optimizer, masks, codes)
        self._train(step, epochs, dataset, [_Progress("centroids", epochs, loss, self.say)])
        trained = _arrays(net)
        for name in codes:
            trained[name] = rounded(one_value_a_code(trained[name], codes[name], masks[name]))
        return trained

    def _build(self, parameters: Mapping[str, np.ndarray], card: ModelCard) -> SqueezeNet:
        net = card.build()
        net.classifier[0].seeded(self.seed)
        for name, parameter in weights_of(net).items():
            parameter.set_data(Tensor(parameters[name]))
        return net

    def _schedule(self, card: ModelCard, epochs: int, rate: float):
        dataset = training_pipeline(self.source, self.data, card.preprocessing.on_host(), self.seed)
        return dataset, get_lr(0.0, 0.0, rate, epochs, 0, 0, dataset.get_dataset_size(), "cosine")

    def _train(self, step: ConstrainedStep, epochs: int, dataset, callbacks: list[Callback]) -> None:
        step.set_train()
        # Not sunk: the callbacks look at every step.
        Model(step).train(epochs, dataset, callbacks=callbacks, dataset_sink_mode=False)
        step.set_train(False)


def one_value_a_code(weights: np.ndarray, codes: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return weights of which all of one code are equal: their mean, which is theirs but for rounding; zero if masked.

    A value that training has brought to zero, or to another's, remains as it is: the coder finds what is equal.
    """
    flat = codes.ravel()
    means = np.bincount(flat, weights.ravel().astype(np.float64)) / np.maximum(1, np.bincount(flat))
    return np.where(mask, means[codes], 0).astype(np.float32)


def _arrays(net: SqueezeNet) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy() for name, parameter in weights_of(net).items()}
