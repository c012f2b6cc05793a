"""From logits on the network's grid to label maps on the image's grid."""

import tracemalloc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from autoseg.errors import PredictionError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.inference.restoring import restore
from autoseg.inference.restoring.restore import (
    LogitStream,
    restore_combinations,
    restore_labels,
    restore_on_grid,
    restore_with_grids,
)
from autoseg.inference.sinks.probabilities import ProbabilityVolume
from autoseg.records.case import Orientation, PreprocessedCase
from autoseg.records.dataset import LabelValues
from autoseg.records.network import ResamplingSpec

LABELS = make_encoding({"background": 0, "a": 5, "b": 9, "c": 11})
REGIONS = make_encoding({"background": 0, "whole": (1, 2, 3), "core": (2, 3), "enhancing": 3}, (2, 1, 3))


@pytest.fixture(autouse=True)
def thin_slabs(monkeypatch):
    """Several slabs even for small volumes."""
    monkeypatch.setattr(restore, "SLAB_VOXELS", 600)


def make_record(shape, cropped, *, spacing, original_spacing, margin=0, transpose=(0, 1, 2)):
    return PreprocessedCase(
        case="case",
        configuration="3d_fullres",
        spacing=spacing,
        shape=shape,
        original_spacing=original_spacing,
        original_shape=tuple(size + 3 * margin for size in cropped),
        crop_start=(margin,) * 3,
        crop_stop=tuple(margin + size for size in cropped),
        transpose=transpose,
    )


def answer_of(logits, record):
    return LogitStream(torch.as_tensor(logits).unbind(1), record, ResamplingSpec())


def restored(logits, record, encoding):
    return restore_labels([answer_of(logits, record)], encoding)


def with_probabilities(answers, encoding):
    """Label map and probabilities of the whole image, axes as in working orientation."""
    shape = [answers[0].record.original_shape[axis] for axis in np.argsort(answers[0].record.transpose)]
    array = np.zeros((len(encoding.heads), *shape), dtype=np.float16)
    labels = restore_labels(answers, encoding, [ProbabilityVolume(array, encoding, Orientation())])
    return labels, array


def smooth_logits(heads, shape, seed=0):
    return np.random.default_rng(seed).normal(size=(heads, *shape)).astype(np.float32)


def skimage_logits(logits, shape):
    return np.stack([resize(head.astype(np.float64), shape, order=1, mode="edge", anti_aliasing=False)
                     for head in logits])  # fmt: skip


def assert_same_decision(found, resized):
    """Equal to the argmax but for float32 ties."""
    best = np.sort(resized, axis=0)
    clear = best[-1] - best[-2] > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[clear], resized.argmax(axis=0)[clear])


@pytest.mark.parametrize("cropped", [(9, 13, 17), (3, 13, 6), (14, 4, 8), (5, 13, 11), (9, 7, 11), (5, 7, 19)])
def test_linear_resize_then_argmax_equals_skimage(cropped):
    logits = smooth_logits(4, (5, 7, 11))
    record = make_record((5, 7, 11), cropped, spacing=(1.0, 1.0, 1.0), original_spacing=(0.9, 0.8, 1.1))
    found = restored(torch.from_numpy(logits), record, LABELS)
    assert found.dtype == np.uint8
    assert_same_decision(found, skimage_logits(logits, cropped))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_separate_axis_takes_the_nearest_slice(axis):
    shape, cropped = (7, 9, 11), [13, 15, 17]
    original = [0.5, 0.5, 0.5]
    cropped[axis], original[axis] = 3, 4.0  # thick slices: more than three times the others
    logits = smooth_logits(4, shape)
    plane = [shape[i] if i == axis else cropped[i] for i in range(3)]
    # new slice i has its centre at (i + 0.5) * old / new - 0.5, never halfway for these odd sizes
    nearest = np.rint((np.arange(3) + 0.5) * shape[axis] / 3 - 0.5).astype(int)
    expected = np.take(skimage_logits(logits, plane), nearest, axis=axis + 1)
    record = make_record(shape, tuple(cropped), spacing=(1.0,) * 3, original_spacing=tuple(original))
    assert_same_decision(restored(logits, record, LABELS), expected)


