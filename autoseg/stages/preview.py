"""Show what augmentation makes of a fold's training patches, before any time is spent on training."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import UsageError
from autoseg.folds import find_split
from autoseg.imaging.arrays.object_codes import decode_labels
from autoseg.imaging.arrays.storage import open_case, stored_cases
from autoseg.inference.models.cascade_maps import load_previous
from autoseg.records.dataset import DatasetDescription
from autoseg.records.files import read_record
from autoseg.records.plan import Configuration, Plan, count_presence_planes
from autoseg.records.workspace import Workspace
from autoseg.report.charts.figures import PatchVersions, plot_versions
from autoseg.training.data.augmentation.parameters import choose_rules
from autoseg.training.data.batch import Batch, BatchStream
from autoseg.training.data.loading import PatchLoader, TrainingCase, training_cases
from autoseg.training.options import TrainingOptions, apply_options, find_configuration

MAX_PATCHES = 4
"""Rows of the picture, each of another case."""

AUGMENTED_VERSIONS = 5
"""Columns of the picture beside the unaugmented patch."""

AS_PLANNED: Final = TrainingOptions()


def preview_augmentation(
    workspace: Workspace,
    configuration_name: str,
    fold_name: str,
    path: Path,
    options: TrainingOptions = AS_PLANNED,
) -> None:
    """Write a PNG: for some training cases an unaugmented patch, and versions of it as training would see them.

    Args:
        workspace: Planned and preprocessed.
        configuration_name: Name in the plan.
        fold_name: Index in splits.json as text, or `all`.
        path: Path of the image file; its folder is created when missing.
        options: Options of the training, which decide on mirroring; another seed gives other patches and versions.

    Raises:
        UsageError: If configuration or fold do not exist, options do not fit the plan, or no case is preprocessed.
        TrainingError: If the configuration is a cascade and label maps of its previous configuration are missing.
    """
    plan = read_record(Plan, workspace.plan)
    effective = apply_options(find_configuration(plan, configuration_name, workspace.plan), options)
    cases = _draw_cases(workspace, plan, configuration_name, fold_name, np.random.default_rng(options.seed))
    rows = [_augment(case, plan, effective, [options.seed, number]) for number, case in enumerate(cases)]
    names = {head.painted_index: head.name for head in plan.encoding.heads if head.painted_index > 0}
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_versions(rows, dict(sorted(names.items())), path)


def _draw_cases(
    workspace: Workspace, plan: Plan, configuration_name: str, fold_name: str, generator: np.random.Generator
) -> tuple[TrainingCase, ...]:
    configuration = plan.configurations[configuration_name]
    folder = workspace.preprocessed(configuration.preprocessed_as)
    training = find_split(workspace, read_record(DatasetDescription, workspace.dataset), fold_name).training
    ready = sorted(set(stored_cases(folder)) & set(training))
    if not ready:
        raise UsageError(
            f"{folder}: no training case of fold {fold_name} is preprocessed. Run autoseg-plan again with the same "
            "workspace, without --no-preprocess."
        )
    places = generator.choice(len(ready), size=min(MAX_PATCHES, len(ready)), replace=False)
    drawn = [ready[place] for place in sorted(places)]
    previous = (
        None
        if configuration.previous_configuration is None
        else load_previous(workspace, plan, configuration_name, drawn)
    )
    opened = {case: open_case(folder, case) for case in drawn}
    return training_cases(opened, plan.encoding, ram_bytes=0, previous=previous)


def _augment(case: TrainingCase, plan: Plan, configuration: Configuration, seed: list[int]) -> PatchVersions:
    """One patch around foreground, unaugmented and augmented."""
    generators = [np.random.default_rng([*seed, version]) for version in range(1 + AUGMENTED_VERSIONS)]
    plain, augmenting = (
        PatchLoader([case], configuration, plan.encoding, BatchStream(seed=(), rules=rules))
        for rules in (None, choose_rules(configuration.training.contrasts))
    )
    corner = plain.draw_corner(case, generators[0], forced=True)
    unaugmented = plain.make_batch([case], [corner], generators[:1])
    versions = augmenting.make_batch([case] * AUGMENTED_VERSIONS, [corner] * AUGMENTED_VERSIONS, generators[1:])
    labels = np.concatenate([batch["target"] for batch in (unaugmented, versions)])
    height, width = configuration.spacing[-2:]
    channel = configuration.neighbor_slices * len(plan.channel_names)
    return PatchVersions(
        title=f"{case.case_id}: a patch without augmentation, then as training sees it",
        images=np.concatenate([batch["image"][:, channel] for batch in (unaugmented, versions)]),
        labels=decode_labels(labels, plan.encoding) if plan.target == "mask_rcnn" else labels,
        previous=_previous_labels(configuration, unaugmented, versions) if case.previous is not None else None,
        pixel_aspect=height / width,
    )


def _previous_labels(configuration: Configuration, *batches: Batch) -> NDArray[np.int16]:
    """Label indices from the one-hot channels behind the image's."""
    first, planes = len(configuration.normalization), count_presence_planes(configuration)
    channels = np.concatenate([batch["image"][:, first : batch["image"].shape[1] - planes] for batch in batches])
    indices = np.arange(1, channels.shape[1] + 1)
    labels: NDArray[np.int16] = np.einsum("bc...,c->b...", channels, indices).astype(np.int16)
    return labels
