"""Names and colours of labels, for viewers: colour tables beside the label maps, and a label table inside NIfTI files.

Two files per run, the same for every case: `labels.ctbl` for 3D Slicer, and `labels.txt` for ITK-SNAP. NIfTI label maps
carry the table in a header extension (code 30, Caret), which Connectome Workbench shows and other programs skip; the
voxels then begin later in the file (`vox_offset`), all other fields of the header stay as they are.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.sax.saxutils import escape

from nibabel.nifti1 import Nifti1Extension, Nifti1Extensions

from autoseg.imaging.formats.volume import Template
from autoseg.records.dataset import LabelEncoding, names_by_value
from autoseg.records.files import write_text

SLICER_FILE = "labels.ctbl"
ITK_SNAP_FILE = "labels.txt"

CARET_EXTENSION = 30
"""NIfTI's registered code of Caret's and Connectome Workbench's XML."""

Color = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

PALETTE: tuple[Color, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (0, 0, 255), (150, 255, 165), (105, 30, 0), (75, 45, 75), (45, 30, 165), (180, 255, 240), (90, 120, 255),
    (225, 15, 75), (225, 165, 90), (45, 45, 120), (165, 225, 255), (150, 210, 165), (60, 75, 240), (150, 60, 0),
    (195, 255, 120), (75, 150, 240), (75, 105, 60), (150, 75, 120), (210, 0, 180), (0, 0, 195), (105, 30, 45),
    (150, 210, 210), (255, 75, 120),
)  # fmt: skip
"""Colours of the first labels of a model. First Okabe and Ito's seven, then always the colour that is farthest from all
before it, without greys. The distance is the smallest CIELAB distance of three: with normal vision, without red cones,
and without green cones. Any two colours are at least 15 apart in all three; Okabe and Ito's own are 17 apart."""

_GOLDEN_TURN = 0.6180339887498949
"""Step of the hue: successive multiples stay far from each other for long."""

_LATER_SHADES = ((0.9, 0.6), (0.45, 0.95), (0.9, 0.95), (0.55, 0.7))
"""Saturation and value of colours after the palette, in turn."""


@dataclass(frozen=True)
class LabelColor:
    """One value of the label maps."""

    value: int
    name: str
    color: Color


def label_color(position: int) -> Color:
    """Colour of a model's n-th foreground label, counted from 0.

    After the palette, hues advance by the golden section of a turn, in four shades: different colours, but no longer
    chosen for colour-blind eyes, for which so many cannot be told apart by colour alone.

    References:
        Okabe, Ito 2008, "Color universal design". Machado, Oliveira, Fernandes 2009, "A physiologically-based model
        for simulation of color vision deficiency", for the palette's distances.
    """
    if position < len(PALETTE):
        return PALETTE[position]
    saturation, value = _LATER_SHADES[position % len(_LATER_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(position * _GOLDEN_TURN % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def name_label_values(encoding: LabelEncoding) -> tuple[LabelColor, ...]:
    """All foreground values that a label map of this model can have, by ascending value, with names and colours.

    A value that regions paint has the region's name, of which it shows the part that no later region covers; several
    regions with the same value share a row, their names joined by a slash. A value of several labels that overlap has
    their names, joined by a plus sign.
    """
    if encoding.overlapping:
        together = {value: "+".join(sorted(found)) for value, found in names_by_value(encoding).items() if found}
        return tuple(
            LabelColor(value, together[value], label_color(position)) for position, value in enumerate(sorted(together))
        )
    names: dict[int, list[str]] = {}
    for head in encoding.heads:
        if head.painted_index:
            of_value = names.setdefault(encoding.values[head.painted_index], [])
            name = head.part_of or head.name
            of_value += [name] if name not in of_value else []  # core and border have one name
    declared = {color.value: color.rgb for color in reversed(encoding.reading.colors)} if encoding.reading else {}
    return tuple(
        LabelColor(value, "/".join(names[value]), declared.get(value) or label_color(position))
        for position, value in enumerate(sorted(names))
    )


def write_color_tables(labels: Sequence[LabelColor], background: int, folder: Path) -> None:
    """Write `labels.ctbl` and `labels.txt`, atomically.

    Args:
        labels: All foreground values.
        background: Value of background in the label maps.
        folder: Folder of the label maps.
    """
    write_text(slicer_table(labels, background), folder / SLICER_FILE)
    write_text(itk_snap_table(labels, background), folder / ITK_SNAP_FILE)


def slicer_table(labels: Sequence[LabelColor], background: int) -> str:
    """A 3D Slicer colour table: value, name without blanks, red, green, blue, opacity."""
    lines = [f"# Color table file, {len(labels) + 1} values: value name red green blue opacity"]
    lines.append(f"{background} background 0 0 0 0")
    for label in labels:
        lines.append(f"{label.value} {'_'.join(label.name.split())} {_numbers(label.color)} 255")
    return "\n".join(lines) + "\n"


def itk_snap_table(labels: Sequence[LabelColor], background: int) -> str:
    """An ITK-SNAP label description file: value, red, green, blue, opacity, visible, in 3D, "name"."""
    lines = ["# ITK-SnAP Label Description File", '# value red green blue opacity visible mesh "name"']
    lines.append(f'{background} 0 0 0 0 0 0 "Clear Label"')
    for label in labels:
        name = label.name.replace('"', "'")
        lines.append(f'{label.value} {_numbers(label.color)} 1 1 1 "{name}"')
    return "\n".join(lines) + "\n"


def with_label_table(template: Template, labels: Sequence[LabelColor], background: int) -> Template:
    """A template whose NIfTI header carries the label table in an extension; other formats stay as they are.

    An extension of the same kind in the image's header describes the image, and is replaced.
    """
    if template.nifti_header is None:
        return template
    header = template.nifti_header.copy()
    others = [extension for extension in header.extensions if extension.get_code() != CARET_EXTENSION]
    table = Nifti1Extension(CARET_EXTENSION, label_table_xml(labels, background).encode())
    header.extensions = Nifti1Extensions([*others, table])
    return replace(template, nifti_header=header)


def label_table_xml(labels: Sequence[LabelColor], background: int) -> str:
    """The label table as Connectome Workbench keeps it in label volumes; colours from 0 to 1."""
    rows = [f'<Label Key="{background}" Red="0" Green="0" Blue="0" Alpha="0">background</Label>']
    for label in labels:
        red, green, blue = (f"{part / 255:.6g}" for part in label.color)
        attributes = f'Key="{label.value}" Red="{red}" Green="{green}" Blue="{blue}" Alpha="1"'
        rows.append(f"<Label {attributes}>{escape(label.name)}</Label>")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<CaretExtension>\n<VolumeInformation Index="0">\n<LabelTable>\n'
        + "\n".join(rows)
        + "\n</LabelTable>\n<VolumeType>Label</VolumeType>\n</VolumeInformation>\n</CaretExtension>\n"
    )


def _numbers(color: Color) -> str:
    return " ".join(map(str, color))


def value_names(encoding: LabelEncoding) -> dict[int, str]:
    """Names of the foreground values of a model's label maps."""
    return {label.value: label.name for label in name_label_values(encoding)}
