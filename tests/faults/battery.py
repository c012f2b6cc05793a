"""The fault battery: a place with one bad input, a command, and what the command must answer.

Every row of the tables in this folder is one bad input. A row has a name, a builder, which spoils something in a place
of its own, the command as a user types it, with the exit code and words that its output must have. No output may show
a traceback or an error that autoseg does not expect (exit code 3).
"""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from autoseg.cli.main import main

SHAPE = (12, 14, 16)
"""Voxels of every image, (x, y, z)."""
CASES = ("case_0", "case_1", "case_2", "case_3")
LABELS = {"background": 0, "liver": 1, "lesion": 2}

DONE, SOME_FAILED, UNUSABLE = 0, 1, 2


@dataclass(frozen=True)
class Place:
    """Folders of one test; dataset, workspace and model are copies that may be spoiled."""

    root: Path
    dataset: Path
    """nnU-Net's layout, four cases."""
    workspace: Path
    """Planned and preprocessed; fold 0 of 3d_fullres is trained."""
    archive: Path
    """The workspace, exported as a zip file."""

    @property
    def images(self) -> Path:
        """Folder of images to predict."""
        return self.dataset / "imagesTr"

    @property
    def labels(self) -> Path:
        """Folder of label maps."""
        return self.dataset / "labelsTr"

    @property
    def image(self) -> Path:
        """Image that is spoiled."""
        return self.images / "case_1_0000.nii.gz"

    @property
    def label(self) -> Path:
        """Label map that is spoiled."""
        return self.labels / "case_1.nii.gz"

    @property
    def fold(self) -> Path:
        """Folder of the trained fold."""
        return self.workspace / "models" / "3d_fullres" / "fold_0"

    @property
    def out(self) -> Path:
        """Output that does not exist yet."""
        return self.root / "out"


Builder = Callable[[Place], object]
Row = tuple[str, Builder, str, int, str]
"""Name, builder, command, exit code, words."""

PLAN = "plan {dataset} -w {root}/new --device cuda --planner unet -c 3d_fullres --folds 2 -j 1 --dry-run"
TRAIN = "train {workspace} -c 3d_fullres -f 0 --device cpu --epochs 2 --steps-per-epoch 1"
PREDICT = "predict -m {workspace} -i {images} -o {out} --device cpu --speed fast"
EVALUATE = "evaluate {images} {labels}"
IMPORT = "import-nnunet {root}/foreign -o {out}"


def run(place: Place, command: str, capsys: Any) -> tuple[int, str]:
    """Exit code and output of a command whose `{names}` are attributes of the place."""
    names = {name: shlex.quote(str(getattr(place, name))) for name in dir(place) if not name.startswith("_")}
    try:
        code = main(shlex.split(command.format(**names)))
    except SystemExit as stop:
        code = int(stop.code or 0)
    shown = capsys.readouterr()
    return code, " ".join((shown.out + shown.err).split())


def check(place: Place, row: Row, capsys: Any) -> None:
    """Spoil the place, give the command, and compare its answer."""
    _, spoil, command, expected, words = row
    spoil(place)
    code, output = run(place, command, capsys)
    assert code == expected, f"exit code {code}: {output}"
    assert " ".join(words.split()) in output, output
    assert "Traceback" not in output
    assert "does not expect" not in output


def edit_json(path: Path, **changes: Any) -> None:
    """Replace entries of a JSON file; names have dots, None removes an entry."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        *parents, last = name.split("__")
        inner = content
        for key in parents:
            inner = inner[int(key) if isinstance(inner, list) else key]
        if value is None:
            del inner[last]
        else:
            inner[int(last) if isinstance(inner, list) else last] = value
    path.write_text(json.dumps(content), encoding="utf-8")


def replace(path: Path, make: Callable[[Path], object]) -> None:
    """Remove a file or folder, and make something else there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    make(path)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Write a NIfTI file with this affine; None: voxels of 1 x 1.2 x 2 mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, np.diag([1.0, 1.2, 2.0, 1.0]) if affine is None else affine)
    nibabel.save(image, path)


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its label map, (x, y, z)."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:9, 3:11, 4:12] = 1
    labels[4:7, 5:8, 6:10] = 2
    image = 100 * labels + generator.normal(50, 10, SHAPE)
    return image.astype(np.float32), labels


def copy_place(root: Path, dataset: Path, workspace: Path, archive: Path) -> Place:
    """A place with copies of dataset and workspace, which lie beside each other as they did."""
    shutil.copytree(dataset, root / dataset.name)
    shutil.copytree(workspace, root / workspace.name)
    shutil.copy(archive, root / archive.name)
    return Place(root, root / dataset.name, root / workspace.name, root / archive.name)
