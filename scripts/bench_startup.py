"""How long `autoseg --help` takes, against a Python that does nothing: `bench_startup.py [--runs 10]`."""

import argparse
import statistics
import subprocess
import sys
import time


def main() -> None:
    """Time each command in turn and print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "autoseg --help": [sys.executable, "-m", "autoseg", "--help"],
        "autoseg train --help": [sys.executable, "-m", "autoseg", "train", "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs + 1):  # the first round warms the disk cache
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - began)
    base = statistics.median(seconds["python -c pass"][1:])
    for name, values in seconds.items():
        median = statistics.median(values[1:])
        print(f"{name:>22}  {1000 * median:6.0f} ms  {median / base:5.2f} x")


if __name__ == "__main__":
    main()
