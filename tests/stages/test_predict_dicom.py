"""Runs over DICOM series: what is found, what is written beside what, and what is refused."""

import json
import logging
import shutil

import nibabel
import numpy as np
import pytest

from autoseg.errors import UsageError
from autoseg.records.prediction import OutputChoices
from autoseg.records.selection import PostprocessingRecipe
from autoseg.stages.postprocess import postprocess_files
from autoseg.stages.predict import RunOptions, predict_files
from tests.builders import LABELS, load_exactly, write_two_configurations
from tests.dicom_builders import IDENTITY, Series, pydicom

pytest.importorskip("highdicom", reason="highdicom is not installed (extra `dicom`)")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_two_configurations(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def predictor(model):
    return load_exactly(model)


def make_series(geometry="axial", **changes):
    stored = np.random.default_rng(4).integers(0, 300, (5, 13, 17)).astype(np.uint16)
    return Series("MR", geometry, stored=stored, **changes)


def read_labels(path, series):
    """Label values (slices, rows, columns) of a binary segmentation, by hand, in the order of the files."""
    header = pydicom.dcmread(path)
    names = {item.SegmentNumber: item.SegmentLabel for item in header.SegmentSequence}
    labels = np.zeros(series.stored.shape, dtype=int)
    for groups, mask in zip(header.PerFrameFunctionalGroupsSequence, header.pixel_array, strict=True):
        uid = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        value = LABELS[names[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber]]
        labels[int(uid.rpartition(".")[2]) - 1][mask > 0] = value
    return labels


def expected_labels(predictor, path, series):
    """The label map that the model makes of the image in memory, in the voxels of the files."""
    prediction = predictor.predict(path)
    inverse = np.linalg.inv(np.array(prediction.grid.affine))
    found = []
    for index in range(len(series.stored)):
        worlds = np.concatenate([series.worlds(index), np.ones((*series.stored.shape[1:], 1))], axis=2)
        found.append(prediction.labels[tuple(np.rint(worlds @ inverse.T)[..., :3].astype(int).transpose(2, 0, 1))])
    assert len(np.unique(found)) > 1
    return np.stack(found)


@pytest.mark.parametrize("geometry", ["axial", "columns flipped", "coronal", "oblique backwards"])
def test_series_gives_a_segmentation(tmp_path, predictor, geometry):
    series = make_series(geometry)
    folder = series.write(tmp_path / "patient.1")
    assert predict_files(predictor, folder, tmp_path / "out", OutputChoices(structures=True, uncertainty=True)) == []
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "patient.1.dcm", "patient.1_disagreement.nii.gz", "patient.1_rtstruct.dcm", "patient.1_uncertainty.nii.gz",
    ]  # fmt: skip
    labels = read_labels(tmp_path / "out" / "patient.1.dcm", series)
    np.testing.assert_array_equal(labels, expected_labels(predictor, folder, series))
    regions = pydicom.dcmread(tmp_path / "out" / "patient.1_rtstruct.dcm").StructureSetROISequence
    assert [region.ROIName for region in regions] == ["anterior", "posterior"]


@pytest.mark.parametrize("geometry", ["columns flipped", "oblique backwards"])
def test_meshes_lie_where_the_slices_are(tmp_path, predictor, geometry):
    series = make_series(geometry)
    series.write(tmp_path / "in")
    choices = OutputChoices(meshes=True, mesh_format="ply", provenance=True)
    assert predict_files(predictor, tmp_path / "in", tmp_path / "out", choices) == []
    labels = read_labels(tmp_path / "out" / "in.dcm", series)
    worlds = np.stack([series.worlds(index) for index in range(len(labels))]) * (-1, -1, 1)
    for name, value in LABELS.items():
        if value == 0 or not (labels == value).any():
            continue
        content = (tmp_path / "out" / "in_meshes" / f"{name}.ply").read_bytes()
        header, _, body = content.partition(b"end_header\n")
        count = int(header.split(b"element vertex ")[1].split()[0])
        points = np.frombuffer(body, "<f4", 3 * count).reshape(-1, 3)
        # points are half-way to a voxel outside, but for a few amid eight voxels that meet in edges and corners
        distances = np.linalg.norm(points[:, None] - worlds[labels == value][None], axis=2).min(axis=1)
        steps = [worlds[1, 0, 0], worlds[0, 1, 0], worlds[0, 0, 1]] - worlds[0, 0, 0]
        halves = np.linalg.norm(steps, axis=1) / 2
        assert np.mean(np.abs(distances[:, None] - halves).min(axis=1) < 1e-3) > 0.9
        assert distances.max() <= np.linalg.norm(halves) + 1e-3
    (entry,) = json.loads((tmp_path / "out" / "provenance.json").read_text())["cases"]
    assert (entry["output"], len(entry["inputs"][0]["sha256"])) == ("in.dcm", 64)


