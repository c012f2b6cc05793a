"""Label maps of nnU-Net itself, from a model that autoseg exported for it, beside autoseg's own.

    python scripts/check_nnunet_export.py MODEL IMAGES --venv VENV -c 3d_fullres [-f 0] [--float32-sums]

Exports the model, predicts the images with both, and prints the Dice of the two label maps for each case and label.
Images are turned to the axes left, posterior, superior first, as the export asks for. Ends with 1 when a Dice is below
0.999. VENV is a virtual environment in which nnU-Net v2 is installed. nnU-Net sums windows in float16, which decides
near-ties of weak models otherwise, most of all with small patches; with `--float32-sums` it sums in float32, and what
differs then is a fault of the export.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace
from autoseg.stages.export import ExportOptions
from autoseg.stages.export_nnunet import export_nnunet
from autoseg.stages.predict import PredictionOptions, Predictor

MIN_DICE = 0.999

PREDICT = """
import sys
from nnunetv2.inference import predict_from_raw_data
predict_from_raw_data.predict_entry_point_modelfolder()
"""

PREDICT_IN_FLOAT32 = """
import inspect
from nnunetv2.inference import predict_from_raw_data as module
changed = inspect.getsource(module).replace("torch.half", "torch.float32")
exec(compile(changed, module.__file__, "exec"), module.__dict__)
module.predict_entry_point_modelfolder()
"""


def main() -> int:
    """Read the arguments, predict with both, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="a trained workspace, or a model that autoseg exported or imported")
    parser.add_argument("images", type=Path, help="folder with NIfTI files CASE_0000.nii.gz, CASE_0001.nii.gz, ...")
    parser.add_argument("--venv", type=Path, required=True, help="virtual environment with nnU-Net v2")
    parser.add_argument("-c", "--configuration", required=True)
    parser.add_argument("-f", "--folds", nargs="+", default=["0"])
    parser.add_argument("--float32-sums", action="store_true", help="let nnU-Net sum windows in float32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        plan = read_record(Plan, Workspace(arguments.model).plan)
        cases = _turn_images(arguments.images, root / "images", turn=plan.orientation == "canonical")
        folds = tuple(arguments.folds)
        options = ExportOptions(configurations=(arguments.configuration,), folds=folds)
        export_nnunet(arguments.model, root / "results", options)
        program = PREDICT_IN_FLOAT32 if arguments.float32_sums else PREDICT
        command = [str(arguments.venv / "bin" / "python"), "-c", program]
        theirs = _predict_with_nnunet(command, root, plan, arguments.configuration, folds)
        settings = PredictionOptions(
            configuration=arguments.configuration, folds=folds, device="cpu", precision="fp32", refine=False
        )
        predictor = Predictor(arguments.model, settings)
        worst = 1.0
        for case, files in cases.items():
            labels = predictor.predict(files if len(files) > 1 else files[0]).labels
            dice = [*_dice_by_label(labels, _read(theirs / f"{case}.nii.gz"), plan)]
            worst = min([worst, *(value for _, value, _ in dice)])
            print(case, *(f"{name} {value:.5f} ({differing} voxels differ)" for name, value, differing in dice))
    print(f"smallest Dice {worst:.5f}, expected at least {MIN_DICE}")
    return int(worst < MIN_DICE)


def _turn_images(source: Path, folder: Path, *, turn: bool) -> dict[str, list[Path]]:
    """Write the images with axes to the left, posterior and superior, or as they are; gives the files of each case."""
    folder.mkdir()
    cases: dict[str, list[Path]] = {}
    for path in sorted(source.glob("*_????.nii.gz")):
        image = SimpleITK.ReadImage(path)
        target = folder / path.name
        SimpleITK.WriteImage(SimpleITK.DICOMOrient(image, "LPS") if turn else image, target)
        cases.setdefault(path.name[: -len("_0000.nii.gz")], []).append(target)
    if not cases:
        raise SystemExit(f"{source}: has no images called CASE_0000.nii.gz")
    return cases


def _predict_with_nnunet(program: list[str], root: Path, plan: Plan, name: str, folds: Sequence[str]) -> Path:
    """Predict with every configuration up to the given one; gives the folder of the last label maps."""
    before = plan.configurations[name].previous_configuration
    words: list[str] = []
    if before is not None:
        words = ["-prev_stage_predictions", str(_predict_with_nnunet(program, root, plan, before, folds))]
    (model,) = (root / "results").glob(f"Dataset*/*__{name}")
    output = root / f"labels_{name}"
    command = [
        *program, "-i", str(root / "images"), "-o", str(output), "-m", str(model),
        "-f", *folds, "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_progress_bar", *words,
    ]  # fmt: skip
    settings = {"nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"}
    settings |= {f"nnUNet_{what}": str(root / what) for what in ("raw", "preprocessed", "results")}
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run(command, env={**inherited, **settings}, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"{program[0]}: nnU-Net failed:\n{answer.stdout}\n{answer.stderr}")
    return output


def _read(path: Path) -> NDArray[np.int64]:
    array: NDArray[np.int64] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)).astype(np.int64)
    return array


def _dice_by_label(
    ours: NDArray[np.unsignedinteger], theirs: NDArray[np.int64], plan: Plan
) -> Iterator[tuple[str, float, int]]:
    """Name, Dice and number of differing voxels of each value that one of the two has; nnU-Net's are label indices."""
    for index, value in enumerate(plan.encoding.values):
        own, other = ours == value, theirs == index
        total = int(own.sum() + other.sum())
        if index and total:
            yield str(value), 2 * int((own & other).sum()) / total, int((own != other).sum())


if __name__ == "__main__":
    sys.exit(main())
