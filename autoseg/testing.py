"""For tests: what a planner promises, checked on varied synthetic datasets; and phantom volumes made by code.

from autoseg.testing import planner_violations
assert planner_violations(my_planner) == []
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from autoseg.errors import PlanningError
from autoseg.plugins import Planner
from autoseg.records.budget import Budget, Throughput
from autoseg.records.case import Spacing, Triple
from autoseg.records.dataset import Head, LabelEncoding, LabelValues
from autoseg.records.files import replacing, write_text
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics
from autoseg.records.plan import Configuration, Plan

SMALLEST_BATCH = 2
SLOW_MACS_PER_SECOND = 1e9


@dataclass(frozen=True)
class _Trial:
    """A dataset and a budget that a planner is tried on."""

    name: str
    fingerprint: Fingerprint
    budget: Budget = field(default_factory=Budget)
    impossible: bool = False
    """A PlanningError is the right answer."""


def synthetic_fingerprint(
    spacings: Sequence[Spacing],
    shapes: Sequence[Triple],
    *,
    channel_names: Sequence[str] = ("MR",),
    num_labels: int = 2,
    regions: bool = False,
    ignore: bool = False,
    cropped_fraction: float = 1.0,
) -> Fingerprint:
    """A fingerprint of cases that do not exist.

    Args:
        spacings: Per case, (z, y, x), mm.
        shapes: Per case, after cropping, (z, y, x), voxels.
        channel_names: In channel order.
        num_labels: Entries in `labels`, background included, the ignore label not.
        regions: Labels are nested regions: each one holds all labels after it.
        ignore: Add an ignore label.
        cropped_fraction: Median share of voxels left after cropping.
    """
    labels, encoding = _synthetic_labels(num_labels, regions=regions, ignore=ignore)
    statistics = IntensityStatistics(
        mean=90.0, median=88.0, std=31.0, minimum=-40.0, maximum=300.0, percentile_00_5=-10.0, percentile_99_5=240.0
    )
    return Fingerprint(
        dataset_name="synthetic",
        channel_names=tuple(channel_names),
        labels=labels,
        encoding=encoding,
        orientation="canonical",
        cases=tuple(
            CaseFingerprint(
                case=f"case_{index:04d}",
                shape=shape,
                cropped_shape=shape,
                spacing=spacing,
                channel_ranges=((-40.0, 300.0),) * len(channel_names),
                labels={},
                content_hash=f"{index:08x}",
            )
            for index, (spacing, shape) in enumerate(zip(spacings, shapes, strict=True))
        ),
        intensities=(statistics,) * len(channel_names),
        median_cropped_fraction=cropped_fraction,
    )


def _synthetic_labels(num_labels: int, *, regions: bool, ignore: bool) -> tuple[dict[str, LabelValues], LabelEncoding]:
    foreground = range(1, num_labels)
    labels: dict[str, LabelValues] = {"background": 0}
    labels |= {f"label{i}": tuple(range(i, num_labels)) if regions and i < num_labels - 1 else i for i in foreground}
    heads = [Head(name=f"label{i}", indices=tuple(range(i, num_labels)) if regions else (i,), painted_index=i)
             for i in foreground]  # fmt: skip
    if not regions:
        heads.insert(0, Head(name="background", indices=(0,), painted_index=0))
    encoding = LabelEncoding(
        values=tuple(range(num_labels)),
        ignore_value=num_labels if ignore else None,
        activation="sigmoid" if regions else "softmax",
        heads=tuple(heads),
    )
    return labels | ({"ignore": num_labels} if ignore else {}), encoding


def planner_violations(planner: Planner) -> list[str]:
    """Try a planner on varied datasets and budgets, and say which promises it breaks.

    A planner promises: a Plan or a PlanningError; the same plan for the same input, whatever the order of cases;
    input left untouched and repeated in the plan; a plan that survives JSON; patches divisible by the total stride; at
    least two patches per batch; network, normalisation and references between configurations that fit together; the
    configurations that were asked for; the time that was asked for; a reason for every decision.

    Args:
        planner: A function (fingerprint, budget) -> Plan.

    Returns:
        One sentence per broken promise and dataset; empty when all is well.
    """
    return [f"{trial.name}: {sentence}" for trial in _trials() for sentence in _try(planner, trial)]


def _trials() -> Iterator[_Trial]:
    cube = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 7, [(36, 50, 35)] * 7, num_labels=3)
    slices = synthetic_fingerprint(
        [(5.0, 1.5, 1.5), (10.0, 1.4, 1.4), (6.0, 1.6, 1.6)], [(14, 230, 200), (9, 256, 216), (12, 200, 190)]
    )
    large = synthetic_fingerprint(
        [(1.0, 0.8, 0.8), (1.5, 0.7, 0.7), (1.0, 0.9, 0.9)], [(482, 512, 512), (300, 512, 512), (500, 480, 512)],
        channel_names=("CT",), num_labels=14,
    )  # fmt: skip
    pictures = synthetic_fingerprint([(999.0, 1.0, 1.0)] * 4, [(1, 256, 320)] * 4, channel_names=("R", "G", "B"))
    regions = synthetic_fingerprint(
        [(1.0, 1.0, 1.0)] * 3, [(138, 169, 138)] * 3, channel_names=("T1", "T2", "FLAIR", "T1ce"), num_labels=4,
        regions=True, ignore=True, cropped_fraction=0.5,
    )  # fmt: skip
    slow = tuple(
        Throughput(dimensions=dimensions, base_features=8, macs_per_second=SLOW_MACS_PER_SECOND)
        for dimensions in (2, 3)
    )
    yield _Trial("small volumes", cube)
    yield _Trial("thick slices", slices)
    yield _Trial("large CT", large)
    yield _Trial("pictures", pictures)
    yield _Trial("regions and ignore label", regions, Budget(memory_gigabytes=24.0))
    yield _Trial("a CPU", slices, Budget(device="cpu"))
    yield _Trial("ten minutes", cube, Budget(device="cpu", time_per_fold_seconds=600.0, throughput=slow))
    yield _Trial("only 2d asked for", cube, Budget(configurations=("2d",)))
    yield _Trial("a configuration that does not exist", cube, Budget(configurations=("4d",)), impossible=True)
    yield _Trial("no memory", cube, Budget(memory_gigabytes=0.0), impossible=True)


def _try(planner: Planner, trial: _Trial) -> Iterator[str]:
    before = trial.fingerprint.model_dump_json()
    try:
        plan: object = planner(trial.fingerprint, trial.budget)
        again = planner(trial.fingerprint, trial.budget)
        reversed_cases = trial.fingerprint.model_copy(update={"cases": trial.fingerprint.cases[::-1]})
        reordered = planner(reversed_cases, trial.budget)
    except PlanningError as error:
        if not trial.impossible:
            yield f"PlanningError for data that can be planned: {error}"
        return
    except Exception as error:  # noqa: BLE001  whatever a stranger's function raises is what is being reported
        yield f"raises {type(error).__name__} ({error}) where only PlanningError is allowed"
        return
    if trial.fingerprint.model_dump_json() != before:
        yield "changes the fingerprint it was given"
    if not isinstance(plan, Plan):
        yield f"gives a {type(plan).__name__}, not a Plan"
        return
    if trial.impossible:
        yield "gives a plan where a PlanningError is due"
        return
    if again != plan:
        yield "gives different plans for the same input"
    elif reordered != plan:
        yield "gives another plan when the cases come in another order"
    yield from _check_plan(plan, trial)


def _check_plan(plan: Plan, trial: _Trial) -> Iterator[str]:
    fingerprint, asked = trial.fingerprint, trial.budget.configurations
    if not _survives_json(plan):
        yield "gives a plan that is another one, or none, when it is written as JSON and read again"
    for name in ("dataset_name", "channel_names", "labels", "encoding", "orientation"):
        if getattr(plan, name) != getattr(fingerprint, name):
            yield f"`{name}` of the plan is not that of the fingerprint"
    if plan.budget != trial.budget:
        yield "`budget` of the plan is not the one it was given"
    if sorted(plan.transpose) != [0, 1, 2]:
        yield f"`transpose` {plan.transpose} is not an order of three axes"
    if not plan.configurations or not set(asked) <= set(plan.configurations):
        yield f"plans {', '.join(plan.configurations) or 'nothing'}, asked for {', '.join(asked) or 'anything'}"
    if not plan.decisions or not all(decision.reason.strip() for decision in plan.decisions):
        yield "has decisions without a reason, or none at all"
    for name, configuration in plan.configurations.items():
        for sentence in _check_configuration(configuration, plan):
            yield f"{name}: {sentence}"


def _survives_json(plan: Plan) -> bool:
    try:
        return Plan.model_validate_json(plan.model_dump_json(warnings=False)) == plan
    except ValidationError:
        return False


def _check_configuration(configuration: Configuration, plan: Plan) -> Iterator[str]:
    network, patch_size = configuration.network, configuration.patch_size
    total = tuple(math.prod(axis) for axis in zip(*network.strides, strict=False))
    if len(patch_size) != len(total) or any(edge % stride for edge, stride in zip(patch_size, total, strict=False)):
        yield f"patch {patch_size} is not divisible by the total stride {total}"
    if configuration.batch_size < SMALLEST_BATCH:
        yield f"batch size {configuration.batch_size}, below {SMALLEST_BATCH}"
    levels = len(network.features)
    lengths = (len(network.strides), len(network.kernel_sizes), len(network.encoder_convolutions))
    if set(lengths) != {levels} or len(network.decoder_convolutions) != levels - 1:
        yield f"the network has {levels} levels in `features`, but other numbers in strides, kernels or convolutions"
    cascade = configuration.previous_configuration is not None
    inputs = len(plan.channel_names) + (len(plan.encoding.values) - 1 if cascade else 0)
    if (network.input_channels, network.output_channels) != (inputs, len(plan.encoding.heads)):
        found = f"{network.input_channels} inputs and {network.output_channels} outputs"
        yield f"the network has {found}, the data have {inputs} and {len(plan.encoding.heads)}"
    if len(configuration.normalization) != len(plan.channel_names):
        yield f"{len(configuration.normalization)} normalisations for {len(plan.channel_names)} channels"
    for other in {configuration.preprocessed_as, configuration.previous_configuration} - {None}:
        if other not in plan.configurations:
            yield f"refers to the configuration {other}, which is not planned"
    limit = plan.budget.time_per_fold_seconds
    if limit is not None and configuration.training.time_per_fold_seconds != limit:
        yield f"does not promise the {limit:g} s per fold of the budget"


@dataclass(frozen=True)
class PhantomCase:
    """One made-up volume, axes (z, y, x), and where its voxels are."""

    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    spacing: Spacing


PHANTOM_LABELS = {"background": 0, "body": 1, "core": 2, "rod": 3}


def make_phantom_case(seed: int) -> PhantomCase:
    """Draw a volume with three structures: an ellipsoid, a smaller one inside it, and an oblique rod beside it.

    Slices are thick (about 2.4 mm against 1 mm in plane), shapes differ from case to case, and the image carries
    noise and a smooth brightness field, so that neither intensity nor place alone gives a structure away.
    """
    generator = np.random.default_rng(seed)
    spacing = (float(generator.uniform(2.2, 2.6)), 1.0, 1.0)
    shape = (int(generator.integers(16, 21)), int(generator.integers(44, 53)), int(generator.integers(38, 47)))
    mm = np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    size_mm = np.array(shape) * spacing

    centre = size_mm * generator.uniform((0.45, 0.55, 0.4), (0.55, 0.65, 0.5))
    radii = size_mm * generator.uniform((0.26, 0.2, 0.2), (0.34, 0.27, 0.26))
    body = _ellipsoid(mm, centre, radii)
    core = _ellipsoid(mm, centre + radii * generator.uniform(-0.2, 0.2, 3), radii * generator.uniform(0.45, 0.6))
    start = size_mm * (0.1, 0.16, generator.uniform(0.6, 0.7))
    stop = size_mm * (0.9, 0.22, generator.uniform(0.8, 0.9))
    rod = _rod(mm, start, stop, radius_mm=float(generator.uniform(4.0, 5.0)))

    labels = np.zeros(shape, dtype=np.uint8)
    for value, mask in enumerate((body, core & body, rod & ~body), start=1):
        labels[mask] = value
    levels = np.array([0.0, 1.2, 2.6, 1.7]) + generator.normal(0, 0.1, 4)
    field = 0.3 * np.sin(mm[1] / size_mm[1] * np.pi + generator.uniform(0, np.pi)) + 0.2 * mm[2] / size_mm[2]
    image = 100.0 * (1.0 + levels[labels] + field + generator.normal(0, 0.25, shape))
    return PhantomCase(image=image.astype(np.float32), labels=labels, spacing=spacing)


def _ellipsoid(
    mm: Sequence[NDArray[np.float64]], centre: NDArray[np.float64], radii: NDArray[np.float64]
) -> NDArray[np.bool_]:
    distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(mm, centre, radii, strict=True))
    return np.asarray(distance <= 1.0)


def _rod(
    mm: Sequence[NDArray[np.float64]], start: NDArray[np.float64], stop: NDArray[np.float64], radius_mm: float
) -> NDArray[np.bool_]:
    """Voxels within a radius of the segment from `start` to `stop`."""
    points = np.stack(mm, axis=-1) - start
    direction = stop - start
    along = np.clip(points @ direction / (direction @ direction), 0.0, 1.0)
    return np.asarray(np.linalg.norm(points - along[..., None] * direction, axis=-1) <= radius_mm)


def write_phantom_dataset(folder: Path, *, training: int = 20, held_out: int = 5, seed: int = 7) -> None:
    """Write phantoms as an nnU-Net-style dataset: imagesTr, labelsTr, dataset.json; and imagesTs, labelsTs.

    Every third volume is stored with its first two file axes reversed, so that orientation matters.
    """
    for index in range(training + held_out):
        case = make_phantom_case(seed * 1000 + index)
        part = "Tr" if index < training else "Ts"
        name = f"phantom_{index:03d}"
        reverse = index % 3 == 2
        _write_nifti(case.image, case.spacing, reverse, folder / f"images{part}" / f"{name}_0000.nii.gz")
        _write_nifti(case.labels, case.spacing, reverse, folder / f"labels{part}" / f"{name}.nii.gz")
    content = {
        "name": "Phantoms",
        "channel_names": {"0": "MR"},
        "labels": PHANTOM_LABELS,
        "numTraining": training,
        "file_ending": ".nii.gz",
    }
    write_text(json.dumps(content, indent=1) + "\n", folder / "dataset.json")


def _write_nifti(array: NDArray[np.generic], spacing: Spacing, reverse: bool, path: Path) -> None:
    z, y, x = spacing
    affine = np.diag((x, y, z, 1.0))
    voxels = array.transpose()  # (X, Y, Z), the file's axis order
    if reverse:
        affine[0, 3], affine[1, 3] = x * (voxels.shape[0] - 1), y * (voxels.shape[1] - 1)
        affine[0, 0], affine[1, 1] = -x, -y
        voxels = voxels[::-1, ::-1]
    with replacing(path) as temporary:
        nibabel.save(nibabel.Nifti1Image(voxels, affine), temporary)
