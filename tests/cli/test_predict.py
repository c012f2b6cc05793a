"""`autoseg predict` from the command line, with an untrained network: what it writes beside label maps."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import blosc2
import nibabel
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import SimpleITK

from autoseg.cli.main import main
from autoseg.imaging.formats.reading import read_image, read_label_map
from autoseg.records.files import write_record
from tests.builders import (
    LABELS,
    REGIONS,
    SHAPE,
    SPACING,
    make_case_fingerprint,
    make_fingerprint,
    make_image,
    make_plan,
    write_model,
    write_nifti,
)

ROOT = Path(__file__).parents[2]

CASES = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)})
    return write_model(tmp_path_factory.mktemp("model"), plan, {"3d_fullres": ("0", "1", "2")}).root


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("images")
    for seed, case in enumerate(CASES):
        write_nifti(make_image(seed), folder / f"{case}.nii.gz")
    return folder


def predict(model, images, output, *options) -> int:
    return main([
        "predict", "-m", str(model), "-i", str(images), "-o", str(output),
        "--device", "cpu", "--precision", "fp32", "--tta", "none", *options,
    ])  # fmt: skip


def rows_of(path):
    with path.open() as file:
        return [*csv.DictReader(file)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_mirrored_axes_that_contradict_no_mirroring(model, images, tmp_path, capsys):
    assert predict(model, images, tmp_path, "--mirror-axes", "y") == 2
    assert "--mirror-axes y and --tta none contradict each other" in capsys.readouterr().err


def test_the_decision_is_in_the_provenance_and_changes_label_maps(model, images, tmp_path, capsys):
    for decision, options in [("argmax", ()), ("expected-dice", ("--decision", "expected-dice"))]:
        assert predict(model, images / "a.nii.gz", tmp_path / decision, "--provenance", *options) == 0
        assert json.loads((tmp_path / decision / "provenance.json").read_text())["decision"] == decision
    assert "labels are decided by their expected Dice in each case (off: --decision argmax)" in capsys.readouterr().err
    plain, decided = (read_label_map(tmp_path / name / "a.nii.gz").array for name in ("argmax", "expected-dice"))
    assert (plain != decided).any()


def test_weights_of_another_plan_are_used_when_that_is_asked_for(model, images, tmp_path, capsys):
    """The same networks under a plan with another spacing; the label map is on the image's grid in any case."""
    other = shutil.copytree(model, tmp_path / "other")
    content = json.loads((other / "plan.json").read_text())
    content["configurations"]["3d_fullres"]["spacing"] = [2.0, 1.5, 1.5]
    (other / "plan.json").write_text(json.dumps(content))
    assert predict(other, images / "a.nii.gz", tmp_path / "refused") == 2
    assert "was trained for another plan" in (said := capsys.readouterr().err)
    assert "autoseg predict --accept-other-plan" in said
    assert not (tmp_path / "refused").exists()
    assert main(["export", str(other), "-o", str(tmp_path / "refused")]) == 2
    assert not (tmp_path / "refused").exists()
    out = tmp_path / "out"
    assert predict(other, images / "a.nii.gz", out, "--accept-other-plan", "--provenance", "-f", "1", "2") == 0
    names = ["3d_fullres, fold 1", "3d_fullres, fold 2"]
    assert f"but used with this one: {'; '.join(names)}; label maps may be wrong" in capsys.readouterr().err
    assert json.loads((out / "provenance.json").read_text())["weights_of_other_plans"] == names
    assert nibabel.load(out / "a.nii.gz").shape == SHAPE[::-1]


def test_a_plan_of_its_own_needs_no_acceptance(model, images, tmp_path, capsys):
    assert predict(model, images / "a.nii.gz", tmp_path, "--accept-other-plan", "--provenance", "-f", "1") == 0
    assert "another plan" not in capsys.readouterr().err
    assert "weights_of_other_plans" not in json.loads((tmp_path / "provenance.json").read_text())