def test_equal_shapes_are_not_resampled():
    logits = smooth_logits(4, (5, 7, 11))
    record = make_record((5, 7, 11), (5, 7, 11), spacing=(2.0, 1.0, 1.0), original_spacing=(2.0, 1.0, 1.0))
    found = restored(logits, record, LABELS)
    np.testing.assert_array_equal(found, logits.argmax(axis=0))


def test_crop_and_transpose_are_undone():
    logits = smooth_logits(4, (5, 7, 11))
    logits[0] -= 10  # no background inside the crop
    record = make_record(
        (5, 7, 11), (5, 7, 11), spacing=(1.0,) * 3, original_spacing=(1.0,) * 3, margin=2, transpose=(2, 0, 1)
    )  # fmt: skip
    found = restored(logits, record, LABELS)
    # transposed (11, 13, 17) with axis i = working axis (2, 0, 1)[i]: working is (13, 17, 11)
    assert found.shape == (13, 17, 11)
    expected = np.zeros((11, 13, 17))
    expected[2:7, 2:9, 2:13] = logits.argmax(axis=0)
    np.testing.assert_array_equal(found, np.moveaxis(expected, 0, 2))
    assert (found == 0).sum() == 13 * 17 * 11 - 5 * 7 * 11


def test_regions_are_painted_in_order():
    probabilities = np.array([0.9, 0.8, 0.4])  # whole, core, enhancing
    logits = np.log(probabilities / (1 - probabilities)).astype(np.float32).reshape(3, 1, 1, 1)
    record = make_record((1, 1, 1), (1, 1, 1), spacing=(1.0,) * 3, original_spacing=(1.0,) * 3)
    found = restored(logits, record, REGIONS)
    assert REGIONS.values[found[0, 0, 0]] == 1
    nothing = restored(np.full_like(logits, -1), record, REGIONS)
    assert nothing.item() == 0
    for value, logit in [(3, [1, 1, 1]), (2, [1, -1, -1]), (3, [-1, -1, 1])]:
        found = restored(np.array(logit, dtype=np.float32).reshape(3, 1, 1, 1), record, REGIONS)
        assert REGIONS.values[found.item()] == value


@pytest.mark.parametrize(
    ("logit", "value"),
    [((1, 1, -1), 4), ((1, -1, -1), 1), ((-1, 1, 1), 5), ((1, 1, 1), 6), ((-1, -1, -1), 0), ((1, -1, 1), 3)],
)
def test_labels_that_overlap_share_a_voxel(logit, value):
    """Value 4 is left and middle, 5 middle and right, 6 all; left and right alone occur nowhere: the later one wins."""
    labels: dict[str, LabelValues] = {"background": 0, "left": (1, 4, 6), "middle": (2, 4, 5, 6), "right": (3, 5, 6)}
    encoding = make_encoding(labels, (1, 2, 3), overlapping=True)
    record = make_record((1, 1, 1), (1, 1, 1), spacing=(1.0,) * 3, original_spacing=(1.0,) * 3)
    found = restored(np.array(logit, dtype=np.float32).reshape(3, 1, 1, 1), record, encoding)
    assert encoding.values[found.item()] == value


def test_regions_of_a_resized_volume():
    logits = smooth_logits(3, (5, 7, 11))
    record = make_record((5, 7, 11), (9, 8, 6), spacing=(1.0,) * 3, original_spacing=(1.0,) * 3)
    resized = skimage_logits(logits, (9, 8, 6))
    expected = np.zeros((9, 8, 6), dtype=int)
    for head, value in zip(resized, (2, 1, 3), strict=True):
        expected[head > 0] = value
    found = np.array(REGIONS.values)[restored(logits, record, REGIONS)]
    clear = (np.abs(resized) > 1e-4).all(axis=0)
    np.testing.assert_array_equal(found[clear], expected[clear])


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 12)] * 3), st.permutations((0, 1, 2)),
    st.integers(0, 3),
)  # fmt: skip
def test_any_shape_gives_its_own_shape_back(shape, cropped, transpose, margin):
    record = make_record(
        shape, cropped, spacing=(1.0,) * 3, original_spacing=(1.0,) * 3, margin=margin, transpose=tuple(transpose)
    )
    found = restored(smooth_logits(4, shape), record, LABELS)
    assert [found.shape[axis] for axis in transpose] == list(record.original_shape)
    assert 0 <= found.min() <= found.max() <= 3


