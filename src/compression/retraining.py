"""Train under constraints: pruned weights stay zero, and weights of one codebook entry move together.

Uses Model.train with a step of its own, and the data sets, loss, schedule and optimizers of train.py.
"""

from __future__ import annotations

import dataclasses
from typing import Callable, Iterable, Mapping, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Model, Parameter, Tensor, nn, ops
from mindspore.train import Callback
from tqdm import tqdm

from src.checkpoint import weights_of
from src.cli import signals
from src.cli.errors import UserError
from src.compression.config import RetrainConfig
from src.compression.distillation import Distilling
from src.compression.prune import mask_by_sparsity
from src.compression.quantize import round_bfloat16
from src.compression.unfinished import Keeping, State, Unfinished
from src.config import DataConfig, OptimizerConfig
from src.dataset import evaluation_pipeline, training_pipeline
from src.dataset.source import Source, Subset
from src.devices.processes import ALONE
from src.inference.fold import norm_scales
from src.loss import CrossEntropy
from src.lr_generator import get_lr
from src.model_card import ModelCard
from src.squeezenet import SqueezeNet
from src.training.callbacks import RunCallbacks
from src.training.model import make_optimizer
from src.training.progress import BAR
from src.training.resume import stretches

# Fraction of the pruning epochs in which weights are still pruned; in the rest the network recovers.
_PRUNING_FRACTION = 0.6
_PRUNINGS_AN_EPOCH = 10
# Training images from which batch norm statistics are recomputed, and MindSpore's momentum of their moving average.
_STATISTICS_IMAGES = 2048
_MOMENTUM = 0.9


