"""Instances of one image by networks that find them one by one (target `mask_rcnn`).

    windows -> networks, mirrored variants -> boxes and masks -> clusters -> map of instances -> label map

Tested in tests/inference/predictor/test_instance_maps.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import UsageError
from autoseg.imaging.arrays.cropping import crop_shape, cropped_view
from autoseg.imaging.arrays.labels import decode_label_map
from autoseg.imaging.formats.volume import restore_array
from autoseg.inference.instances.clustering import Cluster, cluster_instances, combine_members, link_slices
from autoseg.inference.instances.found import FoundInstances, find_in_windows, join_found
from autoseg.inference.instances.pasting import PaintedInstance, paint_instances
from autoseg.inference.models.label_colors import value_names
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.predictor.instances import measure_instances
from autoseg.inference.windows.sliding_window import WindowSettings
from autoseg.records.case import Grid, Orientation, PreprocessedCase
from autoseg.records.dataset import LabelEncoding
from autoseg.records.detection import DetectionSpec
from autoseg.records.plan import Plan
from autoseg.records.prediction import Instances, OutputChoices

MIN_SCORE = 0.3
"""Lowest score of an instance that is painted: panoptic quality gains by an instance that is more likely than half of
what it has already (own rule)."""


@dataclass(frozen=True)
class InstanceMap:
    """The instances of one image in working orientation."""

    ids: NDArray[np.unsignedinteger]
    """(Z, Y, X), 1 to n, 0 for background."""
    instances: tuple[PaintedInstance, ...]
    """Instances in the order of their numbers."""

    def label_indices(self) -> NDArray[np.uint16]:
        """Label indices (Z, Y, X)."""
        owners = np.array([0, *(instance.label for instance in self.instances)], dtype=np.uint16)
        indices: NDArray[np.uint16] = owners[self.ids]
        return indices

    def restore(
        self, encoding: LabelEncoding, grid: Grid, orientation: Orientation, *, is_flat: bool
    ) -> tuple[NDArray[np.unsignedinteger], Instances]:
        """Label values and measured instances on the image's own grid; arguments as for `find_instances_of_image`."""
        labels = decode_label_map(restore_array(self.label_indices(), orientation), encoding)
        ids = restore_array(self.ids, orientation)
        owners = [encoding.values[instance.label] for instance in self.instances]
        measured = measure_instances(ids, owners, value_names(encoding), grid, None, is_flat=is_flat)
        table = tuple(
            replace(row, score=instance.score, mean_probability=instance.mean_probability)
            for row, instance in zip(measured, self.instances, strict=True)
        )
        return labels, Instances(ids=ids, table=table)


def finds_instances(plan: Plan) -> bool:
    """Whether the networks of a plan find instances one by one instead of labelling voxels."""
    return plan.target == "mask_rcnn"


def complete_choices(plan: Plan, choices: OutputChoices) -> OutputChoices:
    """The outputs of a model: one that finds instances always gives them.

    Raises:
        UsageError: If outputs are asked for that need probabilities, and the model finds instances.
    """
    if not finds_instances(plan):
        return choices
    asked = {
        "--save-uncertainty": choices.uncertainty,
        "--save-probabilities": choices.probabilities,
        "--calibrated": choices.calibrated,
        "--seg-type fractional": choices.segmentation_type == "fractional",
    }
    refuse_voxel_options(plan, asked)
    return replace(choices, instances=True)


def refuse_voxel_options(plan: Plan, asked: Mapping[str, bool]) -> None:
    """Refuse options that need probabilities of voxels, where the model finds instances.

    Args:
        plan: Plan of the model.
        asked: Options, and whether they were asked for.

    Raises:
        UsageError: Names the options.
    """
    options = [option for option, is_asked in asked.items() if is_asked]
    if finds_instances(plan) and options:
        raise UsageError(
            f"{', '.join(options)}: this model finds objects one by one (--target mask-rcnn) and has no probabilities "
            "of voxels. Leave the option out."
        )


def map_instances(
    members: Sequence[LoadedConfiguration],
    images: Mapping[str, NDArray[np.float32]],
    records: Mapping[str, PreprocessedCase],
    windows: WindowSettings,
) -> InstanceMap:
    """Find the instances of one image with all networks.

    Args:
        members: Configurations, each with the networks of its folds.
        images: Preprocessed images (C, Z, Y, X) by configuration name.
        records: Records of the preprocessing.
        windows: Overlap, mirroring and batch.
    """
    parts, groups = [], []
    for member in members:
        found, clusters = _find(member, images[member.name], records[member.name], windows)
        parts.append(found)
        groups.append(clusters)
    record, detection = records[members[-1].name], _detection(members[-1])
    clusters = combine_members(groups, [len(part.boxes) for part in parts], detection.detection_nms_iou)
    kept = [cluster for cluster in clusters if cluster.score >= MIN_SCORE]
    shape = np.array(record.original_shape)[np.argsort(record.transpose)]
    ids = np.zeros(shape, dtype=np.uint32)
    painted = paint_instances(kept, join_found(parts), cropped_view(ids, record), detection.mask_threshold)
    return InstanceMap(ids.astype(np.min_scalar_type(len(painted))), tuple(painted))


def _find(
    member: LoadedConfiguration, image: NDArray[np.float32], record: PreprocessedCase, windows: WindowSettings
) -> tuple[FoundInstances, list[Cluster]]:
    """What one configuration finds in all windows, on the grid of the cropped image, and the clusters of it."""
    found, views = find_in_windows(member, image, windows, record.absent_channels)
    factors = [size / length for size, length in zip(crop_shape(record), record.shape, strict=True)]
    found, views = found.scaled(factors), views.scaled(factors)
    clusters = cluster_instances(found, views, _detection(member).detection_nms_iou)
    if len(member.configuration.patch_size) == 3:
        return found, clusters
    return found, link_slices([cluster for cluster in clusters if cluster.score >= MIN_SCORE])


def _detection(member: LoadedConfiguration) -> DetectionSpec:
    detection = member.configuration.network.detection
    if detection is None:
        raise ValueError(f"{member.name}: its networks label voxels")
    return detection