def test_probabilities_and_their_mean():
    first, second = smooth_logits(4, (5, 7, 11), 1), smooth_logits(4, (4, 5, 6), 2)
    cropped = (8, 9, 10)
    members = [
        answer_of(
            logits,
            make_record(logits.shape[1:], cropped, spacing=(1.0,) * 3, original_spacing=(1.0,) * 3, margin=1),
        )
        for logits in (first, second)
    ]
    resized = [np.exp(skimage_logits(logits, cropped)) for logits in (first, second)]
    mean = sum(value / value.sum(axis=0) for value in resized) / 2
    labels, found = with_probabilities(members, LABELS)
    assert found.shape == (4, 11, 12, 13)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found[:, 1:9, 1:10, 1:11], mean, atol=1e-3)
    assert (found[0, 0] == 1).all()
    assert (found[1:, 0] == 0).all()
    assert_same_decision(labels[1:9, 1:10, 1:11], mean)
    np.testing.assert_array_equal(restore_labels(members, LABELS), labels)


def test_mean_of_region_probabilities():
    record = make_record((1, 1, 1), (1, 1, 1), spacing=(1.0,) * 3, original_spacing=(1.0,) * 3)
    # the mean logit of `core` is positive, its mean probability is below one half: only `whole` is painted, with 2
    values = ([0.9, 0.99, 0.1], [0.4, 0.3, 0.1], [0.6, 0.2, 0.1])
    members = [answer_of(torch.logit(torch.tensor(p)).reshape(3, 1, 1, 1), record) for p in values]
    labels, found = with_probabilities(members, REGIONS)
    assert REGIONS.values[labels.item()] == 2
    np.testing.assert_allclose(found.reshape(3), [1.9 / 3, 1.49 / 3, 0.1], atol=1e-3)


@pytest.mark.parametrize("encoding", [LABELS, REGIONS])
def test_combinations_equal_means_of_whole_arrays(encoding):
    cropped, heads = (8, 9, 10), len(encoding.heads)
    shapes = [(8, 13, 6), (5, 7, 11), (4, 5, 6)]  # the first is resampled in its planes only
    arrays = [3 * smooth_logits(heads, shape, seed) for seed, shape in enumerate(shapes)]
    records = [
        make_record(shape, cropped, spacing=spacing, original_spacing=(2.0, 0.8, 1.1), margin=1, transpose=(1, 2, 0))
        for shape, spacing in zip(shapes, [(2.0, 0.5, 1.9), (3.0, 1.1, 1.0), (4.0, 1.5, 1.9)], strict=True)
    ]
    resized = [skimage_logits(logits, cropped) for logits in arrays]
    if encoding is LABELS:
        probabilities = [np.exp(one) / np.exp(one).sum(axis=0) for one in resized]
    else:
        probabilities = [1 / (1 + np.exp(-one)) for one in resized]
    combinations = [(0, 1), (0, 2), (1, 2), (2,), (0, 1, 2)]
    answers = [answer_of(logits, record) for logits, record in zip(arrays, records, strict=True)]

    found = restore_combinations(answers, combinations, encoding)

    assert len(found) == len(combinations)
    for labels, combination in zip(found, combinations, strict=True):
        mean = np.mean([probabilities[position] for position in combination], axis=0)
        inside = labels.transpose(1, 2, 0)[1:9, 1:10, 1:11]
        assert labels.sum() == inside.sum() > 0
        if encoding is LABELS:
            assert_same_decision(inside, mean)
            continue
        expected = np.zeros(cropped, dtype=int)
        for region, head in zip(mean, REGIONS.heads, strict=True):
            expected[region > 0.5] = head.painted_index
        clear = (np.abs(mean - 0.5) > 1e-4).all(axis=0)
        np.testing.assert_array_equal(inside[clear], expected[clear])


