"""The datasets and budgets that every planner is tried on.

Tested in tests/test_testing.py and tests/planners/test_survival.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from autoseg.records.budget import AdoptedModel, Budget, Overrides, Throughput
from autoseg.records.encoders import EncoderName
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import Architecture
from autoseg.testing.fingerprints import synthetic_fingerprint

WEIGHTS: tuple[EncoderName, ...] = get_args(EncoderName)
"""Every published encoder is installed."""

SLOW = tuple(
    Throughput(
        architecture=architecture,
        dimensions=dimensions,
        base_features=8,
        macs_per_second=1e9,
        prediction_macs_per_second=3e9,
    )
    for architecture in get_args(Architecture)
    for dimensions in (2, 3)
)
"""A slow device, measured with every architecture."""

SMALL_VOLUMES = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 7, [(36, 50, 35)] * 7, label_values=range(3))
THICK_SLICES = synthetic_fingerprint(
    [(5.0, 1.5, 1.5), (10.0, 1.4, 1.4), (6.0, 1.6, 1.6)], [(14, 230, 200), (9, 256, 216), (12, 200, 190)]
)
OTHER_THICK_SLICES = synthetic_fingerprint([(1.2, 7.0, 1.2)] * 4, [(280, 11, 250)] * 4)
"""Cases of another spacing, shape and axis order."""
LARGE_CT = synthetic_fingerprint(
    [(1.0, 0.8, 0.8), (1.5, 0.7, 0.7), (1.0, 0.9, 0.9)],
    [(482, 512, 512), (300, 512, 512), (500, 480, 512)],
    channel_names=("CT",),
    label_values=range(0, 42, 3),
)
PICTURES = synthetic_fingerprint([(999.0, 1.0, 1.0)] * 4, [(1, 256, 320)] * 4, channel_names=("R", "G", "B"))
REGIONS = synthetic_fingerprint(
    [(1.0, 1.0, 1.0)] * 3,
    [(138, 169, 138)] * 3,
    channel_names=("T1", "T2", "FLAIR", "T1ce"),
    label_values=range(4),
    regions=True,
    ignore=True,
).model_copy(update={"median_cropped_fraction": 0.5})


@dataclass(frozen=True)
class Trial:
    """A dataset and a budget that a planner is tried on."""

    name: str
    fingerprint: Fingerprint
    budget: Budget = field(default_factory=Budget)
    answer: Literal["plan", "refusal", "either"] = "plan"
    """Expected outcome; a refusal is a PlanningError."""
    refusal_names: str = ""
    """What the message of a refusal must contain, so that the user knows what to change."""


def make_trials() -> Iterator[Trial]:
    """All trials that are the same for every planner."""
    for trial in (*_data_trials(), *_limit_trials(), *_wish_trials()):
        yield replace(trial, budget=trial.budget.model_copy(update={"installed_weights": WEIGHTS}))


def adoption_trial(model: AdoptedModel) -> Trial:
    """Start from a model of thick slices on data of another spacing, shape and axis order."""
    return Trial("starting from another model", OTHER_THICK_SLICES, Budget(like=model, installed_weights=WEIGHTS))


def _data_trials() -> Iterator[Trial]:
    yield Trial("small volumes", SMALL_VOLUMES)
    yield Trial("thick slices", THICK_SLICES)
    yield Trial("large CT", LARGE_CT)
    yield Trial("pictures", PICTURES)
    yield Trial("regions and ignore label", REGIONS, Budget(memory_gigabytes=24.0))
    yield Trial("one case", synthetic_fingerprint([(2.0, 1.0, 1.0)], [(20, 60, 50)]))
    yield Trial("no case", synthetic_fingerprint([], []), answer="refusal")


def _limit_trials() -> Iterator[Trial]:
    yield Trial("a CPU", THICK_SLICES, Budget(device="cpu"))
    yield Trial("ten minutes", SMALL_VOLUMES, Budget(device="cpu", time_per_fold_seconds=600.0, throughput=SLOW))
    yield Trial("a small graphics card", REGIONS, Budget(available_gigabytes=6.0))
    yield Trial("no memory", SMALL_VOLUMES, Budget(memory_gigabytes=1e-6), answer="refusal", refusal_names="memory")
    yield Trial("a minute per prediction", THICK_SLICES, Budget(latency_seconds=60.0, throughput=SLOW), answer="either")
    yield Trial("no time to predict", LARGE_CT, Budget(latency_seconds=1e-6, throughput=SLOW), answer="either")


def _wish_trials() -> Iterator[Trial]:
    yield Trial("only 2d asked for", SMALL_VOLUMES, Budget(configurations=("2d",)))
    unknown = Budget(configurations=("4d",))
    yield Trial("a configuration that does not exist", SMALL_VOLUMES, unknown, answer="refusal", refusal_names="4d")
    yield Trial("a spacing asked for", REGIONS, Budget(overrides=Overrides(spacing=(1.25, 1.5, 3.0))))
    yield Trial(
        "a 3D patch asked for", REGIONS, Budget(overrides=Overrides(patch_size=(40, 75, 61))),
        answer="either", refusal_names="--patch-size",
    )  # fmt: skip
    yield Trial("a 2D patch asked for", PICTURES, Budget(overrides=Overrides(patch_size=(75, 130))))
    yield Trial("a batch asked for", THICK_SLICES, Budget(overrides=Overrides(batch_size=3)))
    yield Trial("a single patch per batch asked for", THICK_SLICES, Budget(overrides=Overrides(batch_size=1)))
    name = "no_such_option"
    yield Trial(
        "an option that no planner has", SMALL_VOLUMES, Budget(overrides=Overrides(options={name: "1"})),
        answer="refusal", refusal_names=name,
    )  # fmt: skip
