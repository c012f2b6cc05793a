"""Imported models against the label maps and probabilities that nnU-Net 2.8.1 wrote with the same weights.

The surface band of a label map is the set of its voxels that have another label among their 26 neighbours. What differs
lies there: nnU-Net sums windows in float16, whose rounding decides where two heads are nearly equal. The same rounding
is largest where float16 cannot hold its Gaussian, in the corners of the image, of which no probabilities are compared:
of acdc_3d_resampled 441 of 552,960 voxels, all within 5 voxels of the border, differ by more than 2e-2 there, at most
by 7.6e-2. Over all cases 4 voxels of hippocampus_3d_two_folds (0.0067 % of the band, 12 cases) and 27 of acdc_2d
(0.018 %, 6 cases) have another label. Few cases are enough here; the first one of acdc_2d has the most differences.
"""

from itertools import product

import nibabel
import numpy as np
import pytest
import torch

from autoseg.imaging.arrays.preprocessing import preprocess_case
from autoseg.inference.restoring.restore import LogitStream, restore_labels
from autoseg.inference.sinks.probabilities import ProbabilityVolume
from autoseg.inference.windows.mirrored_variants import mean_mirrored_logits, mirror_variants
from autoseg.inference.windows.sliding_window import importance_map, window_starts
from autoseg.interop.nnunet_import import import_nnunet
from autoseg.records.case import Orientation
from autoseg.stages.predict import PredictionOptions, Predictor

MAX_FRACTION = 2e-4
"""Of the surface band, over all cases of a model."""
MIN_DICE = 0.999
"""Per label and case."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load_imported(folder, tmp_path) -> Predictor:
    import_nnunet(folder / "model", tmp_path / "model")
    return Predictor(tmp_path / "model", PredictionOptions(device="cpu", precision="fp32"))


def their_labels(folder, case):
    return np.asarray(nibabel.load(folder / "nnunet_labels" / f"{case}.nii.gz").dataobj).T


def surface_band(labels):
    padded = np.pad(labels, 1, mode="edge")
    band = np.zeros(labels.shape, dtype=bool)
    for corner in product(range(3), repeat=3):
        view = tuple(slice(first, first + size) for first, size in zip(corner, labels.shape, strict=True))
        band |= padded[view] != labels
    return band


def smallest_dice(ours, theirs):
    return min(
        2 * ((ours == label) & (theirs == label)).sum() / ((ours == label).sum() + (theirs == label).sum())
        for label in np.unique(theirs)[1:]
    )


def check_probabilities(ours, theirs):
    difference = np.abs(ours.astype(np.float32) - theirs.astype(np.float32))
    assert difference.max() <= 2e-2
    assert difference.mean() <= 1e-3


@pytest.mark.parametrize(
    ("model", "cases"),
    [
        ("hippocampus_3d_two_folds", ("001", "003", "004")),
        ("acdc_2d", ("001_frame01", "081_frame01", "082_frame01")),
    ],
)
def test_label_maps_and_probabilities_are_nnunets(shared, tmp_path, model, cases):
    folder = shared / "peer_models" / model
    predictor = load_imported(folder, tmp_path)
    differing, band = 0, 0
    for number in cases:
        (path,) = (folder / "images").glob(f"*{number}_0000.nii.gz")
        case = path.name.removesuffix("_0000.nii.gz")
        stored = folder / "nnunet_probabilities" / f"{case}.npz"
        prediction = predictor.predict(path, probabilities=stored.exists())
        expected = their_labels(folder, case)
        assert smallest_dice(prediction.labels, expected) >= MIN_DICE, case
        differing += int((prediction.labels != expected).sum())
        band += int(surface_band(expected).sum())
        if stored.exists():
            check_probabilities(prediction.probabilities, np.load(stored)["probabilities"])
    assert band > 15_000
    assert differing <= MAX_FRACTION * band


def test_resampled_both_ways_the_middle_of_an_image_is_nnunets(shared, tmp_path):
    """Only the windows that reach a central box go through the network, so that the test takes seconds."""
    folder = shared / "peer_models" / "acdc_3d_resampled"
    predictor = load_imported(folder, tmp_path)
    (member,) = predictor.members

    def network(windows):
        return member.networks[0](windows.contiguous(memory_format=torch.channels_last_3d))

    case = "patient001_frame01"
    stored = nibabel.load(folder / "images" / f"{case}_0000.nii.gz")
    image = np.asarray(stored.dataobj, dtype=np.float32).T[None]
    x, y, z = map(float, stored.header.get_zooms())
    prepared, _, record = preprocess_case(
        image, None, (z, y, x), case_id=case, plan=predictor.plan, configuration_name="3d_fullres"
    )
    assert record.shape != record.original_shape
    assert record.shape[0] != record.original_shape[0]  # nearest slices
    patch = member.configuration.patch_size
    starts = [window_starts(size, edge) for size, edge in zip(record.shape, patch, strict=True)]
    # two windows along y and along x reach the middle: behind the first window's end, before the fourth one's start
    middle = (
        slice(0, record.shape[0]),
        *(slice(own[0] + edge, own[3]) for own, edge in zip(starts[1:], patch[1:], strict=True)),
    )
    logits, total = torch.zeros(4, *record.shape), torch.zeros(record.shape)
    weights = torch.from_numpy(importance_map(patch).copy())
    for corner in product(starts[0], starts[1][1:3], starts[2][1:3]):
        box = tuple(slice(start, start + edge) for start, edge in zip(corner, patch, strict=True))
        with torch.inference_mode():
            window = torch.from_numpy(prepared[:, *box].copy())[None]
            (answer,) = mean_mirrored_logits(network, window, mirror_variants(member.mirror_axes), 8)
        logits[:, *box] += answer * weights
        total[box] += weights
    logits /= total.clamp(min=1e-30)
    answered = LogitStream(logits.half().unbind(1), record, member.configuration.resampling)
    inside = (slice(None), slice(None), *(
        slice(int(np.ceil(part.start * old / new)) + 2, int(part.stop * old / new) - 2)
        for part, old, new in zip(middle[1:], record.original_shape[1:], record.shape[1:], strict=True)
    ))  # fmt: skip
    ours = np.zeros((4, *record.original_shape), dtype=np.float16)
    encoding = predictor.plan.encoding
    sink = ProbabilityVolume(ours, encoding, Orientation())
    labels = restore_labels([answered], encoding, [sink])[inside[1:]]
    expected = their_labels(folder, case)[inside[1:]]
    assert (expected > 0).sum() > 50
    assert (expected == 0).sum() > 500
    assert (labels != expected).sum() <= 1
    theirs = np.load(folder / "nnunet_probabilities" / f"{case}.npz")["probabilities"]
    check_probabilities(ours[inside], theirs[inside])
