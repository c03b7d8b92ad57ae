from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def as_in_training(graph_mode) -> None:
    """Optimizers are compiled into the graph of a training step."""
