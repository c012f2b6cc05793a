#!/usr/bin/env python
"""Rewrite tests/golden: one file per case with the fingerprint's summary, the budget and the plan.

Run it after a change of the rules that is meant to change plans, read the differences it prints, and commit them
together with the change:

    .venv/bin/python scripts/update_golden_plans.py
"""

import json
from pathlib import Path
from typing import Literal

from autoseg.records.budget import Budget, Overrides, Throughput
from autoseg.records.files import Record, write_text
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.stages.plan import make_plan
from autoseg.testing import synthetic_fingerprint

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "golden"


class CaseGroup(Record):
    """Cases that are alike."""

    count: int
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]


class FingerprintSummary(Record):
    """What a fingerprint is made from."""

    groups: tuple[CaseGroup, ...]
    channel_names: tuple[str, ...] = ("MR",)
    num_labels: int = 2
    regions: bool = False
    ignore: bool = False
    cropped_fraction: float = 1.0

    def expand(self) -> Fingerprint:
        """The fingerprint itself."""
        return synthetic_fingerprint(
            [group.spacing for group in self.groups for _ in range(group.count)],
            [group.shape for group in self.groups for _ in range(group.count)],
            channel_names=self.channel_names,
            label_values=range(self.num_labels),
            regions=self.regions,
            ignore=self.ignore,
        ).model_copy(update={"median_cropped_fraction": self.cropped_fraction})


class GoldenPlan(Record):
    """One file of tests/golden."""

    planner: str
    fingerprint: FingerprintSummary
    budget: Budget
    plan: Plan


def _alike(spacing: tuple[float, float, float], shape: tuple[int, int, int], count: int) -> tuple[CaseGroup, ...]:
    return (CaseGroup(count=count, spacing=spacing, shape=shape),)


HIPPOCAMPUS = FingerprintSummary(groups=_alike((1.0, 1.0, 1.0), (36, 50, 35), 260), num_labels=3)
ACDC = FingerprintSummary(groups=_alike((5.0, 1.5625, 1.5625), (17, 237, 208), 200), num_labels=4)
LIVER = FingerprintSummary(
    groups=_alike((1.0, 0.7676, 0.7676), (482, 512, 512), 131), num_labels=3, channel_names=("CT",)
)
DIMENSIONS: tuple[Literal[2, 3], ...] = (2, 3)
SLOW_CPU = tuple(
    Throughput(dimensions=dimensions, base_features=width, macs_per_second=speed)
    for dimensions in DIMENSIONS
    for width, speed in ((8, 20e9), (32, 60e9))
)
TEN_MINUTES = Budget(device="cpu", time_per_fold_seconds=600.0, throughput=SLOW_CPU)

BRATS_CHANNELS = ("T1", "T1ce", "T2", "FLAIR")
BRATS = _alike((1.0, 1.0, 1.0), (138, 169, 138), 484)
AMOS = _alike((2.0, 0.78, 0.78), (228, 513, 513), 240)
LUNG = _alike((1.24, 0.785, 0.785), (252, 512, 512), 63)
SAGITTAL = _alike((0.9, 0.9, 4.4), (220, 230, 24), 40)
PICTURES = _alike((999.0, 1.0, 1.0), (1, 256, 256), 200)
MIXED_SLICES = (
    *_alike((5.0, 1.4, 1.4), (18, 256, 240), 2),
    *_alike((10.0, 1.5625, 1.5625), (9, 216, 256), 15),
)

