"""Codes of what a label is: from the table of common organs, from the user's file, or a general one.

The table, `snomed_codes.json`, has names of labels with codes of SNOMED CT as DICOM PS3.16 uses them.

Tested in tests/imaging/formats/dicom/test_codes.py.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from autoseg.errors import UsageError
from autoseg.records.files import read_json

SNOMED = "SCT"
"""Short name of SNOMED CT as a scheme of codes."""

_ABNORMAL = "Morphologically Abnormal Structure"

_SIDES = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}

_EXPECTED = (
    'expected {"NAME OF THE LABEL": {"code": "10200004", "meaning": "Liver"}, ...}, each with "scheme", "category", '
    '"category_meaning", "side" (left, right) and "region" (a label\'s name) as it needs them'
)


@dataclass(frozen=True)
class Code:
    """One concept of a scheme."""

    value: str
    meaning: str
    scheme: str = SNOMED


SIDE_CODES = {"left": Code("7771000", "Left"), "right": Code("24028007", "Right")}

TISSUE = Code("85756007", "Tissue")
"""What a label is of which nothing is known."""


@dataclass(frozen=True)
class SegmentCode:
    """What a segment is, in codes."""

    category: Code
    kind: Code
    side: str | None = None
    """`left` or `right`; None: neither."""
    region: Code | None = None
    """Part of the body in which something abnormal lies; None: not known, or the segment is that part."""

    @property
    def is_known(self) -> bool:
        """Whether the codes say more than that it is a tissue."""
        return self.kind != TISSUE


@cache
def known_codes() -> dict[str, tuple[str, Code]]:
    """Names of labels, in lower case with blanks, with category and code."""
    text = files("autoseg.imaging.formats.dicom").joinpath("snomed_codes.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return {
        name: (category, Code(*entry)) for category, names in table["names"].items() for name, entry in names.items()
    }


@cache
def _categories() -> dict[str, Code]:
    text = files("autoseg.imaging.formats.dicom").joinpath("snomed_codes.json").read_text(encoding="utf-8")
    return {meaning: Code(code, meaning) for meaning, code in json.loads(text)["categories"].items()}


def find_code(label: str) -> SegmentCode:
    """The codes of a label by its name: `kidney_left`, `Liver tumour`, `lung upper lobe right`, `vertebrae_L1`.

    A name that the table does not have gives the code of a tissue.
    """
    words = re.sub(r"[^a-z0-9]+", " ", label.lower()).split()
    sides = [word for word in words if word in ("left", "right")] or [word for word in words[-1:] if word in _SIDES]
    side = _SIDES[sides[0]] if len(sides) == 1 else None
    named = _find_words(words)
    if named is None:
        named = _find_words([word for word in words if word not in sides])
    else:
        side = None if any(word in _SIDES for word in named[1].meaning.lower().split()) else side
    if named is not None:
        return SegmentCode(_categories()[named[0]], named[1], side)
    rest = [word for word in words if word not in sides]
    for cut in range(1, len(rest)):
        abnormal, organ = _find_words(rest[cut:]), _find_words(rest[:cut])
        if abnormal is not None and abnormal[0] == _ABNORMAL and organ is not None:
            return SegmentCode(_categories()[_ABNORMAL], abnormal[1], side, organ[1])
    return SegmentCode(TISSUE, TISSUE, side)


def _find_words(words: Collection[str]) -> tuple[str, Code] | None:
    """Category and code of a name; a plural, or the number of a vertebra or rib behind it, does not matter."""
    known, parts = known_codes(), list(words)
    names = [" ".join(parts)]
    if len(parts) > 1 and re.fullmatch(r"[ctls]?\d+", parts[-1]):
        names.append(" ".join(parts[:-1]))
    return next((known[form] for name in names for form in (name, name.removesuffix("s")) if form in known), None)


def read_codes(path: Path, labels: Collection[str]) -> dict[str, SegmentCode]:
    """Read the user's codes of labels.

    Args:
        path: JSON file with an object for each label.
        labels: Names of the model's labels.

    Raises:
        UsageError: If the file has another form, or names no label of the model.
        RecordError: If it cannot be read as JSON.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise UsageError(f"{path}: has no codes; {_EXPECTED}")
    unknown = [name for name in content if name not in labels]
    if unknown:
        raise UsageError(
            f"{path}: the model has no label {unknown[0]!r}; its labels are {', '.join(labels)}. Correct the name"
        )
    return {name: _read_code(name, entry, path) for name, entry in content.items()}


def _read_code(name: str, entry: Mapping[str, object], path: Path) -> SegmentCode:
    keys = {"code", "meaning", "scheme", "category", "category_meaning", "side", "region"}
    texts = {key: value for key, value in entry.items() if isinstance(value, str) and key in keys}
    side, region = texts.get("side"), texts.get("region")
    is_complete = bool(texts.get("code") and texts.get("meaning")) and texts.keys() == entry.keys()
    if not is_complete or side not in (None, "left", "right") or ("category" in texts) != ("category_meaning" in texts):
        raise UsageError(f"{path}: the codes of {name!r} are {dict(entry)}; {_EXPECTED}")
    scheme = texts.get("scheme", SNOMED)
    found = find_code(name)
    category = Code(texts["category"], texts["category_meaning"], scheme) if "category" in texts else found.category
    return SegmentCode(
        category=category if category != TISSUE else _categories()["Anatomical Structure"],
        kind=Code(texts["code"], texts["meaning"], scheme),
        side=side,
        region=None if region is None else find_code(region).kind,
    )
