"""Writing in a thread: in order, of what was there when it was asked for, with errors that reach the training."""

import errno
import threading
import time
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from autoseg.errors import WriteError
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import read_record
from autoseg.stages import train
from autoseg.stages.train import train_fold
from autoseg.training.folds import training, writing
from autoseg.training.folds.checkpointing import save_weights
from autoseg.training.folds.writing import BackgroundWriter, copy_to_host
from tests.gpu.pretended_gpu import PretendedGpu
from tests.training.small_folds import NAME, SHORT, equal, short, shrink_plan, weights


def test_a_copy_does_not_change_with_the_weights():
    value = torch.arange(6.0).reshape(1, 2, 3, 1).contiguous(memory_format=torch.channels_last)
    copy = copy_to_host({"a": value})
    value += 1
    assert copy.wait()["a"].flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_a_gpu_copies_without_letting_the_training_wait():
    with PretendedGpu() as gpu:
        value = torch.ones(3, device="cuda")
        gpu.waits.clear()
        copy = copy_to_host({"a": value})
        value.add_(1)
        assert not gpu.waits
        assert copy.copied is not None
        tensors = copy.wait()
        assert [wait.reason for wait in gpu.waits] == ["event"]
        assert not gpu.is_on_device(tensors["a"])
        assert tensors["a"].tolist() == [1, 1, 1]


def test_pieces_are_done_in_order_in_one_other_thread_and_before_the_end():
    done = []

    def write(copies, number):
        done.append((number, copies["a"].item(), threading.get_ident()))

    with BackgroundWriter() as writer:
        for number in range(4):
            writer.write(partial(write, number=number), {"a": torch.tensor(float(number))})
    assert [(number, value) for number, value, _ in done] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert len({thread for *_, thread in done} - {threading.get_ident()}) == 1


def test_training_goes_on_while_a_piece_is_written_and_only_one_copy_is_kept():
    release, events = threading.Event(), []

    def write(_copies):
        release.wait(10)
        events.append("written")

    with BackgroundWriter() as writer:
        writer.write(write, {})
        events.append("training")
        threading.Timer(0.05, release.set).start()
        writer.write(lambda _copies: None, {})  # waits for the first copy
        events.append("second copy")
    assert events == ["training", "written", "second copy"]


def fail(_copies):
    raise WriteError("the disk is full")


def check_until_it_fails(writer):
    while True:
        time.sleep(0.001)
        writer.check()


@pytest.mark.parametrize(
    "look", [check_until_it_fails, lambda writer: writer.write(lambda _copies: None, {}), lambda _writer: None]
)
def test_what_fails_in_the_thread_is_raised_in_the_training(look):
    def train():
        with BackgroundWriter() as writer:
            writer.write(fail, {})
            look(writer)

    with pytest.raises(WriteError, match="the disk is full"):
        train()


def test_another_error_is_not_hidden_and_what_was_asked_for_is_written_nevertheless(caplog):
    done = []

    def train():
        with BackgroundWriter() as writer:
            writer.write(lambda _copies: done.append(1), {})
            writer.draw(lambda: fail(None))
            raise ValueError("of the training")

    with pytest.raises(ValueError, match="of the training"):
        train()
    assert done == [1]
    assert "a file could not be written either: the disk is full" in caplog.text


def test_drawing_takes_a_small_part_of_the_time_and_the_last_figure_is_drawn(monkeypatch):
    monkeypatch.setattr(writing, "MAX_DRAWING_FRACTION", 1e-5)  # nothing is due again, however slow this machine is
    drawn = []

    def draw(number):
        time.sleep(0.02)
        drawn.append(number)

    with BackgroundWriter() as writer:
        for number in range(30):
            writer.draw(partial(draw, number))
            time.sleep(0.004)
    assert drawn == [0, 29]


@pytest.fixture
def small(workspace):
    shrink_plan(workspace)
    return workspace


def test_a_full_disk_ends_the_training_with_its_sentence_and_what_was_finished_stays(small, monkeypatch):
    calls = []

    def save(tensors, record, path):
        calls.append(path.name)
        if len(calls) == 3:
            monkeypatch.setattr("autoseg.networks.weight_files.save_file", full)
        save_weights(tensors, record, path)

    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(training, "save_weights", save)
    with pytest.raises(WriteError, match=r"checkpoint_last\.safetensors: cannot be written, because the disk is full"):
        train_fold(small, NAME, "0", short(epochs=50))
    folder = small.fold(NAME, "0")
    assert read_record(Checkpoint, folder / "checkpoint_last.json").step == 2
    assert not list(folder.glob(".*"))  # no temporary file
    monkeypatch.undo()
    assert train_fold(small, NAME, "0", SHORT).step == 6


def test_resume_points_are_of_their_own_step_however_slowly_they_are_written(small, monkeypatch):
    def slowly(tensors, record, path):
        time.sleep(0.05)
        save_weights(tensors, record, path)
        if path.name == "checkpoint_last":
            points[record.step] = load_file(path.with_suffix(".safetensors"))

    points: dict[int, dict[str, torch.Tensor]] = {}
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(training, "save_weights", slowly)
    train_fold(small, NAME, "0", SHORT)
    found = dict(points)
    points.clear()
    # at once: the step cannot change what is written
    monkeypatch.setattr(BackgroundWriter, "write", lambda _self, write, tensors: write(dict(tensors)))
    train_fold(small, NAME, "0", short(restart=True))
    assert sorted(found) == sorted(points) == [1, 2, 3, 4, 5, 6]
    for step, tensors in points.items():
        assert equal(tensors, found[step])
    assert (small.fold(NAME, "0") / "progress.png").exists()
    assert weights(small)


def test_the_figure_is_drawn_at_the_end_of_a_stopped_training_too(small, monkeypatch):
    lengths = []

    def plot(history, _path, _title):
        lengths.append(len(history))

    def stop(run, *_arguments):
        run.stop.set()
        return "last", run.network

    monkeypatch.setattr(train, "plot_progress", plot)
    monkeypatch.setattr(training, "choose_final_weights", stop)
    assert not train_fold(small, NAME, "0", SHORT).finished
    assert lengths[-1] == 2
