"""Data and budgets that every planner must survive: a sound plan, or an error that says what would do."""

import math
import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import PlanningError
from autoseg.plugins import Planner, find_planner
from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Configuration, Plan
from autoseg.testing import synthetic_fingerprint
from autoseg.testing.trials import SLOW

PLANNERS = ("unet", "resenc-m", "unext", "auto")
RGB = ("R", "G", "B")

MAX_PADDING = 12
"""Voxels: an axis alone is pooled from 12 on, two together from 8 on; smaller images are padded for one pooling."""

ELEMENTS_PER_GIGABYTE = {
    ("unet", 3): 560e6 / 8,
    ("unet", 2): 85e6 / 8 * 12 / 2,
    ("resenc-m", 3): 680e6 / 8,
    ("resenc-m", 2): 135e6 / 8,
    ("unext", 3): 280e6 / 8,
    ("unext", 2): 42.5e6 / 8 * 12 / 2,
}
"""nnU-Net's feature-map elements of one patch, such that the smallest batch that must fit does: 2 patches, or 12 of 2D
`resenc-m`. The plain U-Net's 85 million are for 12 patches. UNeXt has half the plain U-Net's."""


def alike(spacing, shape, count, **more) -> Fingerprint:
    return synthetic_fingerprint([spacing] * count, [shape] * count, **more)


