"""Prediction on the pretended GPU: label maps of the CPU, and no window waits for the device without need."""

from collections import Counter

import numpy as np
import pytest
import torch

from autoseg.inference.restoring.restore import LogitStream, restore_labels
from autoseg.inference.windows.logit_slab import CPU, SlabStorage
from autoseg.inference.windows.network_pass import NetworkPass, NetworkPasses, mean_forward
from autoseg.inference.windows.pass_trials import BatchTrial, PrecisionTrial
from autoseg.inference.windows.sliding_window import WindowSettings, stream_logits
from autoseg.networks.build import build_network
from autoseg.networks.devices import choose_device
from autoseg.networks.kernels import REPEATS
from autoseg.records.dataset import Head, LabelEncoding
from autoseg.records.network import ResamplingSpec
from autoseg.training.invented_data import measured_configuration
from tests.builders import make_record
from tests.gpu.pretended_gpu import PretendedGpu

IMAGE = np.random.default_rng(0).standard_normal((6, 90, 80), dtype=np.float32)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network(measured_configuration(2, 4).network, deep_supervision=False).eval()


def predict(forward, passes, place="ram"):
    storage = SlabStorage(place, device=passes.device)
    run = NetworkPass(forward, passes, mirror_axes=(0, 1))
    slices = stream_logits(run, [IMAGE], (64, 64), 3, (0, 1), WindowSettings(storage=storage))
    return torch.stack([logits.cpu() for logits in slices])


@pytest.mark.parametrize("place", ["device", "ram", "file"])
def test_logits_are_those_of_the_cpu(network, place):
    expected = predict(mean_forward([network, network]), NetworkPasses(CPU))
    with PretendedGpu():
        network.to("cuda")
        found = predict(mean_forward([network, network]), NetworkPasses(choose_device("auto")), place).numpy()
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_the_choice_of_precision_stays_on_the_device(network):
    with PretendedGpu():
        network.to("cuda")
        trial = PrecisionTrial(torch.bfloat16, is_softmax=True)
        predict(network, NetworkPasses(choose_device("auto"), trial=trial))
    assert trial.accepted is not None


def test_windows_wait_for_nothing_once_batch_and_precision_are_chosen(network):
    with PretendedGpu() as gpu:
        network.to("cuda")
        passes = NetworkPasses(choose_device("auto"), batch=BatchTrial(chosen=32, _seconds={32: [1.0]}))
        gpu.waits.clear()
        assert len(predict(network, passes, "device")) == 6
    found = Counter(wait.file.rpartition("/")[2] for wait in gpu.waits if wait.file)
    # one question for each group of finished slices, here two slices each; one table of weights
    assert found == {"logit_slab.py": 3, "sliding_window.py": 1}


def test_a_gpu_gets_more_windows_at_a_time(network):
    """Six slices of four windows, each in four mirrored variants: 96 windows."""

    def passes(device):
        sizes = []

        def forward(windows):
            sizes.append(len(windows))
            return network(windows)

        settings = WindowSettings(storage=SlabStorage("device", device=device))
        assert sum(1 for _ in stream_logits(forward, [IMAGE], (64, 64), 3, (0, 1), settings)) == 6
        return sizes

    assert passes(CPU) == 12 * [8]
    with PretendedGpu():
        network.to("cuda")
        assert passes(choose_device("auto")) == 3 * [32]


@pytest.mark.parametrize("num_heads", [3, 40])
def test_the_image_and_the_label_map_alone_cross_the_bus(num_heads):
    """Whatever the number of heads, and however often windows overlap."""
    spec = measured_configuration(3, 4).network.model_copy(update={"output_channels": num_heads})
    encoding = LabelEncoding(
        values=tuple(range(num_heads)),
        activation="softmax",
        heads=tuple(Head(name=f"part {n}", indices=(n,), painted_index=n) for n in range(num_heads)),
    )
    image = np.random.default_rng(0).standard_normal((12, 40, 36), dtype=np.float32)
    record = make_record(image.shape, (2.0, 1.0, 1.0), original_shape=(24, 50, 40), crop_stop=(24, 50, 40))
    torch.manual_seed(0)
    network = build_network(spec, deep_supervision=False).eval()

    def labels(passes):
        settings = WindowSettings(storage=SlabStorage("device", device=passes.device))
        slices = stream_logits(NetworkPass(network, passes), [image], (8, 16, 16), num_heads, (), settings)
        return restore_labels([LogitStream(slices, record, ResamplingSpec())], encoding)

    expected = labels(NetworkPasses(CPU))
    with PretendedGpu() as gpu:
        network.to("cuda")
        gpu.bytes_to_device = gpu.bytes_to_host = 0
        found = labels(NetworkPasses(choose_device("auto")))
    assert np.mean(found == expected) > 0.9999
    rows_and_weights = 4 * (24 * 12 + 8 * 16 * 16)
    assert gpu.bytes_to_device <= image.nbytes + rows_and_weights
    assert gpu.bytes_to_host <= expected.size + 100


def test_kernels_are_tried_for_shapes_that_keep_coming(network):
    """The last group of each case has fewer windows, and is too rare to try kernels for."""
    tried = []

    def forward(windows):
        tried.append((len(windows), torch.backends.cudnn.benchmark))
        return network(windows)

    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        with PretendedGpu():
            network.to("cuda")
            run = NetworkPass(
                forward, NetworkPasses(choose_device("auto"), batch=BatchTrial(chosen=4, _seconds={4: [1.0]}))
            )
            for number in range(REPEATS + 5):
                run(torch.zeros(4, 1, 64, 64, device="cuda"))
                if number % 10 == 0:
                    run(torch.zeros(3, 1, 64, 64, device="cuda"))
                assert not torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = before
    assert [is_on for size, is_on in tried if size == 4] == REPEATS * [False] + 5 * [True]
    assert not any(is_on for size, is_on in tried if size < 4)
