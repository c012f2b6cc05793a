"""Figures of training, of cases and of augmented patches: what is drawn where, and that files are whole."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from autoseg.report.charts.figures import PatchVersions, draw_versions, plot_progress, plot_versions
from tests.report.conftest import make_epoch


@pytest.mark.parametrize("num_epochs", [0, 1, 30])
def test_progress_is_one_whole_picture(tmp_path, num_epochs):
    path = tmp_path / "fold_0" / "progress.png"
    plot_progress([make_epoch(epoch) for epoch in range(num_epochs)], path, "3d_fullres, fold 0")
    with Image.open(path) as picture:
        picture.load()
        assert picture.width > 800
    assert [found.name for found in path.parent.iterdir()] == ["progress.png"]


def test_progress_draws_again_over_the_old_picture(tmp_path):
    path = tmp_path / "progress.png"
    plot_progress([make_epoch(0)], path, "first")
    before = path.read_bytes()
    plot_progress([make_epoch(0), make_epoch(1)], path, "second")
    assert path.read_bytes() != before


def test_many_labels_are_drawn_without_a_legend_of_each(tmp_path):
    epochs = [make_epoch(epoch, pseudo_dice={f"label {n}": 0.5 for n in range(30)}) for epoch in range(3)]
    plot_progress(epochs, tmp_path / "progress.png", "many")
    assert (tmp_path / "progress.png").exists()


def test_progress_says_how_far_it_is(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("autoseg.report.charts.figures._write", lambda figure, _path: written.append(figure))
    epochs = [make_epoch(epoch, seconds=36.0, peak_memory_bytes=2_100_000_000) for epoch in range(5)]
    plot_progress(epochs, tmp_path / "progress.png", "fold 0")
    plot_progress(epochs[:1], tmp_path / "progress.png", "fold 0")
    plot_progress([make_epoch(0)], tmp_path / "progress.png", "fold 0")
    said = [figure.texts[-1].get_text() for figure in written]
    assert said[0] == "5 epochs, 50 steps, 3 min, peak memory 2.1 GB"
    assert said[2] == "1 epoch, 10 steps, 0.133 min"


def test_no_label_is_hidden_by_their_mean(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("autoseg.report.charts.figures._write", lambda figure, _path: written.append(figure))
    plot_progress([make_epoch(0), make_epoch(1)], tmp_path / "progress.png", "fold 0")
    lines = {line.get_label(): line for line in written[0].axes[1].lines}
    assert lines.keys() == {"liver", "lesion", "mean"}
    assert lines["mean"].get_zorder() < min(lines["liver"].get_zorder(), lines["lesion"].get_zorder())
    np.testing.assert_allclose(np.asarray(lines["mean"].get_ydata(), dtype=np.float64), [0.5, 0.6])


def make_patch():
    """One version whose previous labels lack the second label."""
    labels = np.zeros((1, 11, 7), dtype=np.int16)
    labels[0, 4:7, 2:4] = 1
    previous = labels.copy()
    labels[0, 4, 2:4] = 2
    return PatchVersions("case a", np.zeros((1, 11, 7), dtype=np.float32), labels, previous, 1.3)


def test_contours_are_solid_for_labels_and_dashed_for_those_of_the_previous_step():
    figure = draw_versions([make_patch()])
    assert figure.texts[0].get_text() == "case a"
    (panel,) = figure.axes
    dashes = [contour.get_linestyle()[0][1] for contour in panel.collections]  # type: ignore[index]
    assert [dash is None for dash in dashes] == [True, False, True]  # label 1, then label 2 only now
    assert panel.get_aspect() == 1.3


def test_single_versions_are_laid_side_by_side_without_overlap():
    figure = draw_versions([make_patch()] * 5)
    boxes = [panel.get_position(original=True) for panel in figure.axes]
    assert len({round(box.x0, 3) for box in boxes}) == 3
    assert len({round(box.y0, 3) for box in boxes}) == 2
    assert not any(first.overlaps(second) for first in boxes for second in boxes if first is not second)
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)


def test_an_empty_mosaic_is_refused():
    with pytest.raises(ValueError, match="at least one patch"):
        draw_versions([])


def test_nothing_touches_the_global_state_of_pyplot():
    code = "import sys, autoseg.report.charts.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def make_row(shape=(5, 12, 9), versions=3, **changes):
    images = np.random.default_rng(0).standard_normal((versions, *shape)).astype(np.float32)
    labels = np.zeros((versions, *shape), dtype=np.int16)
    labels[0, ..., 2:5, 3:6] = 1
    row = PatchVersions(title="case", images=images, labels=labels, previous=None, pixel_aspect=1.5)
    return dataclasses.replace(row, **changes)


def test_one_whole_picture_with_a_row_per_patch(tmp_path):
    plot_versions([make_row(), make_row(shape=(12, 9))], {1: "liver", 2: "lesion"}, tmp_path / "preview.png")

    with Image.open(tmp_path / "preview.png") as picture:
        picture.load()
        assert picture.width > 900
        assert picture.height > 600
    assert [path.name for path in tmp_path.iterdir()] == ["preview.png"]


def test_plane_with_most_foreground_of_each_version_and_the_middle_without_any():
    row = make_row()
    row.labels[0, 1:4] = 0
    row.labels[0, 3, 4:8, 2:9] = 2
    row.labels[1, 4, 0, 0] = 1

    for (image, labels, previous), version, shown in zip(row.shown_planes(), range(3), (3, 4, 2), strict=True):
        np.testing.assert_array_equal(labels, row.labels[version, shown])
        inside = (image > 0) & (image < 1)
        assert np.corrcoef(image[inside], row.images[version, shown][inside])[0, 1] > 0.9999
        assert previous is None


def test_versions_share_the_grey_range_of_the_patch_as_it_lies():
    row = make_row(shape=(12, 9), versions=2)
    row.images[1] = row.images[0] * 0.5

    (first, _, _), (second, _, _) = row.shown_planes()
    assert first.min() == 0
    assert first.max() == 1
    assert second.max() < 0.9
    assert second.min() > 0.1


def test_previous_labels_are_those_of_the_same_plane():
    row = make_row(shape=(12, 9))
    previous = np.roll(row.labels, 2, axis=-1)
    shown = dataclasses.replace(row, previous=previous).shown_planes()
    for (_, _, found), expected in zip(shown, previous, strict=True):
        np.testing.assert_array_equal(found, expected)
