"""Charts: scales against values worked out by hand, and marks where they belong."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.report.charts import svg
from autoseg.report.charts.charts import (
    MAX_DOTS,
    BoxRow,
    Estimate,
    ExpectedPoint,
    draw_boxes,
    draw_curves,
    draw_estimates,
    draw_expected,
    draw_histogram,
    draw_paths,
    draw_ranges,
    draw_reliability,
)
from autoseg.report.charts.svg import linear_scale, log_scale


def elements(figure, name, kind=""):
    """Elements of a drawing that have a class."""
    root = ElementTree.fromstring(str(figure.drawing))
    return [one for one in root.iter(name) if kind in one.get("class", "").split() or not kind]


def points(path):
    return [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", path.get("d", ""))]


def test_scales_have_round_ends_and_ticks():
    scale = linear_scale(0.13, 0.87, 0, 100, max_ticks=5)
    assert (scale.low, scale.high) == pytest.approx((0.0, 1.0))
    assert scale.ticks(5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert scale(0.25) == pytest.approx(25)


def test_logarithmic_scales_have_a_tick_per_decade():
    scale = log_scale(3, 2000, 0, 400)
    assert (scale.low, scale.high) == (1, 10_000)
    assert scale.ticks() == [1, 10, 100, 1000, 10_000]
    assert scale(100) == pytest.approx(200)
    assert scale(0) == 0


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_every_scale_holds_its_values(low, width):
    scale = linear_scale(low, low + width, 10, 90)
    invisible = 1e-6 * max(abs(low), width) + 1e-9
    assert scale.low <= low + invisible
    assert scale.high >= low + width - invisible
    assert 1 <= len(scale.ticks()) <= 15
    assert all(10 <= scale(tick) <= 90 for tick in scale.ticks())


def test_a_gap_interrupts_a_curve():
    figure = draw_curves("loss", {"fold 0": [1.0, None, 0.5, 0.25], "fold 1": [2.0]}, bounds=None)
    first, second = elements(figure, "path", "curve")
    assert first.get("d", "").count("M") == 2
    assert len(points(first)) == 3
    assert len(points(second)) == 1
    assert len(elements(figure, "circle", "dot")) == 1  # a single epoch is a dot, not an invisible line
    heights = [y for _, y in points(first)]
    assert heights == sorted(heights)  # smaller values are lower on the page


def test_long_curves_are_thinned_out_and_keep_their_ends():
    figure = draw_curves("loss", {"fold 0": [float(step) for step in range(5000)]}, bounds=None)
    drawn = points(elements(figure, "path", "curve")[0])
    assert len(drawn) <= 240
    assert (drawn[0][0], drawn[-1][0]) == (46.0, 348.0)


def test_boxes_lie_at_the_quartiles_and_far_values_beyond_the_whiskers():
    values = {f"case {number}": float(number) for number in range(9)} | {"far": 30.0}
    figure = draw_boxes("size", [BoxRow("liver", values, 0)], "volume (ml)")
    scale = linear_scale(0, 30, svg.name_margin(["liver"]), svg.WIDTH - 14, max_ticks=5)
    (box,) = elements(figure, "rect", "box")
    first, third = np.percentile(list(values.values()), (25, 75))
    assert float(box.get("x", 0)) == pytest.approx(scale(first), abs=0.06)
    assert float(box.get("width", 0)) == pytest.approx(scale(third) - scale(first), abs=0.06)
    (whisker,) = elements(figure, "path", "whisker")
    assert points(whisker)[1][0] == pytest.approx(scale(8), abs=0.06)
    assert {title.text for title in elements(figure, "title")} >= {"far: 30", "case 3: 3"}


def test_of_many_cases_only_the_far_ones_are_points():
    values = {str(number): 10 + number / 1000 for number in range(MAX_DOTS)} | {"far": 20.0}
    figure = draw_boxes("size", [BoxRow("liver", values, 0)], "volume (ml)")
    assert len(elements(figure, "circle", "point")) == 1


def test_bounded_axes_never_pass_their_bounds():
    figure = draw_boxes("Dice", [BoxRow("liver", {"a": 1.0, "b": 0.99}, 0)], "Dice", bounds=(0.0, 1.0))
    numbers = [float(one.text) for one in elements(figure, "text") if re.fullmatch(r"[\d.]+", one.text or "")]
    assert max(numbers) <= 1.0


def test_widely_spread_sizes_get_a_logarithmic_axis():
    figure = draw_boxes("size", [BoxRow("liver", {"a": 0.01, "b": 900.0}, 0)], "volume (ml)")
    assert "volume (ml), logarithmic" in [one.text for one in elements(figure, "text")]


def test_rows_without_values_stay_empty():
    assert elements(draw_boxes("size", [BoxRow("liver", {}, 0)], "ml"), "rect") == []


def test_estimates_show_mean_and_interval():
    estimates = [Estimate("selected", 0.9, (0.88, 0.92), 0), Estimate("2d", 0.85, None, 1)]
    figure = draw_estimates("Dice", estimates, "Dice")
    (interval,) = elements(figure, "path", "whisker")
    first, second = elements(figure, "circle", "dot")
    left, right = (x for x, _ in points(interval))
    assert left < float(first.get("cx", 0)) < right
    assert float(second.get("cx", 0)) < left
    assert "selected 0.900 (95 % interval 0.880 to 0.920)" in str(figure.drawing)


def test_ranges_are_ordered_and_unusual_ones_stand_out():
    ranges = {"a": (0.0, 5.0), "b": (0.0, 3.0), "c": (0.0, 9000.0)}
    bars = elements(draw_ranges("CT", ranges, ["c"], "intensity"), "rect", "range")
    assert [(bar.find("title").text or "").split(":")[0] for bar in bars] == ["b", "a", "c"]
    assert ["flagged" in bar.get("class", "") for bar in bars] == [False, False, True]


def test_histograms_and_reliability_are_drawn_to_scale():
    figure = draw_histogram("CT", np.linspace(0, 1, 4), {"inside": np.array([0, 4, 2])}, "intensity")
    (area,) = elements(figure, "path", "area")
    heights = [192 - y for _, y in points(area)]
    assert heights == pytest.approx([0, 0, 0, 178, 178, 89, 89, 0])
    assert figure.legend == ("inside",)
    figure = draw_reliability("a", [0.25, 0.75], [0.5, 0.75], [10, 40], "well")
    low, high = elements(figure, "circle", "dot")
    assert float(low.get("cy", 0)) == pytest.approx(10 + 0.5 * 182)
    assert float(high.get("cx", 0)) == pytest.approx(46 + 0.75 * 302, abs=0.06)


def test_names_are_escaped_and_cut_with_their_whole_text_kept():
    name = "<b>a very long name of a structure"
    figure = draw_boxes("size", [BoxRow(name, {"a&b": 1.0}, 0)], "ml")
    assert name in {title.text for title in elements(figure, "title")}
    assert "a&b: 1" in {title.text for title in elements(figure, "title")}
    assert "<b>" not in str(figure.drawing)


def test_paths_have_points_of_their_own():
    figure = draw_paths("Dice", {"a": [(10.0, 0.2), (30.0, 0.6)], "b": [(10.0, 0.4)], "c": []}, "seconds")
    assert figure.legend == ("a", "b", "c")
    first, second = elements(figure, "circle", "c0")
    assert float(first.get("cx")) < float(second.get("cx"))
    assert float(first.get("cy")) > float(second.get("cy"))
    (other,) = elements(figure, "circle", "c1")
    assert other.get("cx") == first.get("cx")
    assert "a ends at 0.6, b ends at 0.4" in str(figure.drawing)


def test_what_was_measured_lies_over_what_was_expected_with_its_interval():
    given = [ExpectedPoint("good", 0.9, 0.9, (0.8, 1.0)), ExpectedPoint("poor", 0.55, 0.7, (0.3, 0.75))]
    figure = draw_expected("liver", given, "Dice", "in words")
    good, poor = elements(figure, "circle", "dot")
    diagonal = elements(figure, "path", "diagonal") or elements(figure, "line", "diagonal")
    assert len(diagonal) == 1
    place = [(float(one.get("cx", "nan")), float(one.get("cy", "nan"))) for one in (good, poor)]
    assert place[0][0] > place[1][0]
    assert place[0][1] < place[1][1]
    # the axes begin at 0.5: equal fractions of both axes lie on the diagonal
    assert (place[0][0] - 46) / (348 - 46) == pytest.approx((192 - place[0][1]) / (192 - 10), abs=0.01)
    assert len(elements(figure, "line", "interval") or elements(figure, "path", "interval")) == 2
    assert "liver: in words" in figure.drawing


def test_perfect_cases_and_very_many_cases_can_be_drawn():
    perfect = [ExpectedPoint("a", 1.0, 1.0, (1.0, 1.0))]
    assert len(elements(draw_expected("liver", perfect, "Dice", ""), "circle", "dot")) == 1
    many = perfect * (MAX_DOTS + 1)
    assert len(elements(draw_expected("liver", many, "Dice", ""), "circle", "dot")) <= MAX_DOTS


def test_a_long_path_has_a_dot_at_its_end_only():
    figure = draw_paths("Dice", {"a": [(float(step), step / 30) for step in range(30)]}, "seconds")
    (end,) = elements(figure, "circle", "c0")
    assert "a: 0.967 at 29" in ElementTree.tostring(end, encoding="unicode")
