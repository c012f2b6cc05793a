"""The server's own routes, over a real socket: jobs and results, bounds, bad uploads, many clients at once."""

import gzip
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

from autoseg.server.messages import TaskResult
from tests.builders import make_image, write_nifti
from tests.server.served import DEATH, StandIn, make_predictors, serve_here, serve_predictors, wait_for

GZIP = b"\x1f\x8b" + bytes(100)


@pytest.fixture(scope="module")
def predictors(tmp_path_factory):
    return make_predictors(tmp_path_factory.mktemp("served") / "model", ("0", "1"))


@pytest.fixture(scope="module")
def served(predictors, tmp_path_factory):
    """A server that predicts with a model, in this process."""
    with serve_predictors(predictors, tmp_path_factory.mktemp("uploads"), max_image_bytes=10**6) as client:
        yield client


@pytest.fixture
def image(tmp_path):
    return write_nifti(make_image(), tmp_path / "patient.nii.gz")


def test_a_job_from_image_to_label_map(served, predictors, image):
    job = served.predict(image, ("uncertainty", "true"), ("slices", "true"), ("model", "made"))
    assert (job["state"], job["status"], job["error"]) == ("done", 200, "")
    assert set(job["results"]) == {"label-map", "uncertainty", "disagreement", "statistics", "slices"}
    sent = served.ask(job["results"]["label-map"])
    found = nibabel.Nifti1Image.from_bytes(gzip.decompress(sent.body))
    assert np.array_equal(np.asarray(found.dataobj).T, predictors["made"].predict(image).labels)
    assert sent.headers["content-disposition"] == 'attachment; filename="label-map.nii.gz"'
    uncertainty = nibabel.Nifti1Image.from_bytes(gzip.decompress(served.ask(job["results"]["uncertainty"]).body))
    assert 0 <= uncertainty.get_fdata().min() < uncertainty.get_fdata().max() <= 1
    rows = served.ask(job["results"]["statistics"]).json
    assert rows == job["statistics"]
    assert [row["label"] for row in rows] == ["anterior", "posterior"]
    facts = served.ask(job["results"]["slices"]).json
    picture = served.ask(f"{job['results']['slices']}/0/{facts['best'][0]}")
    assert picture.headers["content-type"] == "image/png"
    assert max(Image.open(io.BytesIO(picture.body)).size) == 480
    assert served.ask(f"{job['results']['slices']}/0/99").status == 404
    assert served.ask(f"/v1/jobs/{job['id']}", "DELETE").status == 200
    assert served.ask(f"/v1/jobs/{job['id']}").status == 404
    assert served.ask(job["results"]["label-map"]).status == 404


def test_another_format(served, image):
    job = served.predict(image, ("format", ".nrrd"))
    assert served.ask(job["results"]["label-map"]).body.startswith(b"NRRD")
    assert "slices" not in job["results"]
    assert served.ask(f"/v1/jobs/{job['id']}/slices").status == 404
    refused = served.send("/v1/jobs", [("image", "a.nii.gz", image.read_bytes())], [("format", "exe")])
    assert (refused.status, "'exe' is not a format" in refused.detail) == (400, True)


@pytest.mark.parametrize(
    ("files", "fields", "status", "words"),
    [
        ([], [("model", "made")], 400, "has no file"),
        ([("image", "a.nii.gz", b"")], [], 400, "the file is empty"),
        ([("image", "a.txt", b"text")], [], 415, "must end in one of"),
        ([("image", "a.nii.gz", b"<html></html>")], [], 415, "is not what its ending"),
        ([("image", "a.nii.gz", GZIP)], [("model", "other")], 404, "there is no model 'other'"),
        ([("image", "a.nii.gz", GZIP)] * 70, [], 400, "Too many files"),
        ([("image", "a.nii.gz", GZIP)], [(f"f{n}", "x") for n in range(30)], 400, "Too many fields"),
    ],
)
def test_uploads_that_are_refused_at_once(served, files, fields, status, words):
    answer = served.send("/v1/jobs", files, fields)
    assert answer.status == status
    assert words in answer.detail


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        ("truncated", 422, "truncated or damaged"),
        (GZIP, 422, "the header cannot be read"),
        ("bomb", 413, "in memory"),
    ],
)
def test_uploads_that_turn_out_to_be_bad(served, image, tmp_path, content, status, words):
    path = tmp_path / "bad.nii.gz"
    if content == "truncated":
        path.write_bytes(image.read_bytes()[:5000])
    elif content == "bomb":
        bomb = nibabel.Nifti1Image(np.zeros((500, 400, 300), dtype=np.uint8), np.eye(4))
        nibabel.save(bomb, path)
        assert path.stat().st_size < 10**6
    else:
        path.write_bytes(content)
    job = served.predict(path)
    assert (job["state"], job["status"]) == ("failed", status)
    assert words in job["error"]
    assert "/tmp" not in job["error"]
    refused = served.ask(f"/v1/jobs/{job['id']}/label-map")
    assert (refused.status, words in refused.detail) == (409, True)


def test_what_is_not_a_form_is_refused(served):
    for body, kind in ((b"x" * 100, "application/octet-stream"), (b"a=b", "application/x-www-form-urlencoded")):
        answer = served.ask("/v1/jobs", "POST", body, {"content-type": kind})
        assert (answer.status, "send the image as a form" in answer.detail) == (415, True)
    broken = served.ask("/v1/jobs", "POST", b"no boundary", {"content-type": "multipart/form-data; boundary=x"})
    assert broken.status == 400
    assert served.ask("/v1/jobs", "POST", b"x", {"content-type": "multipart/form-data"}).status == 400


