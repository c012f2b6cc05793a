import logging

import pytest

from autoseg.cli.terminal import progress_bar, set_up_logging


@pytest.fixture
def lines(monkeypatch):
    """What a pipe would see, with a clock that only moves when told."""
    set_up_logging(verbose=False, quiet=False)
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("autoseg").addHandler(handler)
    now = [100.0]
    monkeypatch.setattr("autoseg.cli.terminal.time.monotonic", lambda: now[0])
    return found, now


def test_a_pipe_gets_a_line_now_and_then_and_one_at_the_end(lines):
    found, now = lines
    with progress_bar("reading") as progress:
        for done in range(1, 5):
            now[0] += 10.0
            progress(done, 4)
        progress(4, 4)
    assert found == [
        "reading: 2 of 4, about 20 s left",
        "reading: 4 of 4",
    ]


@pytest.mark.parametrize("turn", ["first", "second"])
def test_what_a_test_sets_up_does_not_reach_the_next(turn):
    logger = logging.getLogger("autoseg")
    assert (logger.level, logger.propagate, logger.handlers) == (logging.NOTSET, True, []), turn
    set_up_logging(verbose=False, quiet=False)


def test_quiet_says_nothing_but_warnings(capsys):
    set_up_logging(verbose=False, quiet=True)
    logging.getLogger("autoseg.some").info("not this")
    logging.getLogger("autoseg.some").warning("but this")
    error = capsys.readouterr().err
    assert "but this" in error
    assert "not this" not in error
