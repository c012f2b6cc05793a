"""Description of a dataset: its files, channels, labels, and every fault.

Tested in tests/records/test_files.py and tests/imaging/arrays/test_border_core.py.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from autoseg.records.files import Record, refuse_faults
from autoseg.records.names import FileEnding, is_file_name

OrientationName = Literal["canonical", "canonical_ras", "as_stored"]
"""`canonical`: array axes z, y, x run towards superior, posterior, left. `canonical_ras`: towards superior, anterior,
right, as some models of nnU-Net were trained. `as_stored`: the file's own axis order."""

BACKGROUND = "background"
"""Name of the label that is never scored."""
IGNORE = "ignore"
"""Name of the label whose voxels do not count."""

LayoutName = Literal["decathlon", "nnunet", "plain", "list", "one_folder", "case_folders", "masks", "bids", "pattern"]
"""How the files of a dataset lie: in two folders with dataset.json of the Decathlon or of nnU-Net, or without; in a
list; all in one folder; in one folder for each case; with a mask file for each label; in the Brain Imaging Data
Structure; or as patterns of the user say."""

LabelValues = int | tuple[int, ...]
"""A label's value in the files, or all values that make up a region."""


class Head(Record):
    """One output channel of the network."""

    name: str
    """The label's or region's name; `background` is the first head of a softmax."""
    indices: tuple[int, ...]
    """Label indices (not file values) that this head stands for."""
    painted_index: int
    """Label index written where this head decides the voxel; later heads are written over earlier ones."""
    part_of: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Name of the label whose core or border this is, the core first; None: the head is a label or region itself."""


Rgb = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


class MaskColor(Record):
    """A colour of colour masks, and the label value that it stands for."""

    rgb: Rgb
    value: int


class LabelReading(Record):
    """What the pixels of label files mean where they are not label values: colours, or grey levels of one structure."""

    colors: tuple[MaskColor, ...] = ()
    """Colours of colour masks; empty: label files have one value per voxel."""
    threshold: float | None = None
    """Smallest value that means `threshold_value`; smaller ones are background. None: values are label values."""
    threshold_value: int = 1
    """Label value of everything from the threshold on."""
    are_ids: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether pixels are numbers of objects, all of one label; the threshold is then 1."""


class LabelEncoding(Record):
    """How values in label files become network outputs, and back.

    Inside autoseg a label map holds indices 0..K: the position of the file's value in `values`. Voxels with the
    ignore value get the index K + 1 = len(values). A label that is divided into core and border has two indices in a
    row with the same value.
    """

    values: tuple[int, ...]
    """Value in the label files by index; the background's value comes first, the ignore value is not listed."""
    ignore_value: int | None = None
    """Value in the files of voxels without reference; None if no value is ignored."""
    activation: Literal["softmax", "sigmoid"]
    """softmax: one head per label, background included. sigmoid: one head per region, no background head."""
    heads: tuple[Head, ...]
    overlapping: bool = Field(default=False, exclude_if=lambda value: value is False)
    """Whether regions are labels that overlap: a voxel that several heads claim gets the value that belongs to all of
    them, where there is one. False: later regions are written over earlier ones."""
    reading: LabelReading | None = Field(default=None, exclude_if=lambda value: value is None)
    """How label files are read; None: their pixels are label values."""
    annotated_sets: tuple[tuple[str, ...], ...] = Field(default=(), exclude_if=lambda value: not value)
    """While a fold trains on cases in which only some labels were looked for: names of the labels of each set, see
    `training.data.partial_labels`. Empty in dataset.json and in plans."""


def indices_by_label(encoding: LabelEncoding) -> dict[str, tuple[int, ...]]:
    """Label indices that each label or region stands for, by its name in the dataset, in the order of the heads.

    Core and border of a label count together; a softmax begins with its background, (0,).
    """
    found: dict[str, tuple[int, ...]] = {}
    for head in encoding.heads:
        name = head.part_of or head.name
        found[name] = (*found.get(name, ()), *head.indices)
    return found


def foreground_names(encoding: LabelEncoding) -> list[str]:
    """Names of the labels or regions that are scored, in the order of the heads."""
    return [name for name in indices_by_label(encoding) if name != BACKGROUND]


def label_values(encoding: LabelEncoding) -> dict[str, LabelValues]:
    """Indices of each label or region by name, and that of ignored voxels; with them, label indices can be scored."""
    labels: dict[str, LabelValues] = {**indices_by_label(encoding)}
    if encoding.ignore_value is not None:
        labels[IGNORE] = len(encoding.values)
    return labels


