"""Unlabelled images of a workspace: found, told apart from labelled cases, preprocessed as a configuration needs them.

    find_unlabelled    images of the folder that are no labelled cases by file or name    (before anything is trained)
    store_unlabelled   read, checked and preprocessed; copies of labelled images left out -> unlabelled/images

Images that are stored as they are now are not read again, so an interrupted run resumes. One is in memory at a time.

Tested in tests/stages/test_learn.py.
"""

import logging
from collections.abc import Collection, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from autoseg.errors import UsageError, WriteError
from autoseg.imaging.arrays.damage import find_case_damage
from autoseg.imaging.arrays.labels import Locations
from autoseg.imaging.arrays.preprocessing import preprocess_case
from autoseg.imaging.arrays.resampling import ImageResampler, resample_on_cpu
from autoseg.imaging.arrays.storage import RECORD_ENDING, array_hashes, open_case, remove_other_cases, save_case
from autoseg.imaging.datasets.cases import choose_orientation
from autoseg.imaging.formats.reading import Volume
from autoseg.imaging.formats.volume import orient_array, orient_grid
from autoseg.inference.files.case_pipeline import CASE_ERRORS, describe_error
from autoseg.inference.files.input_cases import InputCase, read_input
from autoseg.inference.files.inputs import choose_series, find_inputs
from autoseg.inference.files.run_provenance import hash_images
from autoseg.inference.predictor.images import check_image, refuse_constant
from autoseg.inference.predictor.missing_channels import check_presence
from autoseg.progress import Progress, no_progress
from autoseg.records.case import PreprocessedCase
from autoseg.records.dataset import DatasetDescription
from autoseg.records.files import read_record, real_path, write_record
from autoseg.records.plan import Plan, hash_of
from autoseg.records.unlabelled import UnlabelledImage, UnlabelledImages
from autoseg.records.workspace import Workspace

logger = logging.getLogger("autoseg.learn")


def find_unlabelled(
    unlabelled: Path, description: DatasetDescription, dataset_folder: Path
) -> tuple[tuple[InputCase, ...], tuple[str, ...]]:
    """Images that may be learnt from, and a sentence for each that is a labelled case by its file or its name.

    Args:
        unlabelled: A folder of images, an image, or a list; see `inference.files.inputs`.
        description: The labelled dataset.
        dataset_folder: Its folder.

    Raises:
        UsageError: If there are no images, or all of them are labelled cases.
    """
    names, labels, may_lack = description.channel_names, description.labels, description.missing_channels
    inputs = find_inputs(unlabelled, names, None, labels, may_lack_channels=may_lack)
    cases = choose_series(inputs, None, resample_gaps=False)
    labelled = [files for files in description.cases if files.label]
    paths = {real_path(dataset_folder / name): files.case for files in labelled for name in files.images}
    ids = {files.case for files in labelled}
    left_out = tuple(_why_labelled(item, paths, ids) for item in cases)
    found = tuple(item for item, reason in zip(cases, left_out, strict=True) if not reason)
    if not found:
        raise UsageError(
            f"{unlabelled}: all {len(cases)} images are labelled cases of the dataset, the first: {left_out[0]} Give a "
            "folder with other images."
        )
    return found, tuple(reason for reason in left_out if reason)


def _why_labelled(item: InputCase, paths: dict[Path, str], names: Collection[str]) -> str:
    owners = [paths[real_path(path)] for path in item.images if real_path(path) in paths]
    if owners:
        return f"{item.images[0]}: is the image of the labelled case {owners[0]}, so it is left out."
    if item.case in names:
        return (
            f"{item.images[0]}: has the name of the labelled case {item.case}, so it is left out; rename it if it is "
            "another image."
        )
    return ""


def announce_unlabelled(unlabelled: Path, description: DatasetDescription) -> None:
    """Say how many images a student will learn from; a folder without any is refused before anything is trained.

    Raises:
        UsageError: If there are no images, all of them are labelled cases, or none has the channels of the dataset.
    """
    found, left_out = find_unlabelled(unlabelled, description, Path(description.folder))
    _refuse_unusable(unlabelled, found, description)
    logger.info(
        "%s: %d unlabelled images%s. When the labelled cases are trained on, a student of the best configuration "
        "learns from both; that takes as long again",
        unlabelled, len(found), f", {len(left_out)} others are labelled cases" if left_out else "",
    )  # fmt: skip


def _refuse_unusable(unlabelled: Path, cases: Sequence[InputCase], description: DatasetDescription) -> None:
    """Read images until one can be used."""
    first = ""
    for item in cases:
        try:
            _read(item, description.channel_names)
        except CASE_ERRORS as error:
            first = first or f"{item.case}: {describe_error(error)}"
        else:
            return
    raise UsageError(f"{unlabelled}: none of the images can be used, the first: {first}")