ODD_DATA = {
    "one slice along z": alike((5.0, 0.8, 0.9), (1, 200, 230), 4),
    "one slice along y": alike((0.8, 5.0, 0.9), (200, 1, 230), 4),
    "one slice along x": alike((0.8, 0.9, 0.7), (160, 200, 1), 4),
    "one row": alike((1.0, 1.0, 1.0), (1, 1, 300), 2),
    "one voxel": alike((1.0, 1.0, 1.0), (1, 1, 1), 1),
    "a few pixels": alike((999.0, 1.0, 1.0), (1, 3, 5), 1, channel_names=RGB),
    "a few voxels": alike((1.0, 1.0, 1.0), (5, 7, 6), 1),
    "two slices": alike((6.0, 0.5, 0.5), (2, 512, 480), 9),
    "a rod": alike((1.0, 1.0, 1.0), (2, 2, 300), 1),
    "RGB pictures": alike((999.0, 1.0, 1.0), (1, 529, 622), 12, channel_names=RGB),
    "large RGB pictures": alike((999.0, 1.0, 1.0), (1, 5000, 7001), 3, channel_names=RGB),
    "2 cases": alike((1.5, 1.0, 1.0), (60, 90, 80), 2),
    "1 case": alike((1.5, 1.0, 1.0), (60, 90, 80), 1),
    "1000 classes": alike((1.5, 1.5, 1.5), (120, 130, 140), 3, label_values=range(1000)),
    "1000 classes in 2D": alike((1.0, 1.0, 1.0), (1, 300, 400), 3, label_values=range(1000)),
    "0.15 mm": alike((0.15, 0.15, 0.15), (90, 400, 300), 5),
    "50 mm": alike((50.0, 50.0, 50.0), (9, 7, 11), 3),
    "0.15 and 50 mm": alike((50.0, 0.15, 50.0), (9, 700, 11), 3),
    "6 mm slices": alike((6.0, 0.4, 0.4), (25, 512, 512), 20),
    "2000 x 2000 x 2000": alike((0.15, 0.15, 0.15), (2000, 2000, 2000), 3),
    "2000 x 2000 x 2": alike((0.15, 0.15, 0.15), (2000, 2000, 2), 3),
    "12 channels": alike((1.0, 1.2, 1.1), (80, 90, 70), 4, channel_names=[f"MR{i}" for i in range(12)]),
    "a channel called CT": alike((1.0, 1.2, 1.1), (80, 90, 70), 4, channel_names=("PET", "CT")),
    "12 channels called CT": alike((6.0, 0.4, 0.4), (25, 512, 512), 2, channel_names=("ct",) * 12),
    "label values with gaps": alike((1.0, 1.2, 1.1), (80, 90, 70), 4, label_values=range(0, 250, 50)),
    "regions and ignore label": alike(
        (1.0, 1.2, 1.1), (80, 90, 70), 4, label_values=range(0, 28, 7), regions=True, ignore=True
    ),
    "one foreground label, ignore label": alike((1.0, 1.2, 1.1), (80, 90, 70), 4, label_values=range(2), ignore=True),
    "background alone": alike((1.0, 1.2, 1.1), (80, 90, 70), 4, label_values=range(1)),
    "slices among volumes": synthetic_fingerprint(
        [(1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (5.0, 0.5, 0.5)], [(1, 256, 256), (90, 80, 100), (1, 512, 512)]
    ),
    "sagittal, coronal and axial": synthetic_fingerprint(
        [(5.0, 0.7, 0.7), (0.7, 5.0, 0.7), (0.7, 0.7, 5.0)], [(20, 300, 280), (300, 21, 280), (300, 280, 22)]
    ),
    "microscopy and a whole body": synthetic_fingerprint(
        [(0.15, 0.15, 0.15), (50.0, 50.0, 50.0)], [(2000, 1500, 1000), (7, 9, 11)], channel_names=("CT", "MR")
    ),
}  # fmt: skip


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("data", ODD_DATA)
@pytest.mark.parametrize("planner", PLANNERS)
def test_odd_data_gets_a_sound_plan(planner, data, device):
    plan = find_planner(planner)(ODD_DATA[data], Budget(device=device))
    assert faults(plan) == []


def faults(plan: Plan) -> list[str]:
    """What is wrong with a plan, in words."""
    found = [f"{name}: {fault}" for name, configuration in plan.configurations.items()
             for fault in configuration_faults(configuration)]  # fmt: skip
    if not plan.configurations:
        found.append("plans nothing")
    if Plan.model_validate_json(plan.model_dump_json()) != plan:
        found.append("is another one after JSON")
    return found


def configuration_faults(configuration: Configuration) -> Iterator[str]:
    network, patch_size = configuration.network, configuration.patch_size
    total = [math.prod(axis) for axis in zip(*network.strides, strict=True)]
    padded = [math.ceil(size / step) * step for size, step in zip(configuration.median_shape, total, strict=True)]
    if any(edge % step for edge, step in zip(patch_size, total, strict=True)):
        yield f"patch {patch_size} is not divisible by {total}"
    if any(edge > max(most, MAX_PADDING) for edge, most in zip(patch_size, padded, strict=True)):
        yield f"patch {patch_size} is above the padded median {padded}"
    if configuration.batch_size < 2:
        yield f"batch {configuration.batch_size}"
    if len(network.features) < 2:
        yield f"{len(network.features)} level(s)"
    if math.prod(patch_size) == math.prod(total):
        yield f"patch {patch_size} is one voxel at the lowest level"


log_shapes = st.tuples(*[st.floats(0.0, math.log(2000.0)).map(lambda value: round(math.exp(value)))] * 3)
log_spacings = st.tuples(*[st.floats(math.log(0.15), math.log(50.0)).map(lambda value: round(math.exp(value), 3))] * 3)
fingerprints = st.builds(
    lambda cases, channels, labels, step, regions, ignore, cropped: synthetic_fingerprint(
        [case[0] for case in cases], [case[1] for case in cases], channel_names=channels,
        label_values=range(0, labels * step, step), regions=regions, ignore=ignore,
    ).model_copy(update={"median_cropped_fraction": cropped}),
    st.lists(st.tuples(log_spacings, log_shapes), min_size=1, max_size=5),
    st.lists(st.sampled_from(["MR", "CT", "rgb_to_0_1", "noNorm"]), min_size=1, max_size=12),
    st.integers(2, 60), st.integers(1, 9), st.booleans(), st.booleans(), st.floats(0.1, 1.0),
)  # fmt: skip
budgets = st.builds(
    Budget,
    device=st.sampled_from(["cpu", "cuda"]),
    memory_gigabytes=st.none() | st.floats(1.0, 80.0),
    available_gigabytes=st.none() | st.floats(2.0, 80.0),
    time_per_fold_seconds=st.none() | st.floats(60.0, 1e6),
    latency_seconds=st.none() | st.floats(0.5, 600.0),
    throughput=st.sampled_from([(), SLOW]),
)

LIMITS = {
    "memory_gigabytes": (re.compile(r"needs a memory budget of ([\d.e+]+) GB"), 0.001),
    "time_per_fold_seconds": (re.compile(r"needs ([\d.e+]+) s\. Give more with --time-per-fold"), 1.0),
    "latency_seconds": (re.compile(r"needs ([\d.e+]+) s\. Give more with --latency"), 0.1),
}
"""By field of the budget: how an error names the smallest value that works, and to what it is rounded up."""


@pytest.mark.parametrize("planner", PLANNERS)
@settings(max_examples=20, deadline=None)
@given(fingerprint=fingerprints, budget=budgets, random=st.randoms(use_true_random=False))
def test_any_data_gets_a_sound_plan_or_the_smallest_budget_that_works(planner, fingerprint, budget, random):
    plan_for = find_planner(planner)
    plan = plan_at_last(plan_for, fingerprint, budget)
    assert faults(plan) == []
    assert list(memory_faults(plan)) == []
    shuffled = list(fingerprint.cases)
    random.shuffle(shuffled)
    assert plan_for(fingerprint.model_copy(update={"cases": tuple(shuffled)}), plan.budget) == plan


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("data", ["6 mm slices", "RGB pictures", "2 cases", "2000 x 2000 x 2000"])
@pytest.mark.parametrize("planner", PLANNERS)
def test_a_hopeless_limit_is_refused_with_the_smallest_that_works(planner, data, limit):
    hopeless = Budget(throughput=SLOW).model_copy(update={limit: 1e-6})
    with pytest.raises(PlanningError, match=LIMITS[limit][0]):
        find_planner(planner)(ODD_DATA[data], hopeless)
    assert faults(plan_at_last(find_planner(planner), ODD_DATA[data], hopeless)) == []


def plan_at_last(plan_for: Planner, fingerprint: Fingerprint, budget: Budget) -> Plan:
    """The plan; after a refusal, each limit is raised once, to exactly what the error names."""
    raised: list[str] = []
    while True:
        try:
            return plan_for(fingerprint, budget)
        except PlanningError as error:
            name, needed, unit = find_limit(str(error))
        assert name not in raised, f"{getattr(budget, name)} were said to be enough, now {needed} are needed"
        raised.append(name)
        with pytest.raises(PlanningError, match="needs"):
            plan_for(fingerprint, budget.model_copy(update={name: needed - unit}))
        budget = budget.model_copy(update={name: needed})


def find_limit(message: str) -> tuple[str, float, float]:
    """Field of the budget, value that would do, and its precision."""
    for name, (pattern, unit) in LIMITS.items():
        if found := pattern.search(message):
            return name, float(found[1]), unit
    pytest.fail(f"refused without naming a budget that works: {message}")


def memory_faults(plan: Plan) -> Iterator[str]:
    memory = next(decision.value for decision in plan.decisions if decision.what == "memory")
    assert isinstance(memory, float)
    for name, configuration in plan.configurations.items():
        key = (plan.planner, configuration.network.dimensions)
        elements = configuration.estimates.feature_map_elements
        if name != "3d_cascade_fullres" and elements > ELEMENTS_PER_GIGABYTE.get(key, math.inf) * memory:
            yield f"{name}: {elements} feature-map elements are too many for {memory} GB"


ordinary_fingerprints = st.builds(
    lambda spacing, shape, count: alike(spacing, shape, count),
    st.tuples(*[st.floats(0.3, 6.0).map(lambda value: round(value, 2))] * 3),
    st.tuples(*[st.integers(12, 500)] * 3),
    st.sampled_from([2, 20, 200]),
)
COMPARED = {
    # Memory decides alone only where time does not: a larger patch is slower, so limited time would narrow the network.
    "memory_gigabytes": (Budget(), 0.5, 40.0),
    "time_per_fold_seconds": (Budget(throughput=SLOW), 10.0, 1e5),
    "latency_seconds": (Budget(throughput=SLOW), 1.0, 1e4),
}
"""By the limit that is raised: the rest of the budget, and the smallest and largest value to start from."""


@pytest.mark.parametrize("limit", COMPARED)
@pytest.mark.parametrize("planner", PLANNERS)
@settings(max_examples=15, deadline=None)
@given(data=st.data(), fingerprint=ordinary_fingerprints)
def test_a_larger_budget_never_gives_a_smaller_network(planner, limit, data, fingerprint):
    budget, least, most = COMPARED[limit]
    little = math.exp(data.draw(st.floats(math.log(least), math.log(most))))
    much = little * data.draw(st.floats(1.1, 30.0))
    try:
        before = find_planner(planner)(fingerprint, budget.model_copy(update={limit: little}))
    except PlanningError:
        return  # any plan is more than none
    after = find_planner(planner)(fingerprint, budget.model_copy(update={limit: much}))
    for name in {"2d", "3d_fullres"} & set(before.configurations) & set(after.configurations):
        assert what_is_smaller(after.configurations[name], before.configurations[name]) == ""


def what_is_smaller(after: Configuration, before: Configuration) -> str:
    """Width or patch of networks of one kind."""
    if after.network.architecture != before.network.architecture:
        return ""  # `auto` changed its mind: other networks have other widths
    if after.network.features[0] < before.network.features[0]:
        return f"{after.network.features[0]} base features after {before.network.features[0]}"
    if math.prod(after.patch_size) < math.prod(before.patch_size):
        return f"patch {after.patch_size} after {before.patch_size}"
    return ""
