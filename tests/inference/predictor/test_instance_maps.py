"""Instances of whole images from networks that see windows: touching ones, cut ones, folds, mirrors, geometry."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from typing_extensions import override

from autoseg.errors import UsageError
from autoseg.imaging.formats.volume import Template, Volume, canonical_affine, make_grid
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.predictor.case_predictor import CasePredictor
from autoseg.inference.predictor.instance_maps import complete_choices, refuse_voxel_options
from autoseg.inference.windows.sliding_window import WindowSettings
from autoseg.networks.detection.detections import Detections
from autoseg.records.detection import DetectionSpec
from autoseg.records.plan import Plan
from autoseg.records.prediction import OutputChoices
from tests.builders import make_plan

LABELS = {"background": 0, "odd": 7, "even": 300}
BINS = {2: (28, 28), 3: (16, 16, 16)}


class FindsValues(torch.nn.Module):
    """Finds each whole number in an image, or each component above one half, as an instance with exact masks."""

    def __init__(self, *, components=False, score=0.9):
        super().__init__()
        self.components = components
        self.score = score
        self.seen = 0

    def detect(self, image):
        self.seen += len(image)
        return [self.find(sample[0].numpy()) for sample in image]

    def find(self, sample):
        ids = ndimage.label(sample > 0.5)[0] if self.components else np.rint(sample).astype(int)
        boxes, labels, masks = [], [], []
        for number, found in enumerate(ndimage.find_objects(ids), start=1):
            if found is None:
                continue
            inside = ids[found] == number
            positions = np.ix_(*(
                ((np.arange(parts) + 0.5) / parts * size).astype(int)
                for parts, size in zip(BINS[sample.ndim], inside.shape, strict=True)
            ))  # fmt: skip
            boxes.append([side.start for side in found] + [side.stop for side in found])
            labels.append(2 - number % 2)
            masks.append(inside[positions])
        return Detections(
            boxes=torch.tensor(np.array(boxes, np.float32).reshape(-1, 2 * sample.ndim)),
            scores=torch.full((len(boxes),), self.score),
            labels=torch.tensor(labels, dtype=torch.int64),
            masks=torch.tensor(np.array(masks, np.float32).reshape(-1, *BINS[sample.ndim])),
        )

    @override
    def forward(self, image):
        raise AssertionError("a network that finds instances has no logits")


def detecting_plan(spacing, name="3d_fullres", **changes):
    plan = make_plan({name: spacing}, labels=LABELS, normalization="none", orientation="as_stored", **changes)
    configuration = plan.configurations[name]
    dimensions = len(spacing)
    detection = DetectionSpec(
        num_labels=2,
        levels=(1,),
        anchors=(((8.0,) * dimensions,),),
        box_size=(5,) * dimensions,
        mask_roi_size=tuple(size // 2 for size in BINS[dimensions]),
    )
    network = configuration.network.model_copy(update={"detection": detection})
    configurations = {name: configuration.model_copy(update={"network": network})}
    return Plan.model_validate(plan.model_copy(update={"target": "mask_rcnn", "configurations": configurations}))


def predict(image, spacing, plan, networks, axes=()):
    """Predict an image (Z, Y, X) of this spacing."""
    name, configuration = next(iter(plan.configurations.items()))
    member = LoadedConfiguration(name, configuration, tuple("01234")[: len(networks)], tuple(networks), axes)
    predictor = CasePredictor(plan=plan, members=(member,), windows=WindowSettings())
    grid = make_grid(image.shape, spacing, canonical_affine(spacing))
    volume = Volume(image[None].astype(np.float32), grid, Template(ending=".nii.gz", grid=grid))
    return predictor.predict(predictor.prepare(volume))


def compare(ids, reference):
    """Smallest IoU of an instance of the reference with the one that covers most of it, and the number of both."""
    ious = []
    for number in np.unique(reference[reference > 0]):
        inside = reference == number
        other = np.bincount(ids[inside]).argmax()
        ious.append((inside & (ids == other)).sum() / (inside | (ids == other)).sum())
    return min(ious), len(np.unique(ids)) - 1, len(ious)


def ellipsoids(shape, centers, radii):
    reference = np.zeros(shape, int)
    grid = np.ogrid[tuple(map(slice, shape))]
    for number, center in enumerate(centers, start=1):
        distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, center, radii, strict=True))
        reference[(distance < 1) & (reference == 0)] = number
    return reference


CENTERS = ((8, 12, 10), (8, 12, 24), (8, 26, 18), (16, 22, 33), (17, 9, 38), (5, 30, 36))


@pytest.mark.parametrize("axes", [(), (0, 1, 2)])
def test_touching_instances_come_back_from_all_windows(axes):
    reference = ellipsoids((24, 38, 46), CENTERS, (6, 8, 8))
    networks = [FindsValues(), FindsValues(score=0.7)]
    prediction = predict(reference + 0.01, (2.0, 1.0, 1.0), detecting_plan((2.0, 1.0, 1.0)), networks, axes)
    least, found, expected = compare(prediction.instances.ids, reference)
    assert (found, expected) == (6, 6)
    assert least > 0.8
    assert np.array_equal(prediction.labels > 0, prediction.instances.ids > 0)
    assert networks[0].seen == networks[1].seen == 3 * 4 * 4 * 2 ** len(axes)
    for row in prediction.instances.table:
        number = np.bincount(reference[prediction.instances.ids == row.id]).argmax()
        assert (row.label, row.value) == (("even", 300), ("odd", 7))[number % 2]
        assert 0.6 < row.score < 0.9
        assert row.mean_probability > 0.8
        assert np.bincount(prediction.labels[prediction.instances.ids == row.id]).argmax() == row.value


def test_an_instance_that_is_larger_than_a_window_is_one():
    reference = ellipsoids((24, 38, 60), ((12, 19, 30),), (5, 7, 27))
    prediction = predict(reference + 0.01, (1.0, 1.0, 1.0), detecting_plan((1.0, 1.0, 1.0)), [FindsValues()])
    least, found, _ = compare(prediction.instances.ids, reference)
    assert found == 1
    assert least > 0.75


def test_other_spacing_crop_and_axis_order_are_undone():
    reference = ellipsoids((40, 30, 50), ((12, 9, 12), (12, 20, 30), (30, 14, 36)), (8, 7, 7))
    image = np.zeros((60, 50, 70))
    image[10:50, 12:42, 8:58] = reference.clip(0, 1) + 0.01
    plan = detecting_plan((2.0, 1.5, 1.2), transpose=(1, 2, 0))
    prediction = predict(image, (1.0, 1.5, 1.1), plan, [FindsValues(components=True)])
    ids = prediction.instances.ids
    assert ids.shape == image.shape
    least, found, _ = compare(ids[10:50, 12:42, 8:58], reference)
    assert found == 3
    assert least > 0.75


def test_a_2d_network_links_its_slices():
    reference = ellipsoids((14, 38, 46), ((4, 12, 12), (4, 12, 28), (10, 27, 30)), (4, 8, 8))
    plan = detecting_plan((1.0, 1.0), "2d")
    prediction = predict(reference + 0.01, (3.0, 1.0, 1.0), plan, [FindsValues()], (0, 1))
    least, found, _ = compare(prediction.instances.ids, reference)
    assert found == 3
    assert least > 0.85


def test_an_image_without_instances():
    image = np.full((12, 16, 20), 0.01)
    prediction = predict(image, (1.0, 1.0, 1.0), detecting_plan((1.0, 1.0, 1.0)), [FindsValues()])
    assert prediction.instances.table == ()
    assert not prediction.labels.any()


def test_what_needs_probabilities_is_refused():
    plan, plain = detecting_plan((1.0, 1.0, 1.0)), make_plan({"3d_fullres": (1.0, 1.0, 1.0)})
    assert complete_choices(plan, OutputChoices()).instances
    assert not complete_choices(plain, OutputChoices(probabilities=True)).instances
    with pytest.raises(UsageError, match="--save-uncertainty, --calibrated: this model finds objects one by one"):
        complete_choices(plan, OutputChoices(uncertainty=True, calibrated=True))
    with pytest.raises(UsageError, match="--decision expected-dice, --roi: this model"):
        refuse_voxel_options(plan, {"--decision expected-dice": True, "--fast": False, "--roi": True})
    refuse_voxel_options(plan, {"--roi": False})
    refuse_voxel_options(plain, {"--roi": True})
