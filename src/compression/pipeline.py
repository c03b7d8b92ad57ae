"""Compress the weights of a network step by step, and record size and accuracy after each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import numpy as np

from src.checkpoint import build_network
from src.compression.allocate import allocate
from src.compression.calibration import calibration_inputs
from src.compression.config import Choice, Compression
from src.compression.evaluator import Evaluator
from src.compression.prune import prune, sparsities_for
from src.compression.quantize import quantize, round_bfloat16
from src.compression.retraining import Retraining
from src.compression.unfinished import Unfinished
from src.config import RUN_CONFIG, DataConfig, parse_train
from src.dataset import open_source
from src.dataset.options import data_config
from src.dataset.source import Source
from src.inference.fold import fold_batch_norm
from src.model_card import ModelCard
from src.sqz.fileformat import encode

# How far the curvature of single weights is believed, for real and for synthetic images, which leave many channels and
# most classes without a signal. (0.3 and 0.5 gave the least divergence on the published network among the tried ones.)
_TRUST_REAL, _TRUST_SYNTHETIC = 0.5, 0.3
_DEFAULT_AUGMENTATION = "crop_flip"
_ORIGINAL = "original"  # The first step.
_PRUNING, _CODEBOOKS = "pruning", "codebooks"  # The phases of training.

Parameters = Mapping[str, np.ndarray]


class CompressedNetwork(NamedTuple):
    """The weights to be coded with their card, and a record of each step."""

    parameters: Parameters
    card: ModelCard
    steps: list[dict[str, Any]]


class Pipeline:
    """Compresses a network as a configuration says.

    choices: by the name of each convolution's weight. unfinished: where the state is kept while it trains. log: prints
    a line of progress.
    """

    def __init__(
        self,
        configuration: Compression,
        choices: Mapping[str, Choice],
        evaluator: Optional[Evaluator],
        unfinished: Unfinished,
        log: Callable[[str], None],
    ):
        self.config, self.measuring, self.retrain, _ = configuration
        self.choices, self.evaluator, self.unfinished, self.log = choices, evaluator, unfinished, log
        self.steps: list[dict[str, Any]] = []
        self.training: Optional[Source] = None

    def run(self, original: Parameters, card: ModelCard) -> CompressedNetwork:
        """Return the compressed network. Raises UserError for images that cannot be used."""
        config, retrain = self.config, self.retrain
        if retrain.trains or (config.int8 and not config.calibration):
            self.training = open_source(self.training_data(card), "train")
        self._record(_ORIGINAL, original, card)
        folded, folded_card = fold_batch_norm(original, card)
        retraining = None
        if retrain.trains:
            data = self.training_data(card)
            teacher = (folded, folded_card)
            retraining = Retraining(retrain, data, self.training, config.seed, teacher, self.unfinished, self.log)
        if self.unfinished.phase == _CODEBOOKS:
            self._recall(self.unfinished.state.records[1:])
            parameters, card = self.unfinished.start(), folded_card
        else:
            parameters, card = self._prune_and_quantize(original, card, folded, folded_card, retraining)
        if retrain.centroid_epochs:
            state = self.unfinished.begin(_CODEBOOKS, self.steps)
            parameters = round_vectors(retraining.train_centroids(parameters, card, state))
            self._record("codebooks trained", parameters, card)
        return CompressedNetwork(parameters, card, self.steps)

    def _prune_and_quantize(
        self,
        original: Parameters,
        card: ModelCard,
        folded: Parameters,
        folded_card: ModelCard,
        retraining: Optional[Retraining],
    ) -> tuple[Parameters, ModelCard]:
        parameters = original
        quantizes = any(choice.bits is not None for choice in self.choices.values())
        prunes = self.config.tolerance is not None or any(c.sparsity is not None for c in self.choices.values())
        if self.retrain.train_epochs:
            state = self.unfinished.begin(_PRUNING, self.steps, lambda: self._sparsities(folded, folded_card))
            parameters, card = fold_batch_norm(retraining.prune(parameters, card, state), card)
            self._record("pruned and trained", parameters, card)
        elif prunes or quantizes:
            # Fewer tensors to store, and the importance of a weight shows only behind the batch norm.
            parameters, card = folded, folded_card
            if prunes:
                parameters = self._prune(parameters)
                self._record("pruned", parameters, card)
        if quantizes:
            parameters = round_vectors(self._quantize(parameters, card))
            self._record("quantized", parameters, card)
        return parameters, card

    def _record(self, name: str, parameters: Parameters, card: ModelCard) -> None:
        figures = {} if self.evaluator is None else self.evaluator(parameters, card)
        self._recall([{"step": name, "file_bytes": len(encode(parameters, card.to_json())), **figures}])

    def _recall(self, records: list[dict[str, Any]]) -> None:
        self.steps += records
        for record in records:
            self.log(step_line(record))

    def _prune(self, parameters: Parameters) -> dict[str, np.ndarray]:
        pruned = dict(parameters)
        for name, (sparsity, _) in self.choices.items():
            pruned[name] = prune(parameters[name], sparsity, None if sparsity is not None else self.config.tolerance)
        return pruned

    def _sparsities(self, folded: Parameters, card: ModelCard) -> dict[str, float]:
        """Return the sparsity of each convolution: as chosen, or as target_bytes requires."""
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

    def _quantize(self, parameters: Parameters, card: ModelCard) -> dict[str, np.ndarray]:
        config = self.config
        if config.target_bytes:
            return allocate(
                parameters,
                self._curvatures(parameters, card),
                config.target_bytes,
                lambda found: len(encode(round_vectors(found), card.to_json())),
                trust=_TRUST_REAL if self.training or config.calibration else _TRUST_SYNTHETIC,
            )
        quantized = dict(parameters)
        for name, (_, bits) in self.choices.items():
            if bits is not None:
                quantized[name] = quantize(parameters[name], bits, config.start, config.seed)
        return quantized

    def _curvatures(self, parameters: Parameters, card: ModelCard) -> dict:
        from src.compression.curvature import curvatures

        net = build_network(parameters, card, self.config.ckpt_path)
        return curvatures(net, self.calibration(card), self.config.seed)

    def calibration(self, card: ModelCard) -> Iterator[np.ndarray]:
        """Return calibration inputs of a card's network, see calibration_inputs."""
        return calibration_inputs(card, self.config.calibration, self.training, self.config.seed)

    def training_data(self, card: ModelCard) -> DataConfig:
        """Return the configuration of the training images, without those that were its validation images."""
        retrain, dataset = self.retrain, self.measuring.dataset
        augment, crop_padding = self._augmentation()
        return data_config(
            self.measuring,
            val_split=card.val_split_of(dataset),
            train_images=retrain.train_images,
            batch_size=retrain.train_batch_size,
            augment=augment,
            crop_padding=crop_padding,
        )

    def _augmentation(self) -> tuple[Any, Optional[int]]:
        """Return augment and crop_padding as configured, or as in the run that wrote the checkpoint."""
        retrain, file = self.retrain, Path(self.config.ckpt_path).with_name(RUN_CONFIG)
        if retrain.augment is not None:
            return retrain.augment, retrain.crop_padding
        if not file.is_file():
            return _DEFAULT_AUGMENTATION, retrain.crop_padding
        run = parse_train([f"--config={file}"], "").data
        return run.augment, run.crop_padding if retrain.crop_padding is None else retrain.crop_padding


def round_vectors(parameters: Parameters) -> dict[str, np.ndarray]:
    """Return the parameters with biases, and all others that are not convolutions, rounded to bfloat16."""
    return {name: array if array.ndim == 4 else round_bfloat16(array) for name, array in parameters.items()}


def step_line(step: Mapping[str, Any]) -> str:
    """Return the record of a step as a line of text, with accuracy and agreement where they were measured."""
    words = [f"{step['step']}: {step['file_bytes']:,} bytes"]
    words += [f"top-1 {step['accuracy']:.2%}"] if "accuracy" in step else []
    if "agreement" in step and step["step"] != _ORIGINAL:
        words.append(f"same class as the original {step['agreement']:.1%}")
    return ", ".join(words)
