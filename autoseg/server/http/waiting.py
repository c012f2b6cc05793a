"""Clients that wait for their job; one that goes away takes its job along.

Tested in tests/server/http/test_v1.py and tests/server/http/test_monai_label.py.
"""

import asyncio

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from autoseg.server.jobs import Job, Jobs

SECONDS_BETWEEN_LOOKS = 1.0


async def wait_until_over(job: Job, seconds: float) -> None:
    """Wait until a job is over, up to this time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not job.is_over and loop.time() < deadline:
        await asyncio.sleep(0.05)


async def wait_for_client(request: Request, job: Job, jobs: Jobs) -> None:
    """Wait until a job is over, and cancel it when the client has closed the connection.

    Raises:
        HTTPException: If the client is gone; nobody reads it.
    """
    while not job.is_over:
        await wait_until_over(job, SECONDS_BETWEEN_LOOKS)
        if await request.is_disconnected():
            await run_in_threadpool(jobs.remove, job)
            raise HTTPException(400, "the connection was closed before the job was finished")
