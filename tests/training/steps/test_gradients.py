"""Gradients of a batch that does not fit into memory at once."""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from typing_extensions import override

from autoseg.training.distributed import Ranks
from autoseg.training.invented_data import NOISE_ENCODING as ENCODING
from autoseg.training.invented_data import measured_configuration
from autoseg.training.steps import gradients
from autoseg.training.steps.gradients import compute_gradients
from autoseg.training.steps.run import MemorySaving
from tests.training.small_runs import start_on_cpu

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def make_run(*, dimensions=2, normalization="instance", batch_dice=False, ranks=None, **changes):
    configuration = measured_configuration(dimensions, 4)
    spec = configuration.training.model_copy(update={"batch_dice": batch_dice})
    network = configuration.network.model_copy(update={"normalization": normalization, **changes})
    changed = configuration.model_copy(update={"training": spec, "network": network})
    return start_on_cpu(changed, ENCODING, ranks=ranks or Ranks())


def batch(*shape):
    generator = np.random.default_rng(0)
    image = torch.from_numpy(generator.normal(size=(shape[0], 1, *shape[1:])).astype(np.float32))
    return image, (image[:, 0] > 0).long()


def gradients_of(run, image, target):
    loss = compute_gradients(run, image, target, progress=0.5)
    return loss, {name: value.grad.clone() for name, value in run.network.named_parameters() if value.grad is not None}


def saving(run, *, recompute, samples=None):
    gradients._adopt(run, MemorySaving(recompute=recompute, samples=samples))
    return run


class LimitedMemory(nn.Module):
    """A network whose device holds the activations of few samples, and of fewer unless they are computed again."""

    def __init__(self, network, *, kept, recomputed):
        super().__init__()
        self.network, self.kept, self.recomputed, self.attempts = network, kept, recomputed, []

    @override
    def forward(self, image):
        self.attempts.append(len(image))
        limit = self.recomputed if self.network.recompute_activations else self.kept
        if torch.is_grad_enabled() and len(image) > limit:
            raise OUT_OF_MEMORY
        return self.network(image)


def limit_memory(monkeypatch, run, *, kept, recomputed):
    """The limit stays when a saving makes the run call the network itself."""
    call = LimitedMemory(run.network, kept=kept, recomputed=recomputed)
    adopt = gradients._adopt

    def adopt_and_limit(run, saving):
        adopt(run, saving)
        run.training_call = call

    monkeypatch.setattr(gradients, "_adopt", adopt_and_limit)
    run.training_call = call
    return call


@pytest.mark.parametrize("dimensions", [2, 3])
def test_recomputed_activations_give_the_same_gradients_to_the_bit(dimensions):
    image, target = batch(3, *(16, 32, 48)[-dimensions:])
    loss, expected = gradients_of(make_run(dimensions=dimensions), image, target)
    again, found = gradients_of(saving(make_run(dimensions=dimensions), recompute=True), image, target)
    assert torch.equal(loss, again)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_recomputed_activations_leave_fewer_tensors_in_memory():
    def kept_bytes(run):
        image, _ = batch(2, 32, 48)
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run.network.train()(image)
        return total

    assert kept_bytes(saving(make_run(), recompute=True)) < 0.5 * kept_bytes(make_run())


