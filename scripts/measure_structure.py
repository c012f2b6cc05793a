#!/usr/bin/env python3
"""How much a reader of the product code has to hold: modules, long signatures, files per path, depth of calls.

Usage: scripts/measure_structure.py [CHECKOUT] [--static] [--lists]

Measures the checkout that this script stands in; with another checkout's folder, both side by side, that one first.
Counted are the Python files of `autoseg` and `planners`. Files and frames are observed in tiny runs of plan, train and
predict on phantoms (half a minute for each checkout), with a checkout's own `.venv` where it has one; `--static` leaves
them out. Files of `autoseg/records` and frames of comprehensions do not count. `--lists` also prints what stands behind
the figures.
"""

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("autoseg", "planners")
MAX_PARAMETERS = 6
LISTED_FOLDERS = 5
FLAT_BY_DESIGN = ("autoseg/records", "autoseg/cli")
"""Folders with one file per noun or command, which need no division; they are named apart."""

PROTOCOLS = {"add_arguments": "autoseg/cli/", "run": "autoseg/cli/", "plan": "planners/", "architectures": "planners/"}
"""Functions that every module of a folder has, by which it is called: a command's (`autoseg.cli.main`) and a planner's
(`autoseg.plugins`). One name for one thing, so they do not count as repeated."""


@dataclass
class Structure:
    """What was found in one checkout: figures in the order of the table, and the places behind them."""

    figures: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)

    def count(self, name: str, places: list[str]) -> None:
        """Add a figure that counts places."""
        self.figures[name] = str(len(places))
        self.lists[name] = places


def count_sources(root: Path) -> Structure:
    """Count what can be read from the source alone."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    trees = {path.relative_to(root).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    lines = [path.read_text(encoding="utf-8").count("\n") for path in paths]
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
    found = Structure()
    found.figures["modules"] = str(len(paths))
    found.figures["lines"] = str(sum(lines))
    found.figures["lines per module, median / p90 / max"] = _spread(lines)
    found.figures["functions"] = str(len(functions))
    found.figures["lines per function, median / p90 / max"] = _spread(lengths)
    _count_folders(found, trees)
    found.count(f"functions with more than {MAX_PARAMETERS} parameters", _find_wide_functions(trees))
    found.count("dataclasses built at one place, without a method", _find_carriers(trees))
    found.count("public names defined in several modules", _find_repeated_names(trees))
    return found


def _spread(values: list[int]) -> str:
    return f"{statistics.median(values):g} / {statistics.quantiles(values, n=10)[-1]:.0f} / {max(values)}"


def _count_folders(found: Structure, trees: Iterable[str]) -> None:
    modules = [Path(name) for name in trees if not name.endswith("__init__.py")]
    sizes = Counter(path.parent.as_posix() for path in modules).most_common()
    divided = [(folder, size) for folder, size in sizes if folder not in FLAT_BY_DESIGN]
    found.figures["largest flat folder"] = f"{divided[0][1]} ({divided[0][0]})"
    found.figures["records, cli"] = ", ".join(str(dict(sizes)[folder]) for folder in FLAT_BY_DESIGN)
    found.lists["largest flat folder"] = [f"{folder}: {size}" for folder, size in divided[:LISTED_FOLDERS]]


def _find_wide_functions(trees: dict[str, ast.Module]) -> list[str]:
    wide = []
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                number = sum(argument.arg not in {"self", "cls"} for argument in arguments)
                if number > MAX_PARAMETERS:
                    wide.append((number, f"{name}:{node.lineno} {node.name} ({number})"))
    return [text for _, text in sorted(wide, reverse=True)]


def _find_carriers(trees: dict[str, ast.Module]) -> list[str]:
    calls = Counter(
        node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    )
    return [
        f"{name}:{node.lineno} {node.name}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
        and not any(isinstance(part, ast.FunctionDef) for part in node.body)
        and calls[node.name] == 1
    ]


def _find_repeated_names(trees: dict[str, ast.Module]) -> list[str]:
    places = defaultdict(list)
    for name, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not _is_private_or_protocol(node.name, name):
                places[node.name].append(name)
    return [f"{name}: {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1]


def _is_private_or_protocol(name: str, path: str) -> bool:
    return name.startswith("_") or (name in PROTOCOLS and path.startswith(PROTOCOLS[name]))


def observe_paths(root: Path) -> Structure:
    """Count files and frames of plan, train (to the first loss) and predict, on phantoms, on the CPU."""
    found = Structure()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset, workspace = folder / "phantoms", folder / "workspace"
        _write_phantoms(root, dataset)
        device = ["--device", "cpu"]
        plan = ["plan", dataset, "-w", workspace, "--time-per-fold", "60s", "--folds", "2", "-j", "1", *device]
        _observe(root, found, "plan", "none", plan)
        train = ["train", workspace, "-c", "3d_fullres", "-f", "0", "--epochs", "1", "--steps-per-epoch", "1", *device]
        _observe(root, found, "train", "loss", train)
        predict = ["predict", "-m", workspace, "-i", dataset / "imagesTs", "-o", folder / "predicted", *device]
        _observe(root, found, "predict", "network", predict)
    return found


def _observe(root: Path, found: Structure, path: str, goal: str, words: list[object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "trace.json"
        _run_python(root, [Path(__file__).with_name("traced_run.py"), root, goal, result, *words])
        trace = json.loads(result.read_text(encoding="utf-8"))
    found.count(f"files on the path of {path}", trace["files"])
    found.figures[f"functions on the path of {path}"] = str(len(trace["functions"]))
    if trace["stack"]:
        found.count(f"frames at the first {goal} of {path}", trace["stack"])


def _write_phantoms(root: Path, folder: Path) -> None:
    code = "from autoseg.testing import write_phantom_dataset; import sys, pathlib"
    call = "write_phantom_dataset(pathlib.Path(sys.argv[1]), training=4, held_out=1)"
    _run_python(root, ["-c", f"{code}; {call}", folder])


def _run_python(root: Path, words: list[object]) -> None:
    own = root / ".venv" / "bin" / "python"
    command = [str(own if own.exists() else sys.executable), *map(str, words)]
    answer = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True)
    if answer.returncode != 0:
        sys.exit(f"{' '.join(command)} failed in {root}:\n{answer.stdout}{answer.stderr}")


def main() -> int:
    """Print the table, and the lists if asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("checkout", nargs="?", type=Path, help="folder of another checkout, printed first")
    parser.add_argument("--static", action="store_true", help="count the sources only; run nothing")
    parser.add_argument("--lists", action="store_true", help="also print the places behind the figures")
    arguments = parser.parse_args()
    roots = [ROOT] if arguments.checkout is None else [arguments.checkout.resolve(), ROOT]
    columns = [count_sources(root) for root in roots]
    if not arguments.static:
        for root, column in zip(roots, columns, strict=True):
            observed = observe_paths(root)
            column.figures.update(observed.figures)
            column.lists.update(observed.lists)
    for name in columns[-1].figures:
        print(f"{name:52}" + "".join(f"  {column.figures.get(name, '-'):32}" for column in columns).rstrip())
    if arguments.lists:
        for root, column in zip(roots, columns, strict=True):
            for name, places in column.lists.items():
                print(f"\n{name}, {root}:", *places, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
