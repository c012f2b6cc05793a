"""Thins the label maps of a dataset to scribbles, as somebody would draw them: a line through each object of a slice.

    python scripts/make_scribbles.py Dataset027_ACDC Dataset127_Scribbles
    autoseg-plan Dataset127_Scribbles --regularizer crf

All other voxels get the ignore label, the largest value plus one. The dataset is in nnU-Net's raw layout; images are
linked.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize


def main() -> int:
    """Write the thinned dataset; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--axis", type=int, default=2, help="axis across slices, as stored (default: 2)")
    options = parser.parse_args()
    description = json.loads((options.dataset / "dataset.json").read_text())
    ignored = max(value for value in description["labels"].values() if isinstance(value, int)) + 1
    description["labels"]["ignore"] = ignored
    (options.output / "labelsTr").mkdir(parents=True)
    (options.output / "imagesTr").symlink_to((options.dataset / "imagesTr").resolve())
    (options.output / "dataset.json").write_text(json.dumps(description, indent=2))
    kept, voxels = 0, 0
    for source in sorted((options.dataset / "labelsTr").glob("*.nii.gz")):
        image = nibabel.nifti1.load(source)
        labels = np.asarray(image.dataobj).astype(np.uint8)
        thinned = draw_scribbles(labels, ignored, options.axis)
        kept, voxels = kept + int((thinned != ignored).sum()), voxels + thinned.size
        target = options.output / "labelsTr" / source.name
        part = target.with_name(f"part_{target.name}")
        nibabel.nifti1.save(nibabel.nifti1.Nifti1Image(thinned, image.affine, image.header), part)
        shutil.move(part, target)
    print(f"{options.output}: {100 * kept / voxels:.2f} % of the voxels keep their label, ignore is {ignored}")
    return 0


def draw_scribbles(labels: NDArray[np.uint8], ignored: int, axis: int) -> NDArray[np.uint8]:
    """Skeletons of all labels in each slice, background within reach of the objects among them."""
    scribbles = np.full_like(labels, ignored)
    for index in range(labels.shape[axis]):
        plane = np.take(labels, index, axis)
        target = np.moveaxis(scribbles, axis, 0)[index]
        reach = ndimage.binary_dilation(plane > 0, iterations=12)
        for value in np.unique(plane):
            mask = plane == value if value else (plane == 0) & reach
            if value == 0:
                mask = ndimage.binary_erosion(mask, iterations=3)
            target[skeletonize(mask)] = value
    return scribbles


if __name__ == "__main__":
    sys.exit(main())
