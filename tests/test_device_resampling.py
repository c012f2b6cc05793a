"""Resampling with torch against that of the CPU, which is held against scikit-image; on the pretended GPU where it
matters what lies where."""

import logging
import pickle
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg import device_resampling
from autoseg.device_resampling import (
    DeviceResampler,
    choose_resampler,
    choose_resampler_of_workers,
    resample_channel,
)
from autoseg.imaging.arrays.resampling import resample_image, resample_on_cpu, separate_axis
from autoseg.records.network import ResamplingSpec
from tests.gpu.pretended_gpu import PretendedGpu

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
CUBE, THICK = (1.0, 1.0, 1.0), (5.0, 1.0, 1.0)
SPEC = ResamplingSpec()
ROOM = 2**30
shapes = st.tuples(st.integers(1, 20), st.integers(1, 24), st.integers(1, 26))
spacings = st.permutations([0.7, 1.3, 5.0]).map(tuple)
DEVIATION = 1e-5
"""Of the range of intensities; 1e-4 is promised."""


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def slices_that_fit(number, shape, new_shape, along):
    plane = np.prod([max(sizes) for axis, sizes in enumerate(zip(shape, new_shape, strict=True)) if axis != along])
    return int(number * plane * 4 * device_resampling.SLAB_COPIES)


@settings(deadline=None, max_examples=40)
@given(shapes, shapes, spacings, st.sampled_from([0, 1, 3]), st.sampled_from([0, 1, 3]), st.integers(0, 99))
def test_equal_to_the_cpu(shape, new_shape, spacing, order, through_plane, seed):
    image = noise(1, *shape, seed=seed) * 500 - 300
    for separate in ("auto", "never"):
        spec = ResamplingSpec(image_order=order, through_plane_order=through_plane, separate_through_plane=separate)
        axis = separate_axis(spacing, CUBE, spec)
        expected = resample_image(image, new_shape, spacing, CUBE, spec)[0]
        found = resample_channel(image[0], new_shape, axis, spec, CPU, ROOM)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=DEVIATION * max(float(np.ptp(image)), 1.0))


@pytest.mark.parametrize("separate", [None, 0, 1, 2])
@pytest.mark.parametrize(("size", "new_size"), [(60, 83), (60, 180), (83, 40), (64, 64), (1, 7)])
@pytest.mark.parametrize("through_plane", [0, 3])
def test_slabs_give_what_the_whole_volume_gives(monkeypatch, separate, size, new_size, through_plane):
    along = separate or 0
    shape: Any = tuple(size if axis == along else number for axis, number in enumerate((9, 10, 11)))
    new_shape: Any = tuple(new_size if axis == along else number for axis, number in enumerate((14, 7, 16)))
    image = noise(*shape)
    spec = ResamplingSpec(through_plane_order=through_plane)
    spacing: Any = CUBE if separate is None else tuple(5.0 if axis == separate else 1.0 for axis in range(3))
    expected = resample_image(image[None], new_shape, spacing, CUBE, spec)[0]
    room = slices_that_fit(40, shape, new_shape, along)
    moved: list[tuple[int, ...]] = []
    real = torch.from_numpy

    def from_numpy(array):
        moved.append(array.shape)
        return real(array)

    monkeypatch.setattr(torch, "from_numpy", from_numpy)
    found = resample_channel(image, new_shape, separate, spec, CPU, room)
    np.testing.assert_allclose(found, expected, atol=DEVIATION * float(np.ptp(image)))
    slabs = [shape for shape in moved if len(shape) == 3]
    assert max(slab[0] for slab in slabs) <= 40
    assert len(slabs) > 1 or max(size, new_size) <= 40


def test_a_constant_image_stays_constant():
    image = np.full((40, 20, 30), -1000.0, dtype=np.float32)
    found = resample_channel(image, (61, 33, 17), None, SPEC, CPU, ROOM)
    np.testing.assert_array_equal(found, -1000.0)


def test_views_of_any_direction_are_resampled():
    image = noise(30, 20, 26)[::-1, :, ::-1].transpose(2, 0, 1)
    found = resample_channel(image, (31, 33, 17), None, SPEC, CPU, ROOM)
    expected = resample_image(np.ascontiguousarray(image)[None], (31, 33, 17), CUBE, CUBE, SPEC)[0]
    np.testing.assert_allclose(found, expected, atol=DEVIATION * float(np.ptp(image)))


