"""Who may ask: requests from elsewhere, without the token or too large are refused before their body is read.

A page of another site can make a browser send requests here. Its `Origin` gives it away; and where it had its own name
server point to this machine, the `Host` does.

Tested in tests/server/http/test_access.py.
"""

import hmac
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autoseg.server.metrics import RequestCounts
from autoseg.server.settings import ServerSettings
from autoseg.text import format_memory

OPEN_PATHS = frozenset({"/", "/health", "/ready", "/page.js", "/page.css", "/auth/", "/auth/token"})
"""What is told without the token: whether the server works, and the page, which asks for the token."""

UPLOAD_PATHS = ("/v1/jobs", "/infer/", "/session/", "/datastore/")
"""Beginnings of paths that images are sent to."""

MAX_PLAIN_BYTES = 2**16
"""Largest body of a request that has no image."""

SECURITY_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
     b" connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)  # fmt: skip
"""The page loads nothing from elsewhere, and results of patients are kept by no cache."""


class Gate:
    """ASGI middleware: checks, limits and counts requests."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, counts: RequestCounts) -> None:
        self._app, self._settings, self._counts = app, settings, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received, status = 0, 500
        limit = self._body_limit(scope["path"])

        async def receive_up_to_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, _too_large(limit))
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *SECURITY_HEADERS]}
            await send(message)

        refusal = self._refuse(scope, Headers(scope=scope), limit)
        app = self._app if refusal is None else refusal
        try:
            await app(scope, receive_up_to_limit, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._counts.add(scope["method"], route, status, received)

    def _body_limit(self, path: str) -> int:
        return self._settings.max_upload_bytes if path.startswith(UPLOAD_PATHS) else MAX_PLAIN_BYTES

    def _refuse(self, scope: Scope, headers: Headers, limit: int) -> JSONResponse | None:
        """The answer to a request that is not let in."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._settings.checks_host and not names_this_machine(host):
            return _answer(
                403, "this server answers requests to this machine only, by the names localhost and 127.0.0.1"
            )
        if origin is not None and not self._is_allowed(origin, host):
            return _answer(
                403, "scripts of this page may not ask this server; start it with --allow-origin to let them"
            )
        if scope["path"] not in OPEN_PATHS and not self.has_token(headers):
            answer = _answer(401, "the server wants its token: send the header `Authorization: Bearer TOKEN`")
            answer.headers["www-authenticate"] = "Bearer"
            return answer
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            return _answer(413, _too_large(limit))
        return None

    def has_token(self, headers: Headers) -> bool:
        """Whether a request carries the token, or none is needed; takes as long for every wrong one."""
        if self._settings.token is None:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return is_same_secret(token.strip(), self._settings.token) and scheme.lower() == "bearer"

    def _is_allowed(self, origin: str, host: str) -> bool:
        return origin in self._settings.allowed_origins or urlsplit(origin).netloc == host


def is_same_secret(given: str, expected: str) -> bool:
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def names_this_machine(host: str) -> bool:
    """Whether a `Host` header names this machine by itself: localhost, 127.0.0.1 or [::1], with any port."""
    name = urlsplit(f"//{host}").hostname if host else None
    if name is None:
        return False
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _too_large(limit: int) -> str:
    return (
        f"the request is larger than {format_memory(limit)}, the limit of this server; compress the image, or start "
        "the server with a larger --max-upload"
    )


def _answer(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status)
