"""The search on maps made by hand: every choice follows from numbers worked out by hand."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoseg.cluster.dask_workers import DaskCluster
from autoseg.errors import ImageFileError, WorkerError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.postprocessing import apply_postprocessing
from autoseg.processes import WorkerDeath
from autoseg.records.dataset import CaseFiles
from autoseg.records.selection import FillHoles, KeepLargestComponent, RemoveSmallComponents
from autoseg.selection.case_maps import CaseMapFiles, load_case_maps
from autoseg.selection.postprocessing import tune_postprocessing

SPACING = (4.0, 1.0, 0.5)  # (z, y, x): 2 mm³ a voxel
LABELS = make_encoding({"background": 0, "one": 10, "two": 20})
SINGLE = make_encoding({"background": 0, "one": 10})
WITH_IGNORE = make_encoding({"background": 0, "one": 1, "ignore": 9})
REGIONS = make_encoding({"background": 0, "whole": (1, 2), "core": 2}, [1, 2])


class Maps:
    def __init__(self, folder, encoding, spacing=SPACING):
        self.folder, self.encoding, self.spacing, self.files = folder, encoding, spacing, []

    def add(self, prediction, reference, name=None):
        case = name or f"case{len(self.files)}"
        names = {}
        for kind, array in (("prediction", prediction), ("reference", reference)):
            image = SimpleITK.GetImageFromArray(self.values(array))
            image.SetSpacing(self.spacing[::-1])
            names[kind] = f"{case}_{kind}.nii.gz"
            SimpleITK.WriteImage(image, str(self.folder / names[kind]))
        files = CaseFiles(case=case, images=(), label=names["reference"])
        self.files.append(CaseMapFiles(self.folder / names["prediction"], self.folder, files))

    def values(self, array):
        values = [*self.encoding.values, self.encoding.ignore_value or 0]
        return np.array(values, dtype=np.uint8)[array]

    def tune(self, **options):
        return tune_postprocessing(self.files, self.encoding, **options)


def as_map(*rows, depth=1):
    plane = [[int(voxel) for voxel in row] for row in rows]
    return np.array([plane] * depth, dtype=np.int16)


def reason(tuned, beginning):
    (found,) = [one for one in tuned.reasons if one.startswith(beginning)]
    return found


def test_small_false_components_are_removed_where_keeping_the_largest_would_harm(tmp_path):
    maps = Maps(tmp_path, LABELS)
    true = as_map("1110000011100", "1110000011000", "0000022222222", depth=2)
    for _ in range(2):
        maps.add(as_map("1110010011100", "1110010011000", "0000022222222", depth=2), true)  # a false spot of 4: 8 mm³
    tuned = maps.tune()
    assert tuned.steps == (RemoveSmallComponents(labels=("one",), min_volume_mm3=10.0),)
    assert tuned.before.labels["one"].dice == pytest.approx(2 * 22 / (22 + 26))
    assert tuned.evaluation.mean_foreground_dice == 1.0
    said = reason(tuned, "Keep only the largest component of one: no")
    assert said.endswith("Dice 0.9167 before, 0.7059 after; lower for one.")  # 2 * 12 / (12 + 22)
    said = reason(tuned, "Remove small components of one: yes")
    assert said == (
        "Remove small components of one: yes, below 10 mm³ (2 volumes from 10 to 30 mm³ tried), "
        "Dice 0.9167 before, 1.0000 after."
    )


def test_a_case_that_cannot_be_worked_on_in_the_cluster_is_named(tmp_path, monkeypatch):
    maps = Maps(tmp_path, SINGLE)
    for name in ("first", "second"):
        maps.add(as_map("1110"), as_map("1100"), name)
    asked = []

    def answer(_cluster, work, items, *, task):
        asked.append((task, [item.case for item in items], all(item.folder.is_absolute() for item in items)))
        return iter([work(items[0]), WorkerDeath("SIGKILL", 0, None)])

    monkeypatch.setattr(DaskCluster, "map", answer)
    monkeypatch.chdir(tmp_path)
    maps.files = [replace(files, prediction=Path(files.prediction.name), folder=Path()) for files in maps.files]
    with pytest.raises(WorkerError, match=r"^second: the worker process was ended by SIGKILL"):
        maps.tune(workers=DaskCluster("tcp://nowhere:1"))
    assert asked == [("post-processing", ["first", "second"], True)]


def test_volumes_are_mm3_of_each_case(tmp_path):
    # The same false spot of 2 voxels has 4 mm³ in the first case and 32 mm³ in the second; the true parts have 16 and
    # 12 mm³ in the first.
    maps = Maps(tmp_path, SINGLE)
    predicted, true = as_map("111100001110001", "111100001110001"), as_map("111100001110000", "111100001110000")
    maps.add(predicted, true)
    maps.spacing = (8.0, 2.0, 1.0)
    maps.add(predicted, true)
    tuned = maps.tune()
    # 15 would take a true part of the first case along; 50 is above the 28 mm³ of its whole structure.
    assert tuned.steps == (RemoveSmallComponents(labels=("one",), min_volume_mm3=5.0),)
    first, second = tuned.evaluation.cases
    assert (first.labels["one"].dice, second.labels["one"].dice) == (1.0, pytest.approx(28 / 30))


def test_volumes_of_a_tilted_gantry_are_those_of_its_determinant(tmp_path):
    affine = np.diag([0.5, 1.0, 4.0, 1.0])
    affine[1, 2] = 4 * np.tan(np.deg2rad(40))
    maps = {"prediction": as_map("1110", "1111", depth=2), "reference": as_map("1110", "1110", depth=2)}
    for kind, array in maps.items():
        nibabel.save(nibabel.Nifti1Image((array * 10).astype(np.uint8).T, affine), tmp_path / f"{kind}.nii")
    files = CaseFiles(case="a", images=(), label="reference.nii")
    case = load_case_maps(CaseMapFiles(tmp_path / "prediction.nii", tmp_path, files), SINGLE)
    assert case.measure().labels["one"].volume_error_ml == pytest.approx(2 * 2.0 / 1000, rel=1e-6)
    assert case.apply(RemoveSmallComponents(labels=("one",), min_volume_mm3=14 * 2.0)) is case
    emptied = case.apply(RemoveSmallComponents(labels=("one",), min_volume_mm3=14 * 2.0 + 0.1))
    assert emptied.scores.labels["one"].predicted_voxels == 0


def test_holes_are_filled_where_that_is_true_and_left_where_it_is_not(tmp_path):
    maps = Maps(tmp_path, LABELS)
    ring, disc = ("11100222", "10100202", "11100222"), ("11100222", "11100202", "11100222")
    for _ in range(2):
        maps.add(as_map(*ring), as_map(*disc))
    tuned = maps.tune()
    assert tuned.steps == (FillHoles(label="one"),)
    assert reason(tuned, "Fill holes of one") == "Fill holes of one: yes, Dice 0.9412 before, 1.0000 after."
    assert reason(tuned, "Fill holes of two: no") == (
        "Fill holes of two: no, Dice 1.0000 before, 0.9412 after; lower for two."
    )


def test_holes_of_a_volume_are_not_those_of_its_slices(tmp_path):
    # All foreground lies in one slice of three: the hole is open above and below.
    ring, disc = as_map("111", "101", "111"), as_map("111", "111", "111")
    empty = np.zeros_like(ring)
    maps = Maps(tmp_path, SINGLE)
    maps.add(np.concatenate([empty, ring, empty]), np.concatenate([empty, disc, empty]))
    tuned = maps.tune()
    assert tuned.steps == ()
    assert reason(tuned, "Fill holes") == "Fill holes of one: no, nothing would change."


def test_a_step_for_one_region_may_not_harm_another(tmp_path):
    # The spot of core is wrong as core and right as whole; the hole of core is core, and whole already.
    maps = Maps(tmp_path, REGIONS)
    true = as_map("2220111", "2220111", "2220000", depth=2)
    predicted = as_map("2220211", "2120211", "2220000", depth=2)
    for _ in range(2):
        maps.add(predicted, true)
    tuned = maps.tune()
    assert tuned.steps == ()
    for kind in ("Keep only the largest component", "Remove small components"):
        assert "lower for whole" in reason(tuned, f"{kind} of core: no")
    # The hole of core is no background, so there is nothing to fill.
    assert reason(tuned, "Fill holes") == "Fill holes of whole, core: no, nothing would change."


def test_a_region_is_filled_with_its_own_value(tmp_path):
    maps = Maps(tmp_path, REGIONS)
    for _ in range(2):
        maps.add(
            as_map("1111111", "1222001", "1202001", "1222001", "1111111"),
            as_map("1111111", "1222001", "1222001", "1222001", "1111111"),
        )
    tuned = maps.tune()
    # Filling whole would also fill what is none: it is refused. The hole of core is right.
    assert tuned.steps == (FillHoles(label="core"),)
    assert "lower for whole" in reason(tuned, "Fill holes of whole: no")
    assert tuned.evaluation.mean_foreground_dice == 1.0


def test_false_alarms_and_missing_labels_do_not_spoil_the_search(tmp_path):
    maps = Maps(tmp_path, LABELS)
    structure = as_map("1111", "1111", "0000", "0000")
    maps.add(structure, structure)
    maps.add(as_map("0000", "0000", "0000", "0100"), np.zeros_like(structure))  # false alarm of 2 mm³, Dice 0
    maps.add(np.zeros_like(structure), np.zeros_like(structure))  # rightly empty
    tuned = maps.tune()
    assert tuned.before.labels["two"].dice is None
    assert tuned.before.labels["one"].dice == 0.5
    # Keeping the largest changes nothing in the false alarm, a volume above 2 mm³ does.
    assert tuned.steps == (RemoveSmallComponents(labels=("one",), min_volume_mm3=3.0),)
    assert tuned.evaluation.labels["one"].dice == 1.0
    assert tuned.evaluation.labels["one"].num_cases == 1
    assert tuned.evaluation.counts["one"].both_empty == 2


def test_volumes_are_tried_on_what_earlier_steps_left(tmp_path):
    # Keeping the largest removes the spot of 3 voxels (6 mm³); the false alarm of 2 (4 mm³) is for the volume.
    maps = Maps(tmp_path, SINGLE)
    maps.add(as_map("1111111100111"), as_map("1111111100000"))
    maps.add(as_map("1100000000000"), as_map("0000000000000"))
    tuned = maps.tune()
    assert tuned.steps == (
        KeepLargestComponent(labels=("one",)),
        RemoveSmallComponents(labels=("one",), min_volume_mm3=5.0),
    )
    assert reason(tuned, "Remove small components") == (
        "Remove small components of one: yes, below 5 mm³ (the only volume that makes a difference), "
        "Dice 0.5000 before, 1.0000 after."
    )


def test_keeping_the_largest_that_leaves_only_a_false_alarm_lowers_the_label(tmp_path):
    # In the first case the largest component is false: nothing true would be left.
    maps = Maps(tmp_path, SINGLE)
    maps.add(as_map("11100001111", "11100001111"), as_map("11100000000", "11100000000"))
    maps.add(as_map("11111101000", "11111100000"), as_map("11111100000", "11111100000"))
    tuned = maps.tune()
    said = reason(tuned, "Keep only the largest component of one: no")
    assert said.endswith("Dice 0.7800 before, 0.5000 after; lower for one.")  # (12/20 + 24/25) / 2
    assert tuned.steps == (RemoveSmallComponents(labels=("one",), min_volume_mm3=3.0),)


def test_equal_components_and_ties_are_left_alone(tmp_path):
    maps = Maps(tmp_path, SINGLE)
    maps.add(as_map("110011", "110011"), as_map("110000", "110000"))
    tuned = maps.tune()
    assert tuned.steps == ()
    assert reason(tuned, "Keep only") == "Keep only the largest component of one: no, nothing would change."
    # The volumes that would make a difference would make all of it go.
    assert reason(tuned, "Remove small") == "Remove small components of one: no, nothing would change."


def test_voxels_without_truth_count_for_volumes_and_not_for_scores(tmp_path):
    maps = Maps(tmp_path, WITH_IGNORE)
    true = as_map("1111110222", "1111110222")  # 2: ignore
    maps.add(as_map("1111110011", "1111110011"), true)
    tuned = maps.tune()
    assert tuned.before.labels["one"].dice == 1.0
    assert tuned.steps == ()


def test_many_refused_steps_share_a_sentence(tmp_path):
    names = {f"label{number}": number for number in range(1, 13)}
    encoding = make_encoding({"background": 0, **names})
    maps = Maps(tmp_path, encoding)
    true = np.zeros((1, 12, 9), dtype=np.int16)
    for number in range(12):
        true[0, number, [0, 1, 4]] = number + 1 if number % 2 else 0  # two true parts, in every other row
    true = np.concatenate([true, np.zeros_like(true), np.zeros_like(true)])
    maps.add(true, true)
    tuned = maps.tune()
    said = [one for one in tuned.reasons if one.startswith("Keep only the largest component of label")]
    assert len(said) == 7  # six refused, the six without components together
    assert said[-1].endswith("label1, label3, label5, label7, label9, label11: no, nothing would change.")


def test_maps_on_different_grids_and_undeclared_values_name_the_file(tmp_path):
    maps = Maps(tmp_path, SINGLE)
    maps.add(as_map("110"), as_map("1100"))
    with pytest.raises(ImageFileError, match=r"case0_prediction\.nii\.gz: case case0 does not lie on the grid"):
        maps.tune()
    other = Maps(tmp_path, LABELS)
    other.add(as_map("120"), as_map("120"), name="b")
    with pytest.raises(ImageFileError, match=r"b_prediction\.nii\.gz: undeclared values: 20"):
        tune_postprocessing(other.files, SINGLE)


def test_workers_and_progress(tmp_path):
    maps = Maps(tmp_path, LABELS)
    for _ in range(3):
        maps.add(as_map("1100200", "0000002"), as_map("1100000", "0000002"))
    calls = []
    one = maps.tune(progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 11) for done in range(1, 12)]
    assert maps.tune(workers=3) == one


def counts_of(evaluation):
    return {
        (case.case, name): (one.true_positives, one.false_positives, one.false_negatives)
        for case in evaluation.cases
        for name, one in case.labels.items()
    }


@given(
    pairs=st.lists(
        st.tuples(*[arrays(np.int16, (2, 4, 6), elements=st.sampled_from([0, 0, 0, 1, 1, 2]))] * 2),
        min_size=1,
        max_size=3,
    ),
    encoding=st.sampled_from([LABELS, REGIONS]),
)
@settings(deadline=None, max_examples=15)
def test_the_recipe_gives_the_scores_that_it_promises_and_no_label_falls(pairs, encoding, tmp_path_factory):
    maps = Maps(tmp_path_factory.mktemp("maps"), encoding)
    for prediction, reference in pairs:
        maps.add(prediction, reference)
    tuned = maps.tune()
    names = list(tuned.evaluation.labels)
    labels = {head.name: head.indices for head in encoding.heads}
    after = summarize(
        [
            score_case(
                f"case{number}", apply_postprocessing(prediction, tuned.steps, encoding, SPACING), reference, labels
            )
            for number, (prediction, reference) in enumerate(pairs)
        ],
        names,
    )
    assert counts_of(after) == counts_of(tuned.evaluation)
    assert after.mean_foreground_dice == tuned.evaluation.mean_foreground_dice
    for name in names:
        before, now = tuned.before.labels[name].dice, after.labels[name].dice
        assert before is None or now is None or now >= before
    assert not tuned.steps or after.mean_foreground_dice is None or after != tuned.before


def test_the_first_steps_are_those_of_nnunet(tmp_path):
    maps = Maps(tmp_path, LABELS)
    true = as_map("1122000000", "1122000000")
    for _ in range(2):
        maps.add(as_map("1122000110", "1122000220"), true)
    tuned = maps.tune()
    assert tuned.steps == (KeepLargestComponent(labels=("one", "two")),)


def test_a_label_that_was_not_looked_for_decides_nothing(tmp_path):
    maps = Maps(tmp_path, LABELS)
    true = as_map("1110000000000", "1110000000000", "0000022222222", depth=2)
    spotted = as_map("1110010000000", "1110010000000", "0000022222222", depth=2)
    maps.add(spotted, true)
    plain = maps.tune()
    assert plain.evaluation.labels["one"].dice == 1.0
    assert any("one" in step.labels for step in plain.steps)
    # the same spot in a case in which nobody looked for it is no fault, and its absence elsewhere no success
    files = maps.files[0].files.model_copy(update={"annotated": ("two",)})
    maps.files = [replace(maps.files[0], files=files)]
    maps.add(true, true)
    tuned = maps.tune()
    assert tuned.steps == ()
    assert tuned.evaluation.labels["one"].num_cases == 1
    assert tuned.evaluation.labels["two"].num_cases == 2
    assert tuned.evaluation.cases[0].annotated == ("two",)
    assert tuned.before.counts["one"].false_alarm == 0
