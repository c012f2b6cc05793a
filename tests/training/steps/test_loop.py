import itertools
import logging
import math

import numpy as np
import pytest
import torch

from autoseg.errors import TrainingError
from autoseg.records.training import GrowingPatch, TrainingSpec
from autoseg.training.data.batch import Batch
from autoseg.training.invented_data import NOISE_ENCODING as ENCODING
from autoseg.training.invented_data import measured_configuration
from autoseg.training.steps import loop
from autoseg.training.steps.loop import train_epoch, validate_epoch
from autoseg.training.steps.run import Clock
from tests.training.small_runs import start_on_cpu


def make_run(precision=torch.float32, **changes):
    configuration = measured_configuration(2, 4)
    spec = configuration.training.model_copy(update={"steps_per_epoch": 4, "validation_steps": 2, **changes})
    return start_on_cpu(configuration.model_copy(update={"training": spec}), ENCODING, precision=precision)


def batches(value=None):
    generator = np.random.default_rng(0)
    image = generator.normal(size=(2, 1, 32, 48)).astype(np.float32)
    target = (image[:, 0] > 0).astype(np.int16)
    if value is not None:
        image[0, 0, 3, 5] = value
    return itertools.repeat(Batch(image=image, target=target, cases=["first", "second"]))


def forever():
    return Clock(total_steps=1000, limit_seconds=None)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_training_lowers_the_loss(precision):
    run = make_run(precision, learning_rate=1e-2)
    first = train_epoch(run, batches(), forever(), lambda _step: None)
    last = [train_epoch(run, batches(), forever(), lambda _step: None) for _ in range(4)][-1]
    assert run.step == 20
    assert first.mean_loss is not None
    assert last.mean_loss is not None
    assert last.mean_loss < first.mean_loss - 0.1


def test_an_epoch_ends_with_its_steps_and_reports_each():
    seen: list[int] = []
    train_epoch(make_run(), batches(), forever(), seen.append)
    assert seen == [1, 2, 3, 4]


def test_the_clock_ends_an_epoch_early():
    run = make_run()
    train_epoch(run, batches(), Clock(total_steps=3, limit_seconds=None), lambda _step: None)
    assert run.step == 3


def test_a_stop_request_ends_the_epoch_after_the_current_step():
    run = make_run()

    def stop(step):
        if step == 2:
            run.stop.set()

    train_epoch(run, batches(), forever(), stop)
    assert run.step == 2


def test_the_learning_rate_follows_progress():
    run = make_run(schedule="poly", learning_rate=0.01, warmup_fraction=0.0)
    result = train_epoch(run, batches(), Clock(total_steps=8, limit_seconds=None), lambda _step: None)
    assert result.learning_rate == pytest.approx(0.01 * (1 - 3 / 8) ** 0.9)


def test_a_step_that_is_not_finite_is_skipped_and_the_weights_stay(caplog):
    run = make_run()
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    result = train_epoch(run, batches(math.nan), forever(), lambda _step: None)
    assert result.mean_loss is None
    assert all(torch.equal(before[name], tensor) for name, tensor in run.network.state_dict().items())
    assert "first, second" in caplog.text


def test_training_gives_up_when_nothing_is_finite(monkeypatch):
    monkeypatch.setattr(loop, "MAX_CONSECUTIVE_BAD_STEPS", 3)
    with pytest.raises(TrainingError, match=r"3 training steps in a row.*first, second"):
        train_epoch(make_run(), batches(math.inf), forever(), lambda _step: None)


def test_validation_changes_nothing_and_scores_a_perfect_patch():
    run = make_run()
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    loss, pseudo_dice = validate_epoch(run, batches(), forever())
    assert all(torch.equal(before[name], tensor) for name, tensor in run.network.state_dict().items())
    assert loss is not None
    assert pseudo_dice.keys() == {"a", "b"}


def test_progress_is_by_time_where_a_time_was_promised():
    clock = Clock(total_steps=100, limit_seconds=10.0, elapsed_before=4.0)
    assert clock.progress(90) == pytest.approx(0.4, abs=0.05)
    assert Clock(total_steps=100, limit_seconds=10.0, elapsed_before=11.0).progress(1) == 1.0


