"""What may be asked of a prediction of one image, and what it gives; light to import, because help shows the options.

Tested in tests/stages/test_predict.py and tests/cli/test_predict.py.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # numpy is not needed to show the options of a command
    import numpy as np
    from numpy.typing import NDArray

    from autoseg.records.case import Grid, Triple
    from autoseg.records.confidence import ExpectedDice

INSTANCES = "instances"
"""Kind of the map of instances, `CASE_instances.ext`."""

OVERLAY = "overlay"
"""Kind of the picture for people to look at, `CASE_overlay.png`."""

RTSTRUCT = "rtstruct"
"""Kind of the structure set of a DICOM series, `CASE_rtstruct.dcm`."""

MESH_FORMATS = ("stl", "ply")
"""Kinds of files of meshes."""

SEGMENTATION_TYPES = ("binary", "labelmap", "fractional")
"""Kinds of DICOM segmentations: a bit for each segment, one number for each voxel, probabilities."""


def _option(words: str, description: str, maps: tuple[str, ...] = ()) -> dict[str, object]:
    """What the command line shows of an output, and the kinds of maps that it writes as `CASE_kind.ext`."""
    return {"option": words, "help": description, "maps": maps}


@dataclass(frozen=True, kw_only=True)
class OutputChoices:
    """Outputs besides the label map; each is an option of `autoseg predict`."""

    probabilities: bool = field(default=False, metadata=_option("--save-probabilities", "probability of each class"))
    """Probabilities by head; as a file `CASE_probabilities.b2nd`."""
    calibrated: bool = field(
        default=False,
        metadata=_option("--calibrated", "save probabilities that come true as often as they say, by held-out cases"),
    )
    """Whether saved probabilities, and those in fractional segmentations, are divided by the temperatures that `select`
    fitted; label maps stay as they are."""
    uncertainty: bool = field(
        default=False,
        metadata=_option(
            "--save-uncertainty",
            "maps of entropy, and of disagreement between networks",
            maps=("uncertainty", "disagreement"),
        ),
    )
    """Entropy and, of several networks, their disagreement."""
    statistics: bool = field(
        default=False,
        metadata=_option("--statistics", "statistics.csv: volume, mean intensity and expected Dice of each label"),
    )
    """Rows in `statistics.csv`, in files; and the expected Dice of labels, if the model has learnt it."""
    instances: bool = field(
        default=False,
        metadata=_option(
            "--instances", "CASE_instances and instances.csv: separate objects of a label", maps=(INSTANCES,)
        ),
    )
    """Separate objects of each label; in files also rows in `instances.csv`."""
    colors: bool = field(default=False, metadata=_option("--colors", "names and colours of labels for viewers"))
    """Colour tables, and names inside NIfTI label maps; files only."""
    overlay: bool = field(
        default=False,
        metadata=_option(
            "--overlay", "CASE_overlay.png: labels on the image, slices of a volume on one sheet", maps=(OVERLAY,)
        ),
    )
    """Picture of the image with its labels; files only."""
    meshes: bool = field(
        default=False,
        metadata=_option("--meshes", "CASE_meshes/LABEL.stl: the surface of each label, in mm of the patient (LPS)"),
    )
    """Surfaces of the labels; files only."""
    mesh_format: str = field(
        default="stl",
        metadata=_option("--mesh-format", "format of meshes (default: stl)") | {"choices": MESH_FORMATS},
    )
    """Format of meshes, one of MESH_FORMATS; files only."""
    smooth_meshes: bool = field(
        default=False, metadata=_option("--smooth-meshes", "smooth the steps between voxels on meshes")
    )
    """Whether meshes are smoothed; files only."""
    provenance: bool = field(
        default=False,
        metadata=_option(
            "--provenance", "provenance.json: command, versions, hashes; warnings and seconds of each case"
        ),
    )
    """The record `provenance.json`; files only."""
    structures: bool = field(
        default=False,
        metadata=_option("--rtstruct", "CASE_rtstruct.dcm: contours on the slices of a DICOM series", maps=(RTSTRUCT,)),
    )
    """Structure set of a DICOM series; files only."""
    segmentation_type: str = field(
        default="binary",
        metadata=_option("--seg-type", "kind of segmentation for DICOM series (default: binary)")
        | {"choices": SEGMENTATION_TYPES},
    )
    """Kind of the label map of a DICOM series, one of SEGMENTATION_TYPES; files only."""
    codes: Path | None = field(
        default=None,
        metadata=_option("--codes", "JSON file with the codes of labels in DICOM files, such as SNOMED CT")
        | {"metavar": "FILE"},
    )
    """File with codes of labels; None: those of the table of common organs; files only."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One object; triples are (z, y, x) in the image's own axis order."""

    id: int
    """Number of the object in the map of instances, from 1 on."""
    label: str
    """Name of its label."""
    value: int
    """Value of its label in the label map."""
    voxels: int
    volume_mm3: float | None
    """Volume in mm³ by the affine; None for a two-dimensional image, which has no thickness."""
    mean_probability: float | None
    """Mean probability of its label over those of its voxels that the networks decided; None where it is not known."""
    score: float | None = None
    """Score of a network that finds instances one by one, [0, 1]; None for any other."""
    touches_border: bool
    """Whether it reaches the first or last voxel of the image, along any axis of more than one."""
    center: tuple[float, float, float]
    """Mean position of its voxels, as voxel index."""
    center_mm: tuple[float, float, float] | None
    """The same in the world (x, y, z towards right, anterior, superior), mm; None for a two-dimensional image."""
    start: "Triple"
    stop: "Triple"
    """Half-open bounding box, voxel indices."""


@dataclass(frozen=True, kw_only=True)
class Instances:
    """The objects of one image."""

    ids: "NDArray[np.unsignedinteger]"
    """Numbers (Z, Y, X), 1 to n, on the image's own grid; 0 where the label map has background, or a border without a
    core."""
    table: tuple[Instance, ...]
    """The objects, by number."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A label map on the image's own grid, in the image's own axis order."""

    labels: "NDArray[np.unsignedinteger]"
    """Label values (Z, Y, X) of the dataset."""
    grid: "Grid"
    probabilities: "NDArray[np.float16] | None" = None
    """Probabilities (K, Z, Y, X) by head, only if asked for and not written to a file."""
    uncertainty: "NDArray[np.float16] | None" = None
    """Normalised entropy (Z, Y, X) of the probabilities before post-processing, in [0, 1]; calibrated where the model
    has temperatures; only if asked for."""
    disagreement: "NDArray[np.float16] | None" = None
    """Fraction (Z, Y, X) of the networks that predict another label, in [0, 1]; with the uncertainty, and only if there
    are several networks."""
    instances: Instances | None = None
    """Separate objects of each label, only if asked for."""
    expected_dice: "dict[str, ExpectedDice]" = field(default_factory=dict)
    """Expected Dice of predicted labels, by name; only with statistics, and as far as the model has learnt it."""
    warnings: tuple[str, ...] = ()
    """Deviations of the image from the training images, one sentence each; empty if the model does not know these."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by step: read, preprocess, network, export."""

    def side_maps(self) -> "dict[str, NDArray[Any]]":
        """Maps (Z, Y, X) that are written beside the label map, by kind; those that were not asked for are left out."""
        ids = None if self.instances is None else self.instances.ids
        maps = {"uncertainty": self.uncertainty, "disagreement": self.disagreement, INSTANCES: ids}
        return {kind: values for kind, values in maps.items() if values is not None}