def test_a_slab_that_cannot_fit_is_refused():
    with pytest.raises(MemoryError):
        resample_channel(noise(60, 9, 9), (83, 9, 12), None, SPEC, CPU, slices_that_fit(5, (60, 9, 9), (83, 9, 12), 0))


@pytest.fixture
def clock(monkeypatch):
    """Seconds that every resampling on the CPU or the device takes, whatever it takes here."""
    seconds = {"cpu": 1.0, "cuda": 0.1}
    now = [0.0]

    def on_cpu(*arguments):
        now[0] += seconds["cpu"]
        return resample_image(*arguments)

    def on_device(*arguments):
        now[0] += seconds["cuda"]
        return resample_channel(*arguments)

    monkeypatch.setattr(device_resampling, "resample_image", on_cpu)
    monkeypatch.setattr(device_resampling, "resample_channel", on_device)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(device_resampling, "MIN_VOXELS", 1000)
    return seconds


def test_the_gpu_resamples_every_channel_where_it_is_faster(clock, caplog):
    caplog.set_level(logging.INFO, "autoseg.resampling")
    image = noise(3, 12, 30, 28)
    with PretendedGpu() as gpu:
        resampler = DeviceResampler(GPU)
        resampled, name = resampler(image, (17, 20, 41), THICK, CUBE, SPEC)
        gpu.bytes_to_device = gpu.bytes_to_host = 0
        resampler(image, (17, 20, 41), THICK, CUBE, SPEC)
    assert name == "cuda:0"
    expected = resample_image(image, (17, 20, 41), THICK, CUBE, SPEC)
    np.testing.assert_allclose(resampled, expected, atol=DEVIATION * float(np.ptp(image)))
    assert caplog.messages[0].startswith(
        "images are resampled on cuda:0: a channel took 0.10 s there and 1.00 s on the"
    )
    matrices = 4 * (17 * 12 + 20 * 30 + 41 * 28)
    assert gpu.bytes_to_device == image.nbytes + 3 * matrices
    assert gpu.bytes_to_host == resampled.nbytes


def test_the_cpu_resamples_where_it_is_faster(clock, caplog):
    caplog.set_level(logging.INFO, "autoseg.resampling")
    clock["cpu"] = 0.05
    image = noise(2, 12, 30, 28)
    with PretendedGpu() as gpu:
        resampler = DeviceResampler(GPU)
        resampled, name = resampler(image, (17, 20, 41), THICK, CUBE, SPEC)
        gpu.bytes_to_device = 0
        again, _ = resampler(image, (17, 20, 41), THICK, CUBE, SPEC)
    assert (name, gpu.bytes_to_device) == ("", 0)
    expected = resample_image(image, (17, 20, 41), THICK, CUBE, SPEC)
    np.testing.assert_array_equal(resampled, expected)
    np.testing.assert_array_equal(again, expected)
    assert caplog.messages[0].startswith(
        "images are resampled on the CPU: a channel took 0.10 s there and 0.05 s on the"
    )


def test_a_gpu_that_computes_something_else_is_not_used(clock, monkeypatch, caplog):
    monkeypatch.setattr(device_resampling, "resample_channel", lambda *arguments: resample_channel(*arguments) + 0.01)
    image = noise(2, 12, 30, 28)
    with PretendedGpu():
        resampled, name = DeviceResampler(GPU)(image, (17, 20, 41), THICK, CUBE, SPEC)
    assert name == ""
    np.testing.assert_array_equal(resampled, resample_image(image, (17, 20, 41), THICK, CUBE, SPEC))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    ("error", "later", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "cuda:0", "cuda:0 has no room to resample an image"),
        (RuntimeError("CUDA error: no kernel image is available\nmore"), "", "no kernel image is available"),
    ],
)
def test_where_a_gpu_fails_the_cpu_resamples_and_says_so(clock, monkeypatch, caplog, error, later, words):
    image = noise(1, 12, 30, 28)
    with PretendedGpu():
        resampler = DeviceResampler(GPU, is_chosen=True)

        def fail(*_arguments):
            raise error

        monkeypatch.setattr(device_resampling, "resample_channel", fail)
        resampled, name = resampler(image, (17, 20, 41), THICK, CUBE, SPEC)
        monkeypatch.setattr(device_resampling, "resample_channel", resample_channel)
        _, name_later = resampler(image, (17, 20, 41), THICK, CUBE, SPEC)
    assert (name, name_later) == ("", later)
    np.testing.assert_array_equal(resampled, resample_image(image, (17, 20, 41), THICK, CUBE, SPEC))
    assert len(caplog.records) == 1
    assert words in caplog.messages[0]
    assert "CPU" in caplog.messages[0]