def names_by_value(encoding: LabelEncoding) -> dict[int, frozenset[str]]:
    """Names of the labels or regions that each value in the files belongs to; none for the background."""
    return {
        value: frozenset(
            head.part_of or head.name for head in encoding.heads if index in head.indices and head.name != BACKGROUND
        )
        for index, value in enumerate(encoding.values)
    }


def indices_after_painting(encoding: LabelEncoding) -> tuple[tuple[int, ...], ...]:
    """Label index of a voxel once a head is written over it, by head and by the label index before."""
    count = len(encoding.values)
    if not encoding.overlapping:
        return tuple((head.painted_index,) * count for head in encoding.heads)
    members = [
        frozenset(position for position, head in enumerate(encoding.heads) if index in head.indices)
        for index in range(count)
    ]
    index_of = {names: index for index, names in enumerate(members)}
    return tuple(
        tuple(index_of.get(members[index] | {position}, head.painted_index) for index in range(count))
        for position, head in enumerate(encoding.heads)
    )


class LabelPart(Record):
    """Voxels of one label in a file: a mask of its own, or one segment of a segmentation."""

    label: str
    """Name of the label."""
    file: str
    """Path relative to the dataset folder, POSIX separators."""
    layer: int = 0
    """Layer of the file that holds the label; files other than segmentations have one."""
    value: int | None = None
    """Value of its voxels in that layer; None: every value but 0."""


class CaseFiles(Record):
    """One case: its image files, one per channel or one for all, and its label file."""

    case: str
    images: tuple[str, ...]
    """Paths relative to the dataset folder, POSIX separators, in channel order."""
    label: str
    """Path relative to the dataset folder; empty for a case without label. With parts, one of their files."""
    instances: str = Field(default="", exclude_if=lambda value: not value)
    """Path of the map with a number for each object, relative to the dataset folder; empty: there is none, and objects
    are the components of each label."""
    parts: tuple[LabelPart, ...] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Labels in files or segments of their own, of which the label map is put together; a label that is not listed is
    empty in this case. None: `label` is the label map."""
    group: str = Field(default="", exclude_if=lambda value: not value)
    """Name of the group, such as a patient, whose cases stay in one fold; empty: the dataset names none."""
    fold: int | None = Field(default=None, ge=0, exclude_if=lambda value: value is None)
    """Fold whose validation set the case belongs to; None: the dataset names none."""
    annotated: tuple[str, ...] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Names of the labels that were looked for in this case; where others are is not known. None: all labels were."""
    absent_channels: tuple[int, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Numbers of the channels that the case lacks, ascending; `images` are the files of the others, in their order."""


def label_files(files: CaseFiles) -> tuple[str, ...]:
    """All files of a case that hold labels, each once."""
    if files.parts is not None:
        return tuple(dict.fromkeys(part.file for part in files.parts))
    return (files.label,) if files.label else ()


def reference_files(files: CaseFiles) -> tuple[str, ...]:
    """All files of a case that hold labels or numbers of objects, each once."""
    found = (*label_files(files), files.instances) if files.instances else label_files(files)
    return tuple(dict.fromkeys(found))


class Fault(Record):
    """One thing that is wrong with a dataset."""

    severity: Literal["error", "warning"]
    case: str
    """Case id; empty when the fault concerns the whole dataset."""
    file: str
    """Path as given in the dataset; empty when no single file is at fault."""
    what: str
    """Message: what was found, what was expected, and what to do."""
    is_missing_channel: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether a case lacks a channel, which is no fault where cases may."""


class DatasetDescription(Record):
    """A dataset as found on disk; cases are sorted by id."""

    schema_version: Literal[1] = 1
    name: str
    folder: str
    """Dataset folder, relative to the workspace once written there, else absolute."""
    layout: LayoutName
    orientation: OrientationName
    channel_names: tuple[str, ...]
    labels: dict[str, LabelValues]
    """Name -> value(s) in the files, background first; includes `ignore` when it is declared."""
    encoding: LabelEncoding
    file_ending: FileEnding
    """Ending of the image files, with dot: .nii.gz, .png, ...; .nii.gz for TIFF stacks."""
    cases: tuple[CaseFiles, ...]
    missing_channels: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether cases may lack channels, and networks learn to do without them."""
    warnings: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    """Guesses and assumptions, one sentence each."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse_faults(
            (("cases", index, "case"), f"{files.case!r} leads out of its folder, expected the name of one file")
            for index, files in enumerate(self.cases)
            if not is_file_name(files.case)
        )
        return self
