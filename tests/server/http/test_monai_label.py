"""MONAI Label's routes, asked as its modules for 3D Slicer and OHIF ask them."""

import http.client
import json
import threading
from urllib.parse import urlsplit

import numpy as np
import pytest
import SimpleITK

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

from autoseg.imaging.formats.segmentations import read_segments
from tests.builders import make_image, write_nifti
from tests.server.served import DEATH, StandIn, encode_form, make_predictors, serve_here, serve_predictors, wait_for


@pytest.fixture(scope="module")
def predictors(tmp_path_factory):
    return make_predictors(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def served(predictors, uploads):
    with serve_predictors(predictors, uploads) as client:
        yield client


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return write_nifti(make_image(), tmp_path_factory.mktemp("image") / "patient.nii.gz")


@pytest.fixture(scope="module")
def expected(predictors, image):
    return predictors["made"].predict(image).labels


def read_voxels(content, path):
    path.write_bytes(content)
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def parts_of(answer):
    assert answer.status == 200, answer.body
    parts = answer.parts()
    assert parts["params"].get_content_type() == "application/json"
    assert parts["image"].get_content_type() == "application/octet-stream"
    return json.loads(parts["params"].get_payload()), parts["image"]


def test_info_has_what_the_panels_show(served):
    info = served.ask("/info/").json
    assert served.ask("/info").json == info  # OHIF leaves out the slash
    assert info["labels"] == ["background", "anterior", "posterior"]
    model = info["models"]["made"]
    assert (model["type"], model["dimension"]) == ("segmentation", 3)
    assert model["labels"] == {"background": 0, "anterior": 3, "posterior": 300}
    assert {"description", "config"} <= set(model)
    assert {"name", "version", "trainers", "strategies", "scoring", "train_stats", "datastore"} <= set(info)


def test_slicer_sends_a_session_and_asks(served, uploads, image, expected, tmp_path):
    """As MONAILabelClient does: PUT /session/ with `files`, POST /infer with params, then the session is removed."""
    sent = served.send(
        "/session/", [("files", image.name, image.read_bytes())], [("client_id", "x")], method="PUT"
    ).json
    session = sent["session_id"]
    assert served.ask(f"/session/{session}").json == sent["session_info"]
    assert "/" not in sent["session_info"]["image"]
    params = json.dumps({"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "x"})
    answer = served.send(f"/infer/made?image=patient&session_id={session}", [], [("params", params)])
    found, file = parts_of(answer)
    assert file.get_filename() == "label_map.nrrd"
    assert np.array_equal(read_voxels(file.get_payload(decode=True), tmp_path / "a.nrrd"), expected)
    present = [value for value in (3, 300) if (expected == value).any()]
    assert list(found["label_names"].values()) == present
    assert served.ask(f"/session/{session}", "DELETE").status == 200
    assert served.ask(f"/session/{session}").status == 404
    assert served.send("/infer/made?session_id=" + session, [], [("params", "{}")]).status == 404
    assert [path for path in uploads.iterdir() if path.is_dir()] == []  # nothing is left of it


def test_ohif_asks_about_an_image_that_was_sent(served, image, expected):
    """Raw 16 bits, and centroids by label: OHIF looks for both."""
    uid = "1.2.840/../..%2F"
    name = "1.2.840%2F..%2F..%252F"
    assert served.send(f"/datastore/?image={name}", [("file", "x.nii.gz", image.read_bytes())], method="PUT").json == {
        "image": uid
    }
    assert served.ask("/datastore/").json["total"] == 1
    assert list(served.ask("/datastore/?output=all").json["objects"]) == [uid]
    assert served.ask(f"/datastore/image?image={name}").body == image.read_bytes()
    params = json.dumps({"result_extension": ".nrrd", "result_dtype": "uint16", "result_compress": False})
    found, file = parts_of(served.send(f"/infer/made?image={name}&output=all", [], [("params", params)]))
    header, voxels = file.get_payload(decode=True).split(b"\n\n", 1)
    assert b"encoding: raw" in header
    assert b"endian: little" in header
    assert np.array_equal(np.frombuffer(voxels, dtype="<u2").reshape(expected.shape), expected)
    for value, *place in found["centroids"].values():
        center = np.argwhere(expected == value).mean(axis=0)[::-1]
        assert place == [round(part) for part in center]
    assert served.ask(f"/datastore/?id={name}&type=image", "DELETE").status == 200
    assert served.ask(f"/datastore/?id={name}&type=image", "DELETE").status == 404


def test_the_image_may_come_with_the_question(served, image, expected, tmp_path):
    files = [("file", "patient.nii.gz", image.read_bytes())]
    params = json.dumps({"result_extension": ".seg.nrrd"})
    only = served.send("/infer/made?output=image", files, [("params", params)])
    assert only.status == 200
    assert np.array_equal(read_voxels(only.body, tmp_path / "a.seg.nrrd"), expected)
    assert [segment.name for segment in read_segments(tmp_path / "a.seg.nrrd")] == ["anterior", "posterior"]
    numbers = served.send("/infer/made?output=json", files).json
    assert {"label_names", "centroids", "statistics", "latencies"} <= set(numbers)
    _, file = parts_of(served.send("/infer/made", files))
    assert file.get_filename() == "label_map.nii.gz"


@pytest.mark.parametrize(
    ("path", "fields", "status", "words"),
    [
        ("/infer/other", [], 404, "there is no model 'other'"),
        ("/infer/made", [], 400, "has no image"),
        ("/infer/made?image=unknown", [], 404, "there is no image 'unknown'; send it first"),
        ("/infer/made?output=dicom", [], 400, "the output 'dicom' is not available"),
        ("/infer/made?image=x", [("params", "{")], 400, "is not JSON"),
        ("/infer/made?image=x", [("params", "[1]")], 400, "is not a JSON object"),
        ("/infer/made?image=x", [("params", '{"result_extension": "/../x"}')], 400, "result_extension '/../x'"),
        ("/infer/made?image=x", [("params", '{"result_extension": [1]}')], 400, "result_extension [1]"),
    ],
)
def test_questions_that_cannot_be_answered(served, path, fields, status, words):
    answer = served.send(path, [], fields)
    assert answer.status == status
    assert words in answer.detail


def test_a_bad_image_and_the_death_of_the_process_have_a_status(served, image, tmp_path):
    refused = served.send("/infer/made", [("file", "a.nii.gz", image.read_bytes()[:4000])])
    assert (refused.status, "truncated or damaged" in refused.detail) == (422, True)
    with serve_here(StandIn(lambda task: DEATH), tmp_path) as (client, _jobs):
        dead = client.send("/infer/made", [("file", "a.nii.gz", image.read_bytes())])
        assert (dead.status, "was ended by SIGKILL" in dead.detail) == (503, True)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_client_that_goes_away_takes_its_job_along(image, tmp_path):
    gate = threading.Event()
    with serve_here(StandIn(lambda task: gate.wait(30)), tmp_path) as (client, jobs):
        kind, body = encode_form([("file", "a.nii.gz", image.read_bytes())], [])
        connection = http.client.HTTPConnection(urlsplit(client.url).netloc)
        connection.request("POST", "/infer/made", body, {"content-type": kind})
        wait_for(lambda: jobs.num_running == 1)
        connection.close()
        wait_for(lambda: jobs.counts.ended["cancelled"] == 1)
        gate.set()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/train/?check_if_running=true", 404), ("POST", "/train/made", 501),
        ("POST", "/activelearning/random", 501),
        ("PUT", "/datastore/label?image=x", 501),
    ],
)  # fmt: skip
def test_training_is_refused_with_a_sentence(served, method, path, status):
    answer = served.ask(path, method)
    assert (answer.status, "only predicts" in answer.detail) == (status, True)