def test_folder_of_series_archives_and_files(tmp_path, predictor):
    images = tmp_path / "images"
    make_series(study_uid="1.2.1").write(images / "a")
    make_series(study_uid="1.2.2").write(tmp_path / "b" / "deep" / "series")
    shutil.make_archive(str(images / "b"), "zip", tmp_path / "b")
    make_series(study_uid="1.2.3").write_enhanced(images / "c.dcm")
    assert predict_files(predictor, images, tmp_path / "out") == []
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a.dcm", "b.dcm", "c.dcm"}
    expected = read_labels(tmp_path / "out" / "a.dcm", make_series())
    np.testing.assert_array_equal(read_labels(tmp_path / "out" / "b.dcm", make_series()), expected)


def test_folders_of_patients(tmp_path, predictor):
    for patient in ("p", "q"):
        make_series(study_uid=f"1.2.{ord(patient)}").write(tmp_path / "in" / patient / "study" / "series")
    assert predict_files(predictor, tmp_path / "in", tmp_path / "out") == []
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_study_with_several_series(tmp_path, predictor):
    study = tmp_path / "study"
    make_series().write(study / "axial")
    other = make_series("coronal", number=7, series_uid="1.2.99")
    other.write(study / "coronal")
    (failure,) = predict_files(predictor, study, tmp_path / "out")
    assert "say which one is meant" in failure.error
    assert "--series 7" in failure.error
    assert predict_files(predictor, study, tmp_path / "out", options=RunOptions(series="7")) == []
    labels = read_labels(tmp_path / "out" / "study.dcm", other)
    np.testing.assert_array_equal(labels, expected_labels(predictor, study / "coronal", other))


