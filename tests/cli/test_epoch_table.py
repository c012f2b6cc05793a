"""The table of epochs: what a terminal shows, and what it leaves to the log."""

import io
import logging

import pytest
from rich.console import Console

from autoseg.cli import terminal
from autoseg.cli.epoch_table import draw_epochs
from autoseg.cli.terminal import progress_bar, set_up_logging
from autoseg.training.folds.history import log_line
from tests.builders import make_epoch


def draw(lines, width, remaining_seconds=None):
    page = io.StringIO()
    Console(file=page, width=width).print(draw_epochs(lines, remaining_seconds, width))
    return page.getvalue().splitlines()


def show(lines, remaining_seconds=None):
    return [line.split() for line in draw(lines, 160, remaining_seconds)]


def test_a_row_has_an_epochs_figures():
    first, second, row, caption = show(
        [make_epoch(4, data_wait_fraction=0.07, peak_memory_bytes=1_900_000_000)], 3725.0
    )
    assert first == ["loss", "loss", "pseudo", "pseudo", "learning", "seconds", "waiting", "peak"]
    assert second == [
        "epoch", "step", "training", "validation", "liver", "lesion", "rate", "per", "epoch", "for", "data", "memory"
    ]  # fmt: skip
    assert row == ["4", "50", "0.5000", "-", "0.500", "-", "0.012", "8.0", "7", "%", "1.9", "GB"]
    assert caption[:3] == ["1:02:05", "left;", "pseudo:"]


def test_many_classes_are_their_mean_and_the_lowest():
    dice = {f"label {number}": number / 10 for number in range(9)} | {"absent": None}
    _, second, row, _ = show([make_epoch(pseudo_dice=dice)])
    assert second[4:6] == ["mean", "lowest"]
    assert row[4:6] == ["0.400", "0.000"]
    assert show([make_epoch(pseudo_dice=dict.fromkeys(dice))])[2][4:6] == ["-", "-"]


NAMES = {
    "few": ("liver", "lesion"),
    "short": ("body", "core", "rod", "tip"),
    "four": ("left atrium", "right ventricle", "myocardium", "aorta"),
    "long": ("pulmonary artery, left branch", "pulmonary artery, right branch", "left atrial appendage", "aorta"),
    "wide": ("左心室心肌", "右心室心肌", "主动脉瓣", "二尖瓣"),
    "many": tuple(f"label {number}" for number in range(117)),
    "none": (),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_figures_are_whole_on_every_terminal(names):
    for width in range(60, 161):
        check_figures(names, width)


def check_figures(names, width):
    changes = {"train_loss": -0.4321, "validation_loss": 12.8765, "peak_memory_bytes": 139_000_000_000}
    lines = [
        make_epoch(epoch, step=250 * epoch, pseudo_dice=dict.fromkeys(names, epoch / 1000), **changes)
        for epoch in (998, 999)
    ]

    page = draw(lines, width, 359_999.0)

    rows = [line.split() for line in page if "12.8765" in line]
    assert [row[0] for row in rows] == ["998", "999"]
    assert all("-0.4321" in row for row in rows)
    assert page[2:4] == [line for line in page if "12.8765" in line]  # one line per epoch, below two of headers
    assert "…" not in "".join(page)
    assert ["0.998" in rows[0], "0.999" in rows[1]] == [bool(names)] * 2
    assert page[-1].startswith("99:59:59 left; pseudo: Dice over") or width < 80


def test_headers_are_cut_before_figures_where_nothing_fits():
    page = draw([make_epoch(epoch) for epoch in (8, 9)], 40)
    assert [line.split() for line in page[2:4]] == [[epoch, "0.5000", "-", "0.500", "0.500"] for epoch in "89"]


@pytest.mark.parametrize(
    ("names", "width", "header"),
    [
        ("few", 80, "epoch training validation liver lesion rate per epoch for data"),
        ("few", 150, "epoch step training validation liver lesion rate per epoch for data memory"),
        ("short", 80, "epoch training validation body core rod tip rate per epoch"),
        ("short", 79, "epoch training validation mean lowest rate per epoch for data"),
        ("four", 80, "epoch training validation mean lowest rate per epoch for data"),
        ("four", 112, "epoch training validation left atrium right ventricle myocardium aorta rate per epoch for data"),
        ("long", 140, "epoch step training validation mean lowest rate per epoch for data memory"),
        ("four", 60, "epoch training validation mean lowest per epoch"),
        ("four", 20, "epoch training validation mean lowest"),
    ],
)
def test_step_and_memory_make_room_for_classes_and_classes_for_the_rest(names, width, header):
    line = make_epoch(99, step=25_000, pseudo_dice=dict.fromkeys(NAMES[names], 0.5), peak_memory_bytes=10**9)
    columns = draw_epochs([line], None, width).columns
    assert " ".join(str(column.header).splitlines()[1] for column in columns) == header


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
        log_line(make_epoch(3))
    assert "epoch 3  step 40" in capsys.readouterr().err
