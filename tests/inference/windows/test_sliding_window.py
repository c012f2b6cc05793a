"""Windows, their weights and the blend."""

import itertools
import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import PredictionError
from autoseg.inference.windows.logit_slab import SlabStorage
from autoseg.inference.windows.network_pass import NetworkPass, NetworkPasses
from autoseg.inference.windows.sliding_window import (
    CPU_LIMITS,
    WindowSettings,
    choose_window_batch,
    importance_map,
    slab_depth,
    stream_logits,
    window_starts,
)
from tests.builders import predict_logits


@pytest.mark.parametrize(
    ("size", "patch", "starts"),
    [
        (110, 64, (0, 23, 46)),
        (512, 160, (0, 70, 141, 211, 282, 352)),
        (64, 64, (0,)),
        (40, 64, (0,)),
        (65, 64, (0, 1)),
        (16, 4, (0, 2, 4, 6, 8, 10, 12)),
    ],
)
def test_starts(size, patch, starts):
    assert window_starts(size, patch, 0.5) == starts


def test_starts_by_overlap():
    assert window_starts(16, 4, 0.0) == (0, 4, 8, 12)
    assert window_starts(16, 4, 0.75) == tuple(range(13))
    for overlap in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"overlap must be in \[0, 1\)"):
            window_starts(16, 4, overlap)


@given(st.integers(1, 400), st.integers(1, 200), st.floats(0, 0.9))
def test_starts_cover_the_axis(size, patch, overlap):
    starts = window_starts(size, patch, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, size - patch)
    steps = np.diff(starts)
    assert (steps > 0).all() or patch == 1 or overlap > 0.5
    assert (steps <= math.ceil(patch * (1 - overlap))).all()


def test_importance_map_is_a_gaussian_with_a_floor():
    weights = importance_map((8, 16, 24))
    assert weights.shape == (8, 16, 24)
    assert weights.dtype == np.float32
    assert weights.max() == weights[4, 8, 12] == 1
    # the corner's Gaussian, exp(-24) = 4e-11, is below what float16 holds at a scale of 10
    assert weights.min() == weights[0, 0, 0] == pytest.approx(5.96e-9, rel=1e-3)
    assert weights[0, 0, 12] == pytest.approx(math.exp(-16), rel=1e-4)
    # one sigma (an eighth of the patch) along y and x, by the closed form
    assert weights[4, 8 + 2, 12] == pytest.approx(math.exp(-0.5), rel=1e-5)
    assert weights[4, 8, 12 - 3] == pytest.approx(math.exp(-0.5), rel=1e-5)
    assert weights[4 - 1, 8 + 2, 12 + 3] == pytest.approx(math.exp(-1.5), rel=1e-5)
    assert (importance_map((5, 7, 9)) > 0).all()


@pytest.mark.parametrize(
    ("patch", "on_a_cpu", "on_a_gpu"),
    [((40, 56, 40), 8, 32), ((256, 224), 8, 32), ((512, 512), 4, 16), ((48, 96, 96), 2, 8), ((64, 96, 96), 1, 4),
     ((128, 128, 128), 1, 2), ((192, 192, 192), 1, 1)],
)  # fmt: skip
def test_window_batch(patch, on_a_cpu, on_a_gpu):
    assert choose_window_batch(patch, torch.device("cpu"), WindowSettings()) == on_a_cpu
    assert choose_window_batch(patch, torch.device("cuda", 1), WindowSettings()) == on_a_gpu
    assert choose_window_batch(patch, torch.device("cuda"), WindowSettings(limits=CPU_LIMITS)) == on_a_cpu
    assert choose_window_batch(patch, torch.device("cuda"), WindowSettings(window_batch=5)) == 5