def test_a_constant_channel_decides_nothing(clock):
    image = np.ones((1, 12, 30, 28), dtype=np.float32)
    with PretendedGpu():
        resampler = DeviceResampler(GPU)
        resampled, name = resampler(image, (17, 20, 41), THICK, CUBE, ResamplingSpec(through_plane_order=3))
    assert (name, resampler.is_chosen) == ("", None)
    np.testing.assert_allclose(resampled, 1.0, atol=1e-6)


def test_a_full_gpu_leaves_the_image_to_the_cpu(clock, caplog):
    image = noise(1, 12, 30, 28)
    with PretendedGpu(free_bytes=100_000):
        _, name = DeviceResampler(GPU, is_chosen=True)(image, (17, 20, 41), CUBE, CUBE, SPEC)
    assert name == ""
    assert caplog.messages == ["cuda:0 has no room to resample an image; the CPU resamples it"]


def test_small_images_and_equal_shapes_are_not_sent_to_a_gpu():
    image = noise(2, 12, 30, 28)
    with PretendedGpu() as gpu:
        resampler = DeviceResampler(GPU)
        resampled, name = resampler(image, (17, 20, 41), CUBE, CUBE, SPEC)
        same, _ = resampler(image, (12, 30, 28), CUBE, CUBE, SPEC)
    assert same is image
    assert (name, gpu.bytes_to_device, resampler.is_chosen) == ("", 0, None)
    np.testing.assert_array_equal(resampled, resample_image(image, (17, 20, 41), CUBE, CUBE, SPEC))


def test_networks_choose_what_resamples_for_them():
    assert choose_resampler(CPU, "auto") is resample_on_cpu
    assert choose_resampler(GPU, "tf32") is resample_on_cpu
    assert choose_resampler(GPU, "auto") == DeviceResampler(GPU)


@pytest.mark.parametrize(
    ("processes", "max_memory", "words"),
    [
        (1, None, "images may be resampled on cuda:0 (processes: 1)"),
        (4, 10**12, "images may be resampled on cuda:0 (processes: 4)"),
        (5, 10**12, "on the CPU: with the GPU, 5 processes would take 5.83 GB of cuda:0, which has 4.66 GB free"),
        (
            4,
            10**10,
            "on the CPU: with the GPU, 4 processes would take 14.48 GB of the machine, which has 10.00 GB free",
        ),
    ],
)
def test_all_worker_processes_have_room_or_none_uses_the_gpu(processes, max_memory, words, caplog):
    caplog.set_level(logging.INFO, "autoseg.resampling")
    room = 4 * (device_resampling.CONTEXT_BYTES + device_resampling.SLAB_BYTES)
    with PretendedGpu(free_bytes=room):
        resampler = choose_resampler_of_workers("cuda:0", processes, 2 * 10**9, max_memory or 10**11)
    assert resampler == (resample_on_cpu if "CPU" in words else DeviceResampler(GPU))
    assert words in caplog.text


def test_a_gpu_that_torch_cannot_use_is_named(caplog):
    caplog.set_level(logging.INFO, "autoseg.resampling")
    assert choose_resampler_of_workers("cuda:7", 1, 1, None) is resample_on_cpu
    assert "images are resampled on the CPU" in caplog.messages[0]


def test_a_resampler_travels_to_a_worker():
    assert pickle.loads(pickle.dumps(DeviceResampler(GPU))) == DeviceResampler(GPU)
