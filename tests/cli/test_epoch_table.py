"""The table of epochs: what a terminal shows, and what it leaves to the log."""

import io
import logging

import pytest
from rich.console import Console

from autoseg.cli import terminal
from autoseg.cli.epoch_table import draw_epochs
from autoseg.cli.terminal import progress_bar, set_up_logging
from autoseg.training.history import log_line
from tests.training.test_history import make_line


def show(lines, remaining_seconds=None):
    page = io.StringIO()
    Console(file=page, width=160).print(draw_epochs(lines, remaining_seconds))
    return [line.split() for line in page.getvalue().splitlines()]


def test_a_row_has_an_epochs_figures():
    first, second, row, caption = show([make_line(4, 0.07, peak_memory_bytes=1_900_000_000)], 3725.0)
    assert first == ["loss", "loss", "pseudo", "pseudo", "learning", "seconds", "waiting", "peak"]
    assert second == [
        "epoch", "step", "training", "validation", "liver", "lesion", "rate", "per", "epoch", "for", "data", "memory"
    ]  # fmt: skip
    assert row == ["4", "50", "0.5000", "-", "0.500", "-", "0.012", "8.0", "7", "%", "1.9", "GB"]
    assert caption[:3] == ["1:02:05", "left;", "pseudo:"]


def test_many_classes_are_their_mean_and_the_lowest():
    dice = {f"label {number}": number / 10 for number in range(9)} | {"absent": None}
    _, second, row, _ = show([make_line(pseudo_dice=dice)])
    assert second[4:6] == ["mean", "lowest"]
    assert row[4:6] == ["0.400", "0.000"]
    assert show([make_line(pseudo_dice=dict.fromkeys(dice))])[2][4:6] == ["-", "-"]


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
            log_line(make_line(epoch), remaining_seconds=60.0)
            progress(epoch + 1, 12)
        logger.warning("something else")
    log_line(make_line(99))
    last = screen.getvalue().rsplit("learning", 1)[1]
    steps = [words[1] for words in map(str.split, last.splitlines()) if len(words) > 8 and words[0].isdecimal()]
    assert steps == [str(10 * epoch) for epoch in range(3, 13)]
    assert "12/12" in last
    assert "something else" in screen.getvalue()
    lines = capsys.readouterr().err
    assert "pseudo-Dice liver" not in screen.getvalue()
    assert lines.count("pseudo-Dice liver") == 1
    assert "epoch 99" in lines


def test_a_pipe_gets_the_lines(capsys):
    set_up_logging(verbose=False, quiet=False)
    with progress_bar("fold 0"):
        log_line(make_line(3))
    assert "epoch 3  step 40" in capsys.readouterr().err
