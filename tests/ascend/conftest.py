"""One stand-in and one set of runs for all tests of a session."""

from __future__ import annotations

import pytest

from tests.ascend import stand_in
from tests.ascend.cases import Runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Runs:
    """The runs on the stand-in; tests that need it are skipped where it cannot be built."""
    reason = stand_in.why_not()
    if reason:
        pytest.skip(reason)
    return Runs(tmp_path_factory.mktemp("ascend"))
