#!/usr/bin/env python3
"""Record how long the tests take, in docs/test_durations.md: the slowest tests, and the sum of each folder.

Usage: scripts/test --durations=0 | tee durations.log; scripts/record_durations.py durations.log scripts/test
"""

import datetime
import os
import platform
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "test_durations.md"
LINE = re.compile(r"^(\d+\.\d+)s (setup|call|teardown) +(tests/\S+?)::(.+)$", re.MULTILINE)
SUMMARY = re.compile(r"(\d+ passed.*) in (\d+\.\d+)s")
NUM_SLOWEST = 40


def main() -> int:
    """Write the table; the exit code is 1 if the log has no durations."""
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    log = Path(sys.argv[1]).read_text(encoding="utf-8")
    summary = SUMMARY.search(log)
    tests: defaultdict[str, float] = defaultdict(float)
    folders: defaultdict[str, float] = defaultdict(float)
    for seconds, _, path, name in LINE.findall(log):
        tests[f"{path.removeprefix('tests/')}::{name}"] += float(seconds)
        folders["/".join(path.split("/")[1:-1]) or "."] += float(seconds)
    if not tests or summary is None:
        print(f"{sys.argv[1]} has no durations; run pytest with --durations=0", file=sys.stderr)
        return 1
    TARGET.write_text(
        _format_page(f"`{sys.argv[2]}`: {summary.group(1)}", float(summary.group(2)), tests, folders), encoding="utf-8"
    )
    print(f"wrote {TARGET.relative_to(ROOT)}")
    return 0


def _format_page(counts: str, elapsed: float, tests: dict[str, float], folders: dict[str, float]) -> str:
    lines = [
        "# How long the tests take",
        "",
        f"{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}):",
        f"{counts} in {elapsed / 60:.1f} minutes. The tests with their fixtures",
        f"take {sum(tests.values()) / 60:.1f} minutes, which two processes of one thread share.",
        "Written by `scripts/record_durations.py`.",
        "",
        *_format_table("folder of tests", folders, len(folders)),
        "",
        *_format_table("slowest tests, with their fixtures", tests, NUM_SLOWEST),
    ]
    return "\n".join(lines) + "\n"


def _format_table(title: str, seconds: dict[str, float], num_rows: int) -> list[str]:
    slowest = sorted(seconds.items(), key=lambda item: -item[1])[:num_rows]
    return [f"| {title} | seconds |", "|---|---:|", *(f"| `{name}` | {value:.1f} |" for name, value in slowest)]


if __name__ == "__main__":
    sys.exit(main())