def test_progress_is_by_steps_otherwise():
    clock = Clock(total_steps=100, limit_seconds=None)
    assert clock.progress(25) == 0.25
    assert clock.progress(200) == 1.0


def test_after_a_bad_step_training_goes_on_as_if_it_had_not_been():
    """Weights, moments and the average; the first step's momentum is the hard case."""
    for optimizer in ("sgd", "adamw"):
        runs = [make_run(optimizer=optimizer, steps_per_epoch=1, weight_average_decay=0.5) for _ in range(2)]
        train_epoch(runs[1], batches(math.nan), forever(), lambda _step: None)
        for run in runs:
            run.step = 0
            for _ in range(3):
                train_epoch(run, batches(), forever(), lambda _step: None)
        expected, found = (run.network.state_dict() for run in runs)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        assert runs[1].bad_steps == 0


def test_running_statistics_survive_a_bad_step():
    configuration = measured_configuration(2, 4)
    network = configuration.network.model_copy(update={"normalization": "batch"})
    configuration = configuration.model_copy(update={"network": network})
    run = start_on_cpu(configuration, ENCODING)
    before = {name: buffer.clone() for name, buffer in run.network.named_buffers()}
    assert before
    train_epoch(run, batches(math.nan), forever(), lambda _step: None)
    assert all(torch.equal(before[name], buffer) for name, buffer in run.network.named_buffers())
    train_epoch(run, batches(), forever(), lambda _step: None)
    assert any(not torch.equal(before[name], buffer) for name, buffer in run.network.named_buffers())


def test_bad_steps_are_counted_over_short_epochs(monkeypatch):
    monkeypatch.setattr(loop, "MAX_CONSECUTIVE_BAD_STEPS", 5)
    run = make_run(steps_per_epoch=2)
    train_epoch(run, batches(math.nan), forever(), lambda _step: None)
    train_epoch(run, batches(math.nan), forever(), lambda _step: None)
    with pytest.raises(TrainingError, match="5 training steps in a row"):
        train_epoch(run, batches(math.nan), forever(), lambda _step: None)


def test_an_overflow_in_fp16_is_no_news_and_lowers_the_scale(caplog):
    caplog.set_level(logging.DEBUG, "autoseg.train")
    run = make_run(torch.float16, steps_per_epoch=1)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # overflows in a gradient, not in the loss
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    result = train_epoch(run, batches(), forever(), lambda _step: None)
    assert result.mean_loss is not None
    assert run.scaler.get_scale() == 2.0**39
    assert run.bad_steps == 1
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]
    assert all(torch.equal(before[name], tensor) for name, tensor in run.network.state_dict().items())
    run.scaler.update(2.0)
    train_epoch(run, batches(), forever(), lambda _step: None)
    assert run.bad_steps == 0
    assert not all(torch.equal(before[name], tensor) for name, tensor in run.network.state_dict().items())


def test_the_remaining_time_follows_the_clock_or_the_steps():
    training = TrainingSpec(mirror_axes=(), batch_dice=False)
    by_time = Clock(total_steps=9, limit_seconds=100.0, elapsed_before=40.0)
    assert by_time.remaining_seconds(5, training) == pytest.approx(60.0, rel=0.01)
    by_steps = Clock(total_steps=10, limit_seconds=None, elapsed_before=40.0)
    assert by_steps.remaining_seconds(4, training) == pytest.approx(60.0, rel=0.01)
    assert by_steps.remaining_seconds(0, training) is None


def test_the_remaining_time_knows_that_steps_take_longer_when_patches_have_grown():
    """Four of ten steps at a quarter of the cost, in 40 s: 40 s for each step's worth, and six steps remain."""
    growing = GrowingPatch(patch_size=(2, 4), batch_size=2, until=0.4, cost_fraction=0.25)
    training = TrainingSpec(mirror_axes=(), batch_dice=False, growing_patches=(growing,))
    clock = Clock(total_steps=10, limit_seconds=None, elapsed_before=40.0)
    assert clock.remaining_seconds(4, training) == pytest.approx(240.0, rel=0.01)
