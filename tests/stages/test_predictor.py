"""`Predictor` as a library: every kind of image, several threads, no files, times."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch

from autoseg import device_resampling
from autoseg.device_resampling import DeviceResampler
from autoseg.inference.memory.estimate import device_bytes, measure_available
from autoseg.inference.models.case_logits import stream_case_logits
from autoseg.inference.predictor import case_predictor
from autoseg.inference.predictor.images import as_volume
from autoseg.inference.windows.logit_slab import SlabStorage
from autoseg.inference.windows.network_pass import NetworkPasses
from autoseg.inference.windows.sliding_window import CPU_LIMITS
from autoseg.stages.predict import SPEEDS, PredictionOptions, Predictor
from tests.builders import CASCADE, SHAPE, SPACING, make_cascade_plan, make_image, make_plan, write_model, write_nifti
from tests.gpu.pretended_gpu import PretendedGpu


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)}, channel_names=("T1", "T2"))
    workspace = write_model(tmp_path_factory.mktemp("model"), plan, {"3d_fullres": ("0", "1")})
    return Predictor(workspace.root, PredictionOptions(device="cpu", precision="fp32"))


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    plan = make_cascade_plan((4.0, 2.4, 2.4), (2.0, 1.2, 1.2), channel_names=("T1", "T2"))
    workspace = write_model(tmp_path_factory.mktemp("cascade"), plan, {"3d_lowres": ("0",), CASCADE: ("0",)})
    return Predictor(workspace.root, PredictionOptions(configuration=CASCADE, device="cpu", precision="fp32"))


def two_channels(seed=0):
    return np.stack([make_image(seed), make_image(seed + 100)])


@pytest.mark.parametrize(("level", "lines"), [(logging.INFO, 1), (logging.DEBUG, 0)])
def test_what_predicts_many_cases_beside_other_work_says_no_memory(predictor, caplog, level, lines):
    quiet = replace(predictor.case_predictor, memory_log_level=level)
    with caplog.at_level(logging.INFO, "autoseg.predict"):
        prepared = quiet.prepare(as_volume(two_channels(), SPACING, None), case="a")
        with quiet.open_streams(prepared):
            pass
    assert sum("memory at the peak" in message for message in caplog.messages) == lines


def test_on_a_gpu_images_are_resampled_there(predictor, monkeypatch):
    image = two_channels()
    monkeypatch.setattr(device_resampling, "MIN_VOXELS", 1000)
    resampler = DeviceResampler(torch.device("cuda", 0), is_chosen=True)
    there = replace(predictor.case_predictor, resampler=resampler)
    with PretendedGpu() as gpu:
        prepared = there.prepare(as_volume(image, SPACING, None))
        assert gpu.bytes_to_device > image.nbytes / 2
    expected = predictor.case_predictor.prepare(as_volume(image, SPACING, None))
    assert prepared.records["3d_fullres"].resampled_on == "cuda:0"
    np.testing.assert_allclose(prepared.images["3d_fullres"], expected.images["3d_fullres"], atol=1e-4)


def test_every_kind_of_image_with_two_channels_gives_the_same_labels(predictor, tmp_path):
    image = two_channels()
    expected = predictor.predict(image, spacing=SPACING).labels
    assert len(np.unique(expected)) == 3
    first, second = (write_nifti(channel, tmp_path / f"x_{c}.nii.gz") for c, channel in enumerate(image))
    affine = nibabel.load(first).affine
    four_axes = nibabel.Nifti1Image(image.transpose(3, 2, 1, 0), affine)
    vectors = SimpleITK.GetImageFromArray(np.moveaxis(image, 0, -1), isVector=True)
    vectors.SetSpacing(SPACING[::-1])
    SimpleITK.WriteImage(vectors, tmp_path / "vectors.nrrd")
    nibabel.save(four_axes, tmp_path / "four_axes.nii")
    by_z_y_x = tuple(map(tuple, affine[:, [2, 1, 0, 3]].tolist()))
    found = {
        "one file per channel": predictor.predict([first, str(second)]),
        "4D file": predictor.predict(tmp_path / "four_axes.nii"),
        "file of vectors": predictor.predict(str(tmp_path / "vectors.nrrd")),
        "nibabel": predictor.predict(four_axes),
        "SimpleITK": predictor.predict(vectors),
        "array with affine": predictor.predict(image, spacing=SPACING, affine=by_z_y_x),
        "whole numbers of another type": predictor.predict(image.astype(np.float64), spacing=SPACING),
    }
    for kind, prediction in found.items():
        np.testing.assert_array_equal(prediction.labels, expected, err_msg=kind)
        assert prediction.grid.shape == SHAPE, kind
        assert prediction.grid.spacing == pytest.approx(SPACING), kind


def test_the_callers_image_is_left_as_it_was(predictor):
    image = two_channels()
    nifti = nibabel.Nifti1Image(image.transpose(3, 2, 1, 0).copy(), np.diag([*SPACING[::-1], 1]))
    itk = SimpleITK.GetImageFromArray(np.moveaxis(image, 0, -1), isVector=True)
    given = image.copy()
    for one in (given, nifti, itk):
        predictor.predict(one, spacing=SPACING if one is given else None)
    np.testing.assert_array_equal(given, image)
    np.testing.assert_array_equal(nifti.dataobj, image.transpose(3, 2, 1, 0))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(itk), np.moveaxis(image, 0, -1))


@pytest.mark.parametrize("name", ["predictor", "cascade"])
def test_threads_give_what_one_gives(name, request):
    model = request.getfixturevalue(name)
    images = [two_channels(seed) for seed in range(4)]
    serial = [model.predict(image, spacing=SPACING, probabilities=True, uncertainty=True) for image in images]
    assert len({labels.labels.tobytes() for labels in serial}) == 4, "otherwise mixed-up answers go unseen"
    together = Barrier(2)

    def predict(thread):
        together.wait(timeout=60)
        return [
            model.predict(images[index], spacing=SPACING, probabilities=True, uncertainty=True)
            for index in ((0, 1, 2, 3), (3, 2, 1, 0))[thread]
        ]

    with ThreadPoolExecutor(2) as pool:
        forwards, backwards = pool.map(predict, range(2))
    for answers in (forwards, backwards[::-1]):
        for answer, expected in zip(answers, serial, strict=True):
            np.testing.assert_array_equal(answer.labels, expected.labels)
            np.testing.assert_array_equal(answer.probabilities, expected.probabilities)
            np.testing.assert_array_equal(answer.uncertainty, expected.uncertainty)


def test_no_file_is_written(predictor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    predictor.predict(two_channels(), spacing=SPACING, probabilities=True, uncertainty=True)
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_asked_for_is_given(predictor):
    plain = predictor.predict(two_channels(), spacing=SPACING)
    assert (plain.probabilities, plain.uncertainty, plain.disagreement, plain.warnings) == (None, None, None, ())
    full = predictor.predict(two_channels(), spacing=SPACING, uncertainty=True)
    np.testing.assert_array_equal(full.labels, plain.labels)
    for shares in (full.uncertainty, full.disagreement):
        assert shares.shape == SHAPE
        assert shares.dtype == np.float16
        assert 0 <= shares.min() < shares.max() <= 1


def test_times_add_up_to_no_more_than_passed(predictor):
    start = time.perf_counter()
    seconds = predictor.predict(two_channels(), spacing=SPACING, uncertainty=True).seconds
    passed = time.perf_counter() - start
    assert set(seconds) == {"read", "preprocess", "network", "export", "disagreement"}
    assert all(value >= 0 for value in seconds.values())
    assert 0 < sum(seconds.values()) <= passed


def test_instances_in_memory(predictor):
    plain = predictor.predict(two_channels(), spacing=SPACING, probabilities=True)
    assert plain.instances is None
    found = predictor.predict(two_channels(), spacing=SPACING, instances=True)
    np.testing.assert_array_equal(found.labels, plain.labels)
    ids, table = found.instances.ids, found.instances.table
    np.testing.assert_array_equal(ids > 0, plain.labels > 0)
    winning = plain.probabilities.max(axis=0).astype(np.float64)
    assert [one.id for one in table] == list(range(1, ids.max() + 1))
    for one in table:
        mask = ids == one.id
        assert set(plain.labels[mask]) == {one.value}
        assert one.mean_probability == pytest.approx(winning[mask].mean(), abs=2e-3)
        assert one.volume_mm3 == pytest.approx(mask.sum() * np.prod(SPACING))


def test_instances_lie_the_same_whatever_the_orientation(predictor, tmp_path):
    """Numbers and places in the world stay when the file's axes are turned."""
    paths = [write_nifti(channel, tmp_path / f"x_{c}.nii.gz") for c, channel in enumerate(two_channels())]
    straight = predictor.predict(paths, instances=True).instances
    codes = nibabel.orientations.axcodes2ornt("PIR")
    turned = []
    for path in paths:
        image = nibabel.load(path)
        change = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), codes)
        nibabel.save(image.as_reoriented(change), path.with_name(f"turned_{path.name}"))
        turned.append(path.with_name(f"turned_{path.name}"))
    other = predictor.predict(turned, instances=True).instances
    assert len(other.table) == len(straight.table) > 1
    for one, same in zip(straight.table, other.table, strict=True):
        assert (one.voxels, one.label, one.touches_border) == (same.voxels, same.label, same.touches_border)
        assert one.center_mm == pytest.approx(same.center_mm, abs=1e-3)
        assert one.mean_probability == pytest.approx(same.mean_probability)


