"""Label statistics against sums by numpy's masks and SimpleITK, and the table across runs."""

import csv

import numpy as np
import pytest
import SimpleITK

from autoseg.errors import UsageError
from autoseg.imaging.formats.reading import read_image, volume_from_array
from autoseg.inference.files.tables import measure_labels, statistics_rows, statistics_table, written_at_the_end
from autoseg.records.dataset import LabelValues
from autoseg.text import distinct_names

SPACING = (2.5, 1.0, 0.8)
LABELS: dict[str, LabelValues] = {"background": 0, "liver": 2, "lesion": 300, "absent": 7}
REGIONS: dict[str, LabelValues] = {"background": 0, "whole": (1, 2, 3), "core": (3, 2), "ignore": 4}


def volume(channels=1, shape=(4, 5, 7)):
    array = np.random.default_rng(0).normal(100, 20, size=(channels, *shape)).astype(np.float32)
    return volume_from_array(array, SPACING, ending=".nii.gz")


def label_map(values, shape=(4, 5, 7)):
    return np.random.default_rng(1).choice(values, size=shape).astype(np.uint16)


def rows_of(path):
    with path.open() as file:
        return [*csv.DictReader(file)]


def test_labels_of_two_channels():
    image, labels = volume(channels=2), label_map([0, 2, 300])
    rows = measure_labels("a", labels, image, LABELS)
    assert [(row.case, row.label, row.values) for row in rows] == [
        ("a", "liver", (2,)), ("a", "lesion", (300,)), ("a", "absent", (7,)),
    ]  # fmt: skip
    for row, value in zip(rows[:2], (2, 300), strict=True):
        mask = labels == value
        assert row.voxels == mask.sum()
        assert row.volume_ml == pytest.approx(mask.sum() * 2.5 * 1.0 * 0.8 / 1000)
        means = [channel[mask].mean(dtype=np.float64) for channel in image.array]
        assert row.mean_intensities == pytest.approx(means)
    assert (rows[2].voxels, rows[2].volume_ml, rows[2].mean_intensities) == (0, 0.0, (None, None))


def test_as_simpleitk_measures_it(tmp_path):
    image, labels = volume(), label_map([0, 2, 300])
    itk_image, itk_labels = SimpleITK.GetImageFromArray(image.array[0]), SimpleITK.GetImageFromArray(labels)
    for one in (itk_image, itk_labels):
        one.SetSpacing(SPACING[::-1])
    statistics, shapes = SimpleITK.LabelStatisticsImageFilter(), SimpleITK.LabelShapeStatisticsImageFilter()
    statistics.Execute(itk_image, itk_labels)
    shapes.Execute(itk_labels)
    SimpleITK.WriteImage(itk_image, tmp_path / "a.nrrd")
    for row in measure_labels("a", labels, read_image([tmp_path / "a.nrrd"]), LABELS)[:2]:
        assert row.mean_intensities[0] == pytest.approx(statistics.GetMean(row.values[0]))
        assert row.volume_ml == pytest.approx(shapes.GetPhysicalSize(row.values[0]) / 1000)


def test_regions_overlap_and_ignore_is_left_out():
    labels = label_map([0, 1, 2, 3])
    whole, core = measure_labels("a", labels, volume(), REGIONS)
    assert (whole.label, whole.values, whole.voxels) == ("whole", (1, 2, 3), np.isin(labels, (1, 2, 3)).sum())
    assert (core.label, core.values, core.voxels) == ("core", (2, 3), np.isin(labels, (2, 3)).sum())


def test_an_oblique_affine_gives_the_same_volume():
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * SPACING
    turned = volume_from_array(volume().array, SPACING, affine)
    labels = label_map([0, 2])
    straight = measure_labels("a", labels, volume(), LABELS)[0].volume_ml
    assert measure_labels("a", labels, turned, LABELS)[0].volume_ml == pytest.approx(straight)


def test_a_picture_has_no_volume(tmp_path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(3, 4)), tmp_path / "a.png")
    (row, *_) = measure_labels("a", np.full((1, 3, 4), 2), read_image([tmp_path / "a.png"]), LABELS)
    assert (row.voxels, row.volume_ml, row.mean_intensities) == (12, None, (5.5,))


def opened(path, channel_names):
    return written_at_the_end(statistics_table(path, channel_names))


def add(table, rows):
    table.put(rows[0].case, statistics_rows(rows))


def measured(case, seed=0):
    labels = np.random.default_rng(seed).choice([0, 2, 300], size=(4, 5, 7))
    return measure_labels(case, labels, volume(), LABELS)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["CT", "PET"], ("CT", "PET")),
        (["CT", "CT"], ("CT_0", "CT_1")),
        (["CT", "PET", "CT"], ("CT_0", "PET", "CT_2")),
        (["CT_1", "CT", "CT"], ("CT_1_0", "CT_1", "CT_2")),
        (["CT", "CT_0", "CT"], ("CT_0", "CT_0_1", "CT_2")),
    ],
)
def test_equal_names_are_told_apart_by_their_number(names, expected):
    assert distinct_names(names) == expected


