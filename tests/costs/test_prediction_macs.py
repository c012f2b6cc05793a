"""Cost of predicting a typical case, worked out by hand."""

from autoseg.costs.windows import prediction_macs
from tests.builders import CASCADE, make_cascade_plan, make_case_fingerprint, make_configuration, make_fingerprint


def fingerprint_of(plan):
    """The median case has 30 x 32 x 60 voxels of 2 x 1.5 x 1 mm; the others are far larger or smaller."""
    cases = [
        make_case_fingerprint(shape=(500, 500, 500), cropped_shape=shape, spacing=(2.0, 1.5, 1.0))
        for shape in ((500, 500, 500), (30, 32, 60), (1, 2, 3))
    ]
    return make_fingerprint(cases, plan)


def with_macs(configuration, macs):
    return configuration.model_copy(update={"estimates": configuration.estimates.model_copy(update={"macs": macs})})


def test_windows_times_mirrored_variants_and_the_stages_before():
    plan = make_cascade_plan((4.0, 2.0, 2.0), (2.0, 1.0, 1.0), transpose=(1, 0, 2))
    flat = make_configuration((2.0, 1.0), preprocessed_as="2d")
    costs = {"3d_lowres": 7, "3d_fullres": 10, CASCADE: 100, "2d": 1000}
    configurations = {name: with_macs(one, costs[name]) for name, one in {**plan.configurations, "2d": flat}.items()}
    plan = plan.model_copy(update={"configurations": configurations})
    fingerprint = fingerprint_of(plan)

    # Transposed 32 x 30 x 60 voxels of 1.5 x 2 x 1 mm; patch 12 x 16 x 20, half overlap, 8 mirrored variants.
    # 2 x 1 x 1 mm: 24 x 60 x 60 voxels, 3 * 7 * 5 windows. 4 x 2 x 2 mm: 12 x 30 x 30, 1 * 3 * 2 windows.
    assert prediction_macs(plan, fingerprint, "3d_fullres") == 3 * 7 * 5 * 8 * 10
    assert prediction_macs(plan, fingerprint, "3d_lowres") == 1 * 3 * 2 * 8 * 7
    assert prediction_macs(plan, fingerprint, CASCADE) == 3 * 7 * 5 * 8 * 100 + 1 * 3 * 2 * 8 * 7
    # 2D: 32 slices of 30 x 60 voxels, patch 16 x 20, 4 variants
    assert prediction_macs(plan, fingerprint, "2d") == 32 * 3 * 5 * 4 * 1000