@pytest.mark.parametrize("with_sink", [False, True])
@pytest.mark.parametrize("num_members", [1, 2])
def test_thresholds_of_regions(num_members, with_sink):
    shape, thresholds = (5, 7, 11), {"whole": 0.3, "enhancing": 0.85}  # core: one half
    members = [smooth_logits(3, shape, seed) for seed in range(num_members)]
    record = make_record(shape, shape, spacing=(1.0,) * 3, original_spacing=(1.0,) * 3)
    mean = np.mean([1 / (1 + np.exp(-one.astype(np.float64))) for one in members], axis=0)
    expected = np.zeros(shape, dtype=int)
    for region, limit, value in zip(mean, (0.3, 0.5, 0.85), (2, 1, 3), strict=True):
        expected[region > limit] = value
    volume = np.zeros((3, *shape), dtype=np.float16)
    sinks = [ProbabilityVolume(volume, REGIONS, Orientation())] if with_sink else []
    labels = restore_labels([answer_of(one, record) for one in members], REGIONS, sinks, thresholds)
    np.testing.assert_array_equal(np.array(REGIONS.values)[labels], expected)
    halves = restore_labels([answer_of(one, record) for one in members], REGIONS, sinks)
    assert (halves != labels).any()


def test_members_with_different_boxes_are_refused():
    records = [make_record((2, 2, 2), (n, 3, 3), spacing=(1.0,) * 3, original_spacing=(1.0,) * 3) for n in (3, 4)]
    members = [answer_of(torch.zeros(4, 2, 2, 2), record) for record in records]
    with pytest.raises(PredictionError, match="case case: its configurations were cropped to different boxes"):
        restore_labels(members, LABELS)
    with pytest.raises(PredictionError, match="case case: its configurations were cropped to different boxes"):
        restore_combinations(members, [(0, 1)], LABELS)


BOX = (18, 26, 34)


@pytest.mark.parametrize("shape", [(9, 13, 17), (3, 13, 6), (14, 4, 8), (5, 7, 11), (5, 13, 11)])
def test_a_label_map_on_the_next_grid_is_resized_logits_decided(shape):
    logits = smooth_logits(4, (5, 7, 11))
    own = make_record((5, 7, 11), BOX, spacing=(1.8, 1.9, 2.0), original_spacing=(0.5, 0.5, 0.6), margin=2)
    grid = make_record(shape, BOX, spacing=(0.9, 0.8, 1.1), original_spacing=(0.5, 0.5, 0.6), margin=2)
    found = restore_on_grid(answer_of(logits, own), grid, LABELS)
    assert found.dtype == np.uint8
    assert_same_decision(found, skimage_logits(logits, shape))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(*[st.integers(1, 30)] * 3), max_size=3))
def test_several_grids_from_one_stream_are_each_as_from_its_own(shapes):
    logits = smooth_logits(4, (12, 7, 11))
    own = make_record((12, 7, 11), BOX, spacing=(1.8, 1.9, 2.0), original_spacing=(1.0, 1.0, 1.0), margin=2)
    grids = [make_record(s, BOX, spacing=(0.9, 0.8, 1.1), original_spacing=(1.0,) * 3, margin=2) for s in shapes]
    labels, maps = restore_with_grids(answer_of(logits, own), grids, LABELS)
    np.testing.assert_array_equal(labels, restored(logits, own, LABELS))
    assert len(maps) == len(grids)
    for found, grid in zip(maps, grids, strict=True):
        np.testing.assert_array_equal(found, restore_on_grid(answer_of(logits, own), grid, LABELS))


def test_several_grids_advance_together():
    """Few slices wait for the slowest consumer; all would, if one were filled after the other."""
    shape = (60, 7, 11)
    own = make_record(shape, (40, 9, 9), spacing=(1.0,) * 3, original_spacing=(1.0,) * 3)
    grid = make_record((90, 9, 9), (40, 9, 9), spacing=(1.0,) * 3, original_spacing=(1.0,) * 3)
    alive: list[weakref.ref[torch.Tensor]] = []
    counts = []

    def stream():
        for _ in range(shape[0]):
            counts.append(sum(reference() is not None for reference in alive))
            values = torch.randn(4, *shape[1:])
            alive.append(weakref.ref(values))
            yield values
            del values

    restore_with_grids(LogitStream(stream(), own, ResamplingSpec()), [grid], LABELS)
    assert len(counts) == 60
    assert max(counts) < 25


