"""What the log says about an epoch, and the file of all epochs."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.errors import RecordError
from autoseg.training.folds.history import advise_on_waiting, log_line, read_history, write_history
from tests.builders import make_epoch


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "autoseg.train")
    return caplog


def test_a_line_has_everything(log):
    line = make_epoch(3, peak_memory_bytes=3_250_000_000, patch_size=(8, 16, 8))
    log_line(line, remaining_seconds=754.0)
    assert log.messages == [
        "epoch 3  step 40  loss 0.5000  validation -  pseudo-Dice liver 0.500  lesion -  learning rate 0.012  8.0 s  "
        "waiting for data: 0 %  patch 8 x 16 x 8  peak memory 3.2 GB  about 13 min left"
    ]
    assert log.records[0].epoch_history == line
    assert log.records[0].remaining_seconds == 754.0


def test_what_is_not_known_is_not_said(log):
    log_line(make_epoch())
    assert log.messages[0].endswith("waiting for data: 0 %")


def warned(shares, log):
    """Epochs after which the log said what to change."""
    lines = [make_epoch(epoch, data_wait_fraction=share) for epoch, share in enumerate(shares)]
    found = []
    for epoch, line in enumerate(lines):
        log.clear()
        log_line(line, earlier=lines[:epoch], workers=1)
        if any("--workers" in message or "cores" in message for message in log.messages):
            found.append(epoch)
    return found


@pytest.mark.parametrize(
    ("shares", "epochs"),
    [
        ([0.05, 0.05], []),
        ([0.01, 0.01, 0.06, 0.07, 0.1], [2]),
        ([0.2, 0.25, 0.29, 0.31, 0.4, 0.42], [0, 3, 5]),
        ([0.5, 0.0, 0.3], [0]),
    ],
)
def test_waiting_is_said_once_and_again_when_it_gets_much_worse(log, shares, epochs):
    assert warned(shares, log) == epochs


@pytest.mark.parametrize(
    ("wait", "workers", "wanted"), [(0.1, 0, 1), (0.5, 0, 1), (0.75, 0, 3), (0.5, 2, 4), (0.06, 4, 5), (1.0, 1, 16)]
)
def test_the_advice_names_a_number_of_workers(wait, workers, wanted):
    advice = advise_on_waiting(wait, workers, cores=16)
    assert advice.startswith(f"the network waited for batches for {100 * wait:.0f} % of this epoch; ")
    assert f"try --workers {wanted} instead of {workers}," in advice


@given(st.floats(0.051, 1.0), st.integers(0, 40), st.integers(1, 40))
def test_advised_workers_are_more_than_now_and_no_more_than_cores(wait, workers, cores):
    words = advise_on_waiting(wait, workers, cores).split()
    if workers >= cores:
        assert "--workers" not in words
        assert "only more cores" in " ".join(words)
    else:
        assert workers < int(words[words.index("--workers") + 1]) <= cores


def test_history_comes_back_up_to_the_checkpoint(tmp_path):
    lines = [make_epoch(epoch) for epoch in range(3)]
    write_history(lines, tmp_path / "history.jsonl")
    assert read_history(tmp_path / "history.jsonl", before=2) == lines[:2]
    assert read_history(tmp_path / "history.jsonl", before=0) == []
    assert read_history(tmp_path / "nothing.jsonl", before=2) == []


@pytest.mark.parametrize("damage", [b"garbage\n", b"\xff\xfe\x00", b'{"epoch": 1}\n', b"[" * 100_000])
def test_a_damaged_history_is_named_with_its_line(tmp_path, damage):
    path = tmp_path / "history.jsonl"
    path.write_bytes(damage)
    with pytest.raises(
        RecordError, match=r"history\.jsonl(, line 1: not a valid EpochHistory|: cannot be read)"
    ) as caught:
        read_history(path, before=1)
    assert "pydantic.dev" not in str(caught.value)
