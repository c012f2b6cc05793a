"""Reading of what folds left behind."""

import shutil

import pytest

from autoseg.errors import RecordError
from autoseg.records.files import read_record, write_record
from autoseg.records.selection import Selection
from autoseg.report.page.render import render_report
from autoseg.report.page.validation import read_histories, read_pooled_folds, read_selected_ensemble


def test_folds_are_merged(trained):
    (one,) = read_pooled_folds(trained)
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
    with pytest.raises(RecordError, match=r"history\.jsonl, line \d+: not a valid EpochHistory"):
        read_histories(trained)


PAIR = ("2d", "3d_fullres")


@pytest.fixture
def ensemble(selected):
    """The pair is selected, and its label maps are those of 3d_fullres."""
    one = read_record(Selection, selected.selection)
    selection = one.model_copy(update={"configurations": PAIR, "folds": ("0",)})
    write_record(selection, selected.selection)
    shutil.copytree(selected.fold("3d_fullres", "0") / "validation", selected.validation(PAIR, "0"))
    return selection


def test_a_selected_pair_is_read_and_shown(selected, ensemble):
    (pair,) = read_selected_ensemble(selected, ensemble)
    assert (pair.configuration, pair.folds) == ("2d + 3d_fullres", ("0",))
    assert pair.folders["b"] == selected.validation(PAIR, "0")
    page = render_report(selected).read_text(encoding="utf-8")
    assert "2d + 3d_fullres, as predicted, before post-processing" in page
    assert "2d + 3d_fullres, fold 0, no post-processing" in page


def test_a_pair_whose_label_maps_are_gone_is_left_out(selected, ensemble):
    shutil.rmtree(selected.validation(PAIR, "0"))
    assert read_selected_ensemble(selected, ensemble) == []
    assert "3d_fullres, as predicted, before post-processing" in render_report(selected).read_text(encoding="utf-8")


def test_one_configuration_is_no_ensemble(selected, ensemble):
    alone = ensemble.model_copy(update={"configurations": ("3d_fullres",)})
    assert read_selected_ensemble(selected, alone) == []
    assert read_selected_ensemble(selected, None) == []


def test_refinement_is_named_where_its_effect_is_shown(selected, make_refinement):
    assert "Before and after post-processing" in render_report(selected).read_text(encoding="utf-8")
    one = read_record(Selection, selected.selection)
    write_record(one.model_copy(update={"refinement": make_refinement(1), "postprocessing": ()}), selected.selection)
    assert "Before and after refinement and post-processing" in render_report(selected).read_text(encoding="utf-8")
