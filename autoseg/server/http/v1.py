"""The server's own routes: models, jobs and their results."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from autoseg.imaging.formats.reading import split_ending
from autoseg.imaging.formats.writing import label_map_ending
from autoseg.server.http.answers import (
    JobAnswer,
    ModelsAnswer,
    StatisticsRow,
    describe_job,
    describe_models,
    describe_statistics,
)
from autoseg.server.http.forms import choose_series, files_of, find_model, open_form, reserved_job, store, text_of
from autoseg.server.http.waiting import wait_until_over
from autoseg.server.jobs import Job, Jobs
from autoseg.server.messages import PredictionTask
from autoseg.server.settings import ServerSettings
from autoseg.server.slices import SliceFacts, draw_png, read_slice_facts

MAX_WAIT_SECONDS = 60.0
"""Longest time that a request for the state of a job waits."""

FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Endings of label maps of volumes that a request may ask for."""

UPLOAD_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "the image: one file, or one for each channel of the model, in its order",
                        },
                        "model": {"type": "string", "description": "name of the model; not needed if there is one"},
                        "format": {"type": "string", "enum": list(FORMATS), "description": "default: the image's"},
                        "series": {
                            "type": "string", "description": "number or UID of the series, of DICOM files with several",
                        },
                        "uncertainty": {"type": "boolean", "default": False},
                        "slices": {
                            "type": "boolean", "default": False, "description": "whether slices can be fetched as PNG",
                        },
                    },
                }
            }
        },
    }
}  # fmt: skip


class Routes:
    """Handlers of `/v1/...`."""

    def __init__(self, jobs: Jobs, settings: ServerSettings) -> None:
        self._jobs, self._settings = jobs, settings

    def add_to(self, app: FastAPI) -> None:
        """Add all routes to a FastAPI application."""
        for path, handler, method, answer in (
            ("/v1/models", self.list_models, "GET", ModelsAnswer),
            ("/v1/jobs/{job}", self.show_job, "GET", JobAnswer),
            ("/v1/jobs/{job}", self.remove_job, "DELETE", JobAnswer),
            ("/v1/jobs/{job}/statistics", self.show_statistics, "GET", list[StatisticsRow]),
            ("/v1/jobs/{job}/slices", self.show_slices, "GET", SliceFacts),
        ):
            app.add_api_route(path, handler, methods=[method], response_model=answer, tags=["v1"])
        app.add_api_route(
            "/v1/jobs", self.add_job, methods=["POST"], status_code=202, response_model=JobAnswer, tags=["v1"],
            openapi_extra=UPLOAD_SCHEMA,
        )  # fmt: skip
        for path, sender in (
            ("/v1/jobs/{job}/slices/{axis}/{index}", self.send_slice),
            ("/v1/jobs/{job}/{kind}", self.send_file),
        ):
            app.add_api_route(path, sender, methods=["GET"], response_class=FileResponse, tags=["v1"])

    async def list_models(self) -> ModelsAnswer:
        """All models, with their channels and labels."""
        return describe_models(self._jobs)

    async def add_job(self, request: Request) -> Response:
        """Send an image; the answer names the job, and the header `Location` says where its state is."""
        with reserved_job(self._jobs) as job:
            async with open_form(request) as form:
                model = find_model(self._jobs, text_of(form, "model"))
                stored = await store(files_of(form, "image", "file"), job.folder)
                images = choose_series(stored, text_of(form, "series"))
                job.task = PredictionTask(
                    model=model,
                    images=images,
                    folder=job.folder,
                    ending=_choose_ending(text_of(form, "format"), images[0]),
                    uncertainty=_is_true(text_of(form, "uncertainty")),
                    slices=_is_true(text_of(form, "slices")),
                    max_image_bytes=self._settings.max_image_bytes,
                )
        return JSONResponse(describe_job(job).model_dump(mode="json"), 202, {"location": f"/v1/jobs/{job.id}"})

    async def show_job(self, job: str, wait: float = 0.0) -> JobAnswer:
        """State of a job; with `wait`, only once it is over, or after so many seconds (at most 60)."""
        found = self._find(job)
        await wait_until_over(found, min(max(wait, 0.0), MAX_WAIT_SECONDS))
        return describe_job(found)

    async def remove_job(self, job: str) -> JobAnswer:
        """Remove a job that is over, with its files; cancel one that waits or runs."""
        found = self._find(job)
        await run_in_threadpool(self._jobs.remove, found)
        return describe_job(found)

    async def show_statistics(self, job: str) -> list[StatisticsRow]:
        """Voxels, volume and mean intensities of each label."""
        return list(describe_statistics(self._find_done(job)))

    def show_slices(self, job: str) -> SliceFacts:
        """Shape and spacing of the slices of a job that was sent with `slices`."""
        try:
            return read_slice_facts(self._find_done(job).folder)
        except OSError as error:
            raise HTTPException(404, "the job was sent without `slices`; send the image again with it") from error

    def send_slice(self, job: str, axis: int, index: int, outlines: bool = True) -> Response:
        """One slice as PNG, from 0 along axis 0, 1 or 2 (z, y, x); superior and anterior are up."""
        found = self._find_done(job)
        names = self._jobs.facts[found.model].labels
        try:
            picture = draw_png(found.folder, axis, index, names, outlined=outlines)
        except OSError as error:
            raise HTTPException(404, "the job was sent without `slices`; send the image again with it") from error
        except IndexError as error:
            raise HTTPException(404, f"{error}") from error
        return Response(picture, media_type="image/png")

    def send_file(self, job: str, kind: str) -> FileResponse:
        """A result: `label-map`, `segmentation` (of DICOM images), `uncertainty` or `disagreement`."""
        found = self._find_done(job)
        name = None if found.result is None else found.result.files.get(kind)
        if name is None:
            kinds = [] if found.result is None else list(found.result.files)
            raise HTTPException(404, f"the job has no {kind!r}; it has {', '.join(kinds)}")
        path = found.folder / name
        return FileResponse(path, filename=f"{kind}{split_ending(name)[1]}", media_type="application/octet-stream")

    def _find(self, identifier: str) -> Job:
        found = self._jobs.find(identifier)
        if found is None:
            raise HTTPException(404, "there is no such job; it may have expired, or been removed")
        return found

    def _find_done(self, identifier: str) -> Job:
        found = self._find(identifier)
        if found.state != "done":
            error = "" if found.result is None else f": {found.result.error}"
            raise HTTPException(409, f"the job is {found.state}{error}; it has no results")
        return found


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "yes", "on")


def _choose_ending(asked: str, image: Path) -> str:
    """Ending of the label map: as asked, else the image's; PNG for 2D images, NIfTI for DICOM."""
    own = label_map_ending(split_ending(image.name)[1])
    if own == ".png" or (not asked and own in FORMATS):
        return own
    if not asked:
        return FORMATS[0]  # DICOM; its segmentation comes beside it
    ending = asked if asked.startswith(".") else f".{asked}"
    if ending not in FORMATS:
        raise HTTPException(400, f"{asked!r} is not a format of label maps here; use one of {' '.join(FORMATS)}")
    return ending
