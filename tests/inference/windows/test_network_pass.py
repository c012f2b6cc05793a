"""What the first windows teach about batch and precision."""

import logging
import threading

import pytest
import torch

from autoseg.inference.windows.network_pass import NetworkPass, NetworkPasses
from autoseg.inference.windows.pass_trials import BatchTrial, PrecisionTrial


def tried(trial: BatchTrial, num_windows: int, seconds_per_window, calls=40) -> list[int]:
    """Sizes of many calls, each of which takes as long as the function says."""
    sizes = []
    for _ in range(calls):
        size = trial.next_size(num_windows)
        trial.record(size, num_windows, seconds_per_window(size) * num_windows)
        sizes.append(size)
    return sizes


def test_smallest_batch_that_is_nearly_as_fast_is_kept():
    trial = BatchTrial()
    sizes = tried(trial, 8, {8: 1.0, 4: 0.99, 2: 1.0, 1: 5.0}.__getitem__)
    assert sizes[:12] == [8] * 3 + [4] * 3 + [2] * 3 + [1] * 3
    assert set(sizes[12:]) == {2}


def test_smaller_batches_are_not_tried_once_it_gets_slower():
    sizes = tried(BatchTrial(), 16, {16: 1.0, 8: 1.2}.__getitem__)
    assert set(sizes[:6]) == {16, 8}
    assert set(sizes[6:]) == {16}


def test_the_first_call_of_a_size_which_sets_kernels_up_does_not_count():
    calls: dict[int, int] = {}

    def seconds(size):
        calls[size] = calls.get(size, 0) + 1
        return 100.0 if calls[size] == 1 else 1 / size

    assert set(tried(BatchTrial(), 4, seconds)[6:]) == {4}


def test_calls_of_more_windows_open_the_question_again():
    trial = BatchTrial()
    assert set(tried(trial, 2, lambda size: 1 / size)[6:]) == {2}
    assert set(tried(trial, 8, lambda size: 1 / size)[6:]) == {8}
    assert trial.next_size(2) == 8  # at most


def test_windows_that_do_not_fill_a_batch_teach_nothing():
    trial = BatchTrial()
    assert set(tried(trial, 3, lambda size: 1.0)) == {2}
    assert trial.chosen is None
    assert tried(BatchTrial(), 1, lambda size: 1.0) == [1] * 40


@pytest.mark.parametrize("num_windows", [1, 2, 3, 7, 8])
def test_logits_do_not_depend_on_the_batch(num_windows):
    torch.manual_seed(0)
    kernel = torch.randn(2, 3, 3, 3)
    windows = torch.randn(num_windows, 3, 5, 6)
    passes = []

    def forward(batch):
        passes.append(len(batch))
        return torch.nn.functional.conv2d(batch, kernel, padding=1)

    expected = torch.nn.functional.conv2d(windows, kernel, padding=1)
    run = NetworkPass(forward, NetworkPasses())
    for _ in range(14):
        torch.testing.assert_close(run(windows), expected)
    assert sum(passes) == 14 * num_windows


class TypedNetwork:
    """Gives other logits under autocast, and takes as long as it is told."""

    def __init__(self, exact, coarse, clock, seconds=(2.0, 1.0)):
        self.exact, self.coarse, self.clock, self.seconds = exact, coarse, clock, seconds
        self.under_autocast: list[bool] = []

    def __call__(self, windows):
        is_coarse = torch.is_autocast_enabled("cpu")
        self.under_autocast.append(is_coarse)
        self.clock[0] += self.seconds[is_coarse]
        return (self.coarse if is_coarse else self.exact)[: len(windows)].clone()


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("autoseg.inference.windows.network_pass.time.perf_counter", lambda: now[0])
    return now


def logits_of(labels, heads=3):
    return torch.nn.functional.one_hot(labels, heads).movedim(-1, 1).float()


def run_trial(network, trial, mirror_axes=(), batch=2, calls=20):
    whole = BatchTrial(chosen=batch, _seconds={batch: [1.0]})
    run = NetworkPass(network, NetworkPasses(batch=whole, trial=trial), mirror_axes=mirror_axes)
    return [run(torch.zeros(batch, 1, 4, 4)) for _ in range(calls)]


@pytest.fixture
def labels():
    return torch.randint(0, 3, (2, 60, 50), generator=torch.Generator().manual_seed(1))


def test_16_bits_are_taken_when_label_maps_agree_and_time_is_saved(clock, labels, caplog):
    network = TypedNetwork(logits_of(labels), logits_of(labels) * 0.9, clock)
    trial = PrecisionTrial(torch.bfloat16, is_softmax=True)
    with caplog.at_level(logging.INFO, "autoseg.predict"):
        answers = run_trial(network, trial)
    assert trial.accepted
    assert not torch.equal(answers[-1], answers[0])
    assert torch.equal(answers[0], logits_of(labels))  # until it is decided, float32 counts
    assert caplog.messages == [
        "precision bfloat16: bfloat16 agrees with float32 on the first windows with Dice 1.0000 (0.9995 needed), "
        "2.0 times as fast"
    ]