CASES: dict[str, tuple[str, FingerprintSummary, Budget]] = {
    "hippocampus": ("unet", HIPPOCAMPUS, Budget()),
    "hippocampus_cpu_10min": ("unet", HIPPOCAMPUS, TEN_MINUTES),
    "brats": (
        "unet",
        FingerprintSummary(groups=BRATS, num_labels=4, channel_names=BRATS_CHANNELS, cropped_fraction=0.2),
        Budget(),
    ),
    "brats_regions_24gb": (
        "unet",
        FingerprintSummary(groups=BRATS, num_labels=4, regions=True, ignore=True),
        Budget(memory_gigabytes=24.0),
    ),
    "amos": ("unet", FingerprintSummary(groups=AMOS, num_labels=16, channel_names=("CT",)), Budget()),
    "acdc": ("unet", ACDC, Budget()),
    "acdc_cpu": ("unet", ACDC, Budget(device="cpu")),
    "acdc_mixed_slices": ("unet", FingerprintSummary(groups=MIXED_SLICES, num_labels=4), Budget()),
    "prostate": (
        "unet",
        FingerprintSummary(groups=_alike((3.6, 0.62, 0.62), (20, 320, 319), 32), num_labels=3),
        Budget(),
    ),
    "heart": ("unet", FingerprintSummary(groups=_alike((1.37, 1.25, 1.25), (115, 320, 232), 20)), Budget()),
    "liver": ("unet", LIVER, Budget()),
    "liver_cpu_10min": ("unet", LIVER, TEN_MINUTES),
    "lung": ("unet", FingerprintSummary(groups=LUNG, channel_names=("CT",)), Budget()),
    "sagittal": ("unet", FingerprintSummary(groups=SAGITTAL), Budget()),
    "pictures": ("unet", FingerprintSummary(groups=PICTURES, channel_names=("R", "G", "B")), Budget()),
    "hippocampus_unext": ("unext", HIPPOCAMPUS, Budget()),
    "hippocampus_unext_cpu_10min": ("unext", HIPPOCAMPUS, TEN_MINUTES),
    "acdc_unext": ("unext", ACDC, Budget()),
    "acdc_hrnet": ("hrnet", ACDC, Budget()),
    "hippocampus_hrnet_cpu_10min": ("hrnet", HIPPOCAMPUS, TEN_MINUTES),
    "pictures_unext": ("unext", FingerprintSummary(groups=PICTURES, channel_names=("R", "G", "B")), Budget()),
    "acdc_auto": ("auto", ACDC, Budget()),
    "pictures_auto": ("auto", FingerprintSummary(groups=PICTURES, channel_names=("R", "G", "B")), Budget()),
    "liver_auto_24gb": ("auto", LIVER, Budget(memory_gigabytes=24.0)),
    "liver_auto_cpu_10min": ("auto", LIVER, TEN_MINUTES),
    "hippocampus_auto_latency": (
        "auto",
        HIPPOCAMPUS,
        Budget(device="cpu", latency_seconds=0.5, throughput=SLOW_CPU),
    ),
    "acdc_own_values": (
        "resenc-m",
        ACDC,
        Budget(overrides=Overrides(spacing=(4.0, 1.25, 1.25), patch_size=(24, 190, 190), batch_size=3)),
    ),
}


def main() -> None:
    """Write every golden plan and print what changed."""
    for name, (planner, summary, budget) in CASES.items():
        plan = make_plan(summary.expand(), budget, planner)
        golden = GoldenPlan(planner=planner, fingerprint=summary, budget=budget, plan=plan)
        path = FOLDER / f"{name}.json"
        new = golden.model_dump_json(indent=1) + "\n"
        old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for line in differences(old, json.loads(new), name):
            print(line)
        write_text(new, path)
    for path in sorted(FOLDER.glob("*.json")):
        if path.stem not in CASES:
            print(f"{path.name}: no such case any more; delete it")


def differences(old: object, new: object, where: str) -> list[str]:
    """Fields whose value changed, one line each."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line for key in sorted(old.keys() | new.keys())
            for line in differences(old.get(key), new.get(key), f"{where}.{key}")
        ]  # fmt: skip
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, (before, after) in pairs for line in differences(before, after, f"{where}[{i}]")]
    return [] if old == new else [f"{where}: {json.dumps(old)} -> {json.dumps(new)}"]


if __name__ == "__main__":
    main()
