from __future__ import annotations

import io
import logging

import pytest

from src.devices.silence import quiet, silent


@pytest.fixture
def logged():
    """A logger, and the stream that it writes to, which is no file, as in a notebook."""
    logger, stream = logging.getLogger("tests.silence"), io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    yield logger, stream
    logger.removeHandler(handler)


def test_silence_holds_for_loggers_that_write_to_no_file(logged):
    logger, stream = logged
    with silent():
        logger.error("hidden")
    logger.warning("shown")
    assert stream.getvalue() == "shown\n"


def test_silence_within_quiet_ends_where_it_began(logged):
    logger, stream = logged
    with quiet():
        with silent():
            pass
        logger.warning("hidden")
        logger.error("shown")
    assert stream.getvalue() == "shown\n"
