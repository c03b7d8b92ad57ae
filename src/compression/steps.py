"""The steps of a compression, from the original's weights to those that are coded, with their size and accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Callable, NamedTuple, Optional

import numpy as np

from src.checkpoint import build_network
from src.compression.calibration import calibration_inputs
from src.compression.config import Compression
from src.compression.measuring import Measure
from src.compression.prune import prune, sparsities_for
from src.compression.share import rounded, share
from src.config import DataConfig, data_config
from src.dataset import open_source
from src.dataset.source import Source
from src.inference.fold import fold_batch_norm
from src.model_card import ModelCard
from src.sqz.fileformat import encode

# How much of what a layer's curvature says of single weights is believed. Made images leave many channels and most
# classes without a signal. (On the published network 0.3 and 0.5 gave the least divergence of the tried ones.)
_TRUST = {"real": 0.5, "made": 0.3}

Parameters = Mapping[str, np.ndarray]
Choices = Mapping[str, tuple]


class Outcome(NamedTuple):
    """What the steps came to: the last weights and their card, and a record of each step."""

    parameters: Parameters
    card: ModelCard
    steps: list[dict[str, Any]]


def pruned(parameters: Parameters, choices: Choices, tolerance: Optional[float]) -> dict[str, np.ndarray]:
    """Return the parameters with their convolutions pruned, each as its choice (sparsity, bits) says."""
    done = dict(parameters)
    for name, (sparsity, _) in choices.items():
        done[name] = prune(parameters[name], sparsity, None if sparsity is not None else tolerance)
    return done


def shared(parameters: Parameters, choices: Choices, start: str, seed: int) -> dict[str, np.ndarray]:
    """Return the parameters with their convolutions shared, each as its choice (sparsity, bits) says."""
    done = dict(parameters)
    for name, (_, bits) in choices.items():
        if bits is not None:
            done[name] = share(parameters[name], bits, start, seed)
    return done


def with_short_vectors(parameters: Parameters) -> dict[str, np.ndarray]:
    """Return the parameters with biases, and whatever else is no convolution, rounded."""
    return {name: array if array.ndim == 4 else rounded(array) for name, array in parameters.items()}


class Steps:
    """Runs the steps that a configuration asks for. choices: (sparsity, bits) of each convolution, None for neither."""

    def __init__(
        self, configuration: Compression, choices: Choices, measure: Optional[Measure], say: Callable[[str], None]
    ):
        self.config, self.measuring, self.retrain, _ = configuration
        self.choices, self.measure, self.say = choices, measure, say
        self.steps: list[dict[str, Any]] = []
        self.training: Optional[Source] = None

    def run(self, original: Parameters, card: ModelCard) -> Outcome:
        """Return what the steps make of a network. Raises UserError for images that cannot be used."""
        config, retrain = self.config, self.retrain
        if retrain.trains or (config.int8 and not config.calibration):
            self.training = open_source(self._data(card), "train")
        parameters = original
        self._add("original", parameters, card)
        shares = any(bits is not None for _, bits in self.choices.values())
        prunes = config.tolerance is not None or any(sparsity is not None for sparsity, _ in self.choices.values())
        folded, folded_card = fold_batch_norm(parameters, card)
        if retrain.train_epochs:
            sparsities = self._sparsities(folded, folded_card)
            parameters, card = fold_batch_norm(self._retraining(card).prune(parameters, card, sparsities), card)
            self._add("pruned and trained", parameters, card)
        elif prunes or shares:
            # Less to store, and what a weight is worth shows only behind the batch norm.
            parameters, card = folded, folded_card
            if prunes:
                parameters = pruned(parameters, self.choices, config.tolerance)
                self._add("pruned", parameters, card)
        if shares:
            parameters = with_short_vectors(self._share(parameters, card))
            self._add("shared", parameters, card)
        if retrain.centroid_epochs:
            parameters = with_short_vectors(self._retraining(card).train_centroids(parameters, card))
            self._add("shared values trained", parameters, card)
        return Outcome(parameters, card, self.steps)

    def _add(self, name: str, parameters: Parameters, card: ModelCard) -> None:
        figures = {} if self.measure is None else self.measure(parameters, card)
        self.steps.append({"step": name, "file_bytes": len(encode(parameters, card.to_json())), **figures})
        if self.retrain.trains:
            self.say(step_line(self.steps[-1]))

    def _sparsities(self, folded: Parameters, card: ModelCard) -> dict[str, float]:
        """Return the sparsity of each convolution: as chosen, or else as target_bytes asks for."""
        given = {name: sparsity for name, (sparsity, _) in self.choices.items() if sparsity is not None}
        rest = [name for name in self.choices if name not in given]
        if self.config.tolerance is not None:
            return given | {
                name: float(np.mean(prune(folded[name], None, self.config.tolerance) == 0)) for name in rest
            }
        if not self.config.target_bytes:
            return given
        found = self._curvatures(folded, card)
        importances = {name: float(found[name].of_weights().mean()) for name in rest}
        return given | sparsities_for(folded, importances, self.config.target_bytes, self.config.bits)

    def _share(self, parameters: Parameters, card: ModelCard) -> dict[str, np.ndarray]:
        config = self.config
        if not config.target_bytes:
            return shared(parameters, self.choices, config.start, config.seed)
        from src.compression.allocate import allocate

        return allocate(
            parameters,
            self._curvatures(parameters, card),
            config.target_bytes,
            lambda found: len(encode(with_short_vectors(found), card.to_json())),
            trust=_TRUST["real" if self.training or config.calibration else "made"],
        )

    def _curvatures(self, parameters: Parameters, card: ModelCard) -> dict:
        from src.compression.curvature import curvatures

        net = build_network(parameters, card, self.config.ckpt_path)
        return curvatures(net, self.calibration(card), self.config.seed)

    def calibration(self, card: ModelCard) -> Iterator[np.ndarray]:
        """Return inputs of a card's network to calibrate on, see calibration_inputs."""
        return calibration_inputs(card, self.config.calibration, self.training, self.config.seed)

    def _data(self, card: ModelCard) -> DataConfig:
        """Return the configuration of the training images, without those that were set aside when it was trained."""
        measuring, retrain = self.measuring, self.retrain
        return data_config(
            measuring,
            val_split=card.val_split_of(measuring.dataset),
            train_images=retrain.train_images,
            batch_size=retrain.train_batch_size,
            augment=retrain.augment,
            crop_padding=retrain.crop_padding,
        )

    def _retraining(self, card: ModelCard):
        from src.compression.retraining import Retraining

        return Retraining(self.retrain, self._data(card), self.training, self.config.seed, self.say)


def step_line(step: Mapping[str, Any]) -> str:
    """Return the record of a step as a line of text."""
    return f"{step['step']}: {step['file_bytes']:,} bytes" + accuracy(step)


def accuracy(figures: Mapping[str, Any]) -> str:
    """Return top-1 and agreement, as far as they were measured, to go behind a size."""
    words = [f", top-1 {figures['accuracy']:.2%}"] if "accuracy" in figures else []
    words += [f", agreement with the original {figures['agreement']:.1%}"] if "agreement" in figures else []
    return "".join(words)