def test_wrong_questions(served):
    assert served.ask("/v1/jobs/unknown").detail == "there is no such job; it may have expired, or been removed"
    assert served.ask("/v1/jobs/unknown?wait=soon").detail.startswith("the request cannot be understood: wait: ")
    assert served.ask("/v1/jobs/..%2f..%2fetc%2fpasswd").status == 404
    assert served.ask("/page.js/../../settings.py").status == 404
    assert served.ask("/v1/jobs", "PATCH").status == 405


def test_models_and_their_description(served):
    (model,) = served.ask("/v1/models").json["models"]
    assert (model["name"], model["channels"], model["dimensions"]) == ("made", ["MR"], 3)
    assert [(label["name"], label["value"]) for label in model["labels"]] == [("anterior", 3), ("posterior", 300)]
    paths = served.ask("/openapi.json").json["paths"]
    assert {"/v1/jobs", "/v1/jobs/{job}", "/v1/models", "/infer/{model}", "/health", "/metrics"} <= set(paths)
    schema = paths["/v1/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["required"] == ["image"]
    assert served.ask("/docs").status == 404  # it would load scripts from elsewhere


def test_a_hundred_clients_at_once(tmp_path):
    """Every one is answered: by a job that is done, or by the advice to come again."""
    gate = threading.Event()

    def work(task):
        gate.wait(30)
        return TaskResult()

    with serve_here(StandIn(work), tmp_path, max_queue=20) as (client, jobs):
        send = [("image", "a.nii.gz", GZIP + bytes(200_000))]
        with ThreadPoolExecutor(100) as pool:
            answers = list(pool.map(lambda _: client.send("/v1/jobs", send), range(100)))
            statuses = [answer.status for answer in answers]
            assert set(statuses) == {202, 429}
            assert 20 <= statuses.count(202) <= 22
            refused = next(answer for answer in answers if answer.status == 429)
            assert (refused.headers["retry-after"], "the queue is full" in refused.detail) == ("5", True)
            gate.set()
            accepted = [answer.json["id"] for answer in answers if answer.status == 202]
            states = [job["state"] for job in pool.map(client.wait, accepted)]
        assert set(states) == {"done"}
        assert jobs.num_waiting == 0
        text = client.ask("/metrics").body.decode()
        assert f'autoseg_requests_total{{method="POST",route="/v1/jobs",status="429"}} {statuses.count(429)}' in text


def test_the_size_of_requests_is_limited_with_and_without_a_length(tmp_path):
    with serve_here(StandIn(), tmp_path, max_upload_bytes=100_000) as (client, _jobs):
        files = [("image", "a.nii.gz", GZIP + bytes(200_000))]
        refused = client.send("/v1/jobs", files)
        assert (refused.status, "larger than 0.1 MB" in refused.detail) == (413, True)
        kind = "multipart/form-data; boundary=x"
        head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.nii.gz"\r\n\r\n' + GZIP
        chunks = (head, *[bytes(50_000)] * 4, b"\r\n--x--\r\n")
        without_length = client.ask("/v1/jobs", "POST", iter(chunks), {"content-type": kind})
        assert without_length.status == 413
        assert client.ask("/auth/token", "POST", bytes(70_000), {"content-type": "text/plain"}).status == 413
        assert client.ask("/health").status == 200
        assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_cancelling_and_the_death_of_the_process(tmp_path):
    gate, answers = threading.Event(), [TaskResult(), DEATH, TaskResult()]

    def work(task):
        gate.wait(30)
        return answers.pop(0)

    files = [("image", "a.nii.gz", GZIP)]
    with serve_here(StandIn(work), tmp_path) as (client, jobs):
        running, waiting = (client.send("/v1/jobs", files).json["id"] for _ in range(2))
        wait_for(lambda: client.ask(f"/v1/jobs/{running}").json["state"] == "running")
        for job in (waiting, running):
            client.ask(f"/v1/jobs/{job}", "DELETE")
            assert client.wait(job)["state"] == "cancelled"
        gate.set()
        dead = client.wait(client.send("/v1/jobs", files).json["id"])
        assert (dead["status"], "was ended by SIGKILL" in dead["error"]) == (503, True)
        assert client.wait(client.send("/v1/jobs", files).json["id"])["state"] == "done"
        assert client.ask("/ready").status == 200
        assert "autoseg_process_restarts_total 2" in client.ask("/metrics").body.decode()
        jobs.stop(0.0)
        assert client.ask("/ready").status == 503
        refused = client.send("/v1/jobs", files)
        assert (refused.status, "about to stop" in refused.detail) == (503, True)


def test_several_models_must_be_named(tmp_path):
    with serve_here(StandIn(names=("a", "b")), tmp_path) as (client, _jobs):
        files = [("image", "a.nii.gz", GZIP)]
        refused = client.send("/v1/jobs", files)
        assert (refused.status, refused.detail) == (400, "the request names no model; send the field `model`: a, b")
        assert client.wait(client.send("/v1/jobs", files, [("model", "b")]).json["id"])["model"] == "b"


def test_an_error_of_the_server_tells_nothing_about_it(tmp_path, monkeypatch):
    with serve_here(StandIn(), tmp_path) as (client, jobs):
        monkeypatch.setattr(jobs, "find", lambda _job: 1 / 0)
        answer = client.ask("/v1/jobs/x")
        assert (answer.status, answer.detail) == (
            500, "the server failed; whoever runs it finds the reason in its log (-v)",
        )  # fmt: skip