def test_statistics_of_a_folder(model, images, tmp_path):
    assert predict(model, images, tmp_path, "--statistics") == 0
    assert names(tmp_path) == [*(f"{case}.nii.gz" for case in CASES), "statistics.csv"]
    rows = rows_of(tmp_path / "statistics.csv")
    assert [(row["case"], row["label"]) for row in rows] == [
        (case, label) for case in CASES for label in ("anterior", "posterior")
    ]
    for row in rows:
        image = np.asanyarray(nibabel.load(images / f"{row['case']}.nii.gz").dataobj)
        mask = np.asanyarray(nibabel.load(tmp_path / f"{row['case']}.nii.gz").dataobj) == LABELS[row["label"]]
        assert int(row["voxels"]) == mask.sum() > 0
        assert float(row["volume_ml"]) == pytest.approx(mask.sum() * np.prod(SPACING) / 1000, abs=1e-6)
        assert float(row["mean_MR"]) == pytest.approx(image[mask].mean(dtype=np.float64), rel=1e-5)


def test_statistics_when_a_run_goes_on(model, images, tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    for case in "abc":
        shutil.copy(images / f"{case}.nii.gz", first)
    assert predict(model, first, tmp_path / "out") == 0  # without statistics
    assert predict(model, images / "d.nii.gz", tmp_path / "out", "--statistics") == 0
    earlier = rows_of(tmp_path / "out" / "statistics.csv")
    assert {row["case"] for row in earlier} == {"d"}
    assert predict(model, images, tmp_path / "out", "--statistics", "--skip-existing") == 0
    rows = rows_of(tmp_path / "out" / "statistics.csv")
    assert [row["case"] for row in rows] == [case for case in CASES for _ in range(2)]
    assert [row for row in rows if row["case"] == "d"] == earlier
    assert predict(model, images, tmp_path / "again", "--statistics") == 0
    assert rows_of(tmp_path / "again" / "statistics.csv") == rows


def test_a_label_map_that_cannot_be_measured_is_told(model, images, tmp_path, capsys):
    (tmp_path / "a.nii.gz").write_bytes(b"half a file")
    assert predict(model, images / "a.nii.gz", tmp_path, "--statistics", "--skip-existing") == 0
    assert "a: no statistics of the existing label map" in capsys.readouterr().err


def test_a_table_of_another_model_is_refused_before_work(model, images, tmp_path, capsys):
    (tmp_path / "statistics.csv").write_text("patient,age\n")
    assert predict(model, images, tmp_path, "--statistics") == 2
    assert "has the columns patient, age" in capsys.readouterr().err
    assert names(tmp_path) == ["statistics.csv"]


def test_regions_have_rows_colors_and_uncertainty(tmp_path, images):
    model = write_model(
        tmp_path / "model", make_plan({"3d_fullres": (2.0, 1.2, 1.2)}, labels=REGIONS), {"3d_fullres": ("0",)}
    ).root
    output = tmp_path / "out"
    assert predict(model, images / "a.nii.gz", output, "--statistics", "--colors", "--save-uncertainty") == 0
    # one fold cannot disagree
    assert names(output) == ["a.nii.gz", "a_uncertainty.nii.gz", "labels.ctbl", "labels.txt", "statistics.csv"]
    labels = np.asanyarray(nibabel.load(output / "a.nii.gz").dataobj)
    rows = rows_of(output / "statistics.csv")
    assert [(row["label"], row["values"]) for row in rows] == [
        ("whole", "1 2 3"), ("core", "2 3"), ("enhancing", "3"),
    ]  # fmt: skip
    assert [int(row["voxels"]) for row in rows] == [(labels >= value).sum() for value in (1, 2, 3)]
    table = (output / "labels.ctbl").read_text().splitlines()[1:]
    assert [line.split()[:2] for line in table] == [
        ["0", "background"], ["1", "whole"], ["2", "core"], ["3", "enhancing"],
    ]  # fmt: skip


def test_colors_change_nothing_but_the_extension(model, images, tmp_path):
    assert predict(model, images / "a.nii.gz", tmp_path / "plain") == 0
    assert predict(model, images / "a.nii.gz", tmp_path / "colored", "--colors") == 0
    plain, colored = (nibabel.load(tmp_path / folder / "a.nii.gz") for folder in ("plain", "colored"))
    np.testing.assert_array_equal(plain.dataobj, colored.dataobj)
    assert plain.header.binaryblock == colored.header.binaryblock
    assert len(plain.header.extensions) == 0
    (extension,) = colored.header.extensions
    assert b'Key="300"' in extension.content
    assert b"posterior" in extension.content


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_uncertainty_is_that_of_the_probabilities_on_the_images_grid(model, tmp_path, ending):
    image = SimpleITK.GetImageFromArray(make_image())
    image.SetSpacing(SPACING[::-1])
    image = SimpleITK.DICOMOrient(image, "SAR")  # not the working orientation
    SimpleITK.WriteImage(image, tmp_path / f"a{ending}")
    output = tmp_path / "out"
    assert predict(model, tmp_path / f"a{ending}", output, "--save-uncertainty", "--save-probabilities") == 0
    assert names(output) == sorted(
        [f"a{ending}", f"a_disagreement{ending}", "a_probabilities.b2nd", f"a_uncertainty{ending}"]
    )
    probabilities = blosc2.open(str(output / "a_probabilities.b2nd"))[:].astype(np.float64)
    written = read_image([output / f"a_uncertainty{ending}"])
    assert written.grid == read_image([tmp_path / f"a{ending}"]).grid
    np.testing.assert_allclose(written.array[0], scipy.stats.entropy(probabilities, base=3, axis=0), atol=5e-3)


def test_disagreement_of_three_folds(model, images, tmp_path):
    assert predict(model, images / "a.nii.gz", tmp_path / "all", "--save-uncertainty") == 0
    for fold in "012":
        assert predict(model, images / "a.nii.gz", tmp_path / fold, "-f", fold) == 0
    ensemble, *folds = (read_label_map(tmp_path / name / "a.nii.gz").array[0] for name in ("all", "0", "1", "2"))
    expected = np.mean([fold != ensemble for fold in folds], axis=0)
    found = read_image([tmp_path / "all" / "a_disagreement.nii.gz"]).array[0]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert len(np.unique(found)) > 2


def test_an_uncertainty_that_would_overwrite_a_label_map_is_refused(model, images, tmp_path):
    for name in ("a", "a_uncertainty"):
        shutil.copy(images / "a.nii.gz", tmp_path / f"{name}.nii.gz")
    assert predict(model, tmp_path, tmp_path / "out", "--save-uncertainty") == 1
    (entry,) = json.loads((tmp_path / "out" / "failures.json").read_text())
    assert entry["case"] == "a"
    assert "the uncertainty would overwrite an image or a label map" in entry["error"]


def test_parts_share_a_folder_and_a_whole_run_brings_them_together(model, images, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(images, source)
    (source / "d.nii.gz").write_bytes(b"")
    assert predict(model, source, output, "--part", "2/2", "--statistics") == 1
    assert names(output) == ["b.nii.gz", "failures_part_2_of_2.json", "statistics_part_2_of_2.csv"]
    assert predict(model, source, output, "--part", "1/2", "--statistics") == 0
    assert [entry["case"] for entry in json.loads((output / "failures_part_2_of_2.json").read_text())] == ["d"]
    assert not (output / "failures_part_1_of_2.json").exists()
    parts = [rows_of(output / f"statistics_part_{number}_of_2.csv") for number in (1, 2)]
    assert [row["case"] for row in parts[0]] == ["a", "a", "c", "c", "e", "e"]
    assert [row["case"] for row in parts[1]] == ["b", "b"]
    shutil.copy(images / "d.nii.gz", source)
    known = output / "statistics_part_1_of_2.csv"
    known.write_text(known.read_text().replace(parts[0][0]["volume_ml"], "123.456"))  # to be known again
    parts[0] = rows_of(known)
    before = (output / "a.nii.gz").stat().st_mtime_ns
    assert predict(model, source, output, "--statistics", "--skip-existing") == 0
    assert (output / "a.nii.gz").stat().st_mtime_ns == before
    assert not (output / "failures_part_2_of_2.json").exists()
    rows = rows_of(output / "statistics.csv")
    assert [row["case"] for row in rows] == [case for case in CASES for _ in range(2)]
    assert [row for row in rows if row["case"] in "ace"] == parts[0]


def test_a_part_without_cases(model, images, tmp_path, capsys):
    assert predict(model, images, tmp_path, "--part", "6/6", "--statistics") == 0
    assert "part 6 of 6 has nothing to do: there are 5 cases" in capsys.readouterr().err
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "folds"),
    [
        (("--speed", "balanced"), "0, 1, 2"),
        (("--speed", "fast"), "0"),
        (("--speed", "fast", "-f", "1", "2"), "1, 2"),  # what is asked for counts more
    ],
)
def test_speed_decides_what_was_not_asked_for(model, images, tmp_path, capsys, options, folds):
    assert predict(model, images / "a.nii.gz", tmp_path, *options) == 0
    assert f"predicting with 3d_fullres (fold(s) {folds})" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b", "1/2/3", "-1/2"])
