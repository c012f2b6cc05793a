"""The table of epochs: what a terminal shows, and what it leaves to the log."""

import io
import logging

import pytest
from rich.console import Console

from autoseg.cli import terminal
from autoseg.cli.epoch_table import EpochTable
from autoseg.cli.terminal import progress_bar, set_up_logging
from autoseg.training.folds.history import log_line
from tests.builders import make_epoch


def draw(epochs, *, remaining_seconds=None, width=80):
    table = EpochTable()
    for epoch in epochs:
        record = logging.LogRecord("autoseg.train", logging.INFO, "", 0, "", None, None)
        record.epoch_history, record.remaining_seconds = epoch, remaining_seconds
        assert not table.take(record)
    page = io.StringIO()
    Console(file=page, width=width).print(table.above("the bar"))
    return page.getvalue().splitlines()


def test_a_row_has_the_figures_of_an_epoch():
    epoch = make_epoch(
        4, pseudo_dice={"a": 0.5, "b": 0.3, "absent": None}, data_wait_fraction=0.07, peak_memory_bytes=1_900_000_000
    )
    first, second, row, caption, bar = map(str.split, draw([epoch], remaining_seconds=3725.0))
    assert first == ["loss,", "loss,", "Dice,", "Dice,", "learning", "peak"]
    assert second == ["epoch", "training", "validation", "mean", "lowest", "rate", "seconds", "waiting", "memory"]
    assert row == ["4", "0.5000", "-", "0.400", "0.300", "0.012", "8.0", "7", "%", "1.9", "GB"]
    assert " ".join(caption) == "about 1 h 2 min left; Dice over validation patches, not the fold's score"
    assert bar == ["the", "bar"]


def test_labels_that_no_patch_shows_have_no_dice():
    row = draw([make_epoch(pseudo_dice={"liver": None})])[2].split()
    assert row[3:5] == ["-", "-"]


def test_the_widest_figures_fit_into_80_characters():
    figures = {
        "train_loss": -12.3456, "validation_loss": -12.8765, "learning_rate": 1.2e-5, "seconds": 86399.9,
        "data_wait_fraction": 1.0, "peak_memory_bytes": 139_000_000_000,
    }  # fmt: skip
    page = draw([make_epoch(99_999, **figures)], remaining_seconds=359_999.0)
    assert " ".join(page[2].split()) == "99999 -12.3456 -12.8765 0.500 0.500 1.2e-05 86399.9 100 % 139.0 GB"
    assert len(page) == 5


def test_before_the_first_epoch_there_is_only_the_bar():
    assert draw([]) == ["the bar"]


@pytest.fixture
def screen(monkeypatch):
    """A terminal's text, without colours."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=150, color_system=None, highlight=False)
    monkeypatch.setattr(terminal, "console", console)
    return stream


def test_on_a_terminal_epochs_are_rows_and_other_lines_stay(screen, capsys):
    set_up_logging(verbose=False, quiet=False)
    logger = logging.getLogger("autoseg.train")
    with progress_bar("fold 0") as progress:
        for epoch in range(12):
            log_line(make_epoch(epoch), remaining_seconds=60.0)
            progress(epoch + 1, 12)
        logger.warning("something else")
    log_line(make_epoch(99))
    last = screen.getvalue().rsplit("learning", 1)[1]
    rows = [words[0] for words in map(str.split, last.splitlines()) if len(words) > 8 and words[0].isdecimal()]
    assert rows == [str(epoch) for epoch in range(2, 12)]
    assert "12/12" in last
    assert "something else" in screen.getvalue()
    lines = capsys.readouterr().err
    assert "pseudo-Dice liver" not in screen.getvalue()
    assert lines.count("pseudo-Dice liver") == 1
    assert "epoch 99" in lines


def test_a_pipe_gets_the_lines(capsys):
    set_up_logging(verbose=False, quiet=False)
    with progress_bar("fold 0"):
        log_line(make_epoch(3))
    assert "epoch 3  step 40" in capsys.readouterr().err
