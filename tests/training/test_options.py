import pytest

from autoseg.errors import UsageError
from autoseg.training.options import TrainingOptions, apply_options
from tests.training.small_cases import make_configuration


def planned(**changes):
    configuration = make_configuration((8, 8, 8))
    training = configuration.training.model_copy(update={"time_per_fold_seconds": 100.0, **changes})
    return configuration.model_copy(update={"training": training})


def test_without_options_everything_is_as_planned():
    assert apply_options(planned(), TrainingOptions()) == planned()


def test_each_option_changes_what_it_says_and_nothing_else():
    options = TrainingOptions(
        loss="focal",
        mirror_axes=(2, 0),
        learning_rate=0.5,
        warmup_fraction=0.25,
        epochs=3,
        steps_per_epoch=7,
        weight_average_decay=0.9,
    )
    expected = planned().training.model_copy(
        update={
            "loss": "focal", "mirror_axes": (2, 0), "learning_rate": 0.5, "warmup_fraction": 0.25, "epochs": 3,
            "steps_per_epoch": 7, "weight_average_decay": 0.9, "time_per_fold_seconds": None,
        }
    )  # fmt: skip
    changed = apply_options(planned(), options)
    assert changed.training == expected
    assert changed.model_copy(update={"training": planned().training}) == planned()


def test_no_mirroring_is_not_the_same_as_the_planned_mirroring():
    assert apply_options(planned(), TrainingOptions(mirror_axes=())).training.mirror_axes == ()


def test_steps_that_are_asked_for_take_their_time_and_a_time_limits_epochs_of_any_length():
    assert apply_options(planned(), TrainingOptions(epochs=3)).training.time_per_fold_seconds is None
    both = apply_options(planned(), TrainingOptions(steps_per_epoch=3, max_time_seconds=9.0)).training
    assert (both.steps_per_epoch, both.time_per_fold_seconds) == (3, 9.0)
    with pytest.raises(UsageError, match="--epochs and --max-time both say when the training ends; give one"):
        apply_options(planned(), TrainingOptions(epochs=3, max_time_seconds=9.0))


def test_another_optimiser_brings_its_own_rates_along():
    adamw = apply_options(planned(), TrainingOptions(optimizer="adamw")).training
    assert (adamw.optimizer, adamw.learning_rate, adamw.weight_decay) == ("adamw", 3e-3, 1e-2)
    chosen = apply_options(planned(), TrainingOptions(optimizer="adamw", learning_rate=1e-4)).training
    assert (chosen.learning_rate, chosen.weight_decay) == (1e-4, 1e-2)
    same = apply_options(planned(learning_rate=0.02), TrainingOptions(optimizer="sgd")).training
    assert same.learning_rate == 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TrainingOptions(mirror_axes=(0, 3)), r"mirror_axes.*\(0, 3\), expected different axes from 0 to 2"),
        (TrainingOptions(mirror_axes=(1, 1)), r"mirror_axes.*different axes"),
        (TrainingOptions(learning_rate=-1.0), r"learning_rate: .*greater than or equal to 0"),
        (TrainingOptions(weight_average_decay=1.0), r"weight_average_decay: .*less than 1"),
        (TrainingOptions(warmup_fraction=1.5), r"warmup_fraction: .*less than or equal to 1"),
    ],
)
def test_an_option_outside_its_range_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        apply_options(planned(), options)
