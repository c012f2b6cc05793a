"""Files of the Brain Imaging Data Structure, as their names describe them.

Tested in tests/imaging/datasets/layouts/test_bids.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from autoseg.imaging.formats.volume import split_ending
from autoseg.records.files import relative_path

_ENDINGS = (".nii", ".nii.gz")

_DATATYPES = ("anat", "pet", "ct", "dwi", "perf")
"""Folders of images below a subject or session."""

_NO_CHOICE = frozenset({"sub", "ses", "desc", "label", "atlas", "seg", "hemi", "res", "den", "space", "ce"})
"""Entities that do not choose among the images of a session."""

_NATIVE_SPACES = ("orig", "native", "individual", "scanner")


@dataclass(frozen=True)
class BidsFile:
    """One file, as its name describes it."""

    path: str
    """Relative to the dataset folder, POSIX separators."""
    entities: Mapping[str, str]
    """Values by key, such as `sub` and `run`."""
    words: tuple[str, ...]
    """Parts of the name without a key; the last one is the suffix, one before it the suffix of the image meant."""

    @property
    def suffix(self) -> str:
        """Kind of the file, such as `T1w` or `dseg`."""
        return self.words[-1] if self.words else ""

    @property
    def channel(self) -> str:
        """Name of the channel: the suffix, with the contrast agent, which makes another kind of image."""
        return f"ce-{self.entities['ce']}_{self.suffix}" if "ce" in self.entities else self.suffix

    @property
    def session(self) -> str:
        """Subject and session, as case ids begin."""
        return "_".join(f"{key}-{self.entities[key]}" for key in ("sub", "ses") if key in self.entities)

    @property
    def choosing(self) -> dict[str, str]:
        """Entities that choose among the images of a session, such as `run` and `acq`."""
        return {key: value for key, value in self.entities.items() if key not in _NO_CHOICE}

    @property
    def space(self) -> str:
        """Name of the space in which the voxels lie; empty for that of the image itself."""
        space = self.entities.get("space", "")
        return "" if space.lower() in _NATIVE_SPACES else space


def find_bids_files(root: Path, folder: Path, *, is_nested: bool) -> Iterator[BidsFile]:
    """Volumes of all subjects, sorted; series of diffusion images (with .bval) are left out.

    Args:
        root: Folder with the subjects' folders `sub-...`.
        folder: Dataset folder, to which paths become relative.
        is_nested: Whether subjects are looked for in all folders below, as in `derivatives`.
    """
    if not root.is_dir():
        return
    for path in sorted(root.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        if path.name.startswith("sub-"):
            yield from _files_of_subject(path, folder)
        elif is_nested:
            yield from find_bids_files(path, folder, is_nested=True)


def read_name(path: str) -> BidsFile:
    """A file as its name describes it; `sub-01_run-1_T1w.nii.gz` has the entities sub and run and the word T1w."""
    stem = split_ending(PurePosixPath(path).name)[0]
    parts = [part.partition("-") for part in stem.split("_")]
    entities = {key: value for key, hyphen, value in parts if hyphen}
    return BidsFile(path, entities, tuple(key for key, hyphen, _ in parts if not hyphen and key))


def _files_of_subject(subject: Path, folder: Path) -> Iterator[BidsFile]:
    for path in sorted(subject.rglob("sub-*")):
        stem, ending = split_ending(path.name)
        inside = path.parent.relative_to(subject).parts
        if (
            ending in _ENDINGS
            and path.is_file()
            and all(part in _DATATYPES or part.startswith("ses-") for part in inside)
            and not path.with_name(f"{stem}.bval").exists()
        ):
            yield read_name(relative_path(path, folder))
