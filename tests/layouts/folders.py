"""Folders of tiny files, made from a list of their names."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import SimpleITK
from PIL import Image

from autoseg.imaging.formats.volume import split_ending
from autoseg.stages.describe import describe_dataset

SHAPE = (4, 6, 5)
"""Voxels (z, y, x) of every volume; 2D images have the last two."""

CASES = ("p_1", "p_2", "p_03")
TWO_LABELS = {"background": 0, "label_1": 1, "label_2": 2}

Content = str | bytes
"""Text, bytes, or one of the kinds below."""

IMAGE, IMAGE_4D, FOLDER = "<image>", "<4d>", "<folder>"
LABEL, EXTRA_LABEL, COLOURS, SEGMENTS = "<label>", "<extra>", "<colours>", "<segments>"
MASK_1, MASK_2 = "<mask 1>", "<mask 2>"
KINDS = (IMAGE, IMAGE_4D, LABEL, EXTRA_LABEL, COLOURS, SEGMENTS, MASK_1, MASK_2)
"""Kinds of image files."""


def voxels_of(kind: Content, seed: int) -> np.ndarray:
    """Noise for an image; for a label map the labels 1 and 2, perhaps one voxel 7, or red and green in their place."""
    generator = np.random.default_rng(seed)
    if kind in (IMAGE, IMAGE_4D):
        shape = (2, *SHAPE) if kind == IMAGE_4D else SHAPE
        return generator.integers(1, 200, shape).astype(np.uint8)
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 1:3], labels[:, 4:, 1:] = 1, 2
    if kind == EXTRA_LABEL:
        labels[0, 0, 0] = 7
    if kind == COLOURS:
        colours: np.ndarray = np.array([(0, 0, 0), (200, 0, 0), (0, 90, 0)], np.uint8)[labels[0]]
        return colours
    if kind in (MASK_1, MASK_2):
        mask: np.ndarray = np.where(labels == (1 if kind == MASK_1 else 2), 255, 0).astype(np.uint8)
        return mask
    return labels


@cache
def encode(kind: Content, ending: str, seed: int) -> bytes:
    """Bytes of a file of this kind and format."""
    voxels = voxels_of(kind, seed)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"file{ending}"
        if ending in (".nii", ".nii.gz"):
            nibabel.save(nibabel.Nifti1Image(voxels.T, np.diag([-0.7, -0.9, 2.0, 1.0])), path)
        elif ending in (".mha", ".nrrd"):
            image = SimpleITK.GetImageFromArray(voxels)
            for index, name in enumerate(("liver", "spleen") if kind == SEGMENTS else ()):
                image.SetMetaData(f"Segment{index}_ID", f"Segment_{index}")
                image.SetMetaData(f"Segment{index}_Name", name)
                image.SetMetaData(f"Segment{index}_LabelValue", str(index + 1))
                image.SetMetaData(f"Segment{index}_Layer", "0")
            SimpleITK.WriteImage(image, str(path))
        else:
            Image.fromarray(voxels if kind == COLOURS else voxels[0]).save(path)
        return path.read_bytes()


def build(folder: Path, files: Mapping[str, Content]) -> Path:
    """Write files by their paths; the ending of a path says which format an image or label map gets."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, content) in enumerate(files.items()):
        path = folder / name
        if content == FOLDER:
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content in KINDS:
            path.write_bytes(encode(content, split_ending(name)[1].lower(), seed % 7))
        else:
            path.write_text(content, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Layout:
    """A folder that is understood, by patterns of its files with the id of a case in them."""

    images: tuple[str, ...]
    """One for each channel, in the order of the channels."""
    label: str
    """The label map; where labels have files of their own, the first of them."""
    name: str = "plain"
    """Name of the layout that is recognised."""
    cases: tuple[str, ...] = CASES
    """Parts of the names of the files."""
    id: str = "{}"
    """Pattern of the ids."""
    channels: tuple[str, ...] = ("channel_0",)
    labels: Mapping[str, object] = field(default_factory=lambda: TWO_LABELS)
    others: Mapping[str, Content] = field(default_factory=dict)
    """Other files, by path."""
    masks: Mapping[str, str] = field(default_factory=dict)
    """Labels that have files of their own, with the patterns of their files."""
    image_kind: str = IMAGE
    label_kind: str = LABEL
    groups: tuple[str, ...] = ()
    """Names of the groups in the order of the cases."""
    note: str = ""
    """Part of a note that says what was recognised; empty: there is no such note."""
    warnings: tuple[str, ...] = ()
    """All warnings, each as `file: what`."""
    given: str = ""
    """Path in the folder that is given to autoseg; empty: the folder."""

    def files(self) -> dict[str, Content]:
        images = {pattern.format(case): self.image_kind for case in self.cases for pattern in self.images}
        labels = {self.label.format(case): self.label_kind for case in self.cases}
        masks = {
            pattern.format(case): kind
            for kind, pattern in zip((MASK_1, MASK_2), self.masks.values(), strict=False)
            for case in self.cases
            if self.label_kind != SEGMENTS
        }
        return {**images, **labels, **masks, **self.others}

    def expected_cases(self) -> dict[str, tuple[tuple[str, ...], str]]:
        """Images and label map by case id, as paths in the folder."""
        return {
            self.id.format(unicodedata.normalize("NFC", case.replace("/", "_"))): (
                tuple(pattern.format(case) for pattern in self.images), self.label.format(case)
            )
            for case in self.cases
        }  # fmt: skip


def check_recognised(folder: Path, layout: Layout) -> None:
    """Compare what autoseg says of a folder with what is expected of it."""
    found = describe_dataset(folder / layout.given)
    paths = {files.case: (files.images, files.label) for files in found.cases}
    assert paths == layout.expected_cases()
    assert (found.layout, found.channel_names, found.labels) == (layout.name, layout.channels, layout.labels)
    parts = {part.label: part.file for part in found.cases[0].parts or ()}
    assert parts == {label: pattern.format(layout.cases[0]) for label, pattern in layout.masks.items()}
    assert tuple(files.group for files in found.cases if files.group) == layout.groups
    assert sorted(f"{fault.file}: {fault.what}" for fault in found.warnings) == sorted(layout.warnings)
    recognised = [note for note in found.notes if note.startswith("recognised")]
    assert any(layout.note in note for note in recognised) if layout.note else not recognised