class ConstrainedStep(nn.TrainOneStepCell):
    """Training step that keeps masked weights at zero and weights with one codebook index equal.

    masks: for each convolution, by its weight's name, which weights are kept, of their shape.
    indices: likewise the codebook index of each weight; None without quantization.

    The gradient of a codebook entry is the sum of its weights' gradients (Deep Compression, section 3.3). All weights
    of the entry get it, so that any elementwise optimizer keeps them equal, momentum included. Masks are applied to
    the weights after the step, because momentum and weight decay move pruned weights too.
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: nn.Optimizer,
        masks: Mapping[str, np.ndarray],
        indices: Optional[Mapping[str, np.ndarray]] = None,
    ):
        super().__init__(network, optimizer)
        names = [p.name for p in self.weights]
        self.held = tuple(name in masks for name in names)
        self.tied = tuple(indices is not None and name in indices for name in names)
        self.masks = ms.ParameterTuple(
            [_constant(masks.get(name, np.ones(1)).astype(np.float32), f"mask.{name}") for name in names]
        )
        flat = [indices[name].ravel() if tied else np.zeros(1) for name, tied in zip(names, self.tied)]
        self.indices = ms.ParameterTuple(
            [_constant(array.astype(np.int32), f"indices.{name}") for array, name in zip(flat, names)]
        )
        self.entries = tuple(int(array.max()) + 1 for array in flat)

    def construct(self, *inputs):
        loss = self.network(*inputs)
        gradients = self.grad(self.network, self.weights)(*inputs, ops.ones_like(loss))
        gradients = self.grad_reducer(gradients)
        summed = ()
        for i in range(len(self.entries)):
            gradient = gradients[i]
            if self.tied[i]:
                live = (gradient * self.masks[i]).reshape(-1)
                totals = ops.unsorted_segment_sum(live, self.indices[i], self.entries[i])
                gradient = ops.gather(totals, self.indices[i], 0).reshape(gradient.shape)
            summed += (gradient,)
        loss = ops.depend(loss, self.optimizer(summed))
        for i in range(len(self.entries)):
            if self.held[i]:
                loss = ops.depend(loss, ops.assign(self.weights[i], self.weights[i] * self.masks[i]))
        return loss


def _constant(array: np.ndarray, name: str) -> Parameter:
    return Parameter(Tensor(array), name=name, requires_grad=False)


class GradualPruning(Callback):
    """Callback that prunes gradually on a cubic schedule (Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878).

    step: the training step with its masks.
    sparsities: final sparsity of each convolution, by its weight's name.
    steps: number of all training steps.
    every: steps between two prunings.
    """

    def __init__(self, step: ConstrainedStep, sparsities: Mapping[str, float], steps: int, every: int):
        super().__init__()
        self.step, self.sparsities, self.every = step, sparsities, every
        self.last = max(1, int(_PRUNING_FRACTION * steps))

    def on_train_step_begin(self, run_context):
        done = run_context.original_args().cur_step_num - 1
        if done <= self.last and (done % self.every == 0 or done == self.last):
            self.prune(min(1.0, done / self.last))

    def prune(self, progress: float) -> None:
        """Mask the smallest weights, as many as are due at a progress from 0 to 1. Zero weights stay zero."""
        due = 1 - (1 - progress) ** 3
        arrays = {p.name: p.asnumpy() for p in self.step.network.get_parameters()}
        scales = norm_scales(arrays)
        for weight, mask in zip(self.step.weights, self.step.masks):
            if weight.name in self.sparsities:
                # The magnitude after batch norm decides.
                scale = scales.get(weight.name, np.ones(len(weight)))
                size = np.abs(weight.asnumpy() * scale[:, None, None, None])
                kept = mask_by_sparsity(size * mask.asnumpy(), due * self.sparsities[weight.name])
                mask.set_data(Tensor(kept.astype(np.float32)))
                weight.set_data(Tensor(weight.asnumpy() * kept))


class _Progress(Callback):
    """Callback that shows a bar on a terminal, reports each epoch, and stops when the loss is not finite.

    phase: what it calls the training. steps: all of them, of which `done` are done.
    """

    def __init__(self, phase: str, steps: int, done: int, epochs: int, loss: CrossEntropy, log: Callable[[str], None]):
        super().__init__()
        self.phase, self.epochs, self.loss, self.log = phase, epochs, loss, log
        self.bar = tqdm(total=steps, initial=done, bar_format=BAR, dynamic_ncols=True, leave=False, disable=None)

    def on_train_step_end(self, run_context):
        cb = run_context.original_args()
        if not np.isfinite(cb.mean_loss):
            raise UserError(f"{self.phase}: the loss is {cb.mean_loss}; lower its learning rate")
        self.bar.set_description_str(f"{self.phase}, epoch {cb.cur_epoch_num}/{self.epochs}", refresh=False)
        self.bar.set_postfix_str(f"loss {cb.mean_loss:.3f}", refresh=False)
        self.bar.update(cb.steps_taken)

    def on_train_epoch_end(self, run_context):
        counters = (self.loss.correct, self.loss.seen, self.loss.loss_sum)
        correct, seen, loss_sum = (float(counter.asnumpy()) for counter in counters)
        seen = max(1.0, seen)
        epoch = run_context.original_args().cur_epoch_num
        self.bar.clear()
        self.log(
            f"{self.phase}, epoch {epoch}/{self.epochs}: loss {loss_sum / seen:.4f}, accuracy {correct / seen:.2%}"
        )
        self.loss.restart()


class Retraining:
    """Trains networks of a card on a source of images, as configured.

    teacher: the original network without batch norm, and its card. unfinished: where the state is kept meanwhile.
    """

    def __init__(
        self,
        config: RetrainConfig,
        data: DataConfig,
        source: Source,
        seed: int,
        teacher: tuple[Mapping[str, np.ndarray], ModelCard],
        unfinished: Unfinished,
        log: Callable[[str], None],
    ):
        self.config, self.data, self.source, self.seed, self.log = config, data, source, seed, log
        self.teacher, self.unfinished = teacher, unfinished

    def prune(self, parameters: Mapping[str, np.ndarray], card: ModelCard, state: State) -> dict[str, np.ndarray]:
        """Return the parameters after training with gradual pruning to exactly the sparsities of a state.

        Batch norm statistics are recomputed at the end: their moving averages lag behind the pruning.
        """
        epochs = self.config.train_epochs
        masks = {name: parameters[name] != 0 for name in state.sparsities}
        net, loss = self._build(parameters, card), CrossEntropy(self.config.label_smoothing)
        rates = self._rates(card, epochs, self.config.lr_max)
        optimizer = make_optimizer(
            net,
            OptimizerConfig(optimizer=self.config.optimizer, weight_decay=self.config.weight_decay, decay_biases=False),
            rates,
        )
        step = ConstrainedStep(self._with_loss(net, loss), optimizer, masks)
        every = max(1, len(rates) // epochs // _PRUNINGS_AN_EPOCH)
        pruning = GradualPruning(step, state.sparsities, len(rates), every)
        self._train(step, loss, card, epochs, state, {}, [pruning])
        self._recompute_statistics(net, card)
        return _arrays(net)

    def train_centroids(
        self, parameters: Mapping[str, np.ndarray], card: ModelCard, state: State
    ) -> dict[str, np.ndarray]:
        """Return parameters with trained codebooks; positions and indices of the convolutions do not change.

        The other parameters are trained too, and codebooks are rounded to bfloat16. Always uses Adam, whose steps do
        not grow with the number of weights of a codebook entry.
        """
        epochs = self.config.centroid_epochs
        masks, indices = {}, {}
        for name, array in parameters.items():
            if array.ndim == 4:
                masks[name] = array != 0
                indices[name] = np.unique(array, return_inverse=True)[1].reshape(array.shape)
        net, loss = self._build(parameters, card), CrossEntropy(self.config.label_smoothing)
        rates = self._rates(card, epochs, self.config.centroid_lr)
        optimizer = make_optimizer(net, OptimizerConfig(optimizer="adam", weight_decay=0.0), rates)
        step = ConstrainedStep(self._with_loss(net, loss), optimizer, masks, indices)
        self._train(step, loss, card, epochs, state, parameters)
        trained = _arrays(net)
        for name in indices:
            trained[name] = round_bfloat16(average_entries(trained[name], indices[name], masks[name]))
        return trained

    def _with_loss(self, net: SqueezeNet, loss: CrossEntropy) -> nn.Cell:
        share, (parameters, card) = self.config.distillation, self.teacher
        if not share:
            return nn.WithLossCell(net, loss)
        without_dropout = dataclasses.replace(card, model={**card.model, "dropout": 0.0})
        return Distilling(net, loss, self._build(parameters, without_dropout), share)

    def _build(self, parameters: Mapping[str, np.ndarray], card: ModelCard) -> SqueezeNet:
        net = card.build()
        net.classifier[0].seeded(self.seed)
        for name, parameter in weights_of(net).items():
            parameter.set_data(Tensor(parameters[name]))
        return net

    def _batches(self, card: ModelCard, epoch: int = 0, step: int = 0):
        images = card.preprocessing.on_host()
        return training_pipeline(self.source, self.data, images, self.seed, epoch=epoch, step=step)

    def _rates(self, card: ModelCard, epochs: int, rate: float) -> np.ndarray:
        return get_lr(0.0, 0.0, rate, epochs, 0, 0, self._batches(card).get_dataset_size(), "cosine")

    def _train(
        self,
        step: ConstrainedStep,
        loss: CrossEntropy,
        card: ModelCard,
        epochs: int,
        state: State,
        start: Mapping[str, np.ndarray],
        first: Sequence[Callback] = (),
    ) -> None:
        """Take the steps that a state has not done. start: the weights to keep with it. first: callbacks."""
        size = self._batches(card).get_dataset_size()
        if state.step:
            self.unfinished.restore(step)
            self.log(f"{state.phase}: resumed at step {state.step} of {epochs * size}")
        progress = _Progress(state.phase, epochs * size, state.step, epochs, loss, self.log)
        keeping = Keeping(self.unfinished, state, step, card, start, size, self.log)
        callbacks = RunCallbacks([*first, progress, keeping], size, state.step, ALONE)
        step.set_train()
        model = Model(step)
        with progress.bar, signals.postponed():
            for steps, dataset in stretches(state.step, epochs * size, size, lambda *at: self._batches(card, *at)):
                # Without data sink, so that the callbacks see every step.
                model.train(steps // dataset.get_dataset_size(), dataset, callbacks=callbacks, dataset_sink_mode=False)
        step.set_train(False)

    def _recompute_statistics(self, net: SqueezeNet, card: ModelCard) -> None:
        if card.model.get("batch_norm", "none") == "none":
            return
        size = self.data.batch_size
        count = max(1, min(len(self.source), _STATISTICS_IMAGES) // size) * size
        images = Subset(self.source, np.random.RandomState(self.seed).permutation(len(self.source))[:count])
        batches = evaluation_pipeline(images, card.preprocessing.on_host(), size, self.data.num_workers)
        recompute_statistics(net, (batch["image"] for batch in batches.create_dict_iterator(num_epochs=1)))


def recompute_statistics(net: nn.Cell, batches: Iterable[Tensor]) -> None:
    """Set the mean and variance of each batch norm to their averages over batches (N, 3, H, W)."""
    norms = [cell for _, cell in net.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    statistics = [parameter for norm in norms for parameter in (norm.moving_mean, norm.moving_variance)]
    sums = [np.zeros(parameter.shape, np.float64) for parameter in statistics]
    count = 0
    net.set_train()
    for batch in batches:
        for parameter in statistics:
            parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))
        net(batch)
        count += 1
        for total, parameter in zip(sums, statistics):
            total += parameter.asnumpy() / (1 - _MOMENTUM)
    net.set_train(False)
    for total, parameter in zip(sums, statistics):
        parameter.set_data(Tensor((total / count).astype(np.float32)))


def average_entries(weights: np.ndarray, indices: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return weights of which all with one index are equal to their mean, which differs by rounding alone.

    Masked weights are zero. An entry that training has moved to zero or onto another one stays so: the codec merges
    equal values.
    """
    flat = indices.ravel()
    means = np.bincount(flat, weights.ravel().astype(np.float64)) / np.maximum(1, np.bincount(flat))
    return np.where(mask, means[indices], 0).astype(np.float32)


def _arrays(net: SqueezeNet) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy() for name, parameter in weights_of(net).items()}
