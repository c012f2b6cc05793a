"""Reading of what folds left behind."""

import pytest

from autoseg.errors import RecordError
from autoseg.report.validation import read_cross_validations, read_histories


def test_folds_are_merged(trained):
    (one,) = read_cross_validations(trained)
    assert (one.configuration, one.folds) == ("3d_fullres", ("0",))
    assert [case.case for case in one.evaluation.cases] == ["a", "b"]
    assert one.evaluation.missing_predictions == ("c",)
    assert one.folders["b"] == trained.fold("3d_fullres", "0") / "validation"


def test_histories_are_read_by_configuration_and_fold(trained):
    histories = read_histories(trained)
    assert [line.epoch for line in histories["3d_fullres"]["0"]] == [0, 1, 2]


def test_a_damaged_history_names_its_file(trained):
    path = trained.fold("3d_fullres", "0") / "history.jsonl"
    path.write_text(path.read_text() + '{"epoch": 3')
    with pytest.raises(RecordError, match=r"history\.jsonl: not a valid training history"):
        read_histories(trained)
