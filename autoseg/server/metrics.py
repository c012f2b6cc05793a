"""What the server counts, in the text form that Prometheus reads.

References:
    Prometheus, exposition formats, text-based format 0.0.4.
"""

import threading
from collections import Counter
from collections.abc import Iterator

from autoseg.server.jobs import Jobs

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RequestCounts:
    """Requests by route and status, and bytes that arrived."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self.received_bytes = 0

    def add(self, method: str, route: str, status: int, received: int) -> None:
        """Count one request; the route is a pattern such as `/v1/jobs/{job}`, so that there are few."""
        with self._lock:
            self._requests[method, route, status] += 1
            self.received_bytes += received

    def items(self) -> list[tuple[tuple[str, str, int], int]]:
        """Method, route and status with the number of requests, sorted."""
        with self._lock:
            return sorted(self._requests.items())


def format_metrics(jobs: Jobs, requests: RequestCounts) -> str:
    """All figures, one on each line."""
    return "\n".join(_lines(jobs, requests)) + "\n"


def _lines(jobs: Jobs, requests: RequestCounts) -> Iterator[str]:
    yield from _head("autoseg_requests_total", "counter", "HTTP requests.")
    for (method, route, status), count in requests.items():
        yield f'autoseg_requests_total{{method="{_quote(method)}",route="{_quote(route)}",status="{status}"}} {count}'
    yield from _head("autoseg_jobs_total", "counter", "Jobs that are over.")
    for state, count in sorted(jobs.counts.ended.items()):
        yield f'autoseg_jobs_total{{state="{state}"}} {count}'
    for name, kind, text, value in (
        ("autoseg_received_bytes_total", "counter", "Bytes of request bodies.", requests.received_bytes),
        ("autoseg_prediction_seconds_total", "counter", "Time in predictions.", jobs.counts.prediction_seconds),
        ("autoseg_process_restarts_total", "counter", "Restarts of the process with the models.", jobs.counts.restarts),
        ("autoseg_jobs_waiting", "gauge", "Jobs in the queue.", jobs.num_waiting),
        ("autoseg_jobs_running", "gauge", "Jobs that are predicted now.", jobs.num_running),
        (
            "autoseg_process_resident_bytes",
            "gauge",
            "Memory of the process with the models.",
            jobs.measure_process_memory(),
        ),
        ("autoseg_ready", "gauge", "1 while jobs are accepted and the models are loaded.", int(jobs.is_ready)),
    ):
        yield from _head(name, kind, text)
        yield f"{name} {value:.10g}"


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _quote(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
