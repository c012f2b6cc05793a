"""Forms with images, read within the limits.

Tested in tests/server/http/test_v1.py.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from autoseg.imaging.formats.dicom.addresses import DicomAddress
from autoseg.imaging.formats.reading import is_series
from autoseg.server.jobs import Job, Jobs, QueueFullError, StoppingError
from autoseg.server.uploads import MAX_CHANNELS, RefusedUploadError, Upload, store_images

UPLOAD_SECONDS = 900.0
"""Longest time that a request may take to arrive."""

MAX_FIELDS = 20

SECONDS_BETWEEN_TRIES = "5"
"""When a client that was sent away may ask again."""


@asynccontextmanager
async def open_form(request: Request) -> AsyncIterator[FormData]:
    """All fields and files of a request; files lie in unnamed temporary files, which are gone afterwards.

    Raises:
        HTTPException: If it is not a form with files, is not well formed, or takes too long.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(415, "send the image as a form (multipart/form-data), as browsers and curl -F do")
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            form = await request.form(max_files=MAX_CHANNELS + 1, max_fields=MAX_FIELDS)
    except TimeoutError as error:
        raise HTTPException(408, f"the request did not arrive within {UPLOAD_SECONDS:.0f} s; send it again") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the connection was closed before the request was complete") from error
    try:
        yield form
    finally:
        await form.close()


def files_of(form: FormData, *names: str) -> list[Upload]:
    """The files of these fields, in order."""
    found = [value for name, value in form.multi_items() if name in names and isinstance(value, UploadFile)]
    return [Upload(file.filename or "", file.file) for file in found]


def text_of(form: FormData, name: str, default: str = "") -> str:
    """A field of a form that is no file."""
    value = form.get(name, default)
    return value if isinstance(value, str) else default


async def store(uploads: list[Upload], folder: Path) -> tuple[Path, ...]:
    """Write uploaded files into a folder, in a thread.

    Raises:
        HTTPException: If one of them is refused.
    """
    try:
        files: tuple[Path, ...] = await run_in_threadpool(store_images, uploads, folder)
    except RefusedUploadError as error:
        raise HTTPException(error.status, error.sentence) from error
    return files


def choose_series(images: tuple[Path, ...], series: str) -> tuple[Path, ...]:
    """The images, of which DICOM ones are those of a series, where one is named.

    Raises:
        HTTPException: If it is neither a number nor a UID.
    """
    if not series:
        return images
    if not re.fullmatch(r"[0-9.]{1,64}(-[0-9]{1,4})?", series):
        raise HTTPException(400, f"the series {series[:80]!r} is neither a number nor a UID")
    return tuple(DicomAddress(path, series).written() if is_series(path) else path for path in images)


@contextmanager
def reserved_job(jobs: Jobs) -> Iterator[Job]:
    """A place in the queue while the image arrives; see `Jobs.reserve`.

    Raises:
        HTTPException: If the queue is full, or the server is about to stop.
    """
    try:
        with jobs.reserve() as job:
            yield job
    except QueueFullError as error:
        raise HTTPException(
            429, "the queue is full; send the image again in a few seconds", {"retry-after": SECONDS_BETWEEN_TRIES}
        ) from error
    except StoppingError as error:
        raise HTTPException(503, "the server is about to stop; send the image again later") from error


def find_model(jobs: Jobs, name: str) -> str:
    """The model of this name; an empty name is that of the only one.

    Raises:
        HTTPException: If there is no such model, or a name is needed.
    """
    names = ", ".join(jobs.facts)
    if name and name not in jobs.facts:
        raise HTTPException(404, f"there is no model {name!r}; the models are {names}")
    if not name and len(jobs.facts) > 1:
        raise HTTPException(400, f"the request names no model; send the field `model`: {names}")
    return name or names
