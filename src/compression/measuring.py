"""Accuracy of a network with other weights, and how often it agrees with the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, Optional

import mindspore as ms
import numpy as np

from src.cli.errors import UserError
from src.compression.config import MeasureConfig
from src.compression.photographs import Photographs, open_photographs
from src.config import data_config
from src.dataset import evaluation_pipeline, open_source
from src.inference.evaluation import evaluate
from src.inference.metrics import Classification, Evaluation
from src.model_card import ModelCard
from src.squeezenet import SqueezeNet


class Measure:
    """Measures the network of a card on the images of a configuration. Raises UserError for images that do not fit."""

    def __init__(self, config: MeasureConfig, card: ModelCard):
        self._config = config
        self._preprocessing = card.preprocessing.on_host()
        if config.images:
            self._source = open_photographs(config.images, config.labels, tuple(config.csv_columns), card.classes)
        else:
            data = data_config(config, val_split=card.val_split_of(config.dataset))
            self._source = open_source(data, config.split)
            if self._source.classes != card.classes[: len(self._source.classes)]:
                raise UserError(
                    f"{config.dataset}: has {len(self._source.classes)} classes ({self._source.classes[0]}, ...), and "
                    f"the network knows {len(card.classes)} others ({card.classes[0]}, ...)"
                )
        self._nets: dict[str, SqueezeNet] = {}  # By what they do with batch norm; a network is compiled once.
        self._original: Optional[np.ndarray] = None

    def __call__(self, parameters: Mapping[str, np.ndarray], card: ModelCard) -> dict[str, Any]:
        """Return the figures of a card's network with these weights; those of the first call are the original's."""
        kind = card.model.get("batch_norm", "none")
        if kind not in self._nets:
            self._nets[kind] = card.build().set_train(False)
        net = self._nets[kind]
        for name, parameter in net.parameters_and_names():
            if name in parameters:
                parameter.set_data(ms.Tensor(parameters[name]))
        config = self._config
        evaluation: Evaluation = evaluate(
            net,
            self._source,
            self._preprocessing,
            config.batch_size,
            config.num_workers,
            max_broken_images=config.max_broken_images,
        )
        return self._figures(evaluation)

    def of_model(self, run: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
        """Return the figures of a model that turns inputs (N, 3, H, W) into logits (N, classes)."""
        config, outcome = self._config, Classification()
        pipeline = evaluation_pipeline(
            self._source,
            self._preprocessing,
            config.batch_size,
            config.num_workers,
            max_broken_images=config.max_broken_images,
        )
        for batch in pipeline.create_dict_iterator(num_epochs=1):
            outcome.update(ms.Tensor(run(batch["image"].asnumpy())), batch["label"])
        return self._figures(outcome.eval())

    def _figures(self, evaluation: Evaluation) -> dict[str, Any]:
        if self._original is None:
            self._original = evaluation.predictions
        figures: dict[str, Any] = {"images": len(evaluation.predictions)}
        if not isinstance(self._source, Photographs) or self._source.has_labels:
            figures.update(evaluation.summary())
        return {**figures, "agreement": float(np.mean(evaluation.predictions == self._original))}


def make_measure(config: MeasureConfig, card: ModelCard) -> Optional[Measure]:
    """Return the measure of a configuration, or None when it names no images."""
    return Measure(config, card) if config.images or config.dataset else None
