"""DICOM through the server: a zip archive of a series in, a segmentation on its own slices out."""

import io
import zipfile

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed (extra `dicom`)")
pytest.importorskip("highdicom", reason="highdicom is not installed (extra `dicom`)")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

import highdicom
import pydicom

from tests.dicom_builders import IDENTITY, Series
from tests.server.served import make_predictors, serve_predictors


@pytest.fixture(scope="module")
def predictors(tmp_path_factory):
    return make_predictors(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def served(predictors, tmp_path_factory):
    with serve_predictors(predictors, tmp_path_factory.mktemp("uploads"), max_image_bytes=10**6) as client:
        yield client


def zipped(folder, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.dcm")):
            archive.write(file, str(file.relative_to(folder)))
    return path


def test_a_series_goes_in_and_its_segmentation_comes_out(served, predictors, tmp_path):
    series = Series(modality="MR", geometry="coronal")
    folder = series.write(tmp_path / "series")
    job = served.predict(zipped(folder, tmp_path / "patient.zip"))
    assert (job["state"], job["error"]) == ("done", "")
    assert {"label-map", "segmentation"} <= set(job["results"])
    answer = served.ask(job["results"]["segmentation"])
    assert answer.headers["content-disposition"] == 'attachment; filename="segmentation.dcm"'
    segmentation = highdicom.seg.segread(io.BytesIO(answer.body))
    expected = predictors["made"].predict(folder).labels
    by_value = {3: 1, 300: 2}
    uids = [f"{series.series_uid}.{index + 1}" for index in range(len(series.stored))]
    found = segmentation.get_pixels_by_source_instance(uids, combine_segments=True, ignore_spatial_locations=True)
    assert found.shape == series.stored.shape
    assert sorted(np.unique(found)) == sorted({by_value.get(value, 0) for value in np.unique(expected).tolist()})
    assert np.count_nonzero(found) == np.count_nonzero(expected)
    assert IDENTITY not in str(job)


def test_several_series_are_listed_and_one_is_chosen(served, tmp_path):
    folder = tmp_path / "both"
    Series(number=3).write(folder / "a")
    Series(number=4, series_uid="1.2.826.0.1.3680043.8.498.4").write(folder / "b")
    path = zipped(folder, tmp_path / "patient.zip")
    refused = served.predict(path)
    assert (refused["status"], "--series 4" in refused["error"]) == (422, True)
    assert served.predict(path, ("series", "4"))["state"] == "done"
    wrong = served.send("/v1/jobs", [("image", "a.zip", path.read_bytes())], [("series", "../x")])
    assert (wrong.status, "neither a number nor a UID" in wrong.detail) == (400, True)


def test_monai_label_gives_a_segmentation_too(served, tmp_path):
    series = Series(modality="CT").write(tmp_path / "series")
    path = zipped(series, tmp_path / "patient.zip")
    assert served.send("/datastore/?image=1.2.3", [("file", "x.zip", path.read_bytes())], method="PUT").status == 200
    answer = served.send("/infer/made?image=1.2.3&output=dicom_seg", [], [("params", "{}")])
    assert (answer.status, answer.headers["content-type"]) == (200, "application/dicom")
    assert pydicom.dcmread(io.BytesIO(answer.body)).Modality == "SEG"


def write_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(2 * 10**8))


def write_other(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../evil.txt", "text")


def write_text(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "text")


def write_claim(path):
    header = Series().data_set()
    header.Rows = header.Columns = 60000
    with zipfile.ZipFile(path, "w") as archive, io.BytesIO() as stream:
        pydicom.dcmwrite(stream, header, enforce_file_format=True)
        archive.writestr("a.dcm", stream.getvalue())


def write_frames(path):
    header = Series().data_set()
    header.NumberOfFrames = 2_000_000_000
    with zipfile.ZipFile(path, "w") as archive, io.BytesIO() as stream:
        pydicom.dcmwrite(stream, header, enforce_file_format=True)
        archive.writestr("a.dcm", stream.getvalue())


@pytest.mark.parametrize(
    ("write", "status", "words"),
    [
        (write_bomb, 422, "more than 100 times what is packed"),
        (write_other, 422, ".."),
        (write_text, 422, "no"),
        (write_claim, 413, "in memory"),
        (write_frames, 422, "claims to have 2000000000 frames"),
        (lambda path: path.write_bytes(b"PK\x03\x04 broken"), 422, "zip"),
    ],
)
def test_archives_that_are_refused(served, tmp_path, write, status, words):
    path = tmp_path / "bad.zip"
    write(path)
    job = served.predict(path)
    assert (job["state"], job["status"]) == ("failed", status), job["error"]
    assert words in job["error"]
    assert "/tmp" not in job["error"]
