"""Label maps as viewers ask for them: a number type, with or without compression, or as segmentation of 3D Slicer."""

from collections.abc import Sequence
from pathlib import Path

from autoseg.imaging.formats.segmentations import is_segmentation
from autoseg.inference.models.label_colors import LabelColor

NUMBER_TYPES = ("uint8", "uint16")


def write_for_viewer(
    source: Path, target: Path, labels: Sequence[LabelColor], *, number_type: str, compressed: bool
) -> None:
    """Write a label map again.

    Args:
        source: The label map.
        target: File to write; its ending decides the format. `.seg.nrrd` has the names and colours of all labels, also
            of those without voxels.
        labels: Names and colours of the values.
        number_type: `uint8` or `uint16`; 16 bits where a value needs them.
        compressed: Whether the voxels are compressed.
    """
    import SimpleITK  # slow to import, and other routes do without

    image = SimpleITK.ReadImage(str(source))
    largest = max([label.value for label in labels], default=0)
    wide = number_type != "uint8" or largest > 255
    image = SimpleITK.Cast(image, SimpleITK.sitkUInt16 if wide else SimpleITK.sitkUInt8)
    if is_segmentation(target.name):
        for key, value in segment_fields(labels, image.GetSize()).items():
            image.SetMetaData(key, value)
    SimpleITK.WriteImage(image, str(target), useCompression=compressed)


def segment_fields(labels: Sequence[LabelColor], size: Sequence[int]) -> dict[str, str]:
    """Header of a segmentation of 3D Slicer with one layer.

    Args:
        labels: The segments.
        size: Number of voxels, (x, y, z).

    References:
        3D Slicer, vtkMRMLSegmentationStorageNode (Segment0_Name, Segment0_LabelValue, Segment0_Layer).
    """
    extent = " ".join(f"0 {length - 1}" for length in size)
    fields = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for number, label in enumerate(labels):
        name = " ".join(label.name.split())
        fields |= {
            f"Segment{number}_ID": f"Segment_{label.value}",
            f"Segment{number}_Name": name,
            f"Segment{number}_Color": " ".join(f"{part / 255:.6g}" for part in label.color),
            f"Segment{number}_LabelValue": str(label.value),
            f"Segment{number}_Layer": "0",
            f"Segment{number}_Extent": extent,
        }
    return fields
