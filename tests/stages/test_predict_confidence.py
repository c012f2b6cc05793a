"""Predictions with what held-out cases say: expected Dice in the statistics, calibrated probabilities, same labels."""

import csv

import blosc2
import numpy as np
import pytest
from scipy.special import softmax

from autoseg.errors import UsageError
from autoseg.records.confidence import Confidence, Correction, DiceModel
from autoseg.records.files import write_record
from autoseg.records.prediction import OutputChoices
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.stages.export import export_model
from autoseg.stages.predict import predict_files
from tests.builders import SPACING, load_exactly, make_image, write_nifti, write_two_configurations

NOTHING = Correction(mean=0.0, deviation=1.0, slope=0.0)
MODEL = DiceModel(num_cases=20, offset=-0.3, overlap=NOTHING, volume=NOTHING, entropy=NOTHING, interval_factor=0.4)
CONFIDENCE = Confidence(
    temperatures={"background": 2.5, "anterior": 2.5, "posterior": 2.5}, expected_dice={"anterior": MODEL}
)
COLUMNS = ["case", "label", "values", "voxels", "volume_ml", "mean_T2"]
EXPECTED = ["expected_dice", "expected_dice_low", "expected_dice_high"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A selected pair of configurations with a confidence."""
    folder = write_two_configurations(tmp_path_factory.mktemp("model"))
    selection = Selection(
        configurations=("3d_fullres", "2d"), folds=("0",), confidence=CONFIDENCE, mean_foreground_dice=None,
        candidates=(), reasons=(),
    )  # fmt: skip
    write_record(selection, Workspace(folder).selection)
    return folder


@pytest.fixture
def images(tmp_path):
    write_nifti(make_image(1)[0] if make_image(1).ndim == 4 else make_image(1), tmp_path / "in" / "p.nii.gz")
    return tmp_path / "in"


def read_rows(folder):
    with (folder / "statistics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_statistics_have_the_expected_dice_of_learnt_labels(model, images, tmp_path):
    predictor = load_exactly(model)
    assert predict_files(predictor, images, tmp_path / "out", OutputChoices(statistics=True)) == []
    rows = {row["label"]: row for row in read_rows(tmp_path / "out")}
    assert list(rows["anterior"])[-3:] == EXPECTED
    prediction = predictor.predict(images / "p.nii.gz", statistics=True)
    assert list(prediction.expected_dice) == ["anterior"]
    expected = prediction.expected_dice["anterior"]
    assert 0 < expected.low < expected.value < expected.high <= 1
    written = [float(rows["anterior"][column]) for column in EXPECTED]
    assert written == pytest.approx([expected.value, expected.low, expected.high], abs=1e-4)
    assert [rows["posterior"][column] for column in EXPECTED] == ["", "", ""]
    assert int(rows["posterior"]["voxels"]) > 0
    plain = predictor.predict(images / "p.nii.gz")
    assert plain.expected_dice == {}
    np.testing.assert_array_equal(plain.labels, prediction.labels)


def test_an_exported_model_expects_the_same(model, images, tmp_path):
    export_model(model, tmp_path / "exported")
    one, other = (
        load_exactly(folder).predict(images / "p.nii.gz", statistics=True) for folder in (model, tmp_path / "exported")
    )
    assert one.expected_dice == other.expected_dice != {}


def test_a_table_without_these_columns_gets_them(model, images, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "statistics.csv").write_text(
        f"{','.join(read_columns(model, images, tmp_path))}\nearlier,anterior,3,5,0.1,2\n"
    )
    predict_files(load_exactly(model), images, out, OutputChoices(statistics=True))
    rows = {(row["case"], row["label"]): row for row in read_rows(out)}
    assert [rows["earlier", "anterior"][column] for column in EXPECTED] == ["", "", ""]
    assert rows["p", "anterior"]["expected_dice"]


def read_columns(model, images, tmp_path):
    """Columns of a configuration that was not selected, which has no confidence."""
    predictor = load_exactly(model, configuration="2d")
    predict_files(predictor, images, tmp_path / "plain", OutputChoices(statistics=True))
    return (tmp_path / "plain" / "statistics.csv").read_text().splitlines()[0].split(",")


def test_without_a_confidence_there_is_no_column_and_the_log_says_why(model, images, tmp_path, caplog):
    caplog.set_level("INFO")
    columns = read_columns(model, images, tmp_path)
    assert columns[:5] == COLUMNS[:5]
    assert not set(columns) & set(EXPECTED)
    assert "statistics without expected Dice: it is learnt from held-out cases" in caplog.text
    with pytest.raises(UsageError, match=r"--calibrated: this model has no temperature: .*imported models have none"):
        load_exactly(model, configuration="2d").predict(images / "p.nii.gz", probabilities=True, calibrated=True)


def test_only_calibrated_probabilities_are_changed_and_labels_never(model, images, tmp_path):
    predictor = load_exactly(model)
    exact = predictor.predict(images / "p.nii.gz", probabilities=True)
    calibrated = predictor.predict(images / "p.nii.gz", probabilities=True, calibrated=True)
    np.testing.assert_array_equal(exact.labels, calibrated.labels)
    before = np.asarray(exact.probabilities, dtype=np.float64)
    is_inside = (before[0] < 1) & (before.min(axis=0) > 1e-3)
    assert is_inside.any()
    wanted = softmax(np.log(np.maximum(before, 1e-12)) / 2.5, axis=0)
    after = np.asarray(calibrated.probabilities, dtype=np.float64)
    np.testing.assert_allclose(after[:, is_inside], wanted[:, is_inside], atol=2e-3)
    choices = OutputChoices(probabilities=True, calibrated=True)
    assert predict_files(predictor, images, tmp_path / "out", choices) == []
    written = blosc2.open(str(tmp_path / "out" / "p_probabilities.b2nd"))[:]
    np.testing.assert_array_equal(written, calibrated.probabilities)


def test_uncertainty_is_that_of_calibrated_probabilities(model, images):
    predictor = load_exactly(model)
    found = predictor.predict(images / "p.nii.gz", uncertainty=True, probabilities=True, calibrated=True)
    after = np.asarray(found.probabilities, dtype=np.float64)
    entropy = -(after * np.log(np.maximum(after, 1e-12))).sum(axis=0) / np.log(3)
    np.testing.assert_allclose(np.asarray(found.uncertainty, dtype=np.float64), entropy, atol=5e-3)
    assert SPACING != (1, 1, 1)
