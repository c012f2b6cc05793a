"""The application: routes, refusals as sentences, the page, health and figures.

Tested in tests/server/http/test_v1.py and tests/server/http/test_access.py.
"""

import logging
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from autoseg import DISTRIBUTION
from autoseg.server.http.gate import Gate
from autoseg.server.http.monai_label import MonaiLabelRoutes
from autoseg.server.http.v1 import Routes
from autoseg.server.jobs import Jobs
from autoseg.server.metrics import CONTENT_TYPE, RequestCounts, format_metrics
from autoseg.server.settings import ServerSettings
from autoseg.server.stored_images import StoredImages

logger = logging.getLogger("autoseg.server")

PAGE = Path(__file__).parents[1] / "page"


def build_application(jobs: Jobs, images: StoredImages, settings: ServerSettings) -> FastAPI:
    """All routes over the jobs of a server; the OpenAPI document is at `/openapi.json`."""
    counts = RequestCounts()
    silent = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
    app = FastAPI(
        title="autoseg", description="Label maps for medical images.", version=version(DISTRIBUTION),
        docs_url=None, redoc_url=None,  # they load scripts from elsewhere
        telemetry=silent,  # what clients ask is told to nobody; releases without telemetry ignore it
    )  # fmt: skip
    _add_status_routes(app, jobs, counts)
    _add_page(app)
    Routes(jobs, settings).add_to(app)
    MonaiLabelRoutes(jobs, images, settings).add_to(app)
    app.add_exception_handler(HTTPException, _answer_refusal)
    app.add_exception_handler(RequestValidationError, _answer_wrong_values)
    app.add_exception_handler(Exception, _answer_unexpected)
    app.add_middleware(Gate, settings=settings, counts=counts)
    app.add_middleware(
        CORSMiddleware, allow_origins=list(settings.allowed_origins), allow_methods=["*"], allow_headers=["*"],
        expose_headers=["location", "retry-after", "content-disposition"],
    )  # fmt: skip
    return app


def _add_status_routes(app: FastAPI, jobs: Jobs, counts: RequestCounts) -> None:
    async def health() -> dict[str, str]:
        """The server works."""
        return {"status": "alive"}

    async def ready() -> Response:
        """The models are loaded, and jobs are accepted; else the status is 503."""
        return JSONResponse({"status": "ready" if jobs.is_ready else "not ready"}, 200 if jobs.is_ready else 503)

    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(format_metrics(jobs, counts), media_type=CONTENT_TYPE)

    for path, handler in (("/health", health), ("/ready", ready), ("/metrics", metrics)):
        app.add_api_route(path, handler, methods=["GET"], tags=["status"])


def _add_page(app: FastAPI) -> None:
    """The page and its files, by fixed names: no path comes from a request."""

    def route(name: str) -> Callable[[], Awaitable[FileResponse]]:
        async def send() -> FileResponse:
            return FileResponse(PAGE / name)

        return send

    for path, name in (("/", "index.html"), ("/page.js", "page.js"), ("/page.css", "page.css")):
        app.add_api_route(path, route(name), methods=["GET"], include_in_schema=False)


async def _answer_refusal(_request: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


async def _answer_wrong_values(_request: Request, error: RequestValidationError) -> JSONResponse:
    """One sentence about parameters of the wrong kind."""
    faults = [f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in error.errors()]
    return JSONResponse({"detail": f"the request cannot be understood: {'; '.join(faults)}"}, 422)


async def _answer_unexpected(request: Request, error: Exception) -> JSONResponse:
    route = getattr(request.scope.get("route"), "path", "other")
    logger.error("%s %s failed: %s", request.method, route, type(error).__name__)
    logger.debug("traceback of the error above", exc_info=error)
    return JSONResponse({"detail": "the server failed; whoever runs it finds the reason in its log (-v)"}, 500)
