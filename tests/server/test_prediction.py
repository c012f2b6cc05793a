"""One task: its results are those of `Predictor`, and what fails becomes a status and a sentence without paths."""

import gzip
from copy import copy
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from scipy.ndimage import center_of_mass

from autoseg.server.messages import PredictionTask
from autoseg.server.prediction import describe_model, find_centers, run_task
from tests.builders import LABELS, SPACING, load_exactly, make_image, make_plan, write_model, write_nifti


@pytest.fixture(scope="module")
def predictors(tmp_path_factory):
    root = tmp_path_factory.mktemp("served") / "model"
    write_model(root, make_plan({"3d_fullres": (2.5, 1.0, 0.8)}), {"3d_fullres": ("0", "1")})
    return {"made": load_exactly(root, mirroring=False)}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    return folder


def make_task(folder, *images, **changes):
    values = {"model": "made", "images": images, "folder": folder, "ending": ".nii.gz", "max_image_bytes": 10**9}
    return PredictionTask(**(values | changes))


def test_results_are_those_of_the_predictor(predictors, folder):
    image = write_nifti(make_image(), folder / "image_0000.nii.gz")
    result = run_task(predictors, make_task(folder, image, uncertainty=True, slices=True))
    assert (result.error, result.status) == ("", 200)
    expected = predictors["made"].predict(image)
    written = nibabel.load(folder / result.files["label-map"])
    labels = np.asarray(written.dataobj).T
    assert np.array_equal(labels, expected.labels)
    assert np.allclose(written.affine, nibabel.load(image).affine)
    assert set(result.files) == {"label-map", "uncertainty", "disagreement"}
    assert all((folder / name).is_file() for name in result.files.values())
    assert (folder / "slices.json").is_file()
    voxel_ml = np.prod(SPACING) / 1000
    for row in result.statistics:
        mask = labels == LABELS[row.label]
        assert row.voxels == mask.sum()
        assert row.volume_ml == pytest.approx(mask.sum() * voxel_ml)
        assert row.mean_intensities["MR"] == pytest.approx(make_image()[mask].mean(), rel=1e-4)
    assert result.centers == {
        value: pytest.approx(center_of_mass(labels == value)[::-1]) for value in np.unique(labels[labels > 0]).tolist()
    }


def test_another_format_has_the_same_voxels(predictors, folder):
    image = write_nifti(make_image(), folder / "image_0000.nii.gz")
    result = run_task(predictors, make_task(folder, image, ending=".nrrd"))
    assert result.files == {"label-map": "image.nrrd"}
    import SimpleITK

    found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "image.nrrd")))
    assert np.array_equal(found, predictors["made"].predict(image).labels)


def test_an_image_beyond_the_limit_is_not_read(predictors, folder):
    header = nibabel.Nifti1Header()
    header.set_data_shape((20000, 20000, 20000))
    image = folder / "image_0000.nii.gz"
    image.write_bytes(gzip.compress(header.binaryblock + bytes(1000)))
    result = run_task(predictors, make_task(folder, image))
    assert result.status == 413
    assert "takes 32000.00 GB in memory" in result.error


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x1f\x8b" + bytes(50), "the header cannot be read"),
        ("truncated", "truncated or damaged"),
        ("two channels", "has 2 channel(s), the model expects 1"),
        ("not a number", "voxels are NaN or infinite"),
    ],
)
def test_an_image_that_cannot_be_predicted(predictors, folder, content, words):
    image = write_nifti(make_image(), folder / "image_0000.nii.gz")
    if content == "truncated":
        image.write_bytes(image.read_bytes()[:3000])
    elif content == "two channels":
        nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7, 2), dtype=np.float32), np.eye(4)), image)
    elif content == "not a number":
        nibabel.save(nibabel.Nifti1Image(np.full((5, 6, 7), np.nan, dtype=np.float32), np.eye(4)), image)
    else:
        image.write_bytes(content)
    result = run_task(predictors, make_task(folder, image))
    assert result.status == 422
    assert words in result.error
    assert str(folder) not in result.error


def test_more_memory_than_the_process_may_use(predictors, folder):
    limited = replace(predictors["made"].case_predictor, max_memory=10**6)
    predictor = copy(predictors["made"])
    predictor.case_predictor = limited
    image = write_nifti(make_image(), folder / "image_0000.nii.gz")
    result = run_task({"made": predictor}, make_task(folder, image))
    assert (result.status, "of memory" in result.error) == (413, True)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryError(), 503, "the server's memory is too small"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 503, "the server's memory is too small"),
        (ValueError("odd"), 500, "ValueError: odd"),
    ],
)
def test_what_fails_on_the_way(predictors, folder, monkeypatch, error, status, words):
    def fail(*_arguments, **_options):
        raise error

    image = write_nifti(make_image(), folder / "image_0000.nii.gz")
    monkeypatch.setattr("autoseg.server.prediction.prepare_case", fail)
    result = run_task(predictors, make_task(folder, image))
    assert result.status == status
    assert words in result.error


def test_facts_of_a_model(predictors, tmp_path):
    facts = describe_model("made", tmp_path / "model.zip", predictors["made"])
    assert (facts.channels, facts.background, facts.dimensions) == (("MR",), 0, 3)
    assert [(label.value, label.name) for label in facts.labels] == [(3, "anterior"), (300, "posterior")]
    assert facts.description == "made, 3d_fullres, from model.zip"


def test_centers_by_hand():
    labels = np.zeros((2, 3, 4), dtype=np.uint16)
    labels[0, 1, 2] = labels[1, 2, 3] = 300
    assert find_centers(labels, 0) == {300: (2.5, 1.5, 0.5)}
    assert find_centers(np.zeros((2, 3, 4), dtype=np.uint8), 0) == {}
