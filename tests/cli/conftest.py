"""What every test of the command line cleans up."""

import logging

import pytest


@pytest.fixture(autouse=True)
def no_log_handler_left():
    """The handler that a command sets up writes to the standard error of one test."""
    yield
    logging.getLogger("autoseg").handlers.clear()
