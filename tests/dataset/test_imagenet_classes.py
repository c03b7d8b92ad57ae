"""The table of ImageNet's classes."""

from __future__ import annotations

import csv
import re

from src.dataset.imagenet_classes import imagenet_classes


def test_it_has_1000_classes_in_the_order_of_their_ids_each_with_a_name_of_its_own():
    classes = imagenet_classes()
    ids = [known.wnid for known in classes]
    assert len(classes) == 1000 and ids == sorted(set(ids)) and len({known.name for known in classes}) == 1000
    assert all(re.fullmatch("n[0-9]{8}", wnid) for wnid in ids)
    assert classes[0] == ("n01440764", "tench") and classes[999] == ("n15075141", "toilet tissue")


def test_the_photographs_that_are_named_by_class_have_these_names(shared):
    classes = imagenet_classes()
    with open(shared / "data" / "imagenet_squeezenet" / "expected_top5.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = {row["file"].removesuffix(".JPEG"): classes[int(row["true_class"])] for row in rows}
    assert len(found) == 200
    for file, known in found.items():
        assert file.lower() == f"{known.wnid}_{known.name}".replace(" ", "_").lower()