def test_no_such_part(model, images, tmp_path, part, capsys):
    with pytest.raises(SystemExit) as stopped:
        predict(model, images, tmp_path, f"--part={part}")
    assert stopped.value.code == 2
    assert f"{part!r} is not K/N with 1 <= K <= N, such as 2/5" in capsys.readouterr().err


def test_an_image_unlike_the_training_images_is_told_and_predicted(model, images, tmp_path, capsys):
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)})
    seen = make_case_fingerprint(shape=(40, 50, 60), channel_ranges=((-300.0, 300.0),))
    fingerprint = make_fingerprint([seen], plan, intensities=())
    write_record(fingerprint, copy / "fingerprint.json")
    assert predict(copy, images / "a.nii.gz", tmp_path / "out") == 0
    depth, height, width = (size * spacing for size, spacing in zip(SHAPE, SPACING, strict=True))
    told = [line.partition("  ")[2] for line in capsys.readouterr().err.splitlines()]
    assert [line for line in told if line.startswith("a: the ")] == [
        "a: the spacing 2.5 x 1 x 0.8 mm (z, y, x) is unlike that of the training images, 1 x 1 x 1 mm",
        f"a: the field of view {depth:g} x {height:g} x {width:g} mm (z, y, x) is unlike that of the training images, "
        "40 x 50 x 60 mm",
    ]
    assert (tmp_path / "out" / "a.nii.gz").is_file()


