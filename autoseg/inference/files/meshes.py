"""Meshes of a run: the surface of each label of a case, in the folder `CASE_meshes` beside its label map.

Tested in tests/inference/files/test_meshes.py.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import PredictionError
from autoseg.imaging.arrays.meshes import make_mesh
from autoseg.imaging.formats.mesh_files import write_mesh
from autoseg.imaging.formats.volume import Volume
from autoseg.inference.files.outputs import OutputFile
from autoseg.records.case import Grid
from autoseg.records.dataset import LabelEncoding, foreground_names, names_by_value
from autoseg.records.files import staged_folder
from autoseg.records.prediction import OutputChoices

MAX_NAME = 100
"""Characters of a label's name that its file has, at most."""


def refuse_flat(volume: Volume, file: OutputFile) -> None:
    """Refuse an image without depth before it is predicted.

    Raises:
        PredictionError: If the image has two dimensions.
    """
    if volume.template.file_dimensions == 2:
        raise PredictionError(f"{file.item.images[0]}: has two dimensions and no surfaces; leave out --meshes")


def write_meshes(
    labels: NDArray[np.unsignedinteger], grid: Grid, file: OutputFile, encoding: LabelEncoding, choices: OutputChoices
) -> str:
    """Write the surface of each label, or region, as `CASE_meshes/NAME.stl` or `.ply`, one after the other.

    The files are moved to their places together. The mesh of a label that an earlier run found and this one does not
    find is removed.

    Args:
        labels: Label values (Z, Y, X) of the image's own grid.
        grid: That grid.
        file: The case and the file of its label map.
        encoding: Label encoding of the model.
        choices: Format, and whether surfaces are smoothed.

    Returns:
        A sentence about the labels without a voxel, which have no file; empty if there are none.

    Raises:
        OSError: If a file cannot be written.
    """
    names, empty = foreground_names(encoding), []
    values_of = {name: [value for value, found in names_by_value(encoding).items() if name in found] for name in names}
    with staged_folder(file.meshes) as staged:
        for name, stem in zip(names, file_stems(names), strict=True):
            mesh = make_mesh(_mask_of(labels, values_of[name]), grid.affine, smooth=choices.smooth_meshes)
            if mesh is None:
                empty.append(name)
            else:
                write_mesh(mesh, staged / f"{stem}.{choices.mesh_format}")
        _move(staged, [f"{stem}.{choices.mesh_format}" for stem in file_stems(names)], file.meshes)
    return f"no mesh of {', '.join(empty)}: the label map has no such voxel" if empty else ""


def _mask_of(labels: NDArray[np.unsignedinteger], values: Sequence[int]) -> NDArray[np.bool_]:
    mask = np.zeros(labels.shape, dtype=bool)
    for value in values:
        mask |= labels == value
    return mask


def _move(staged: Path, names: Sequence[str], folder: Path) -> None:
    """Put the files of these names into a folder; remove there what is missing here."""
    folder.mkdir(exist_ok=True)
    for name in names:
        if (staged / name).is_file():
            (staged / name).replace(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def file_stems(names: Sequence[str]) -> list[str]:
    """Names as names of files, without their ending: different ones also where case does not count.

    Examples:
        >>> file_stems(["left kidney", "left/kidney", "liver"])
        ['left_kidney', 'left_kidney_2', 'liver']
    """
    stems: list[str] = []
    for position, name in enumerate(names, start=1):
        stem = re.sub(r"[^\w.+-]", "_", name)[:MAX_NAME]
        stem = re.sub(r"^\.", "_", stem)
        while stem.casefold() in {taken.casefold() for taken in stems}:
            stem = f"{stem}_{position}"
        stems.append(stem)
    return stems
