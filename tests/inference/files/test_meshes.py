"""Meshes of a run: one file for each label of each case."""

import struct

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from PIL import Image

from autoseg.cli.main import main
from autoseg.inference.files.input_cases import InputCase
from autoseg.inference.files.label_maps import find_label_maps
from autoseg.inference.files.meshes import file_stems, write_meshes
from autoseg.inference.files.outputs import OutputFile
from autoseg.records.case import Grid
from autoseg.records.prediction import OutputChoices
from autoseg.stages.predict import RunOptions, predict_files
from tests.builders import load_exactly, make_image, make_plan, write_model, write_nifti, write_two_configurations

SPACING = (2.0, 1.5, 0.8)
GRID = Grid(
    shape=(6, 7, 8),
    spacing=SPACING,
    affine=((0.0, 0.0, -0.8, 10.0), (0.0, -1.5, 0.0, 20.0), (2.0, 0.0, 0.0, -30.0), (0.0, 0.0, 0.0, 1.0)),
)
"""What `write_nifti` writes."""


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return load_exactly(write_two_configurations(tmp_path_factory.mktemp("model")))


def bounds(path):
    """Smallest and largest corner of an STL file."""
    content = path.read_bytes()
    (count,) = struct.unpack_from("<I", content, 80)
    rows = np.frombuffer(content, np.dtype([("n", "<f4", 3), ("c", "<f4", 9), ("a", "<u2")]), count, 84)
    corners = rows["c"].reshape(-1, 3)
    return corners.min(axis=0), corners.max(axis=0)


def test_the_surface_of_each_label_lies_where_the_file_has_its_voxels(tmp_path, predictor):
    write_nifti(make_image(1), tmp_path / "in" / "a.nii.gz", SPACING)
    assert predict_files(predictor, tmp_path / "in", tmp_path / "out", OutputChoices(meshes=True)) == []
    written = nibabel.load(tmp_path / "out" / "a.nii.gz")
    labels, found = np.asarray(written.dataobj), 0
    for name, value in predictor.plan.labels.items():
        path = tmp_path / "out" / "a_meshes" / f"{name}.stl"
        places = np.argwhere(labels == value)
        assert path.is_file() == (value != 0 and len(places) > 0)
        if value == 0 or not len(places):
            continue
        found += 1
        world = apply_affine(written.affine, places) * (-1, -1, 1)
        least, most = bounds(path)
        np.testing.assert_allclose(least, world.min(axis=0) - np.array(SPACING[::-1]) / 2, atol=1e-3)
        np.testing.assert_allclose(most, world.max(axis=0) + np.array(SPACING[::-1]) / 2, atol=1e-3)
    assert found
    assert find_label_maps(tmp_path / "out") == {"a": tmp_path / "out" / "a.nii.gz"}


def test_regions_are_whole_and_empty_labels_have_no_file(tmp_path):
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)}, labels={"background": 0, "whole": (1, 2), "core": 2})
    labels = np.zeros(GRID.shape, dtype=np.uint8)
    labels[2, 3, 4] = 1
    file, choices = OutputFile(InputCase("a", ()), tmp_path / "a.nii.gz"), OutputChoices(meshes=True)
    said = write_meshes(labels, GRID, file, plan.encoding, choices)
    assert said == "no mesh of core: the label map has no such voxel"
    assert [path.name for path in file.meshes.iterdir()] == ["whole.stl"]
    least, most = bounds(file.meshes / "whole.stl")
    np.testing.assert_allclose((least + most) / 2, (-(10 - 4 * 0.8), -(20 - 3 * 1.5), -30 + 2 * 2), atol=1e-4)
    labels[2, 3, 5] = 2
    assert write_meshes(labels, GRID, file, plan.encoding, choices) == ""
    np.testing.assert_allclose(bounds(file.meshes / "whole.stl")[0][0], least[0], atol=1e-4)
    np.testing.assert_allclose(bounds(file.meshes / "whole.stl")[1][0], most[0] + 0.8, atol=1e-4)
    assert sorted(path.name for path in file.meshes.iterdir()) == ["core.stl", "whole.stl"]
    write_meshes(np.zeros_like(labels), GRID, file, plan.encoding, choices)
    assert not list(file.meshes.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["a_meshes"]


def test_missing_meshes_of_a_kept_case_are_made(tmp_path, predictor):
    write_nifti(make_image(1), tmp_path / "in" / "a.nii.gz")
    output, options = tmp_path / "out", RunOptions(skip_existing=True)
    predict_files(predictor, tmp_path / "in", output)
    predict_files(predictor, tmp_path / "in", output, OutputChoices(meshes=True), options)
    meshes = sorted((output / "a_meshes").iterdir())
    assert {path.suffix for path in meshes} == {".stl"}
    before = [path.stat().st_mtime_ns for path in meshes]
    predict_files(predictor, tmp_path / "in", output, OutputChoices(meshes=True), options)
    assert [path.stat().st_mtime_ns for path in meshes] == before
    predict_files(predictor, tmp_path / "in", output, OutputChoices(meshes=True, mesh_format="ply"), options)
    assert {path.suffix for path in (output / "a_meshes").iterdir()} == {".stl", ".ply"}


def test_2d_images_have_no_meshes(tmp_path):
    plan = make_plan({"2d": (1.0, 1.0)}, channel_names=("R", "G", "B"), normalization="rgb_0_1")
    write_model(tmp_path / "model", plan, {"2d": ("0",)})
    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "in" / "a.png")
    predictor = load_exactly(tmp_path / "model")
    (failure,) = predict_files(predictor, tmp_path / "in", tmp_path / "out", OutputChoices(meshes=True))
    assert failure.error == f"{tmp_path}/in/a.png: has two dimensions and no surfaces; leave out --meshes"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["failures.json"]


def test_options_for_meshes_without_meshes_are_refused(tmp_path, capsys):
    words = ["predict", "-m", str(tmp_path), "-i", str(tmp_path), "-o", str(tmp_path / "out")]
    for option in (["--smooth-meshes"], ["--mesh-format", "ply"]):
        assert main([*words, *option]) == 2
        assert "--mesh-format and --smooth-meshes are for meshes: add --meshes" in capsys.readouterr().err


def test_names_of_labels_become_names_of_files():
    names = ["left kidney", "left/kidney", "Liver", "liver", "../x", "Leber (rechts)", "肝", "x" * 300]
    stems = file_stems(names)
    assert stems[:7] == ["left_kidney", "left_kidney_2", "Liver", "liver_4", "_._x", "Leber__rechts_", "肝"]
    assert len(stems[7]) == 100
