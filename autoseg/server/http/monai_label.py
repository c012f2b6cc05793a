"""The routes that MONAI Label's modules for 3D Slicer and OHIF call, as far as they predict.

They send an image under a name (`/datastore/`), or for a session (`/session/`), or with the question (`/infer/`). This
server does not train and keeps no label maps: what belongs to that is answered by a sentence.

References:
    MONAI Label 0.8, monailabel/endpoints (info, infer, datastore, session, login) and monailabel/client.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from autoseg import DISTRIBUTION
from autoseg.server.http.answers import describe_statistics
from autoseg.server.http.forms import files_of, find_model, open_form, reserved_job, store, text_of
from autoseg.server.http.gate import is_same_secret
from autoseg.server.http.waiting import wait_for_client
from autoseg.server.jobs import Job, Jobs
from autoseg.server.messages import LABEL_MAP, SEGMENTATION, ModelFacts, PredictionTask
from autoseg.server.settings import ServerSettings
from autoseg.server.stored_images import StoredImage, StoredImages
from autoseg.server.viewer_files import NUMBER_TYPES, write_for_viewer

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha")
"""What may be asked for as `result_extension`."""

OUTPUTS = ("all", "image", "json", "dicom_seg")

READ_BYTES = 2**18

NO_TRAINING = "this server only predicts; train with autoseg train, and save corrected label maps in the viewer"


class MonaiLabelRoutes:
    """Handlers of MONAI Label's routes."""

    def __init__(self, jobs: Jobs, images: StoredImages, settings: ServerSettings) -> None:
        self._jobs, self._images, self._settings = jobs, images, settings

    def add_to(self, app: FastAPI) -> None:
        """Add all routes to a FastAPI application."""
        for method, path, handler in (
            ("GET", "/info/", self.show_info),
            ("POST", "/infer/{model}", self.infer),
            ("GET", "/datastore/", self.show_datastore),
            ("PUT", "/datastore/", self.add_image),
            ("DELETE", "/datastore/", self.remove_image),
            ("GET", "/datastore/image", self.send_image),
            ("PUT", "/session/", self.add_session),
            ("GET", "/session/{session}", self.show_session),
            ("DELETE", "/session/{session}", self.remove_session),
            ("GET", "/auth/", self.show_auth),
            ("POST", "/auth/token", self.give_token),
            ("GET", "/auth/token/valid", self.check_token),
            ("GET", "/train/", self.show_training),
            ("POST", "/train/", self.refuse),
            ("POST", "/train/{model}", self.refuse),
            ("POST", "/activelearning/{strategy}", self.refuse),
            ("PUT", "/datastore/label", self.refuse),
            ("GET", "/datastore/label", self.refuse),
        ):
            app.add_api_route(path, handler, methods=[method], tags=["MONAI Label"])

    async def show_info(self) -> dict[str, Any]:
        """Models and labels, as the viewers' panels show them."""
        models = {facts.name: _describe_model(facts) for facts in self._jobs.facts.values()}
        names = [label.name for facts in self._jobs.facts.values() for label in facts.labels]
        return {
            "name": "autoseg",
            "description": "models that autoseg trained or imported; prediction only",
            "version": version(DISTRIBUTION),
            "labels": list(dict.fromkeys(["background", *names])),
            "models": models,
            "trainers": {},
            "strategies": {},
            "scoring": {},
            "train_stats": {},
            "datastore": self._count_images(),
        }

    async def infer(
        self, request: Request, model: str, image: str = "", session_id: str = "", output: str = "all"
    ) -> Response:
        """Predict an image that comes with the question, or was sent before, and wait for the label map."""
        if output not in OUTPUTS:
            raise HTTPException(400, f"the output {output!r} is not available here; ask for {', '.join(OUTPUTS)}")
        name = find_model(self._jobs, model)
        with reserved_job(self._jobs) as job:
            async with open_form(request) as form:
                wishes = _read_wishes(text_of(form, "params", "{}"))
                uploads = files_of(form, "file")
                if uploads:
                    images = await store(uploads, job.folder)
                else:
                    images = await run_in_threadpool(self._take_stored, session_id or image, job.folder)
            job.task = PredictionTask(
                model=name, images=images, folder=job.folder, ending=".nrrd",
                max_image_bytes=self._settings.max_image_bytes,
            )  # fmt: skip
        await wait_for_client(request, job, self._jobs)
        return await run_in_threadpool(self._answer, job, output, wishes)

    async def show_datastore(self, output: str = "stats") -> dict[str, Any]:
        """Number of images that were sent; with `output=all`, their names."""
        if output != "all":
            return self._count_images()
        objects = {
            image.id: {"image": {"ext": _ending(image), "info": {}}, "labels": {}} for image in self._images.listed()
        }
        return {"name": "autoseg", "description": "images that were sent; none is kept for long", "objects": objects}

    async def add_image(self, request: Request, image: str = "") -> dict[str, str]:
        """Send an image under a name of the client's own."""
        stored = await self._keep(request, "file", image or None)
        return {"image": stored.id}

    async def remove_image(self, id: str, type: str = "image") -> dict[str, str]:
        """Remove an image; this server has no labels of it."""
        if type == "image" and self._images.remove(id) is None:
            raise HTTPException(404, f"there is no image {id!r}; it may have expired")
        return {}

    async def send_image(self, image: str) -> FileResponse:
        """The image as it was sent."""
        found = self._find(image)
        return FileResponse(found.files[0], filename=f"image{_ending(found)}", media_type="application/octet-stream")

    async def add_session(self, request: Request) -> dict[str, Any]:
        """Send an image that later questions name by the session; several files are its channels."""
        stored = await self._keep(request, "files", None)
        return {"session_id": stored.id, "session_info": self._describe_session(stored)}

    async def show_session(self, session: str) -> dict[str, Any]:
        """A session that has not expired."""
        return self._describe_session(self._find(session))

    async def remove_session(self, session: str) -> dict[str, Any]:
        """Forget a session and its image."""
        found = self._find(session)
        await run_in_threadpool(self._images.remove, found.id)
        return self._describe_session(found)

    async def show_auth(self) -> dict[str, Any]:
        """Whether a token is needed; viewers ask for name and password then, and the token is the password."""
        return {"enabled": self._settings.token is not None}

    async def give_token(self, request: Request) -> dict[str, str]:
        """The token, to whoever knows it: viewers send it as the password of any name."""
        async with request.form(max_files=0, max_fields=10) as form:
            password = text_of(form, "password")
        expected = self._settings.token or ""
        if not is_same_secret(password, expected):
            raise HTTPException(401, "the password is not this server's token")
        return {"access_token": expected, "token_type": "bearer"}

    async def check_token(self) -> dict[str, bool]:
        """Whether the request's token is right; others do not get here."""
        return {"valid": True}

    async def show_training(self) -> Response:
        """Nothing is being trained."""
        return JSONResponse({"detail": NO_TRAINING}, 404)

    async def refuse(self) -> Response:
        """What only a server that trains can do."""
        return JSONResponse({"detail": NO_TRAINING}, 501)

    async def _keep(self, request: Request, field: str, name: str | None) -> StoredImage:
        folder = await run_in_threadpool(self._images.make_folder)
        try:
            async with open_form(request) as form:
                files = await store(files_of(form, field), folder)
            stored: StoredImage = await run_in_threadpool(self._images.add, files, name)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return stored

    def _take_stored(self, identifier: str, folder: Path) -> tuple[Path, ...]:
        """The files of a stored image, under a second name in a job's folder, so that it may expire meanwhile."""
        if not identifier:
            raise HTTPException(400, "the request has no image; send it as the form field `file`, or name a sent one")
        files = self._find(identifier).files
        try:
            for path in files:
                os.link(path, folder / path.name)
        except FileNotFoundError as error:
            raise HTTPException(404, f"there is no image {identifier!r} any more; send it again") from error
        return tuple(folder / path.name for path in files)

    def _find(self, identifier: str) -> StoredImage:
        found = self._images.find(identifier)
        if found is None:
            raise HTTPException(
                404,
                f"there is no image {identifier!r}; send it first (PUT /datastore/ or /session/), or with the question",
            )
        return found

    def _count_images(self) -> dict[str, Any]:
        return {"total": len(self._images.listed()), "completed": 0, "label_tags": {}}

    def _describe_session(self, image: StoredImage) -> dict[str, Any]:
        return {
            "name": image.id,
            "image": f"image{_ending(image)}",
            "create_ts": int(image.created),
            "expiry": int(self._settings.keep_seconds),
        }

    def _answer(self, job: Job, output: str, wishes: dict[str, Any]) -> Response:
        """The result as it was asked for; the job is removed when it is sent."""
        facts, result = self._jobs.facts[job.model], job.result
        if result is None or job.state != "done":
            error, status = ("the job was cancelled", 409) if result is None else (result.error, result.status)
            self._jobs.remove(job)
            raise HTTPException(status, error)
        params = _describe_result(job, facts)
        after = BackgroundTask(self._jobs.remove, job)
        if output == "json":
            return JSONResponse(params, background=after)
        if output == "dicom_seg":
            return self._send_segmentation(job, after)
        path = job.folder / f"label_map{wishes['ending']}"
        write_for_viewer(
            job.folder / result.files[LABEL_MAP], path, facts.labels,
            number_type=wishes["number_type"], compressed=wishes["compressed"],
        )  # fmt: skip
        if output == "image":
            return FileResponse(path, filename=path.name, media_type="application/octet-stream", background=after)
        return _multipart(params, path, after)

    def _send_segmentation(self, job: Job, after: BackgroundTask) -> Response:
        """The DICOM segmentation, which only images of DICOM have."""
        name = None if job.result is None else job.result.files.get(SEGMENTATION)
        if name is None:
            self._jobs.remove(job)
            raise HTTPException(400, "the image is not DICOM, so it has no DICOM segmentation; ask for another output")
        return FileResponse(job.folder / name, filename=name, media_type="application/dicom", background=after)


