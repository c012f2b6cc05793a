import json

import pytest

from autoseg.errors import InteropError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.interop.nnunet_folder import KEEP_LARGEST, ModelFolder, read_selection
from autoseg.records.selection import KeepLargestComponent
from tests.interop.nnunet_models import REGION_LABELS

LABELS = make_encoding({"background": 0, "a": 1, "b": 2, "c": 3})
OVERLAPPING = make_encoding(
    {name: tuple(value) if isinstance(value, list) else value for name, value in REGION_LABELS.items()}, (1, 2, 3)
)


def folder(tmp_path, name, folds=("0", "1")) -> ModelFolder:
    path = tmp_path / "Dataset901" / f"nnUNetTrainer__nnUNetPlans__{name}"
    path.mkdir(parents=True, exist_ok=True)
    return ModelFolder(path, {fold: {} for fold in folds})


def keep_largest(*unions):
    return tuple(KeepLargestComponent(labels=labels) for labels in unions)


def write_postprocessing(path, *labels, function=KEEP_LARGEST, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "input_folder": {"foreground_mean": {"Dice": 0.5}},
        "postprocessed": {"foreground_mean": {"Dice": 0.75}},
        "postprocessing_fns": [function] * len(labels),
        "postprocessing_kwargs": [{"labels_or_regions": value, **more} for value in labels],
    }
    path.write_text(json.dumps(content))


def write_information(tmp_path, *configurations, source="crossval_results_folds_0_1"):
    content = {
        "folds": [0, 1],
        "dataset_name_or_id": "Dataset901",
        "all_results": {"nnUNetTrainer__nnUNetPlans__2d": 0.5, "nnUNetTrainer__nnUNetPlans__3d_fullres": 0.625},
        "best_model_or_ensemble": {
            "result_on_crossval_pre_pp": 0.7,
            "result_on_crossval_post_pp": 0.8,
            "postprocessing_file": f"/elsewhere/{source}/postprocessing.pkl",
            "selected_model_or_models": [
                {"configuration": name, "trainer": "nnUNetTrainer", "plans_identifier": "nnUNetPlans"}
                for name in configurations
            ],
        },
    }
    (tmp_path / "Dataset901" / "inference_information.json").write_text(json.dumps(content))


def test_the_chosen_configuration_comes_with_its_folds_and_post_processing(tmp_path):
    folders = {name: folder(tmp_path, name, ("0", "1", "2")) for name in ("2d", "3d_fullres")}
    write_information(tmp_path, "3d_fullres")
    write_postprocessing(
        folders["3d_fullres"].path / "crossval_results_folds_0_1" / "postprocessing.json", [1, 2, 3], 2
    )
    write_postprocessing(folders["2d"].path / "crossval_results_folds_0_1" / "postprocessing.json", 1)
    selection, reason = read_selection(folders, LABELS)
    assert selection is not None
    assert (selection.configurations, selection.folds) == (("3d_fullres",), ("0", "1"))
    assert selection.postprocessing == keep_largest(*[("a", "b", "c"), ("b",)])
    assert selection.mean_foreground_dice == 0.8
    assert reason == "inference_information.json of nnU-Net chose 3d_fullres, folds 0, 1."
    assert "nnUNetTrainer__nnUNetPlans__2d: mean foreground Dice 0.5" in selection.reasons


def test_an_ensemble_comes_with_the_post_processing_of_the_ensemble(tmp_path):
    folders = {"2d": folder(tmp_path, "2d", ("0", "1")), "3d_fullres": folder(tmp_path, "3d_fullres", ("1",))}
    source = "ensemble___nnUNetTrainer__nnUNetPlans__2d___nnUNetTrainer__nnUNetPlans__3d_fullres___0_1"
    write_information(tmp_path, "2d", "3d_fullres", source=source)
    write_postprocessing(tmp_path / "Dataset901" / "ensembles" / source / "postprocessing.json", 3)
    selection, _ = read_selection(folders, LABELS)
    assert selection is not None
    assert (selection.configurations, selection.folds) == (("2d", "3d_fullres"), ("1",))
    assert selection.postprocessing == keep_largest(*[("c",)])
    assert "Of these folds 1 were imported." in selection.reasons


def test_a_choice_that_was_not_imported_decides_nothing(tmp_path):
    folders = {"2d": folder(tmp_path, "2d")}
    write_information(tmp_path, "3d_fullres")
    selection, reason = read_selection(folders, LABELS)
    assert selection is None
    assert "chose nnUNetTrainer__nnUNetPlans__3d_fullres, which was not imported" in reason


def test_one_configuration_alone_has_its_own_post_processing_from_most_folds(tmp_path):
    only = folder(tmp_path, "2d")
    write_postprocessing(only.path / "crossval_results_folds_0" / "postprocessing.json", 1)
    write_postprocessing(only.path / "crossval_results_folds_0_1" / "postprocessing.json", 2)
    selection, reason = read_selection({"2d": only}, LABELS)
    assert selection is not None
    assert selection.postprocessing == keep_largest(*[("b",)])
    assert selection.mean_foreground_dice == 0.75
    assert "crossval_results_folds_0_1/postprocessing.json" in reason


def test_nobody_chose_among_several_configurations(tmp_path):
    folders = {name: folder(tmp_path, name) for name in ("2d", "3d_fullres")}
    write_postprocessing(folders["2d"].path / "crossval_results_folds_0_1" / "postprocessing.json", 1)
    selection, reason = read_selection(folders, LABELS)
    assert selection is None
    assert "nothing was chosen among the configurations" in reason


def test_regions_are_named_by_their_labels(tmp_path):
    only = folder(tmp_path, "2d")
    write_postprocessing(only.path / "postprocessing.json", [1, 2, 3], [2, 3], 3)
    selection, _ = read_selection({"2d": only}, OVERLAPPING)
    assert selection is not None
    assert selection.postprocessing == keep_largest(*[("whole",), ("core",), ("rim",)])


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (1, {"function": "my_function"}, "post-processing by my_function, which is not part of nnU-Net"),
        (7, {}, r"the label values \[7\], which are not labels or regions of the model \(background, a, b, c\)"),
        (None, {}, "expected label values"),
        (1, {"background_label": 2}, "removed components become 2"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_file(tmp_path, labels, options, message):
    only = folder(tmp_path, "2d")
    write_postprocessing(only.path / "postprocessing.json", labels, **options)
    with pytest.raises(InteropError, match=rf"2d/postprocessing\.json: .*{message}"):
        read_selection({"2d": only}, LABELS)