def test_thick_slices_of_the_next_grid_are_the_nearest_ones():
    logits = smooth_logits(4, (7, 9, 11))
    own = make_record((7, 9, 11), BOX, spacing=(1.0, 1.0, 1.0), original_spacing=(1.0, 1.0, 1.0))
    grid = make_record((3, 15, 17), BOX, spacing=(4.0, 0.5, 0.5), original_spacing=(1.0, 1.0, 1.0))
    # new slice i has its centre at (i + 0.5) * 7 / 3 - 0.5: 0.67, 3, 5.33
    expected = skimage_logits(logits, (7, 15, 17))[:, [1, 3, 5]]
    assert_same_decision(restore_on_grid(answer_of(logits, own), grid, LABELS), expected)


def test_regions_on_the_next_grid_are_painted():
    logits = smooth_logits(3, (5, 7, 11))
    own = make_record((5, 7, 11), BOX, spacing=(1.0,) * 3, original_spacing=(1.0,) * 3)
    grid = make_record((9, 8, 6), BOX, spacing=(0.9,) * 3, original_spacing=(1.0,) * 3)
    resized = skimage_logits(logits, (9, 8, 6))
    expected = np.zeros((9, 8, 6), dtype=int)
    for head, value in zip(resized, (2, 1, 3), strict=True):
        expected[head > 0] = value
    found = restore_on_grid(answer_of(logits, own), grid, REGIONS)
    clear = (np.abs(resized) > 1e-4).all(axis=0)
    np.testing.assert_array_equal(np.array(REGIONS.values)[found][clear], expected[clear])


def test_a_label_map_is_not_passed_on_to_another_box():
    own = make_record((2, 2, 2), (3, 3, 3), spacing=(1.0,) * 3, original_spacing=(1.0,) * 3)
    grid = make_record((4, 4, 4), (3, 3, 4), spacing=(0.5,) * 3, original_spacing=(1.0,) * 3)
    with pytest.raises(PredictionError, match=r"case case: .*different boxes.*cannot be passed on; preprocess both"):
        restore_on_grid(answer_of(torch.zeros(4, 2, 2, 2), own), grid, LABELS)


def test_memory_does_not_grow_with_classes(monkeypatch):
    """Numpy sees the label map alone; torch's allocations are counted by hand."""
    monkeypatch.setattr(restore, "SLAB_VOXELS", 40 * 50)
    shape, cropped = (12, 20, 25), (30, 40, 50)
    record = make_record(shape, cropped, spacing=(1.0,) * 3, original_spacing=(0.4, 0.5, 0.5))
    largest = []
    for heads in (3, 90):
        names: dict[str, LabelValues] = {"background": 0, **{f"label{value}": value for value in range(1, heads)}}
        logits = torch.randn(heads, *shape)
        with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            tracemalloc.start()
            restored(logits, record, make_encoding(names))
            numpy_peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        changes = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        held = np.cumsum([event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())])
        largest.append(int(held.max()))
        assert numpy_peak < 2 * np.prod(cropped) * 2 + 200_000
    few, many = largest
    assert many == few
    assert many < 12 * 40 * 50 * 4
    assert few > 0


def test_combinations_may_have_weights():
    record = make_record((5, 7, 11), (5, 7, 11), spacing=(1.0,) * 3, original_spacing=(1.0,) * 3)
    logits = [smooth_logits(4, (5, 7, 11), seed) for seed in range(2)]
    shares = [np.exp(own) / np.exp(own).sum(axis=0) for own in logits]
    weights = [(0.2, 0.8), (0.65, 0.35)]
    streams = [answer_of(own, record) for own in logits]
    found = restore_combinations(streams, [(0, 1), (0, 1)], LABELS, weights)
    for labels, (first, second) in zip(found, weights, strict=True):
        assert_same_decision(labels, first * shares[0] + second * shares[1])
    assert (found[0] != found[1]).any()
    weighted = [replace(answer_of(own, record), weight=weight) for own, weight in zip(logits, weights[0], strict=True)]
    np.testing.assert_array_equal(restore_labels(weighted, LABELS), found[0])
