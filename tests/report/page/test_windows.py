"""The sentence about the range of intensities."""

from autoseg.report.page.windows import describe_window


def test_the_range_is_said():
    assert "percentile" in describe_window(None)
    assert "from -100 to 300 HU" in describe_window((-100.0, 300.0))
