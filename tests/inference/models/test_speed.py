"""Every step from best to fast leaves something out, and adds nothing."""

from autoseg.inference.models.speed import speed_settings


def test_each_speed_averages_over_less():
    best, balanced, fast = (speed_settings(name) for name in ("best", "balanced", "fast"))
    assert (best.mirroring, balanced.mirroring, fast.mirroring) == (True, False, False)
    assert (best.max_folds, balanced.max_folds, fast.max_folds) == (None, None, 1)
    assert best.overlap == balanced.overlap == 0.5 > fast.overlap
