"""Calibration: errors worked out by hand, and counts added up over folds."""

import pytest

from autoseg.errors import RecordError
from autoseg.records.calibration import NUM_BINS, Calibration, CalibrationCounts
from autoseg.records.files import write_record
from autoseg.report.page.calibration import expected_calibration_error, render_calibration
from autoseg.report.page.validation import read_calibration


def make_counts(bins):
    """From bin -> (voxels, sum of probabilities, voxels with the label)."""
    voxels, sums, true = [0] * NUM_BINS, [0.0] * NUM_BINS, [0] * NUM_BINS
    for place, values in bins.items():
        voxels[place], sums[place], true[place] = values
    return CalibrationCounts(voxels=tuple(voxels), probability_sums=tuple(sums), label_voxels=tuple(true))


def test_the_error_is_the_mean_gap_weighted_by_voxels():
    # 10 voxels at 0.52 of which 4 are true, 30 voxels at 0.9 of which 27 are true: (|5.2 - 4| + 0) / 40
    counts = make_counts({10: (10, 5.2, 4), 17: (30, 27.0, 27)})
    assert expected_calibration_error(counts) == pytest.approx(1.2 / 40)


def test_folds_are_added_up_and_drawn(planned):
    for fold, voxels in (("0", 10), ("1", 30)):
        record = Calibration(labels={"lesion": make_counts({15: (voxels, 0.75 * voxels, voxels // 2)})})
        write_record(record, planned.fold("3d_fullres", fold) / "validation" / "calibration.json")
    assert read_calibration(planned, "3d_fullres", ["0", "1", "2"])["lesion"].voxels[15] == 40
    section = render_calibration(planned, [("3d_fullres", ["0", "1"]), ("2d", ["0"])])
    assert "<p>2d: no diagram" in section
    assert "3d_fullreslesion0.250overconfident by 25.0%" in section.striptags()
    assert "<figcaption>3d_fullres: expected calibration error 0.250</figcaption>" in section


def test_a_record_of_another_number_of_bins_is_refused(planned):
    path = planned.fold("3d_fullres", "0") / "validation" / "calibration.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"labels": {"lesion": {"voxels": [1], "probability_sums": [0.5], "label_voxels": [1]}}}')
    with pytest.raises(RecordError, match=r"labels\.lesion\.voxels: 1 entries, expected 20"):
        read_calibration(planned, "3d_fullres", ["0"])
