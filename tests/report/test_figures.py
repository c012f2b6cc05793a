"""Pictures: what is drawn where, and that files are whole."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from autoseg.report.figures import draw_cases, draw_folds, encode_png, picture_case, plot_cases, plot_progress
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
    monkeypatch.setattr("autoseg.report.figures._write", lambda figure, _path: written.append(figure))
    epochs = [make_epoch(epoch, seconds=36.0, peak_memory_bytes=2_100_000_000) for epoch in range(5)]
    plot_progress(epochs, tmp_path / "progress.png", "fold 0")
    plot_progress(epochs[:1], tmp_path / "progress.png", "fold 0")
    plot_progress([make_epoch(0)], tmp_path / "progress.png", "fold 0")
    said = [figure.texts[-1].get_text() for figure in written]
    assert said[0] == "5 epochs, 50 steps, 3 min, peak memory 2.1 GB"
    assert said[2] == "1 epoch, 10 steps, 0.133 min"


def test_no_label_is_hidden_by_their_mean(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("autoseg.report.figures._write", lambda figure, _path: written.append(figure))
    plot_progress([make_epoch(0), make_epoch(1)], tmp_path / "progress.png", "fold 0")
    lines = {line.get_label(): line for line in written[0].axes[1].lines}
    assert lines.keys() == {"liver", "lesion", "mean"}
    assert lines["mean"].get_zorder() < min(lines["liver"].get_zorder(), lines["lesion"].get_zorder())
    np.testing.assert_allclose(np.asarray(lines["mean"].get_ydata(), dtype=np.float64), [0.5, 0.6])


def test_folds_are_lines_side_by_side():
    figure = draw_folds({"0": [make_epoch(0), make_epoch(1)], "1": [make_epoch(0)]})
    train, validation, dice = figure.axes
    assert dice.get_title() == "mean pseudo-Dice (random patches)"
    assert [line.get_label() for line in train.lines] == ["fold 0", "fold 1"]
    heights = [np.asarray(panel.lines[0].get_ydata(), dtype=np.float64) for panel in (train, validation, dice)]
    np.testing.assert_allclose(heights, [[1.0, 0.5], [np.nan, 0.6], [0.5, 0.6]])


def make_case(shape=(5, 11, 7), channels=1):
    image = np.zeros((channels, *shape), dtype=np.float32)
    image[:] = np.arange(shape[0], dtype=np.float32).reshape(-1, 1, 1)
    reference, prediction = np.zeros(shape, dtype=np.int16), np.zeros(shape, dtype=np.int16)
    reference[:, 4:7, 2:4] = 1
    reference[-1, 4, 2:4] = 2
    prediction[:, 4:7, 2:4] = 1
    return image, reference, prediction


def test_planes_lie_as_radiologists_expect():
    image, reference, prediction = make_case()
    axial, coronal, sagittal = picture_case("a", image, reference, prediction, (3.0, 0.9, 0.7)).planes

    assert [plane.name for plane in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]
    assert axial.pixel_aspect == pytest.approx(0.9 / 0.7)
    assert coronal.pixel_aspect == pytest.approx(3.0 / 0.7)
    assert sagittal.pixel_aspect == pytest.approx(3.0 / 0.9)
    # z is 0..4 upwards, so the brightest slice is the first row
    assert coronal.image[0, 0] == 1.0
    assert coronal.image[-1, 0] == 0.0
    # anterior (small y) stays the first column; the top slice holds label 2
    assert (sagittal.reference == 2).any() == (sagittal.reference[0] == 2).any()
    assert coronal.reference.shape[0] == sagittal.reference.shape[0] == 5


def test_slices_go_through_the_middle_of_the_foreground_and_are_cut_to_it():
    image = np.zeros((1, 9, 40, 50), dtype=np.float32)
    reference = np.zeros((9, 40, 50), dtype=np.int16)
    reference[2:5, 10:20, 30:38] = 1
    image[0, 3] = 5.0
    axial, coronal, _ = picture_case("a", image, reference, np.zeros_like(reference), (3.0, 1.0, 1.0)).planes
    assert axial.reference.shape == (10 + 2 * 5, 8 + 2 * 5)
    assert axial.reference.sum() == 80
    assert coronal.reference.shape == (5, 18)
    assert coronal.reference.sum() == 24


def test_a_single_slice_gives_one_plane_and_colour_when_it_has_three_channels():
    image, reference, prediction = make_case((1, 11, 7), channels=3)
    (plane,) = picture_case("a", image, reference, prediction, (999.0, 1.0, 1.0)).planes
    assert plane.image.ndim == 3
    assert plane.image.shape[2] == 3
    assert plane.pixel_aspect == 1.0


def test_without_any_foreground_the_whole_image_is_shown():
    image, reference, _ = make_case()
    empty = np.zeros_like(reference)
    axial, *_ = picture_case("a", image, empty, empty, (3.0, 0.9, 0.7)).planes
    assert axial.image.shape == (11, 7)


def test_contours_are_solid_for_the_reference_and_dashed_for_the_prediction():
    image, reference, prediction = make_case()
    figure = draw_cases([picture_case("case a", image, reference, prediction, (3.0, 0.9, 0.7))])
    assert figure.texts[0].get_text() == "case a"
    coronal = figure.axes[1]
    dashes = [contour.get_linestyle()[0][1] for contour in coronal.collections]  # type: ignore[index]
    assert len(dashes) >= 2
    assert dashes[0] is None
    assert dashes[1] is not None


def test_a_mosaic_is_written_whole(tmp_path):
    image, reference, prediction = make_case()
    rows = [picture_case(name, image, reference, prediction, (3.0, 0.9, 0.7)) for name in ("a", "b")]
    plot_cases(rows, tmp_path / "cases.png")
    assert (tmp_path / "cases.png").read_bytes() == encode_png(draw_cases(rows))


def test_single_slices_are_laid_side_by_side_without_overlap():
    image, reference, prediction = make_case((1, 11, 7))
    cases = [picture_case(name, image, reference, prediction, (999.0, 1.0, 1.0)) for name in "abcde"]
    figure = draw_cases(cases)
    boxes = [panel.get_position(original=True) for panel in figure.axes]
    assert len({round(box.x0, 3) for box in boxes}) == 3
    assert len({round(box.y0, 3) for box in boxes}) == 2
    assert not any(one.overlaps(other) for one in boxes for other in boxes if one is not other)
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)


def test_an_empty_mosaic_is_refused():
    with pytest.raises(ValueError, match="at least one case"):
        draw_cases([])


def test_nothing_touches_the_global_state_of_pyplot():
    code = "import sys, autoseg.report.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
