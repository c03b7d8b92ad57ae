"""Evaluate networks on one set of images: their accuracy, and their agreement with the first one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, Optional

import mindspore as ms
import numpy as np

from src.compression.config import MeasureConfig
from src.compression.photographs import open_photographs
from src.dataset import evaluation_pipeline, open_evaluated
from src.dataset.options import data_config
from src.inference.evaluation import evaluate, with_classes_of
from src.inference.metrics import Classification, Evaluation
from src.model_card import ModelCard
from src.squeezenet import SqueezeNet


class Evaluator:
    """Evaluates networks on the images of a configuration; the first one is the original.

    Raises UserError for images that do not fit the network of the card.
    """

    def __init__(self, config: MeasureConfig, card: ModelCard):
        self._loading = {
            "batch_size": config.batch_size,
            "num_workers": config.num_workers,
            "max_broken_images": config.max_broken_images,
        }
        self._preprocessing = card.preprocessing.on_host()
        self._has_labels = bool(config.labels or config.dataset)
        if config.images:
            self._source = open_photographs(config.images, config.labels, tuple(config.csv_columns), card.classes)
        else:
            data = data_config(config, val_split=card.val_split_of(config.dataset))
            self._source = with_classes_of(card, open_evaluated(data, config.split), "the network has", config.dataset)
        self._nets: dict[str, SqueezeNet] = {}  # By their batch norm; each is compiled once.
        self._original: Optional[np.ndarray] = None

    def __call__(self, parameters: Mapping[str, np.ndarray], card: ModelCard) -> dict[str, Any]:
        """Return the figures of a card's network with these weights."""
        kind = card.model.get("batch_norm", "none")
        if kind not in self._nets:
            self._nets[kind] = card.build().set_train(False)
        net = self._nets[kind]
        for name, parameter in net.parameters_and_names():
            if name in parameters:
                parameter.set_data(ms.Tensor(parameters[name]))
        return self._figures(evaluate(net, self._source, self._preprocessing, **self._loading))

    def of_model(self, run: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
        """Return the figures of a model that turns inputs (N, 3, H, W) into logits (N, classes)."""
        metric = Classification()
        pipeline = evaluation_pipeline(self._source, self._preprocessing, **self._loading)
        for batch in pipeline.create_dict_iterator(num_epochs=1):
            metric.update(ms.Tensor(run(batch["image"].asnumpy())), batch["label"])
        return self._figures(metric.eval())

    def _figures(self, evaluation: Evaluation) -> dict[str, Any]:
        if self._original is None:
            self._original = evaluation.predictions
        figures: dict[str, Any] = {"images": len(evaluation.predictions)}
        if self._has_labels:
            figures.update(evaluation.summary())
        return {**figures, "agreement": float(np.mean(evaluation.predictions == self._original))}