def test_statistics_of_batch_normalisation_count_a_batch_once():
    image, target = batch(3, 32, 48)
    whole, recomputed = (make_run(normalization="batch") for _ in range(2))
    _, expected = gradients_of(whole, image, target)
    _, found = gradients_of(saving(recomputed, recompute=True), image, target)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    pairs = zip(whole.network.buffers(), recomputed.network.buffers(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("samples", [1, 2])
def test_parts_of_a_batch_give_its_gradients(batch_dice, samples):
    image, target = batch(3, 32, 48)
    loss, expected = gradients_of(make_run(batch_dice=batch_dice), image, target)
    again, found = gradients_of(saving(make_run(batch_dice=batch_dice), recompute=True, samples=samples), image, target)
    torch.testing.assert_close(again, loss, rtol=1e-5, atol=1e-6)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("kept", "recomputed", "expected"),
    [
        (4, 4, MemorySaving()),
        (1, 4, MemorySaving(recompute=True)),
        (1, 2, MemorySaving(recompute=True, samples=2)),
        (0, 1, MemorySaving(recompute=True, samples=1)),
    ],
)
def test_a_batch_that_does_not_fit_is_computed_with_the_first_saving_that_does(
    monkeypatch, caplog, kept, recomputed, expected
):
    image, target = batch(4, 32, 48)
    _, gradients_at_once = gradients_of(make_run(), image, target)
    run = make_run()
    call = limit_memory(monkeypatch, run, kept=kept, recomputed=recomputed)
    with caplog.at_level(logging.WARNING, "autoseg.train"):
        _, found = gradients_of(run, image, target)
    assert run.saving == expected
    for name, value in gradients_at_once.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
    savings = int(expected.recompute) + {None: 0, 2: 1, 1: 2}[expected.samples]
    assert [
        message.startswith("the memory of cpu is too small for a training step") for message in caplog.messages
    ] == [True] * savings
    call.attempts.clear()
    gradients_of(run, image, target)  # nothing is tried that has failed before
    assert max(call.attempts) == (expected.samples or 4)


@pytest.mark.parametrize("words", ["CUDNN_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: can't allocate memory"])
def test_memory_that_runs_out_in_the_backward_pass_is_found_too(monkeypatch, words):
    run = make_run()
    failed: list[bool] = []
    image, target = batch(2, 32, 48)
    _, expected = gradients_of(make_run(), image, target)

    def fail_once(gradient):
        if not failed:
            failed.append(True)
            raise RuntimeError(words)
        return gradient

    next(run.network.parameters()).register_hook(fail_once)
    _, found = gradients_of(run, image, target)
    assert failed
    assert run.saving == MemorySaving(recompute=True)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_memory_too_small_for_one_sample_ends_the_training(monkeypatch):
    run = make_run()
    limit_memory(monkeypatch, run, kept=0, recomputed=0)
    image, target = batch(2, 32, 48)
    with pytest.raises(torch.OutOfMemoryError):
        compute_gradients(run, image, target, progress=0.5)
    assert run.saving.samples == 1


def test_a_batch_is_not_parted_under_batch_normalisation(monkeypatch):
    run = make_run(normalization="batch")
    limit_memory(monkeypatch, run, kept=1, recomputed=1)
    image, target = batch(2, 32, 48)
    with pytest.raises(torch.OutOfMemoryError):
        compute_gradients(run, image, target, progress=0.5)
    assert run.saving == MemorySaving(recompute=True)


def test_one_of_several_processes_does_not_go_its_own_way(monkeypatch):
    run = make_run()
    run.settings = type(run.settings)(run.settings.device, run.settings.precision, Ranks(0, 2))
    limit_memory(monkeypatch, run, kept=1, recomputed=1)
    image, target = batch(2, 32, 48)
    with pytest.raises(torch.OutOfMemoryError):
        compute_gradients(run, image, target, progress=0.5)


def test_other_errors_stay_as_they_are():
    run = make_run()
    image, target = batch(2, 32, 50)
    with pytest.raises(ValueError, match="multiple of the total stride"):
        compute_gradients(run, image, target, progress=0.5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_points_give_the_same_gradients_whatever_is_saved(dimensions):
    image, target = batch(3, *(16, 32, 48)[-dimensions:])
    points = {"dimensions": dimensions, "head": "points", "coarse_level": 1}
    loss, expected = gradients_of(make_run(**points), image, target)
    for samples in (None, 1):
        again, found = gradients_of(saving(make_run(**points), recompute=True, samples=samples), image, target)
        torch.testing.assert_close(again, loss)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)


def test_every_step_has_points_of_its_own_and_the_same_again():
    image, target = batch(2, 32, 48)
    losses = []
    for step in (0, 1, 0):
        run = make_run(head="points", coarse_level=1)
        run.step = step
        losses.append(gradients_of(run, image, target)[0])
    assert losses[0] == losses[2]
    assert losses[0] != losses[1]