def test_channels_of_one_name_have_columns_of_their_own(tmp_path):
    labels = np.random.default_rng(0).choice([0, 2, 300], size=(4, 5, 7))
    first = np.random.default_rng(1).uniform(0, 9, labels.shape)
    images = volume_from_array(np.stack([first, 100 - first, 3 * first]), (3.0, 0.7, 0.9))
    with opened(tmp_path / "statistics.csv", ("CT", "CT", "PET")) as table:
        add(table, measure_labels("a", labels, images, LABELS))
    row = rows_of(tmp_path / "statistics.csv")[0]
    assert list(row)[5:] == ["mean_CT_0", "mean_CT_1", "mean_PET"]
    mean = first[labels == int(row["values"].split()[0])].mean()
    means = [float(row[name]) for name in ("mean_CT_0", "mean_CT_1", "mean_PET")]
    assert means == pytest.approx([mean, 100 - mean, 3 * mean], rel=1e-5)


def test_the_table_is_in_case_order_and_keeps_other_cases(tmp_path):
    path = tmp_path / "statistics.csv"
    with opened(path, ("CT",)) as table:
        for case in ("b", "a"):
            add(table, measured(case))
    rows = rows_of(path)
    assert [row["case"] for row in rows] == ["a"] * 3 + ["b"] * 3
    assert list(rows[0]) == ["case", "label", "values", "voxels", "volume_ml", "mean_CT"]
    liver = measured("a")[0]
    assert rows[0]["label"] == "liver"
    assert int(rows[0]["voxels"]) == liver.voxels
    assert float(rows[0]["volume_ml"]) == pytest.approx(liver.volume_ml, abs=1e-6)
    assert float(rows[0]["mean_CT"]) == pytest.approx(liver.mean_intensities[0], rel=1e-6)
    assert rows[2]["mean_CT"] == ""
    with opened(path, ("CT",)) as table:
        assert "a" in table
        assert "c" not in table
        add(table, measured("aa"))
        add(table, measured("b", seed=5))
    again = rows_of(path)
    assert [row["case"] for row in again] == ["a"] * 3 + ["aa"] * 3 + ["b"] * 3
    assert again[:3] == rows[:3]
    assert again[6:] != rows[3:]


def test_an_interrupted_run_keeps_what_it_measured(tmp_path):
    def run_until_stopped():
        with opened(tmp_path / "statistics.csv", ("CT",)) as table:
            add(table, measured("a"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_until_stopped()
    assert len(rows_of(tmp_path / "statistics.csv")) == 3


def test_the_file_follows_during_a_long_run(tmp_path):
    now = 0.0
    path = tmp_path / "statistics.csv"
    table = statistics_table(path, ("CT",), clock=lambda: now)
    add(table, measured("a"))
    assert not path.exists()
    now = 60.0
    add(table, measured("b"))
    assert len(rows_of(path)) == 6


def test_rows_of_parts_are_taken_over(tmp_path):
    for number, cases in ((1, "ac"), (2, "bd")):
        with opened(tmp_path / f"part_{number}.csv", ("CT",)) as table:
            for case in cases:
                add(table, measured(case, seed=number))
    with opened(tmp_path / "statistics.csv", ("CT",)) as table:
        add(table, measured("a", seed=9))
        table.take_over("abc", sorted(tmp_path.glob("part_*.csv")))
    rows = rows_of(tmp_path / "statistics.csv")
    assert [row["case"] for row in rows[::3]] == ["a", "b", "c"]
    assert int(rows[0]["voxels"]) == measured("a", seed=9)[0].voxels != measured("a", seed=1)[0].voxels
    assert int(rows[3]["voxels"]) == measured("b", seed=2)[0].voxels


@pytest.mark.parametrize("content", ["patient,age\nx,3\n", "case,label,values,voxels,volume_ml,mean_MR\n", ""])
def test_a_table_of_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "statistics.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"statistics\.csv: has the columns .*expected case, label, .*mean_CT"):
        statistics_table(path, ("CT",))
    assert path.read_text() == content


def test_names_with_commas_and_umlauts(tmp_path):
    for _ in range(2):
        with opened(tmp_path / "statistics.csv", ("T1, früh",)) as table:
            add(table, measured('fall "1", Größe'))
    assert rows_of(tmp_path / "statistics.csv")[0]["case"] == 'fall "1", Größe'
    assert len(rows_of(tmp_path / "statistics.csv")) == 3