def test_postprocessed_voxels_have_no_probability(predictor, monkeypatch):
    """Post-processing is replaced by one that fills a slice that the networks left empty."""

    before = predictor.predict(two_channels(), spacing=SPACING, instances=True)
    assert not before.labels[:, :3].any()
    beside = 1 if (before.labels[:, 3] == 3).any() else 2  # an index that the next slice has

    def fill(labels, steps, encoding, _spacing):
        filled = labels.copy()
        filled[:, :3] = beside
        return filled

    monkeypatch.setattr(case_predictor, "apply_postprocessing", fill)
    after = predictor.predict(two_channels(), spacing=SPACING, instances=True, probabilities=True)
    winning = after.probabilities.max(axis=0).astype(np.float64)
    (largest,) = [one for one in after.instances.table if after.instances.ids[0, 0, 0] == one.id]
    mask = after.instances.ids == largest.id
    mask[:, :3] = False
    assert mask.any()
    assert largest.mean_probability == pytest.approx(winning[mask].mean(), abs=2e-3)


def test_each_speed_averages_over_less():
    best, balanced, fast = SPEEDS.values()
    assert (best.mirroring, balanced.mirroring, fast.mirroring) == (True, False, False)
    assert (best.max_folds, balanced.max_folds, fast.max_folds) == (None, None, 1)
    assert best.overlap == balanced.overlap == 0.5 > fast.overlap


