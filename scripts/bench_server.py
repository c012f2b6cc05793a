#!/usr/bin/env python3
"""Load a server: requests a minute, waiting times and memory over many requests.

Starts `autoseg serve MODEL` and sends the images in turn to it from several clients, each of which waits for its label
map before it sends the next one. Memory is that of the server and of its process with the models, every tenth of the
requests.

Usage: scripts/bench_server.py MODEL IMAGE ... [--requests 500] [--clients 4] [--speed best]
"""

import argparse
import json
import secrets
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import psutil

NUM_LOOKS = 10


@dataclass(frozen=True)
class Look:
    """Memory after so many requests, in bytes."""

    requests: int
    server: int
    models: int


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--speed", default="best")
    arguments = parser.parse_args()
    images = list(islice(cycle(arguments.images), arguments.requests))
    words = [str(arguments.model), "--speed", arguments.speed, "--queue", str(2 * arguments.clients)]
    with started_server(words) as (process, url):
        predict(url, images[0])  # the first one chooses precision and batch
        began = time.monotonic()
        seconds, looks = load(process, url, images, arguments.clients)
        elapsed = time.monotonic() - began
    print_figures(seconds, looks, elapsed, arguments.clients)
    return 0


@contextmanager
def started_server(words: Sequence[str]) -> Iterator[tuple[psutil.Process, str]]:
    """The running server and its address."""
    command = [sys.executable, "-m", "autoseg", "serve", *words, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        if server.stderr is None:
            raise RuntimeError("the server has no standard error")
        try:
            line = next(line for line in server.stderr if " on http" in line)
            yield psutil.Process(server.pid), line.split(" on ")[1].split()[0]
        finally:
            server.terminate()
            server.stderr.read()


def load(process: psutil.Process, url: str, images: Sequence[Path], clients: int) -> tuple[list[float], list[Look]]:
    """Seconds of every request, and memory along the way."""
    part = max(1, len(images) // NUM_LOOKS)
    seconds: list[float] = []
    looks = [look(process, 0)]
    with ThreadPoolExecutor(clients) as pool:
        for start in range(0, len(images), part):
            seconds += pool.map(lambda image: predict(url, image), images[start : start + part])
            looks.append(look(process, len(seconds)))
    return seconds, looks


def look(process: psutil.Process, requests: int) -> Look:
    """Memory of both processes now."""
    models = sum(child.memory_info().rss for child in process.children() if "spawn_main" in " ".join(child.cmdline()))
    return Look(requests, process.memory_info().rss, models)


def predict(url: str, image: Path) -> float:
    """Send an image, wait for its label map, fetch it and remove the job; gives the seconds."""
    began = time.monotonic()
    boundary = secrets.token_hex(8)
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{image.name}"\r\n\r\n'
    body = head.encode() + image.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    job = ask(f"{url}/v1/jobs", "POST", body, f"multipart/form-data; boundary={boundary}")
    while job["status"] == 202:
        job = ask(f"{url}/v1/jobs/{job['id']}?wait=60")
    if job["state"] != "done":
        raise RuntimeError(job["error"])
    with urllib.request.urlopen(f"{url}{job['results']['label-map']}") as answer:  # noqa: S310 (the server above)
        answer.read()
    ask(f"{url}/v1/jobs/{job['id']}", "DELETE")
    return time.monotonic() - began


def ask(url: str, method: str = "GET", body: bytes | None = None, kind: str = "text/plain") -> dict[str, Any]:
    """A question to the server, which answers JSON."""
    request = urllib.request.Request(url, body, {"content-type": kind}, method=method)  # noqa: S310
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        found: dict[str, Any] = json.loads(answer.read())
    return found


def print_figures(seconds: Sequence[float], looks: Sequence[Look], elapsed: float, clients: int) -> None:
    """Rate, waiting times, and memory along the way."""
    ordered = sorted(seconds)
    print(
        f"{len(seconds)} requests from {clients} clients in {elapsed:.0f} s: {60 * len(seconds) / elapsed:.1f} a minute"
    )
    late = ordered[int(0.95 * (len(ordered) - 1))]
    print(f"seconds: median {statistics.median(ordered):.2f}, 95th percentile {late:.2f}")
    print("requests   server MB   models MB")
    for found in looks:
        print(f"{found.requests:8d} {found.server / 1e6:11.0f} {found.models / 1e6:11.0f}")


if __name__ == "__main__":
    sys.exit(main())
