"""Choice of the cases to look at, and what their cards show."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from autoseg.metrics.summary import summarize
from autoseg.records.dataset import DatasetDescription
from autoseg.records.evaluation import CaseScores, LabelScores
from autoseg.records.files import read_record
from autoseg.report.page import case_pictures
from autoseg.report.page.case_pictures import choose_cases, show_validation_cases
from autoseg.report.page.validation import read_pooled_folds
from tests.builders import write_nifti
from tests.report.conftest import SPACING, make_reference


def make_evaluation(*dices):
    counts = dict.fromkeys(("true_positives", "false_positives", "false_negatives"), 1)
    counts |= {"predicted_voxels": 2, "reference_voxels": 2}
    cases = [
        CaseScores(case=str(index), labels={"liver": LabelScores(dice=dice, iou=dice, **counts)})
        for index, dice in enumerate(dices)
    ]
    return summarize(cases, ["liver"])


@pytest.mark.parametrize(
    ("dices", "expected"),
    [
        ((), []),
        ((None,), []),
        ((0.5,), [("worst", "0")]),
        ((0.9, 0.5), [("worst", "1"), ("best", "0")]),
        ((0.9, None, 0.5, 0.7), [("worst", "2"), ("median", "3"), ("best", "0")]),
        (
            (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
            [("worst", "0"), ("second worst", "1"), ("third worst", "2"), ("median", "3"), ("best", "6")],
        ),
    ],
)
def test_worst_median_and_best_are_chosen_once_each(dices, expected):
    assert [(rank, case.case) for rank, case in choose_cases(make_evaluation(*dices))] == expected


def cards_of(workspace, tmp_path):
    description = read_record(DatasetDescription, workspace.dataset)
    return show_validation_cases(read_pooled_folds(workspace)[0], description, tmp_path / "data")


def test_planes_lie_as_radiologists_expect(trained, tmp_path):
    cards, notes = cards_of(trained, tmp_path)
    assert notes == []
    assert [(card.rank, card.case) for card in cards] == [("worst", "b"), ("best", "a")]
    axial, coronal, sagittal = cards[1].images
    assert [image.caption.split()[1] for image in cards[1].images] == ["axial", "coronal", "sagittal"]
    # the box around 3 x 5 x 3 voxels with margins of 1, 2, 1: (5, 9, 5) voxels of (3, 0.9, 0.7) mm
    assert (coronal.width, coronal.height) == (5, 5)
    assert axial.aspect == pytest.approx(5 * 0.7 / (9 * 0.9))
    assert coronal.aspect == pytest.approx(5 * 0.7 / (5 * 3.0))
    assert sagittal.aspect == pytest.approx(9 * 0.9 / (5 * 3.0))


def test_grey_values_run_over_the_window(trained, tmp_path):
    image = np.full((5, 11, 7), -1000.0, dtype=np.float32)
    image[:, 5:] = 100.0
    image[0, 0, 0] = 3000.0
    for case in "ab":
        write_nifti(image, tmp_path / "data" / "images" / f"{case}.nii.gz", SPACING)
    description = read_record(DatasetDescription, trained.dataset)
    (card, *_), _ = show_validation_cases(
        read_pooled_folds(trained)[0], description, tmp_path / "data", window=(-100.0, 300.0)
    )
    assert card.stack is not None
    for picture in (card.stack.image, card.images[0]):
        with Image.open(io.BytesIO(base64.b64decode(picture.source.partition(",")[2]))) as shown:
            grey = np.asarray(shown.convert("L")).astype(float)
        assert grey.max() == pytest.approx(255 / 2, abs=12)  # 100 is the middle; WebP loses a little
        assert grey.min() == pytest.approx(0, abs=12)


def test_superior_is_up(trained, tmp_path):
    reference = np.zeros((5, 11, 7), dtype=np.uint8)
    reference[4, 3:8, 2:5] = 10  # the topmost slice
    reference[0:4, 5, 3] = 10
    for folder in (tmp_path / "data" / "labels", trained.fold("3d_fullres", "0") / "validation"):
        write_nifti(reference, folder / "a.nii.gz", SPACING)
    card = next(card for card in cards_of(trained, tmp_path)[0] if card.case == "a")
    (outline,) = card.images[1].reference
    corners = [tuple(map(float, corner.split(","))) for corner in outline.path.strip("MZ").split(" ")]
    widest = [y for x, y in corners if x == max(x for x, _ in corners)]
    assert max(widest) <= 1  # the wide part is in the first row


def test_the_stack_begins_where_maps_disagree_most(trained, tmp_path):
    prediction = make_reference(0)
    prediction[3] = 0
    write_nifti(prediction, trained.fold("3d_fullres", "0") / "validation" / "a.nii.gz", SPACING)
    card = next(card for card in cards_of(trained, tmp_path)[0] if card.case == "a")
    assert (card.stack.count, card.stack.first) == (5, 3)
    assert card.stack.names[3] == "axial slice 4 of 5"
    reference, predicted = card.stack.outlines[3]
    assert card.stack.image.reference == reference
    assert len(reference) == 1
    assert predicted == ()
    with Image.open(io.BytesIO(base64.b64decode(card.stack.image.source.partition(",")[2]))) as strip:
        assert strip.size == (5, 5 * 9)


def test_a_stack_is_bounded(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(case_pictures, "MAX_STACKED", 4)
    card = cards_of(trained, tmp_path)[0][0]
    assert card.stack.count == 4 or card.stack.count == 3
    monkeypatch.setattr(case_pictures, "MAX_STACK_CHARACTERS", 1)
    card = cards_of(trained, tmp_path)[0][0]
    assert card.stack.count <= 2
    assert len(card.stack.outlines) == len(card.stack.names) == card.stack.count


def test_a_prediction_on_another_grid_is_named(trained, tmp_path):
    write_nifti(
        np.zeros((5, 11, 6), dtype=np.uint8), trained.fold("3d_fullres", "0") / "validation" / "a.nii.gz", SPACING
    )
    cards, notes = cards_of(trained, tmp_path)
    assert [card.case for card in cards] == ["b"]
    assert "a cannot be shown" in notes[0]
    assert "not on the grid of the image" in notes[0]