@pytest.fixture
def device_free(monkeypatch) -> list[int]:
    """Free bytes of a device, which tests change."""
    free = [0]
    monkeypatch.setattr(
        "autoseg.inference.predictor.case_predictor.measure_available",
        lambda *arguments: replace(measure_available(*arguments), device=free[0]),
    )
    return free


@pytest.fixture
def places(monkeypatch) -> list[tuple[str, str]]:
    """Name of the thread and place of the sums of every stream."""
    found: list[tuple[str, str]] = []

    def stream(*arguments, **options):
        found.append((threading.current_thread().name, options["settings"].storage.place))
        return stream_case_logits(*arguments, **options)

    monkeypatch.setattr("autoseg.inference.predictor.member_streams.stream_case_logits", stream)
    return found


def test_the_place_of_the_sums_is_chosen_when_the_networks_start(predictor, device_free, places):
    """While a case is prepared, the sums of the one before fill the device; they are gone when its own turn comes."""
    prepared = predictor.case_predictor.prepare(as_volume(two_channels(), SPACING, None))
    device_free[0] = 10**12
    predictor.case_predictor.predict(prepared)
    assert places == [("MainThread", "device")]


def test_threads_are_not_promised_the_same_memory(predictor, device_free, places):
    first, second = (predictor.case_predictor.prepare(as_volume(two_channels(), SPACING, None)) for _ in range(2))
    device_free[0] = 2 * device_bytes(first.estimate.steps, SlabStorage("device")) - 1
    with predictor.case_predictor.open_streams(first):
        other = threading.Thread(target=lambda: predictor.case_predictor.predict(second), name="other")
        other.start()
        other.join()
    assert places == [("MainThread", "device"), ("other", "ram")]


@pytest.mark.parametrize("is_too_small", [False, True])
def test_a_small_gpu_gets_as_many_windows_at_a_time_as_a_cpu(predictor, monkeypatch, is_too_small):
    """So that the sums of windows still lie beside the networks."""
    cases, gpu = predictor.case_predictor, torch.device("cuda")
    members = tuple(replace(member, passes=NetworkPasses(gpu)) for member in cases.members)
    on_gpu = replace(cases, members=members)
    free = [10**12]
    for module, name in (("memory.estimate", "free_memory_bytes"), ("predictor.case_predictor", "total_memory_bytes")):
        monkeypatch.setattr(f"autoseg.inference.{module}.{name}", lambda _device: free[0])
    volume = as_volume(two_channels(), SPACING, None)
    large = on_gpu.prepare(volume)
    assert large.windows.limits is None
    small = cases.prepare(volume).estimate
    needed, less = (device_bytes(one.steps, SlabStorage("device")) for one in (large.estimate, small))
    assert less < needed
    free[0] = int(needed / 0.9) + (-10 if is_too_small else 10)
    prepared = on_gpu.prepare(volume)
    assert prepared.windows.limits == (CPU_LIMITS if is_too_small else None)
    assert device_bytes(prepared.estimate.steps, SlabStorage("device")) == (less if is_too_small else needed)
