"""Training and prediction on pretended GPUs of other makers: no float64, no scaler, no precision that they lack."""

import itertools

import numpy as np
import pytest
import torch

from autoseg.inference.memory.estimate import DEVICE_FRACTION, measure_available
from autoseg.inference.windows.logit_slab import CPU, SlabStorage
from autoseg.inference.windows.network_pass import NetworkPass, choose_passes, mean_forward
from autoseg.inference.windows.sliding_window import WindowSettings, stream_logits
from autoseg.networks.build import build_network
from autoseg.networks.devices import choose_device, choose_dtype
from autoseg.networks.layout import place_network
from autoseg.training.data.batch import Batch
from autoseg.training.data.loading import default_workers
from autoseg.training.folds.checkpointing import cpu_weights
from autoseg.training.invented_data import NOISE_ENCODING, measured_configuration
from autoseg.training.probe import describe_torch_device
from autoseg.training.steps.loop import train_epoch, validate_epoch
from autoseg.training.steps.run import Clock, StepSettings
from autoseg.training.steps.setup import build_initial_network, start_run
from tests.gpu.pretended_gpu import PlaceError, PretendedGpu

NAMES = ("mps", "xpu")
ENDLESS = Clock(10**9, None)


def batches(shape):
    generator = np.random.default_rng(0)
    image = generator.standard_normal((2, 1, *shape), dtype=np.float32)
    target = (image[:, 0] > 0).astype(np.int16)
    for number in itertools.count():
        yield Batch(image=image.copy(), target=target.copy(), cases=["a", "b"], seeds=np.array([number, number + 1]))


def start(name, dimensions=2, precision="auto", **training):
    shape = (64, 64) if dimensions == 2 else (16, 32, 32)
    configuration = measured_configuration(dimensions, 4)
    schedule = {"steps_per_epoch": 2, "validation_steps": 1, "learning_rate": 1e-3, "mirror_axes": (), **training}
    spec = configuration.training.model_copy(update=schedule)
    configuration = configuration.model_copy(update={"patch_size": shape, "training": spec})
    device = choose_device(name)
    settings = StepSettings(device, choose_dtype(precision, device))
    run = start_run(build_initial_network(configuration, 0), configuration, NOISE_ENCODING, settings)
    return run, batches(shape)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_training_keeps_to_what_the_device_can_do(name, dimensions, optimizer):
    with PretendedGpu(name=name) as gpu:
        run, stream = start(name, dimensions, optimizer=optimizer, weight_average_decay=0.9)
        assert train_epoch(run, stream, ENDLESS, lambda _step: None).mean_loss is not None
        assert validate_epoch(run, stream, ENDLESS)[0] is not None
        assert all(map(gpu.is_on_device, run.network.state_dict().values()))
        assert not run.scaler.is_enabled()


@pytest.mark.parametrize("name", NAMES)
def test_the_first_steps_are_those_of_the_cpu(name):
    def train(device):
        run, stream = start(device, precision="fp32", optimizer="sgd")
        run.augmentation = None
        train_epoch(run, stream, ENDLESS, lambda _step: None)
        return cpu_weights(run.network.state_dict())

    expected = train("cpu")
    with PretendedGpu(name=name):
        found = train(name)
    for weight, value in expected.items():
        torch.testing.assert_close(found[weight], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("place", ["device", "ram"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_cpu(name, place):
    torch.manual_seed(0)
    spec = measured_configuration(2, 4).network
    network = build_network(spec, deep_supervision=False).eval()
    image = np.random.default_rng(0).standard_normal((6, 90, 80), dtype=np.float32)

    def predict(device):
        passes = choose_passes("fp32", device, is_softmax=True, normalization="instance")
        storage = SlabStorage(place if device.type != "cpu" else "ram", device=device)
        run = NetworkPass(mean_forward([place_network(network, spec, device)]), passes, mirror_axes=(0, 1))
        slices = stream_logits(run, [image], (64, 64), 3, (0, 1), WindowSettings(storage=storage))
        return torch.stack([logits.cpu() for logits in slices])

    expected = predict(CPU)
    with PretendedGpu(name=name):
        torch.testing.assert_close(predict(choose_device(name)), expected, rtol=1e-4, atol=1e-5)


def test_float64_is_refused_on_the_pretended_device():
    with PretendedGpu(name="mps"), pytest.raises(TypeError, match="mps:0 has no float64"):
        torch.zeros(3, dtype=torch.float64, device="mps")
    with PretendedGpu(name="mps"), pytest.raises(TypeError, match="mps:0 has no float64"):
        torch.zeros(3, device="mps").double()
    with PretendedGpu(name="xpu"), pytest.raises(PlaceError, match="there is no device cuda"):
        torch.zeros(3, device="cuda")


@pytest.mark.parametrize("name", NAMES)
def test_workers_and_memory_are_those_of_a_gpu(name):
    with PretendedGpu(name=name, free_bytes=10**9):
        device = choose_device(name)
        assert default_workers(device) > 0
        assert describe_torch_device(name) == {"mps": "Apple (mps), float32", "xpu": "pretended GPU, bfloat16"}[name]
        assert measure_available(None, device, 0).device == int(DEVICE_FRACTION * 10**9)