def direct_blend(forward, image, patch, heads, overlap, axes):
    """Every window and variant on its own, in float64."""
    shape = image.shape[1:]
    flat = len(patch) == 2
    window = (1, *patch) if flat else patch
    lack = [max(0, p - s) for p, s in zip(window, shape, strict=True)]
    padded = np.pad(image.numpy(), [(0, 0), *((n // 2, n - n // 2) for n in lack)])
    weights = importance_map(window).astype(np.float64)
    total, norm = np.zeros((heads, *padded.shape[1:])), np.zeros(padded.shape[1:])
    starts = [range(s) if p == 1 else window_starts(s, p, overlap)
              for s, p in zip(padded.shape[1:], window, strict=True)]  # fmt: skip
    for corner in itertools.product(*starts):
        box = tuple(slice(c, c + p) for c, p in zip(corner, window, strict=True))
        crop = torch.from_numpy(padded[(slice(None), *box)])
        crop = crop[:, 0] if flat else crop
        subsets = [s for n in range(len(axes) + 1) for s in itertools.combinations(axes, n)]
        answer = np.zeros((heads, *window))
        for subset in subsets:
            dims = [axis + 1 for axis in subset]
            logits = torch.flip(forward(torch.flip(crop, dims)[None])[0], dims).numpy()
            answer += (logits[:, None] if flat else logits) / len(subsets)
        total[(slice(None), *box)] += weights * answer
        norm[box] += weights
    inside = tuple(slice(n // 2, n // 2 + s) for n, s in zip(lack, shape, strict=True))
    return (total / norm)[(slice(None), *inside)]


@pytest.mark.parametrize("axes", [(), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("batch", [1, 3, 8, 20])
def test_blend_in_3d_equals_window_by_window(axes, batch):
    torch.manual_seed(1)
    convolution = torch.nn.Conv3d(2, 3, 3, padding=1)
    image = torch.randn(2, 9, 4, 13)  # shorter than the window along y by 2: one voxel of padding on each side
    with torch.no_grad():
        expected = direct_blend(convolution, image, (5, 6, 7), 3, 0.5, axes)
    found = predict_logits(convolution, image, (5, 6, 7), 3, axes, window_batch=batch)
    assert found.shape == (3, 9, 4, 13)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def whole_volume(forward, image, window, heads, overlap):
    """Sums in arrays of the whole padded volume, window by window in float32, divided at the end."""
    lack = [max(0, length - size) for length, size in zip(window, image.shape[1:], strict=True)]
    padded = torch.from_numpy(np.pad(image.numpy(), [(0, 0), *((n // 2, n - n // 2) for n in lack)]))
    weights = torch.from_numpy(importance_map(window).copy())
    total, norm = torch.zeros(heads, *padded.shape[1:]), torch.zeros(padded.shape[1:])
    starts = [window_starts(size, length, overlap) for size, length in zip(padded.shape[1:], window, strict=True)]
    for corner in itertools.product(*starts):
        box = tuple(slice(first, first + length) for first, length in zip(corner, window, strict=True))
        total[:, *box] += forward(padded[None, :, *box])[0] * weights
        norm[box] += weights
    return (total / norm)[:, *(slice(n // 2, n // 2 + s) for n, s in zip(lack, image.shape[1:], strict=True))]


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(*[st.integers(1, 14)] * 3), st.tuples(*[st.integers(2, 6)] * 3), st.sampled_from([0.0, 0.3, 0.5, 0.8]),
    st.integers(1, 9), st.sampled_from(["ram", "file"]),
)  # fmt: skip
def test_slices_are_those_of_the_whole_volume_to_the_bit(shape, window, overlap, batch, place):
    def forward(windows):
        return torch.cat([windows, windows**2], dim=1)

    image = torch.randn(1, *shape)
    found = predict_logits(forward, image, window, 2, overlap=overlap, window_batch=batch, storage=SlabStorage(place))
    assert torch.equal(found, whole_volume(forward, image, window, 2, overlap))


def test_half_precision_sums_are_close():
    image = torch.randn(1, 13, 11, 9) * 10
    exact, half = (
        predict_logits(
            lambda windows: windows**2, image, (4, 5, 6), 1, window_batch=2, storage=SlabStorage("ram", dtype)
        )
        for dtype in (torch.float32, torch.float16)
    )
    assert 0 < float((half - exact).abs().max()) < 2e-3 * float(exact.abs().max())


def test_slices_come_as_soon_as_no_window_reaches_them():
    seen = []

    def forward(windows):
        seen.append(len(windows))
        return windows

    stream = stream_logits(
        forward, [np.zeros((10, 4, 6), dtype=np.float32)], (4, 4, 4), 1, settings=WindowSettings(window_batch=1)
    )
    next(stream)
    assert len(seen) == 2  # both windows at z = 0 (the next start at 2), none at 2
    next(stream)
    assert len(seen) == 2
    next(stream)
    assert len(seen) == 4
    assert len(list(stream)) == 7
    assert len(seen) == 8


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(*[st.integers(1, 40)] * 3), st.tuples(*[st.integers(2, 12)] * 3), st.sampled_from([0.0, 0.5, 0.7]),
    st.integers(1, 7), st.booleans(),
)  # fmt: skip
def test_the_slab_is_as_deep_as_what_a_pass_opens(shape, window, overlap, batch, flat):
    patch = window[1:] if flat else window
    depth = slab_depth(shape, patch, overlap, batch)
    starts = [range(s) if flat and not axis else window_starts(s, (1, *patch)[axis] if flat else patch[axis], overlap)
              for axis, s in enumerate(shape)]  # fmt: skip
    first = [corner[0] for corner in itertools.product(*starts)]
    reach = 1 if flat else window[0]
    spans = [min(shape[0], max(first[i : i + batch]) + reach) - first[i] for i in range(0, len(first), batch)]
    assert depth == max(spans)


def test_blend_in_2d_equals_window_by_window():
    torch.manual_seed(2)
    convolution = torch.nn.Conv2d(1, 2, 3, padding=1)
    image = torch.randn(1, 5, 11, 6)  # x is one short of 7: the extra voxel lies at the far end
    with torch.no_grad():
        expected = direct_blend(convolution, image, (6, 7), 2, 0.5, (0, 1))
    found = predict_logits(convolution, image, (6, 7), 2, (0, 1))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_padding_is_symmetric_with_the_odd_voxel_at_the_far_end():
    seen = []

    def forward(windows):
        seen.append(windows.clone())
        return windows

    image = torch.arange(1.0, 4.0).reshape(1, 3, 1, 1)
    found = predict_logits(forward, image, (8, 2, 1), 1)
    assert seen[0].flatten(1)[0].reshape(8, 2)[:, 0].tolist() == [0, 0, 1, 2, 3, 0, 0, 0]
    torch.testing.assert_close(found, image)


@settings(deadline=None, max_examples=25)
@given(st.tuples(*[st.integers(1, 12)] * 3), st.tuples(*[st.integers(2, 6)] * 3), st.sampled_from([0.0, 0.25, 0.5]))
def test_a_network_that_copies_gives_the_image_back(shape, patch, overlap):
    image = torch.randn(1, *shape)
    found = predict_logits(lambda windows: windows, image, patch, 1, overlap=overlap)
    torch.testing.assert_close(found, image, rtol=1e-5, atol=1e-5)


def test_batches_have_one_shape():
    shapes = []

    def forward(windows):
        shapes.append(tuple(windows.shape))
        return windows

    predict_logits(forward, torch.zeros(1, 8, 12, 16), (4, 4, 4), 1, (0, 1, 2), window_batch=16)
    assert set(shapes[:-1]) == {(16, 1, 4, 4, 4)}
    # 3 x 5 x 7 windows, 8 variants each, two windows a batch
    assert sum(shape[0] for shape in shapes) == 3 * 5 * 7 * 8


def test_half_precision_is_summed_in_float32():
    convolution = torch.nn.Conv3d(1, 2, 3, padding=1)
    image = torch.randn(1, 6, 8, 10)
    exact = predict_logits(convolution, image, (4, 6, 8), 2)
    coarse = predict_logits(NetworkPass(convolution, NetworkPasses(dtype=torch.bfloat16)), image, (4, 6, 8), 2)
    assert coarse.dtype == torch.float32
    assert 0 < float((coarse - exact).abs().max()) < 0.05


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_undefined_logits_are_refused(value):
    with pytest.raises(PredictionError, match="infinite or undefined values for head 1"):
        predict_logits(
            lambda windows: torch.cat([windows, windows * value], dim=1), torch.ones(1, 4, 4, 4), (4, 4, 4), 2
        )


def test_mirrored_variants_are_predicted_one_at_a_time_where_memory_runs_out(caplog):
    image, passes = np.random.default_rng(2).normal(size=(1, 5, 9, 14)).astype(np.float32), []

    def forward(windows):
        passes.append(len(windows))
        return torch.cat([windows, -2 * windows], dim=1)

    def limited(windows):
        if len(windows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(windows)

    with caplog.at_level(logging.WARNING, "autoseg.predict"):
        found, expected = (
            torch.stack(
                list(stream_logits(run, list(image), (4, 6, 8), 2, (0, 2), WindowSettings(window_batch=4))), dim=1
            )
            for run in (limited, forward)
        )
    assert torch.equal(found, expected)
    assert len(caplog.messages) == 1
    assert "sums of windows are kept in RAM" in caplog.text


def test_memory_too_small_for_one_window_is_raised():
    def forward(_windows):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        list(stream_logits(forward, list(np.zeros((1, 5, 9, 14), dtype=np.float32)), (4, 6, 8), 2))
