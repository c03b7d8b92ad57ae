import resource

import psutil
import pytest

from src.cli.errors import UserError
from src.devices.memory import free_memory
from src.network.summary import check_memory


def test_free_memory_is_positive_and_below_a_limit_of_the_shell(monkeypatch):
    before = free_memory()
    assert 0 < before < 2**50
    size = psutil.Process().memory_info().vms
    monkeypatch.setattr(resource, "getrlimit", lambda which: (size + 1000 * 2**10, 0))
    assert free_memory() == pytest.approx(1000 * 2**10, abs=2**24)


@pytest.mark.parametrize(
    ("model", "size", "batch", "training", "least"),
    [
        # The first feature map, 96 x 109 x 109, is pooled to 96 x 54 x 54; the weights are 740,554.
        ({}, 224, 1, False, 4 * (96 * 109**2 + 96 * 54**2 + 740_554)),
        ({}, 224, 100_000, False, 4 * 100_000 * (96 * 109**2 + 96 * 54**2)),
        ({"base_e": 65536}, 224, 1, True, 12 * 65536**2),
    ],
)
def test_what_needs_more_than_is_free_is_refused_before_it_is_made(monkeypatch, model, size, batch, training, least):
    monkeypatch.setattr("src.network.summary.free_memory", lambda: float("inf"))
    check_memory(model, size, batch, training)
    monkeypatch.setattr("src.network.summary.free_memory", lambda: least - 1)
    with pytest.raises(UserError, match=rf"^batch_size: {batch} images of {size} pixels.* take at least .* GB"):
        check_memory(model, size, batch, training)
