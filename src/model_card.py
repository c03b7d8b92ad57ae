"""Model card: a network's architecture, classes and training data, stored with its weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import mindspore as ms

from src.cli.errors import UserError
from src.cli.terminal import warn
from src.dataset.preprocessing import Preprocessing
from src.dataset.registry import OWN_VALIDATION
from src.squeezenet import SqueezeNet

_RETIRED = ("configuration",)  # Keys in cards of earlier versions.


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """Architecture, classes and training data of a network; in each checkpoint, and as JSON with each exported model.

    model: arguments of SqueezeNet.
    classes: class names, in the order of the logits.
    dataset, val_split: as in DataConfig.
    """

    model: dict[str, Any]
    classes: list[str]
    preprocessing: Preprocessing
    dataset: str
    val_split: float
    mindspore_version: str = ms.__version__

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelCard:
        """Build a card from the values of to_json. Raises ValueError, TypeError or KeyError for invalid values."""
        known = {key: value for key, value in values.items() if key not in _RETIRED}
        card = cls(**{**known, "preprocessing": Preprocessing.from_json(values["preprocessing"])})
        texts = (card.dataset, card.mindspore_version)
        if not (all(isinstance(text, str) for text in texts) and 0 <= card.val_split < 1):
            raise ValueError("invalid data set, val_split or MindSpore version")
        if not all(value is None or isinstance(value, (str, int, float)) for value in card.model.values()):
            raise ValueError("an argument of the network has an invalid type")
        named = isinstance(card.classes, list) and all(isinstance(name, str) for name in card.classes)
        if not named or card.model.get("num_classes") != len(card.classes):
            raise ValueError("the classes do not match the network")
        if card.model.get("in_channels", 3) != card.preprocessing.channels:
            raise ValueError("the mean and deviation do not match the network's input channels")
        return card

    @classmethod
    def read(cls, values: Any, path: str | Path) -> ModelCard:
        """Build a card from the values of to_json, found in `path`. Raises UserError for invalid values."""
        try:
            return cls.from_json(values)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            raise unreadable_card(path, error) from None

    def warn_of_one_class(self) -> None:
        """Warn on stderr of a network that has nothing to choose from."""
        if len(self.classes) == 1:
            warn(
                f"there is one class, {self.classes[0]!r}, so nothing to choose: every image is right, whatever it "
                "shows; train it on images of other classes too, each class in a folder of its own"
            )

    def val_split_of(self, dataset: str | None) -> float:
        """Return the fraction of a data set's training images set aside for validation, 0 of one not trained on."""
        other = dataset not in (None, self.dataset) and {dataset, self.dataset} & set(OWN_VALIDATION)
        return 0.0 if other else self.val_split

    def build(self) -> SqueezeNet:
        """Build the network, with initial weights."""
        return SqueezeNet(**self.model)


def unreadable_card(path: str | Path, error: Exception) -> UserError:
    """Return the UserError for an unreadable model card in `path`."""
    return UserError(f"{path}: its model card cannot be read ({error}); is it from a newer version?")
