"""Memory of preprocessing, against products by hand."""

from autoseg.costs.preprocessing import preprocessing_memory_bytes
from tests.builders import make_case_fingerprint, make_fingerprint, make_plan


def test_memory_of_preprocessing_is_that_of_the_larger_grid_of_the_largest_case():
    plan = make_plan({"3d_fullres": (2.0, 1.0, 2.0)}, transpose=(1, 0, 2))
    small = make_case_fingerprint("a", (4, 6, 10), cropped_shape=(2, 5, 8), spacing=(2.0, 1.0, 2.0))
    fine = make_case_fingerprint("b", (4, 6, 10), cropped_shape=(2, 5, 8), spacing=(8.0, 4.0, 2.0))
    channels = len(plan.channel_names) + 1
    assert preprocessing_memory_bytes(plan, make_fingerprint([small], plan)) == 240 * channels * 14
    assert preprocessing_memory_bytes(plan, make_fingerprint([small, fine], plan)) == 80 * 16 * channels * 14