def test_16_bits_are_refused_when_one_label_differs_too_much(clock, labels, caplog):
    other = labels.clone()
    other[0, 0, :4] = (other[0, 0, :4] + 1) % 3  # 4 of 6000 voxels
    network = TypedNetwork(logits_of(labels), logits_of(other), clock)
    trial = PrecisionTrial(torch.bfloat16, is_softmax=True)
    with caplog.at_level(logging.INFO, "autoseg.predict"):
        answers = run_trial(network, trial)
    assert trial.accepted is False
    assert all(torch.equal(answer, logits_of(labels)) for answer in answers)
    assert "precision float32: bfloat16 agrees with float32 on the first windows with Dice 0.99" in caplog.text
    assert network.under_autocast[-5:] == [False] * 5


def test_16_bits_are_refused_when_they_save_no_time(clock, labels):
    network = TypedNetwork(logits_of(labels), logits_of(labels), clock, seconds=(1.0, 1.0))
    trial = PrecisionTrial(torch.bfloat16, is_softmax=True)
    run_trial(network, trial)
    assert trial.accepted is False


def test_windows_without_foreground_decide_nothing(clock):
    nothing = logits_of(torch.zeros(2, 60, 50, dtype=torch.int64))
    network = TypedNetwork(nothing, nothing, clock)
    trial = PrecisionTrial(torch.bfloat16, is_softmax=True)
    run_trial(network, trial)
    assert trial.accepted is None
    assert not any(network.under_autocast)


def test_regions_are_compared_one_by_one(clock):
    exact = torch.full((2, 2, 60, 50), -1.0)
    exact[:, 0, :40] = 1.0
    exact[:, 1, 0, :2] = 1.0  # a small region inside a large one
    coarse = exact.clone()
    network = TypedNetwork(exact, coarse, clock)
    trial = PrecisionTrial(torch.bfloat16, is_softmax=False)
    run_trial(network, trial)
    assert trial.accepted
    coarse[:, 1, 0, 1] = -1.0
    network, trial = TypedNetwork(exact, coarse, clock), PrecisionTrial(torch.bfloat16, is_softmax=False)
    run_trial(network, trial)
    assert trial.accepted is False


def test_mirrored_variants_are_averaged_before_labels_are_compared(clock, labels):
    exact = logits_of(labels[:1])
    noise = 2 * torch.randn(exact.shape, generator=torch.Generator().manual_seed(2))
    pair = torch.cat([exact, exact.flip(2)])
    network = TypedNetwork(pair, torch.cat([exact + noise, (exact - noise).flip(2)]), clock)
    alone = PrecisionTrial(torch.bfloat16, is_softmax=True)
    run_trial(network, alone)
    averaged = PrecisionTrial(torch.bfloat16, is_softmax=True)
    run_trial(network, averaged, (0,))
    assert (alone.accepted, averaged.accepted) == (False, True)


def test_threads_share_what_is_learnt(labels, clock):
    shared = NetworkPasses(trial=PrecisionTrial(torch.bfloat16, is_softmax=True))
    run = NetworkPass(TypedNetwork(logits_of(labels), logits_of(labels), clock), shared)
    threads = [threading.Thread(target=lambda: [run(torch.zeros(2, 1, 4, 4)) for _ in range(10)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared.batch.chosen is not None
    assert shared.trial is not None
    assert shared.trial.accepted is not None


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_fewer_windows_go_through_the_networks_where_memory_runs_out(limit, caplog):
    windows, passes = torch.randn(8, 1, 4, 6), []

    def forward(batch):
        passes.append(len(batch))
        if len(batch) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return batch * 2

    run = NetworkPass(forward, NetworkPasses())
    with caplog.at_level(logging.WARNING, "autoseg.predict"):
        assert torch.equal(run(windows), windows * 2)
    fitting = {1: [4, 2, 1], 2: [4, 2], 3: [4, 2]}[limit]
    assert [int(message.rsplit(maxsplit=1)[1]) for message in caplog.messages] == fitting
    passes.clear()
    for _ in range(12):
        assert torch.equal(run(windows), windows * 2)
    assert max(passes) <= fitting[-1]


def test_memory_too_small_for_one_window_and_other_errors_are_raised():
    def fail_with(error):
        def forward(_batch):
            raise error

        return NetworkPass(forward, NetworkPasses())

    with pytest.raises(torch.OutOfMemoryError):
        fail_with(torch.OutOfMemoryError("CUDA out of memory."))(torch.randn(4, 1, 4, 6))
    with pytest.raises(RuntimeError, match="shapes differ"):
        fail_with(RuntimeError("shapes differ"))(torch.randn(4, 1, 4, 6))


def test_a_batch_that_did_not_fit_is_not_tried_again():
    trial = BatchTrial()
    trial.record(8, 8, 1.0)
    assert trial.shrink(8) == 4
    assert trial.next_size(8) == 4
    assert set(tried(trial, 8, lambda size: 1 / size)) == {4, 2}


def test_a_window_beyond_the_range_of_float16_is_computed_again_in_float32(caplog):
    def forward(batch):
        return batch / 0 if torch.is_autocast_enabled("cpu") else batch * 2

    trial = PrecisionTrial(torch.float16, is_softmax=True, accepted=True)
    run = NetworkPass(forward, NetworkPasses(trial=trial))
    windows = torch.ones(1, 1, 4, 6)
    with caplog.at_level(logging.WARNING, "autoseg.predict"):
        assert torch.equal(run(windows), windows * 2)
        assert torch.equal(run(windows), windows * 2)
    assert trial.accepted is False
    assert caplog.messages == ["precision float32 from now on: a window's values are beyond the range of float16"]
