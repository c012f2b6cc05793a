"""Measured instances against skimage's regionprops, and the cells of the table."""

import csv

import numpy as np
import pytest
from skimage.measure import label, regionprops

from autoseg.errors import UsageError
from autoseg.inference.files.tables import instance_rows, instance_table, written_at_the_end
from autoseg.inference.predictor.instances import measure_instances
from autoseg.records.case import Grid

SHAPE = (6, 11, 13)
AFFINE = ((0.0, 0.1, -0.8, 10.0), (0.0, -1.0, -0.1, 20.0), (2.5, 0.0, 0.0, -30.0), (0.0, 0.0, 0.0, 1.0))
GRID = Grid(shape=SHAPE, spacing=(2.5, 1.005, 0.806), affine=AFFINE)
NAMES = {3: "anterior", 300: "posterior"}


def some_instances():
    ids = label(np.random.default_rng(0).random(SHAPE) < 0.12).astype(np.uint16)
    return ids, [(3, 300)[number % 2] for number in range(ids.max())]


def test_as_regionprops_measures_it():
    ids, owners = some_instances()
    shares = np.random.default_rng(1).random(SHAPE).astype(np.float16)
    found = measure_instances(ids, owners, NAMES, GRID, shares, is_flat=False)
    expected = regionprops(ids, shares.astype(np.float64))
    assert len(found) == len(expected) > 20
    for one, region in zip(found, expected, strict=True):
        assert (one.id, one.voxels) == (region.label, region.area)
        assert (one.value, one.label) == (owners[one.id - 1], NAMES[owners[one.id - 1]])
        assert one.center == pytest.approx(region.centroid)
        assert (*one.start, *one.stop) == region.bbox
        assert one.mean_probability == pytest.approx(region.intensity_mean)
        assert one.volume_mm3 == pytest.approx(region.area * abs(np.linalg.det(np.array(AFFINE)[:3, :3])))
        coordinates = np.c_[region.coords, np.ones(len(region.coords))] @ np.array(AFFINE).T
        assert one.center_mm == pytest.approx(coordinates[:, :3].mean(axis=0))
        outermost = (region.coords == 0) | (region.coords == np.array(SHAPE) - 1)
        assert one.touches_border == outermost.any()
    assert {one.touches_border for one in found} == {True, False}


def test_voxels_that_no_network_decided_do_not_count():
    ids = np.array([[[1, 1, 1, 0, 2]]], dtype=np.uint8)
    shares = np.array([[[0.5, np.nan, 1, 0.1, np.nan]]], dtype=np.float16)
    grid = Grid(shape=(1, 1, 5), spacing=(1.0, 1.0, 1.0), affine=AFFINE)
    first, second = measure_instances(ids, [3, 3], NAMES, grid, shares, is_flat=False)
    assert first.mean_probability == 0.75
    assert second.mean_probability is None


def test_a_picture_has_neither_volume_nor_place_and_one_slice_is_no_border():
    ids = np.zeros((1, 5, 6), dtype=np.uint8)
    ids[0, 1:3, 2:4] = 1
    ids[0, 3, 5] = 2
    grid = Grid(shape=(1, 5, 6), spacing=(999.0, 1.0, 1.0), affine=AFFINE)
    inner, outer = measure_instances(ids, [3, 3], NAMES, grid, None, is_flat=True)
    assert (inner.volume_mm3, inner.center_mm, inner.mean_probability) == (None, None, None)
    assert (inner.touches_border, outer.touches_border) == (False, True)
    assert inner.center == (0.0, 1.5, 2.5)


def test_the_cells(tmp_path):
    ids = np.zeros(SHAPE, dtype=np.uint8)
    ids[1:3, 2, 4:7] = 1
    (one,) = measure_instances(ids, [300], NAMES, GRID, np.full(SHAPE, 0.25, dtype=np.float16), is_flat=False)
    path = tmp_path / "instances.csv"
    with written_at_the_end(instance_table(path)) as table:
        table.put("b", instance_rows("b", [one]))
        table.put("a", instance_rows("a", []))
    with path.open() as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "case": "b", "id": "1", "label": "posterior", "value": "300", "voxels": "6", "volume_mm3": "12.15",
        "mean_probability": "0.2500", "touches_border": "no", "center_z": "1.50", "center_y": "2.00",
        "center_x": "5.00", "center_x_mm": "6.200", "center_y_mm": "17.500", "center_z_mm": "-26.250",
        "start_z": "1", "start_y": "2", "start_x": "4", "stop_z": "3", "stop_y": "3", "stop_x": "7",
    }  # fmt: skip
    with written_at_the_end(instance_table(path)) as table:
        assert "b" in table
        table.put("b", instance_rows("b", []))  # predicted anew, and nothing was found
    assert path.read_text().count("\n") == 1


def test_names_are_no_formulas_and_are_found_again(tmp_path):
    path = tmp_path / "instances.csv"
    cases = ["=cmd", "@x", "'=cmd", "-5", "two\nlines", "car\rriage", "u\u2028v"]
    columns = len(next(csv.reader([_header(path)])))
    with written_at_the_end(instance_table(path)) as table:
        for case in cases:
            table.put(case, [(case, *["-1.5"] * (columns - 1), "")])
    with path.open(encoding="utf-8", newline="") as file:
        first = {row[0]: row[1:] for row in csv.reader(file)}
    assert {"'=cmd", "'@x", "''=cmd", "-5"} < first.keys()
    assert set(first["'=cmd"]) == {"-1.5"}
    before = path.read_bytes()
    with written_at_the_end(instance_table(path)) as table:
        assert all(case in table for case in cases)
    assert path.read_bytes() == before


@pytest.mark.parametrize("row", ["a", "a" + ",1" * 40])
def test_a_damaged_row_is_refused(tmp_path, row):
    path = tmp_path / "instances.csv"
    path.write_text(_header(path) + row + "\n")
    with pytest.raises(UsageError, match=r"instances.csv: row 1 has \d+ cells, expected \d+"):
        instance_table(path)


def _header(path):
    with written_at_the_end(instance_table(path)):
        pass
    header = path.read_text()
    path.unlink()
    return header
