"""The picture of augmented patches: which planes are shown, how, and that the file is whole."""

import dataclasses

import numpy as np
from PIL import Image

from autoseg.report.charts import mosaic
from autoseg.report.charts.figures import draw_cases
from autoseg.report.charts.mosaic import PatchVersions, plot_versions


def make_row(shape=(5, 12, 9), versions=3, **changes):
    images = np.random.default_rng(0).standard_normal((versions, *shape)).astype(np.float32)
    labels = np.zeros((versions, *shape), dtype=np.int16)
    labels[0, ..., 2:5, 3:6] = 1
    row = PatchVersions(title="case", images=images, labels=labels, previous=None, pixel_aspect=1.5)
    return dataclasses.replace(row, **changes)


def drawn_rows(rows, tmp_path, monkeypatch):
    seen = []

    def draw(pictures):
        seen.extend(pictures)
        return draw_cases(pictures)

    monkeypatch.setattr(mosaic, "draw_cases", draw)
    plot_versions(rows, {1: "liver"}, tmp_path / "preview.png")
    return seen


def test_one_whole_picture_with_a_row_per_patch(tmp_path):
    plot_versions([make_row(), make_row(shape=(12, 9))], {1: "liver", 2: "lesion"}, tmp_path / "preview.png")

    with Image.open(tmp_path / "preview.png") as picture:
        picture.load()
        assert picture.width > 900
        assert picture.height > 600
    assert [path.name for path in tmp_path.iterdir()] == ["preview.png"]


def test_plane_with_most_foreground_of_each_version_and_the_middle_without_any(tmp_path, monkeypatch):
    row = make_row()
    row.labels[0, 1:4] = 0
    row.labels[0, 3, 4:8, 2:9] = 2
    row.labels[1, 4, 0, 0] = 1

    (picture,) = drawn_rows([row], tmp_path, monkeypatch)

    assert picture.title == "case"
    for plane, version, shown in zip(picture.planes, range(3), (3, 4, 2), strict=True):
        np.testing.assert_array_equal(plane.reference, row.labels[version, shown])
        inside = (plane.image > 0) & (plane.image < 1)
        grey, original = plane.image[inside], row.images[version, shown][inside]
        assert np.corrcoef(grey, original)[0, 1] > 0.9999
        assert plane.pixel_aspect == 1.5
        assert not plane.prediction.any()


def test_versions_share_the_grey_range_of_the_patch_as_it_lies(tmp_path, monkeypatch):
    row = make_row(shape=(12, 9), versions=2)
    row.images[1] = row.images[0] * 0.5

    (picture,) = drawn_rows([row], tmp_path, monkeypatch)

    first, second = picture.planes
    assert first.image.min() == 0
    assert first.image.max() == 1
    assert second.image.max() < 0.9
    assert second.image.min() > 0.1


def test_previous_labels_are_the_dashed_contours(tmp_path, monkeypatch):
    row = make_row(shape=(12, 9))
    previous = np.roll(row.labels, 2, axis=-1)

    (picture,) = drawn_rows([dataclasses.replace(row, previous=previous)], tmp_path, monkeypatch)

    for plane, expected in zip(picture.planes, previous, strict=True):
        np.testing.assert_array_equal(plane.prediction, expected)
