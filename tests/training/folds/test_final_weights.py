import itertools

import numpy as np
import pytest
import torch

from autoseg.training.data.batch import Batch
from autoseg.training.folds.final_weights import MIN_BATCHES, choose_final_weights
from autoseg.training.invented_data import NOISE_ENCODING as ENCODING
from autoseg.training.invented_data import measured_configuration
from autoseg.training.steps.run import Clock
from tests.training.small_runs import start_on_cpu

FOREVER = Clock(total_steps=1, limit_seconds=None)


def make_run(decay=0.9):
    """A network that says what the head's bias says: label 1, "a", at the last step and label 2, "b", on average."""
    configuration = measured_configuration(2, 4)
    spec = configuration.training.model_copy(update={"weight_average_decay": decay, "validation_steps": 2})
    run = start_on_cpu(configuration.model_copy(update={"training": spec}), ENCODING)
    if run.average is not None:
        set_answer(run, 2)
        run.average = type(run.average)(run.network, decay)
    set_answer(run, 1)
    return run


def set_answer(run, label):
    state = run.network.state_dict()
    state["decoder.heads.0.weight"].zero_()
    state["decoder.heads.0.bias"].copy_(100.0 * torch.nn.functional.one_hot(torch.tensor(label), 3))
    run.network.load_state_dict(state)


def batches(*labels):
    """Patches that carry one label each, again and again."""
    for label in itertools.cycle(labels):
        yield Batch(
            image=np.zeros((2, 1, 32, 48), dtype=np.float32),
            target=np.full((2, 32, 48), label, dtype=np.int16),
            cases=["first", "second"],
        )


def answer(network):
    return int(network.state_dict()["decoder.heads.0.bias"].argmax())


def test_the_better_weights_are_kept(caplog):
    caplog.set_level("INFO")
    which, network = choose_final_weights(make_run(), batches(1), FOREVER)
    assert (which, answer(network)) == ("last", 1)
    assert "Dice 1.0000 with the last weights, 0.0000 with their average" in caplog.text
    which, network = choose_final_weights(make_run(), batches(2), FOREVER)
    assert (which, answer(network)) == ("average", 2)


def test_a_tie_and_nothing_to_compare_on_keep_the_average():
    assert choose_final_weights(make_run(), batches(1, 2), FOREVER)[0] == "average"
    assert choose_final_weights(make_run(), None, FOREVER)[0] == "average"


def test_without_an_average_the_last_weights_stay():
    which, network = choose_final_weights(make_run(decay=None), batches(2), FOREVER)
    assert (which, answer(network)) == ("last", 1)


def test_enough_patches_are_compared_unless_time_is_up():
    taken = []

    def counted():
        for batch in batches(1):
            taken.append(1)
            yield batch

    choose_final_weights(make_run(), counted(), FOREVER)
    assert len(taken) == MIN_BATCHES
    taken.clear()
    choose_final_weights(make_run(), counted(), Clock(total_steps=1, limit_seconds=1.0, elapsed_before=1.0))
    assert len(taken) == 1


def test_the_run_is_left_as_it_was():
    run = make_run()
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    choose_final_weights(run, batches(2), FOREVER)
    assert all(torch.equal(before[name], value) for name, value in run.network.state_dict().items())


@pytest.mark.parametrize("stopped", [False, True])
def test_a_stop_meanwhile_is_noticed(stopped):
    run = make_run()
    if stopped:
        run.stop.set()
    choose_final_weights(run, batches(1), FOREVER)
    assert run.stopped.is_set() is stopped