@pytest.mark.slow
def test_a_cluster_gives_the_same_files(model, images, tmp_path):
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    source = tmp_path / "in"
    shutil.copytree(images, source)
    (source / "c.nii.gz").write_bytes(b"")
    options = ("--statistics", "--colors")
    assert predict(model, source, tmp_path / "here", *options) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).resolve().parents[2]), *sys.path]))
        local = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with local:
        there = ("--scheduler", local.scheduler_address)
        assert predict(model, source, tmp_path / "there", *options, *there) == 1
    assert names(tmp_path / "there") == names(tmp_path / "here")
    for name in ("failures.json", "statistics.csv", "labels.ctbl"):
        assert (tmp_path / "there" / name).read_text() == (tmp_path / "here" / name).read_text()
    for case in "abde":
        found, expected = (read_label_map(tmp_path / where / f"{case}.nii.gz").array for where in ("there", "here"))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_prediction_and_leaves_whole_files_alone(tmp_path, number):
    write_model(tmp_path / "model", make_plan({"3d_fullres": (1.0, 1.0, 1.0)}), {"3d_fullres": ("0",)})
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0).standard_normal((60, 50, 40)).astype(np.float32)
    for case in range(30):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "in" / f"case{case:02d}.nii.gz")
    out = tmp_path / "out"
    command = ["predict", "-m", tmp_path / "model", "-i", tmp_path / "in", "-o", out, "--device", "cpu"]
    # a shell's background job ignores SIGINT, and so would every program that the tests start
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([sys.executable, "-m", "autoseg", *map(str, command)], cwd=ROOT, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    with process:
        while not list(out.glob("case*.nii.gz")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, messages = process.communicate()
    assert process.returncode == 128 + number, messages
    sentence = f"autoseg predict: interrupted by {number.name}; run the same"
    assert any(line.startswith(sentence) for line in messages.decode().splitlines())  # the next case may be read still
    assert b"Traceback" not in messages
    written = sorted(path.name for path in out.iterdir())
    assert written == [f"case{case:02d}.nii.gz" for case in range(len(written))]
    assert 1 <= len(written) < 30
    for name in written:
        assert read_label_map(out / name).array.shape == (1, 40, 50, 60)


def instances_by_hand(path):
    """Components of each label of a label map, anterior first, with full connectivity."""
    labels = np.asanyarray(nibabel.load(path).dataobj).T
    parts = [scipy.ndimage.label(labels == LABELS[name], np.ones((3, 3, 3))) for name in ("anterior", "posterior")]
    return labels, parts


def test_instances_of_a_folder_and_when_a_run_goes_on(model, images, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for case in "ab":
        shutil.copy(images / f"{case}.nii.gz", source)
    assert predict(model, source, output) == 0
    (output / "b_instances.nii.gz").write_bytes(b"")  # b is taken for done, a lacks its instances
    before = [(output / f"{case}.nii.gz").stat().st_mtime_ns for case in "ab"]
    assert predict(model, source, output, "--instances", "--skip-existing") == 0
    after = [(output / f"{case}.nii.gz").stat().st_mtime_ns for case in "ab"]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True]
    assert {row["case"] for row in rows_of(output / "instances.csv")} == {"a"}
    assert predict(model, source, output, "--instances") == 0
    assert names(output) == ["a.nii.gz", "a_instances.nii.gz", "b.nii.gz", "b_instances.nii.gz", "instances.csv"]
    rows = rows_of(output / "instances.csv")
    for case in "ab":
        labels, parts = instances_by_hand(output / f"{case}.nii.gz")
        written = nibabel.load(output / f"{case}_instances.nii.gz")
        ids = np.asanyarray(written.dataobj).T
        assert written.header["pixdim"].tobytes() == nibabel.load(images / f"{case}.nii.gz").header["pixdim"].tobytes()
        assert ids.dtype == np.min_scalar_type(ids.max())
        of_case = [row for row in rows if row["case"] == case]
        assert len(of_case) == ids.max() == sum(count for _, count in parts)
        np.testing.assert_array_equal(ids > 0, labels > 0)
        for row in of_case:
            mask = ids == int(row["id"])
            components, _ = parts[("anterior", "posterior").index(row["label"])]
            assert len(np.unique(components[mask])) == 1
            assert int(row["voxels"]) == mask.sum() == (components == components[mask][0]).sum()
            assert 1 / 3 <= float(row["mean_probability"]) <= 1
    table = output / "instances.csv"
    known = table.read_text()
    assert predict(model, source, output, "--instances", "--skip-existing") == 0
    assert table.read_text() == known
    table.unlink()
    assert predict(model, source, output, "--instances", "--skip-existing") == 0
    assert rows_of(table) == [row | {"mean_probability": ""} for row in rows]


def test_instances_of_parts_come_together(model, images, tmp_path):
    for part in ("1/2", "2/2"):
        assert predict(model, images, tmp_path / "out", "--part", part, "--instances") == 0
    assert predict(model, images, tmp_path / "out", "--skip-existing", "--instances", "--statistics") == 0
    assert predict(model, images, tmp_path / "whole", "--instances", "--statistics") == 0
    for name in ("instances.csv", "statistics.csv"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_instances_that_do_not_fit_the_label_map_are_told(model, images, tmp_path, capsys):
    assert predict(model, images / "a.nii.gz", tmp_path, "--instances") == 0
    (tmp_path / "instances.csv").unlink()
    other = nibabel.Nifti1Image(np.ones(SHAPE[::-1], dtype=np.uint8), nibabel.load(tmp_path / "a.nii.gz").affine)
    nibabel.save(other, tmp_path / "a_instances.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE[::-1], np.uint8), other.affine), tmp_path / "a.nii.gz")
    assert predict(model, images / "a.nii.gz", tmp_path, "--instances", "--skip-existing") == 0
    assert "no rows of instances of the existing label map" in capsys.readouterr().err
    assert rows_of(tmp_path / "instances.csv") == []


def test_instances_that_would_overwrite_a_label_map_are_refused(model, images, tmp_path):
    for name in ("a", "a_instances"):
        shutil.copy(images / "a.nii.gz", tmp_path / f"{name}.nii.gz")
    assert predict(model, tmp_path, tmp_path / "out", "--instances") == 1
    (entry,) = json.loads((tmp_path / "out" / "failures.json").read_text())
    assert "a_instances.nii.gz: the instances would overwrite" in entry["error"]
    assert predict(model, tmp_path, tmp_path / "other", "--save-uncertainty") == 0
