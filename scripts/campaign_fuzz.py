#!/usr/bin/env python3
"""Damaged files for the readers of images and of JSON, guided by the code that they reach; needs atheris (pip).

A reader may refuse a file, by an error of autoseg's own, or read it. Any other error is a finding: the script goes on,
keeps the first file of each kind, and lists all kinds at its end.

    python scripts/campaign_fuzz.py nifti --minutes 5
    python scripts/campaign_fuzz.py json --minutes 5 --findings FOLDER
"""

import argparse
import contextlib
import gzip
import json
import logging
import os
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris  # not among the dependencies

with atheris.instrument_imports(include=["autoseg", "nibabel", "PIL"]):
    import nibabel
    import numpy as np
    import SimpleITK
    from PIL import Image

    from autoseg.errors import AutosegError
    from autoseg.imaging.datasets.dataset_json import read_dataset_json
    from autoseg.imaging.formats.reading import read_image, read_label_map
    from autoseg.records.checkpoint import Checkpoint
    from autoseg.records.dataset import DatasetDescription
    from autoseg.records.evaluation import Evaluation
    from autoseg.records.files import read_record
    from autoseg.records.fingerprint import Fingerprint
    from autoseg.records.manifest import Manifest
    from autoseg.records.plan import Plan
    from autoseg.records.selection import Selection

TARGETS = {
    "nifti": ".nii", "nifti.gz": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha", "png": ".png", "tiff": ".tif",
    "json": ".json",
}  # fmt: skip
RECORDS = (Plan, DatasetDescription, Fingerprint, Checkpoint, Selection, Evaluation, Manifest)
GOLDEN_PLANS = Path(__file__).parents[1] / "tests" / "golden"


class Findings:
    """Errors that no reader may raise, each kind once, with a file that raises it."""

    def __init__(self, folder: Path, ending: str) -> None:
        self.folder, self.ending = folder, ending
        self.kinds: dict[str, str] = {}

    def keep(self, error: BaseException, content: bytes) -> None:
        """Note an error, if one of its kind was not seen before."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "autoseg/" in frame.filename and "campaign" not in frame.filename]
        place = f"{own[-1].filename.rpartition('autoseg/')[2]}:{own[-1].lineno}" if own else "?"
        kind = f"{type(error).__name__} at {place}"
        if kind in self.kinds:
            return
        self.kinds[kind] = str(error)[:200]
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{len(self.kinds)}{self.ending}").write_bytes(content)
        print(f"FOUND {kind}: {self.kinds[kind]}", flush=True)


def main() -> None:
    """Fuzz one format for the given time."""
    options = _parse_options()
    ending = TARGETS[options.target]
    findings = Findings(options.findings / options.target, ending)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    corpus = folder / "corpus"
    corpus.mkdir()
    _write_seeds(options.target, corpus)
    path = folder / f"input{ending}"

    def try_one(content: bytes) -> None:
        path.write_bytes(content)
        for read in _readers(options.target):
            try:
                read(path)
            except AutosegError:
                pass
            except Exception as error:  # noqa: BLE001  # what is looked for
                findings.keep(error, content)

    threading.Timer(60 * options.minutes, _end, args=(findings,)).start()
    atheris.Setup([sys.argv[0], str(corpus), "-rss_limit_mb=6000", "-max_len=8192", "-verbosity=0"], try_one)
    atheris.Fuzz()


def _end(findings: Findings) -> None:
    """The fuzzer itself never ends."""
    print(f"kinds of unexpected errors: {len(findings.kinds)}", flush=True)
    os._exit(1 if findings.kinds else 0)


def _readers(target: str) -> list[Callable[[Path], object]]:
    if target == "json":
        return [*((lambda path, record=record: read_record(record, path)) for record in RECORDS), _read_dataset]
    return [lambda path: read_image([path]), read_label_map]


def _read_dataset(path: Path) -> object:
    target = path.with_name("dataset.json")
    target.write_bytes(path.read_bytes())
    return read_dataset_json(target)


def _write_seeds(target: str, corpus: Path) -> None:
    """Small sound files to begin with."""
    if target == "json":
        for plan in sorted(GOLDEN_PLANS.glob("*.json"))[:4]:
            (corpus / plan.name).write_text(json.dumps(json.loads(plan.read_text())))
        dataset = {
            "channel_names": {"0": "CT"}, "labels": {"background": 0, "a": [1, 2], "b": 2}, "numTraining": 1,
            "regions_class_order": [1, 2], "file_ending": ".nii.gz",
        }  # fmt: skip
        (corpus / "dataset.json").write_text(json.dumps(dataset))
        return
    for kind in (np.int16, np.uint8, np.float32):
        array = np.arange(60).reshape(3, 4, 5).astype(kind)
        path = corpus / f"{array.dtype}{TARGETS[target]}"
        if target.startswith("nifti"):
            sound = nibabel.Nifti1Image(array, np.diag([0.7, 0.8, 2.5, 1])).to_bytes()
            path.write_bytes(gzip.compress(sound) if target == "nifti.gz" else sound)
        elif target in ("png", "tiff"):
            Image.fromarray(array[0].astype(np.uint8 if kind == np.uint8 else np.uint16)).save(path)
        else:
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing((0.7, 0.8, 2.5))
            SimpleITK.WriteImage(image, str(path))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=tuple(TARGETS))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="folder for the files that failed")
    return parser.parse_args()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