def test_gaps_fail_the_case_unless_resampled(tmp_path, predictor):
    series = make_series()
    folder = series.write(tmp_path / "a", shuffled=False)
    (folder / "03_002.dcm").unlink()
    (failure,) = predict_files(predictor, folder, tmp_path / "out")
    assert "42.5 to 47.5 mm" in failure.error
    assert predict_files(predictor, folder, tmp_path / "out", options=RunOptions(resample_gaps=True)) == []
    header = pydicom.dcmread(tmp_path / "out" / "a.dcm")
    assert len(header.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 4
    assert header.NumberOfFrames == 2 * 4


def test_label_map_in_another_format(tmp_path, predictor):
    series = make_series("oblique")
    folder = series.write(tmp_path / "a")
    assert predict_files(predictor, folder, tmp_path / "labels.nii.gz") == []
    image = nibabel.load(tmp_path / "labels.nii.gz")
    inverse = np.linalg.inv(image.affine)
    worlds = np.concatenate([series.worlds(2), np.ones((13, 17, 1))], axis=2)
    found = np.asarray(image.dataobj)[tuple(np.rint(worlds @ inverse.T)[..., :3].astype(int).transpose(2, 0, 1))]
    np.testing.assert_array_equal(found, expected_labels(predictor, folder, series)[2])


def test_probabilities_in_a_segmentation(tmp_path, predictor):
    folder = make_series().write(tmp_path / "a")
    assert predict_files(predictor, folder, tmp_path / "out", OutputChoices(segmentation_type="fractional")) == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.dcm"]
    header = pydicom.dcmread(tmp_path / "out" / "a.dcm")
    probabilities = predictor.predict(folder, probabilities=True).probabilities
    first = header.pixel_array[: len(probabilities[1])]  # the frames of the first segment
    np.testing.assert_allclose(np.sort(first.ravel()), np.sort(np.rint(255.0 * probabilities[1].ravel())), atol=1)


def test_statistics_of_existing_segmentations_are_those_of_the_prediction(tmp_path, predictor):
    folder = make_series("coronal").write(tmp_path / "a")
    choices = OutputChoices(statistics=True, instances=True)
    assert predict_files(predictor, folder, tmp_path / "out", choices) == []
    expected = (tmp_path / "out" / "statistics.csv").read_text()
    for name in ("statistics.csv", "instances.csv"):
        (tmp_path / "out" / name).unlink()
    assert predict_files(predictor, folder, tmp_path / "out", choices, RunOptions(skip_existing=True)) == []
    assert (tmp_path / "out" / "statistics.csv").read_text() == expected


def test_codes_of_the_user(tmp_path, predictor, caplog):
    folder = make_series().write(tmp_path / "a")
    codes = tmp_path / "codes.json"
    codes.write_text(json.dumps({"anterior": {"code": "1", "meaning": "Front"}}))
    with caplog.at_level(logging.WARNING):
        assert predict_files(predictor, folder, tmp_path / "out", OutputChoices(codes=codes)) == []
    assert "does not know posterior; written as Tissue" in caplog.text
    assert IDENTITY not in caplog.text
    segment = pydicom.dcmread(tmp_path / "out" / "a.dcm").SegmentSequence[0]
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Front"
    codes.write_text("{}")
    codes.write_text(json.dumps({"other": {"code": "1", "meaning": "Front"}}))
    with pytest.raises(UsageError, match="the model has no label 'other'"):
        predict_files(predictor, folder, tmp_path / "out", OutputChoices(codes=codes))


def test_outputs_that_do_not_fit(tmp_path, predictor):
    folder = make_series().write(tmp_path / "a")
    image = nibabel.Nifti1Image(np.random.default_rng(1).random((9, 9, 9)).astype(np.float32), np.eye(4))
    nibabel.save(image, tmp_path / "x.nii.gz")
    (failure,) = predict_files(predictor, tmp_path / "x.nii.gz", tmp_path / "x.dcm")
    assert "is for DICOM series" in failure.error
    (failure,) = predict_files(predictor, tmp_path / "x.nii.gz", tmp_path / "out", OutputChoices(structures=True))
    assert "--rtstruct needs" in failure.error
    with pytest.raises(UsageError, match="there are none"):
        predict_files(predictor, tmp_path / "x.nii.gz", tmp_path / "out", options=RunOptions(series="1"))
    (failure,) = predict_files(predictor, folder, folder / "out")
    assert "lies in the folder of the DICOM series itself" in failure.error


def test_weights_are_named_by_their_hash(tmp_path, predictor, model):
    folder = make_series().write(tmp_path / "a")
    assert predict_files(predictor, folder, tmp_path / "out") == []
    segment = pydicom.dcmread(tmp_path / "out" / "a.dcm").SegmentSequence[0]
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmParameters == f"model={load_exactly(model).case_predictor.weights_hash}"
    assert load_exactly(model, folds=["0"]).case_predictor.weights_hash != predictor.case_predictor.weights_hash


def test_segmentations_are_not_post_processed(tmp_path, predictor):
    predict_files(predictor, make_series().write(tmp_path / "a"), tmp_path / "out")
    recipe = PostprocessingRecipe(labels=predictor.plan.labels, steps=())
    (failure,) = postprocess_files(recipe, tmp_path / "out", tmp_path / "new")
    assert "is a DICOM segmentation, which can be read, but not changed" in failure.error
