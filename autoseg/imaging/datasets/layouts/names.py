"""What the names of files say: which belong together, and which of them are label maps.

People mark label maps with a word at the end or the beginning of the name: X_seg, X-label, X.mask, seg_X.
"""

import re
import unicodedata

LABEL_WORDS = (
    "seg",
    "segmentation",
    "label",
    "labels",
    "labelmap",
    "mask",
    "masks",
    "gt",
    "groundtruth",
    "annotation",
    "dseg",
)
"""Words, in lower case, that mark a label map."""

IMAGE_WORDS = ("image", "img", "imaging", "scan", "volume", "vol", "orig")
"""Words, in lower case, that mark an image where the label map is marked too."""

CHANNEL_WORDS = frozenset({
    "ct", "cta", "cbct", "ncct", "mr", "mri", "mra", "pet", "suv", "spect", "us", "t1", "t1c", "t1ce", "t1gd", "t1n",
    "t1w", "t1wce", "t2", "t2w", "t2f", "t2star", "flair", "pd", "pdw", "dwi", "adc", "swi", "dce", "inphase",
    "outphase", "fat", "water",
})  # fmt: skip
"""Words, in lower case, that name a kind of image."""

IMAGE_FOLDERS = frozenset({"images", "imagestr", "image", "img", "imgs", "scans", "volumes"})
LABEL_FOLDERS = frozenset({
    "labels", "labelstr", "label", "masks", "mask", "segmentations", "segmentation", "segs", "seg", "annotations", "gt",
    "groundtruth",
})  # fmt: skip

_MARK = r"[_\-. ]"


_LITTER = frozenset({
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin", "lost+found",
    "system volume information",
})  # fmt: skip
"""Names, in lower case, of files and folders that systems put into folders of their users."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder does not belong to the dataset by its name: hidden, or left by a system."""
    return name.startswith(".") or name.lower() in _LITTER


def composed(name: str) -> str:
    """The name with accents as one character each: some file systems store them as two, and both look the same."""
    return unicodedata.normalize("NFC", name)


def split_label_word(stem: str) -> tuple[str, str] | None:
    """`X_seg` or `seg_X` -> (`X`, `seg`), `seg` -> (``, `seg`); None for a name without a word for label maps.

    3D Slicer's `X-Segmentation.seg.nrrd` has two such words.
    """
    found = _split_word(stem, LABEL_WORDS)
    if found is not None and stem.lower().endswith(".seg"):
        return _split_word(found[0], LABEL_WORDS) or found
    return found


def split_image_word(stem: str) -> tuple[str, str] | None:
    """`X_image` or `image_X` -> (`X`, `image`), `image` -> (``, `image`); None for a name without such a word."""
    return _split_word(stem, IMAGE_WORDS)


def _split_word(stem: str, words: tuple[str, ...]) -> tuple[str, str] | None:
    any_word = "|".join(sorted(words, key=len, reverse=True))
    match = re.fullmatch(
        rf"(?:(?P<before>.+){_MARK})?(?P<last>{any_word})|(?P<first>{any_word}){_MARK}(?P<after>.+)",
        stem,
        re.IGNORECASE | re.DOTALL,
    )
    if match is None:
        return None
    return match["before"] or match["after"] or "", (match["last"] or match["first"]).lower()