def _describe_model(facts: ModelFacts) -> dict[str, Any]:
    return {
        "type": "segmentation",
        "labels": {"background": facts.background, **{label.name: label.value for label in facts.labels}},
        "dimension": facts.dimensions,
        "description": facts.description,
        "channels": list(facts.channels),
        "config": {},
    }


def _describe_result(job: Job, facts: ModelFacts) -> dict[str, Any]:
    """What comes beside the label map. Slicer gives these names to the values that it finds, in ascending order."""
    result = job.result
    if result is None:
        raise ValueError("a job without a result was described")
    names = {label.value: label.name for label in facts.labels}
    present = {value: center for value, center in sorted(result.centers.items()) if value in names}
    return {
        "label_names": {names[value]: value for value in present},
        "centroids": {names[value]: [value, *(round(place) for place in center)] for value, center in present.items()},
        "latencies": {"total": round(result.seconds, 3)},
        "statistics": [row.model_dump(mode="json") for row in describe_statistics(job)],
        "notes": list(result.notes),
    }


def _read_wishes(text: str) -> dict[str, Any]:
    """Format, number type and compression of the label map; other parameters are those of other models."""
    try:
        params = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise HTTPException(400, f"the field `params` is not JSON: {error}") from error
    if not isinstance(params, dict):
        raise HTTPException(400, "the field `params` is not a JSON object")
    ending = params.get("result_extension") or ".nii.gz"
    if ending not in ENDINGS:
        raise HTTPException(400, f"the result_extension {ending!r} is not available; use one of {' '.join(ENDINGS)}")
    number_type = params.get("result_dtype") or "uint16"
    return {
        "ending": ending,
        "number_type": number_type if number_type in NUMBER_TYPES else "uint16",
        "compressed": bool(params.get("result_compress", True)),
    }


def _multipart(params: dict[str, Any], path: Path, after: BackgroundTask) -> StreamingResponse:
    """Two parts: `params` as JSON, and the file `image`, as MONAI Label's clients take them apart."""
    boundary = secrets.token_hex(16)
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
        f"{json.dumps(params)}\r\n"
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()

    def parts() -> Iterator[bytes]:
        yield head
        with path.open("rb") as file:
            while part := file.read(READ_BYTES):
                yield part
        yield tail

    length = len(head) + path.stat().st_size + len(tail)
    return StreamingResponse(
        parts(), media_type=f"multipart/form-data; boundary={boundary}", headers={"content-length": str(length)},
        background=after,
    )  # fmt: skip


def _ending(image: StoredImage) -> str:
    return "".join(image.files[0].suffixes)
