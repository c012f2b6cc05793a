"""Cases that differ much from the others: often faults of the dataset."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import median

from autoseg.records.fingerprint import Fingerprint
from autoseg.text import distinct_names, format_quantity

MIN_CASES = 5
"""Number of cases below which no value counts as unusual."""
MAX_DEVIATION = 3.5
"""Modified z-score beyond which a value is unusual; Iglewicz and Hoaglin 1993."""
NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution divided by its median absolute deviation."""
MIN_FACTOR = 1.5
"""Factor from the median below which nothing is reported, however similar the other cases are."""
MIN_FACTOR_OF_COMPONENTS = 2.5
"""The same for numbers of connected components, of which two instead of one are common."""
USUAL_FRACTION = 0.8
"""Fraction of cases with a label above which its absence is unusual."""
COMPONENTS = "connected components"
MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class Outlier:
    """One unusual value of one case."""

    case: str
    what: str
    found: str
    usual: str
    deviation: float
    """Modified z-score of the logarithm; infinite for a label that is absent."""


def group_outliers(outliers: Sequence[Outlier]) -> list[list[Outlier]]:
    """Outliers of each quantity, both in the order of their largest deviation."""
    groups: dict[str, list[Outlier]] = {}
    for outlier in outliers:
        groups.setdefault(outlier.what, []).append(outlier)
    return list(groups.values())


def flagged_cases(groups: Sequence[Sequence[Outlier]]) -> list[str]:
    """Unusual cases, each once: the first of every group, then the second of every group, and so on."""
    ranks = zip_longest(*groups)
    return list(dict.fromkeys(outlier.case for rank in ranks for outlier in rank if outlier is not None))


def find_outliers(fingerprint: Fingerprint) -> tuple[Outlier, ...]:
    """Volumes, intensities, spacings and shapes that differ much from the other cases, the largest deviation first.

    Values are compared by their logarithm, since all of them vary by factors. A case is reported when its modified
    z-score is above 3.5 and it differs from the median by at least a factor of 1.5 (components of a label: 2.5).

    Returns:
        Unusual values; none with fewer than five cases.

    References:
        Iglewicz and Hoaglin 1993, How to detect and handle outliers: median and median absolute deviation.
    """
    if len(fingerprint.cases) < MIN_CASES:
        return ()
    found = [*_absent_labels(fingerprint)]
    for what, unit, values in _quantities(fingerprint):
        factor = MIN_FACTOR_OF_COMPONENTS if what.endswith(COMPONENTS) else MIN_FACTOR
        found += _unusual(what, unit, values, factor)
    return tuple(sorted(found, key=lambda outlier: (-outlier.deviation, outlier.case, outlier.what)))


def _quantities(fingerprint: Fingerprint) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Name, unit and values by case of every quantity."""
    cases = fingerprint.cases
    is_flat = all(min(case.shape) == 1 for case in cases)
    labels = dict.fromkeys(name for case in cases for name in case.labels)
    for name in labels:
        facts = {case.case: case.labels[name] for case in cases if name in case.labels}
        sizes = {case: float(fact.voxels) if is_flat else fact.volume_mm3 / MM3_PER_ML for case, fact in facts.items()}
        yield (f"{name}, area" if is_flat else f"{name}, volume"), ("pixels" if is_flat else "ml"), sizes
        yield f"{name}, {COMPONENTS}", "", {case: float(fact.components) for case, fact in facts.items()}
    for channel, name in enumerate(distinct_names(fingerprint.channel_names)):
        yield (
            f"{name}, largest intensity",
            "",
            {
                case.case: case.channel_ranges[channel][1]
                for case in cases
                if channel < len(case.channel_ranges) and channel not in case.absent_channels
            },
        )
    for axis, name in enumerate("zyx"):
        yield f"spacing along {name}", "mm", {case.case: case.spacing[axis] for case in cases}
        yield f"shape along {name}", "voxels", {case.case: float(case.shape[axis]) for case in cases}


def _unusual(what: str, unit: str, values: Mapping[str, float], min_factor: float) -> Iterator[Outlier]:
    # Values that are not above 0 have no logarithm; an absent label is found by _absent_labels.
    logs = {case: math.log(value) for case, value in values.items() if value > 0}
    if len(logs) < MIN_CASES:
        return
    middle = median(logs.values())
    spread = NORMAL_MAD * median(abs(value - middle) for value in logs.values())
    for case, value in logs.items():
        distance = abs(value - middle)
        deviation = distance / spread if spread > 0 else math.inf
        if distance >= math.log(min_factor) and deviation > MAX_DEVIATION:
            found, usual = (f"{format_quantity(figure)} {unit}".strip() for figure in (values[case], math.exp(middle)))
            yield Outlier(case, what, found, usual, distance / max(spread, 0.05))


def _absent_labels(fingerprint: Fingerprint) -> Iterator[Outlier]:
    cases = fingerprint.cases
    for name in dict.fromkeys(name for case in cases for name in case.labels):
        absent = [case.case for case in cases if name not in case.labels or case.labels[name].voxels == 0]
        fraction = 1 - len(absent) / len(cases)
        for case in absent if fraction >= USUAL_FRACTION else ():
            yield Outlier(case, f"{name}", "absent", f"present in {fraction:.0%} of cases", math.inf)
