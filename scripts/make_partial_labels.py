"""Makes a partly labelled dataset of a fully labelled one: some labels in half of the patients, the others in the rest.

    python scripts/make_partial_labels.py Dataset027_ACDC Dataset227_Halves "RV" "MLV,LVC"
    autoseg-plan Dataset227_Halves

Each argument after the folders names the labels of one part of the patients. Labels that a part does not have become
background in its label maps, and dataset.json says under `annotated` which labels were looked for in each case; with
--hide it says nothing, so that a training takes what was not labelled for background. Cases whose names are equal up to
the last `_` are one patient and stay together. The dataset is in nnU-Net's raw layout; images are linked.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np

ENDING = ".nii.gz"


def main() -> int:
    """Write the dataset; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("parts", nargs="+", help="labels of one part of the patients, separated by commas")
    parser.add_argument("--hide", action="store_true", help="do not say which labels were looked for")
    parser.add_argument("--full", nargs="*", default=[], metavar="CASE", help="cases that keep all labels")
    options = parser.parse_args()
    description = json.loads((options.dataset / "dataset.json").read_text())
    cases = sorted(path.name.removesuffix(ENDING) for path in (options.dataset / "labelsTr").glob(f"*{ENDING}"))
    annotated = share_out([case for case in cases if case not in options.full], options.parts)
    if not options.hide:
        description["annotated"] = annotated
    (options.output / "labelsTr").mkdir(parents=True)
    (options.output / "imagesTr").symlink_to((options.dataset / "imagesTr").resolve())
    for case in cases:
        names = annotated.get(case, list(description["labels"]))
        kept = [description["labels"][name] for name in names]
        write_part(options.dataset / "labelsTr" / f"{case}{ENDING}", options.output / "labelsTr", kept)
    (options.output / "dataset.json").write_text(json.dumps(description, indent=2))
    for part in options.parts:
        count = sum(names == part.split(",") for names in annotated.values())
        print(f"{options.output}: {count} cases with {part}")
    return 0


def share_out(cases: list[str], parts: list[str]) -> dict[str, list[str]]:
    """Labels of each case; patients in the order of their names, one part after the other."""
    patients = sorted({case.rpartition("_")[0] or case for case in cases})
    part_of = {patient: parts[index % len(parts)].split(",") for index, patient in enumerate(patients)}
    return {case: part_of[case.rpartition("_")[0] or case] for case in cases}


def write_part(source: Path, folder: Path, kept: list[int]) -> None:
    """Write a label map with some of its values alone."""
    image = nibabel.nifti1.load(source)
    labels = np.asarray(image.dataobj).astype(np.uint8)
    part = nibabel.nifti1.Nifti1Image(np.where(np.isin(labels, kept), labels, 0), image.affine, image.header)
    temporary = folder / f"part_{source.name}"
    nibabel.nifti1.save(part, temporary)
    shutil.move(temporary, folder / source.name)


if __name__ == "__main__":
    sys.exit(main())