def store_unlabelled(
    workspace: Workspace,
    plan: Plan,
    configuration: str,
    unlabelled: Path,
    *,
    resampler: ImageResampler = resample_on_cpu,
    progress: Progress = no_progress,
) -> UnlabelledImages:
    """Preprocess all images that can be learnt from as a configuration needs them.

    Args:
        workspace: Planned and preprocessed.
        plan: Its plan.
        configuration: Name in the plan.
        unlabelled: See `find_unlabelled`.
        resampler: What resamples images.
        progress: Called after every image.

    Returns:
        The images, as written to unlabelled/images.json; those of earlier runs that are not among them are removed.

    Raises:
        UsageError: If none of them can be used; names the first reason.
        WriteError: If the disk is full.
    """
    description = read_record(DatasetDescription, workspace.dataset)
    cases, left_out = find_unlabelled(unlabelled, description, workspace.dataset_folder(description.folder))
    stored_as = plan.configurations[configuration].preprocessed_as
    folder, twins = workspace.unlabelled_arrays(stored_as), LabelledImages(workspace.preprocessed(stored_as))
    usable, reasons = [], list(left_out)
    for number, item in enumerate(cases, start=1):
        try:
            image = _store(item, plan, stored_as, folder, resampler)
            twin = twins.find_equal(folder, item.case)
        except WriteError:
            raise
        except CASE_ERRORS as error:
            reasons.append(f"{item.case}: cannot be used and is left out: {describe_error(error)}")
        else:
            if twin:
                reasons.append(f"{item.images[0]}: has the same voxels as the labelled case {twin}, so it is left out.")
            else:
                usable.append(image)
        progress(number, len(cases))
    for reason in reasons:
        logger.warning("warning: %s", reason)
    if not usable:
        raise UsageError(f"{unlabelled}: none of the images can be used, the first: {reasons[0]}")
    remove_other_cases(folder, frozenset(image.case for image in usable))
    found = UnlabelledImages(folder=str(unlabelled), cases=tuple(usable), left_out=tuple(reasons))
    write_record(found, workspace.unlabelled)
    return found


def _store(item: InputCase, plan: Plan, configuration: str, folder: Path, resampler: ImageResampler) -> UnlabelledImage:
    """Preprocess one image unless it is stored as it is now."""
    source = hash_of([*hash_images(item.images).values(), *item.absent_channels])
    image = UnlabelledImage(case=item.case, images=tuple(map(str, item.images)), content_hash=source)
    origins = array_hashes(source, plan, configuration)
    path = folder / (item.case + RECORD_ENDING)
    if not find_case_damage(folder, item.case) and read_record(PreprocessedCase, path).content_hash in origins:
        return image
    volume = _read(item, plan.channel_names)
    check_presence(volume.array, item.case, plan)
    orientation = choose_orientation(volume.grid, plan.orientation)
    grid, array = orient_grid(volume.grid, orientation), orient_array(volume.array, orientation)
    nothing = np.zeros(array.shape[1:], dtype=np.int16)  # marks what is outside the nonzero mask
    values, labels, record = preprocess_case(
        array, nothing, grid.spacing, case_id=item.case, plan=plan, configuration_name=configuration,
        resampler=resampler,
    )  # fmt: skip
    if labels is None:
        raise UsageError("preprocessing gave no mask")
    record = record.model_copy(update={"content_hash": origins[0]})
    no_locations: dict[int, Locations] = {}
    save_case(folder, record, values, labels, (no_locations, None), plan.configurations[configuration].patch_size)
    return image


def _read(item: InputCase, channel_names: Sequence[str]) -> Volume:
    """An image with the channels of the dataset."""
    if item.fault:
        raise UsageError(item.fault)
    volume = read_input(item)
    check_image(volume, item.case, channel_names)
    refuse_constant(volume.array)
    return volume


class LabelledImages:
    """The preprocessed images of labelled cases, to find copies of them that have other names or other files."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read yet.

        Args:
            folder: Folder of the configuration's preprocessed cases.
        """
        self._folder = folder
        self._by_shape: dict[object, list[str]] = {}
        for path in sorted(folder.glob(f"*{RECORD_ENDING}")):
            record = read_record(PreprocessedCase, path)
            self._by_shape.setdefault(_key(record), []).append(record.case)
        self._digests: dict[str, str] = {}

    def find_equal(self, folder: Path, case: str) -> str:
        """Name of the labelled case whose voxels a stored image has; empty if there is none."""
        record = read_record(PreprocessedCase, folder / (case + RECORD_ENDING))
        candidates = self._by_shape.get(_key(record), [])
        if not candidates:
            return ""
        own = _digest(folder, case)
        return next((other for other in candidates if self._digest_of(other) == own), "")

    def _digest_of(self, case: str) -> str:
        if case not in self._digests:
            self._digests[case] = _digest(self._folder, case)
        return self._digests[case]


def _key(record: PreprocessedCase) -> object:
    return record.shape, record.original_shape, record.crop_start


def _digest(folder: Path, case: str) -> str:
    """Hash of the voxels of a stored image."""
    return blake2b(np.ascontiguousarray(open_case(folder, case).read_image()).tobytes(), digest_size=16).hexdigest()
