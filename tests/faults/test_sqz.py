"""Compressed files with a sound check sum whose model card, or directory, claims what cannot be."""

from __future__ import annotations

import copy
import resource
import tracemalloc
from typing import Any, Iterator

import numpy as np
import pytest

from src.checkpoint import build_network, load_network, weights_of
from src.cli.errors import UserError
from src.model_card import ModelCard
from src.sqz.fileformat import decode, encode
from src.sqz.rans import TOTAL, Decoder, FormatError, Table
from tests.made_data import refusal

MODEL = ("version", "num_classes", "bypass", "batch_norm", "stem", "dropout", "in_channels", "base_e", "freq")
VALUES = (None, True, -1, 0.5, float("inf"), float("nan"), 10**400, "1_0", [1], {"a": 1})


@pytest.fixture(scope="module")
def network(models) -> tuple[dict[str, np.ndarray], dict]:
    net, card = load_network(models.ckpt)
    return {name: parameter.asnumpy() for name, parameter in weights_of(net).items()}, card.to_json()


def cards(card: dict) -> Iterator[tuple[str, Any]]:
    """Yield a card with each of its values in turn another one."""
    places = [(key,) for key in card] + [("model", key) for key in MODEL]
    places += [("preprocessing", key) for key in card["preprocessing"]] + [("classes", 0)]
    for place in places:
        for value in VALUES:
            changed = copy.deepcopy(card)
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
            yield f"{'.'.join(map(str, place))} is {value!r:.40}", changed


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@pytest.mark.thorough
def test_cards_with_other_values_are_refused_or_make_no_difference(faults, network):
    parameters, card = network
    with faults("changed model cards", "refused or used as they are") as inject:
        for what, changed in cards(card):
            with inject.fault(what):
                try:
                    read = ModelCard.read(changed, "net.sqz")
                    build_network(parameters, read, "net.sqz")
                except UserError as error:
                    assert str(error).startswith("net.sqz: ")
                else:
                    assert len(read.classes) == 10


def test_a_card_of_a_network_that_would_take_all_memory_is_refused_before_it_is_made(faults, network, tmp_path):
    parameters, card = network
    many = [str(i) for i in range(1_000_000)]
    claims = {
        "wide Fire modules": {**card, "model": {**card["model"], "base_e": 1 << 16}},
        "a million classes": {**card, "model": {**card["model"], "num_classes": len(many)}, "classes": many},
        "a billion channels": {**card, "model": {**card["model"], "in_channels": 10**9}},
    }
    with faults("model cards of networks of gigabytes", "refused") as inject:
        for what, claimed in claims.items():
            (tmp_path / "net.sqz").write_bytes(encode(parameters, claimed))
            before = peak_mb()
            with inject.fault(what):
                reason = "do not match the network's input channels" if "channels" in what else "does not fit"
                assert reason in refusal(load_network, tmp_path / "net.sqz")
                assert peak_mb() - before < 600


def test_tables_of_many_tensors_do_not_lie_in_memory_together():
    data = encode({str(i): np.ones(2, np.float32) for i in range(300)})  # A table takes 0.3 MB.
    tracemalloc.start()
    decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


def test_symbols_that_one_lane_would_take_hours_to_decode_are_refused():
    data = encode({"weights": np.ones(60_000, np.float32)})
    assert decode(data)[0]["weights"].all()
    with pytest.raises(FormatError, match="symbols in 1 lanes"):
        Decoder(np.array([1 << 16], np.uint32), np.zeros(0, np.uint16)).segment(1 << 26, Table(np.array([TOTAL])))
