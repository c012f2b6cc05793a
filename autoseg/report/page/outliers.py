"""Cases that are far from the rest: where faults of a dataset are found first."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import median

from autoseg.records.fingerprint import Fingerprint
from autoseg.report.charts.svg import say_figure

MIN_CASES = 5
"""Below, nothing can be called unusual."""
MAX_DEVIATION = 3.5
"""Modified z-score beyond which a value is unusual; Iglewicz and Hoaglin 1993."""
NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution by its median absolute deviation."""
MIN_FACTOR = 1.5
"""Below this factor from the median nothing is reported, however alike the rest is."""
MIN_FACTOR_OF_PARTS = 2.5
"""The same for numbers of separate parts, of which two instead of one are common."""
USUAL_FRACTION = 0.8
"""Of the cases that have a label, beyond which its absence is unusual."""
PARTS = "separate parts"
MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class Outlier:
    """One value of one case."""

    case: str
    what: str
    found: str
    usual: str
    deviation: float
    """Modified z-score of the logarithm; infinite for a label that is absent."""


@dataclass(frozen=True)
class OutlierGroup:
    """Cases that are unusual in the same respect."""

    what: str
    usual: str
    outliers: tuple[Outlier, ...]
    """The farthest first."""


def group_outliers(outliers: Sequence[Outlier]) -> list[OutlierGroup]:
    """Group by what is unusual, in the order of their farthest case."""
    groups: dict[str, list[Outlier]] = {}
    for one in outliers:
        groups.setdefault(one.what, []).append(one)
    return [OutlierGroup(what, members[0].usual, tuple(members)) for what, members in groups.items()]


def flagged_cases(groups: Sequence[OutlierGroup]) -> list[str]:
    """Unusual cases, each once: the first of every group, then the second of every group, and so on."""
    ranks = zip_longest(*(group.outliers for group in groups))
    return list(dict.fromkeys(one.case for rank in ranks for one in rank if one is not None))


def find_outliers(fingerprint: Fingerprint) -> tuple[Outlier, ...]:
    """Volumes, intensities, spacings and shapes far from the rest, the farthest first.

    Values are compared by their logarithm, since all of them vary by factors. A case is reported when its modified
    z-score is above 3.5 and it is at least a factor of 1.5 away from the median (parts of a label: 2.5).

    Returns:
        Nothing below five cases.

    References:
        Iglewicz and Hoaglin 1993, How to detect and handle outliers: median and median absolute deviation.
    """
    if len(fingerprint.cases) < MIN_CASES:
        return ()
    found = [*_absent_labels(fingerprint)]
    for what, unit, values in _quantities(fingerprint):
        factor = MIN_FACTOR_OF_PARTS if what.endswith(PARTS) else MIN_FACTOR
        found += _unusual(what, unit, values, factor)
    return tuple(sorted(found, key=lambda one: (-one.deviation, one.case, one.what)))


def _quantities(fingerprint: Fingerprint) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Name, unit and values by case; values that are not above 0 are left out."""
    cases = fingerprint.cases
    is_flat = all(min(case.shape) == 1 for case in cases)
    labels = dict.fromkeys(name for case in cases for name in case.labels)
    for name in labels:
        facts = {case.case: case.labels[name] for case in cases if name in case.labels}
        sizes = {key: float(one.voxels) if is_flat else one.volume_mm3 / MM3_PER_ML for key, one in facts.items()}
        yield (f"{name}, area" if is_flat else f"{name}, volume"), ("pixels" if is_flat else "ml"), sizes
        yield f"{name}, {PARTS}", "", {key: float(one.components) for key, one in facts.items()}
    for channel, name in enumerate(fingerprint.channel_names):
        yield (
            f"{name}, largest intensity",
            "",
            {case.case: case.channel_ranges[channel][1] for case in cases if channel < len(case.channel_ranges)},
        )
    for axis, name in enumerate("zyx"):
        yield f"spacing along {name}", "mm", {case.case: case.spacing[axis] for case in cases}
        yield f"shape along {name}", "voxels", {case.case: float(case.shape[axis]) for case in cases}


def _unusual(what: str, unit: str, values: Mapping[str, float], smallest_factor: float) -> Iterator[Outlier]:
    logs = {case: math.log(value) for case, value in values.items() if value > 0}
    if len(logs) < MIN_CASES:
        return
    middle = median(logs.values())
    spread = NORMAL_MAD * median(abs(value - middle) for value in logs.values())
    for case, value in logs.items():
        distance = abs(value - middle)
        deviation = distance / spread if spread > 0 else math.inf
        if distance >= math.log(smallest_factor) and deviation > MAX_DEVIATION:
            found, usual = (f"{say_figure(figure)} {unit}".strip() for figure in (values[case], math.exp(middle)))
            yield Outlier(case, what, found, usual, distance / max(spread, 0.05))


def _absent_labels(fingerprint: Fingerprint) -> Iterator[Outlier]:
    cases = fingerprint.cases
    for name in dict.fromkeys(name for case in cases for name in case.labels):
        absent = [case.case for case in cases if name not in case.labels or case.labels[name].voxels == 0]
        share = 1 - len(absent) / len(cases)
        for case in absent if share >= USUAL_FRACTION else ():
            yield Outlier(case, f"{name}", "absent", f"present in {share:.0%} of cases", math.inf)
