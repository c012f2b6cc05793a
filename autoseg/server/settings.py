"""Limits of a server.

Tested in tests/server/http/test_v1.py and tests/cli/test_serve.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What a server accepts, and for how long it keeps it."""

    token: str | None = None
    """Secret that every request for data must carry; None: none is needed."""
    checks_host: bool = True
    """Whether requests must name this machine itself, as a server that only this machine reaches demands: a web page
    that a name server points here is refused."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages of other servers whose scripts may ask, such as `https://viewer.example.org`."""
    max_upload_bytes: int = 2_000_000_000
    """Largest body of a request."""
    max_image_bytes: int = 4_000_000_000
    """Largest image in memory: four bytes for each voxel of each channel, as its header says before it is read."""
    max_queue: int = 16
    """Jobs that may wait."""
    timeout_seconds: float = 1800.0
    """Longest work on one job."""
    keep_seconds: float = 1800.0
    """How long results and uploaded images are kept."""
