"""The 1,000 classes of ImageNet (ILSVRC 2012), in the order of every published network's logits.

imagenet_classes.csv has index, WordNet id and a name, the first word that WordNet has for the id. The ids and words are
those of timm 1.0 (imagenet_synsets.txt, imagenet_synset_to_lemma.txt); its two cranes and two maillots are told apart.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).with_suffix(".csv")


class ImageNetClass(NamedTuple):
    """An ImageNet class: its name and its WordNet id, such as n01440764, which is the name of its image folder."""

    wnid: str
    name: str


def imagenet_classes() -> list[ImageNetClass]:
    """Return the classes by index, in the alphabetical order of their WordNet ids."""
    with open(TABLE, newline="", encoding="utf-8") as stream:
        return [ImageNetClass(row["wnid"], row["name"]) for row in csv.DictReader(stream)]
