"""The whole planner: nnU-Net's published and recomputed values, and data that rules must survive."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Configuration, Plan
from autoseg.testing import synthetic_fingerprint
from planners.unet import plan


def alike(spacing, shape, count, num_labels=2, **more) -> Fingerprint:
    return synthetic_fingerprint([spacing] * count, [shape] * count, label_values=range(num_labels), **more)


@dataclass(frozen=True)
class Golden:
    """nnU-Net's default planner on one dataset, recomputed independently."""

    fingerprint: Fingerprint
    patch: tuple[int, ...]
    batch: int
    pools: tuple[int, ...]
    elements: int
    flat_patch: tuple[int, int]
    flat_batch: int
    low: tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...], int] | None = None


def four_channels() -> tuple[str, ...]:
    return ("T1", "T2", "FLAIR", "T1ce")


GOLDEN = {
    "hippocampus": Golden(
        alike((1.0, 1.0, 1.0), (36, 50, 35), 260, 3), (40, 56, 40), 9, (3, 3, 3), 19_174_400, (56, 40), 366
    ),
    "brats": Golden(
        alike((1.0, 1.0, 1.0), (138, 169, 138), 484, 4, channel_names=four_channels()),
        (128, 128, 128), 2, (5, 5, 5), 454_893_568, (192, 160), 105,
    ),
    "amos": Golden(
        alike((2.0, 0.78, 0.78), (228, 513, 513), 240, 16), (64, 160, 160), 2, (4, 5, 5), 461_734_400, (640, 640), 8,
        ((3.306, 1.682, 1.682), (138, 238, 238), (80, 160, 160), 2),
    ),
    "acdc": Golden(
        alike((5.0, 1.5625, 1.5625), (17, 237, 208), 200, 4), (20, 256, 224), 4, (2, 5, 5), 310_481_920, (256, 224), 56
    ),
    "prostate": Golden(
        alike((3.6, 0.62, 0.62), (20, 320, 319), 32, 3), (20, 320, 256), 2, (2, 6, 6), 483_315_200, (320, 320), 32
    ),
    "heart": Golden(
        alike((1.37, 1.25, 1.25), (115, 320, 232), 20, 2), (80, 192, 160), 2, (4, 5, 5), 528_211_200, (320, 256), 40
    ),
    "liver": Golden(
        alike((1.0, 0.7676, 0.7676), (482, 512, 512), 131, 3), (128, 128, 128), 2, (5, 5, 5), 452_796_416,
        (512, 512), 12, ((2.5, 1.919, 1.919), (193, 205, 205), (128, 128, 128), 2),
    ),
    "lung": Golden(
        alike((1.24, 0.785, 0.785), (252, 512, 512), 63, 2), (80, 192, 160), 2, (4, 5, 5), 528_211_200,
        (512, 512), 12, ((2.376, 1.504, 1.504), (132, 267, 267), (80, 192, 160), 2),
    ),
}  # fmt: skip


def pools(configuration: Configuration) -> tuple[int, ...]:
    axes = zip(*configuration.network.strides, strict=True)
    return tuple(sum(stride == 2 for stride in axis) for axis in axes)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values_of_nnunet(name):
    golden = GOLDEN[name]
    made = plan(golden.fingerprint, Budget())
    full, flat = made.configurations["3d_fullres"], made.configurations["2d"]
    assert (full.patch_size, full.batch_size, pools(full)) == (golden.patch, golden.batch, golden.pools)
    assert full.estimates.feature_map_elements == golden.elements
    assert (flat.patch_size, flat.batch_size) == (golden.flat_patch, golden.flat_batch)
    if golden.low is None:
        assert set(made.configurations) == {"2d", "3d_fullres"}
        assert full.training.batch_dice is False
        return
    low = made.configurations["3d_lowres"]
    assert tuple(round(value, 3) for value in low.spacing) == pytest.approx(golden.low[0], abs=6e-4)
    assert (low.median_shape, low.patch_size, low.batch_size) == golden.low[1:]
    assert full.training.batch_dice is True
    assert low.training.batch_dice is False


def test_prostate_has_seven_levels_and_flat_kernels_first():
    network = plan(GOLDEN["prostate"].fingerprint, Budget()).configurations["3d_fullres"].network
    assert network.strides == (
        (1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)
    )  # fmt: skip
    assert network.kernel_sizes == ((1, 3, 3), (1, 3, 3), *((3, 3, 3),) * 5)
    assert network.features == (32, 64, 128, 256, 320, 320, 320)
    assert network.encoder_blocks == (2,) * 7
    assert network.decoder_blocks == (2,) * 6


def test_features_of_a_2d_network_go_up_to_512():
    network = plan(GOLDEN["liver"].fingerprint, Budget(configurations=("2d",))).configurations["2d"].network
    assert network.features == (32, 64, 128, 256, 512, 512, 512, 512)
    assert network.dimensions == 2


def test_schedule_on_a_gpu_is_nnunets():
    training = plan(GOLDEN["acdc"].fingerprint, Budget()).configurations["3d_fullres"].training
    assert (training.optimizer, training.schedule, training.learning_rate) == ("sgd", "poly", 0.01)
    assert (training.epochs, training.steps_per_epoch, training.validation_steps) == (1000, 250, 50)
    assert training.mirror_axes == (0, 1, 2)
    assert training.time_per_fold_seconds is None


def test_mirroring_of_2d_is_in_plane():
    assert plan(GOLDEN["acdc"].fingerprint, Budget()).configurations["2d"].training.mirror_axes == (0, 1)


def test_cascade_is_the_full_resolution_with_label_channels():
    made = plan(GOLDEN["amos"].fingerprint, Budget())
    full, cascade = made.configurations["3d_fullres"], made.configurations["3d_cascade_fullres"]
    assert cascade.previous_configuration == "3d_lowres"
    assert cascade.preprocessed_as == "3d_fullres"
    assert cascade.network.input_channels == 1 + 15
    assert (cascade.patch_size, cascade.batch_size, cascade.spacing) == (
        full.patch_size, full.batch_size, full.spacing
    )  # fmt: skip
    assert cascade.training == full.training
    # The first convolution (1 x 3 x 3, 32 maps) sees 15 more channels in every voxel of the patch.
    assert cascade.estimates.parameters - full.estimates.parameters == 9 * 15 * 32
    assert cascade.estimates.macs - full.estimates.macs == 9 * 15 * 32 * 64 * 160 * 160


def test_regions_change_heads_but_not_the_memory_proxy():
    labels = plan(alike((1.0, 1.0, 1.0), (138, 169, 138), 9, 4, ignore=True), Budget()).configurations["3d_fullres"]
    made = plan(alike((1.0, 1.0, 1.0), (138, 169, 138), 9, 4, ignore=True, regions=True), Budget())
    regions = made.configurations["3d_fullres"]
    assert (labels.network.output_channels, regions.network.output_channels) == (4, 3)
    # nnU-Net counts entries of `labels`: background, three labels, ignore.
    assert regions.estimates.feature_map_elements == labels.estimates.feature_map_elements
    assert regions.estimates.feature_map_elements == 454_893_568 + 128**3


def test_transpose_puts_the_coarsest_axis_first():
    made = plan(alike((0.9, 0.9, 4.4), (220, 230, 24), 40), Budget())
    assert made.transpose == (2, 0, 1)
    full = made.configurations["3d_fullres"]
    assert full.spacing == (4.4, 0.9, 0.9)
    assert full.median_shape == (24.0, 220.0, 230.0)
    assert made.configurations["2d"].median_shape == (220.0, 230.0)


def test_only_what_was_asked_for():
    made = plan(GOLDEN["amos"].fingerprint, Budget(configurations=("3d_lowres",)))
    assert tuple(made.configurations) == ("3d_lowres",)


def test_full_resolution_alone_still_knows_that_a_low_resolution_exists():
    made = plan(GOLDEN["amos"].fingerprint, Budget(configurations=("3d_fullres",)))
    assert made.configurations["3d_fullres"].training.batch_dice is True


def test_cascade_brings_what_it_needs():
    made = plan(GOLDEN["amos"].fingerprint, Budget(configurations=("3d_cascade_fullres",)))
    assert tuple(made.configurations) == ("3d_fullres", "3d_lowres", "3d_cascade_fullres")


@pytest.mark.parametrize("asked", [("4d",), ("2d", "3d_lowres")])
def test_unavailable_configuration_lists_what_is_available(asked):
    with pytest.raises(PlanningError, match=f"{asked[-1]} is not available.*available: 2d, 3d_fullres"):
        plan(GOLDEN["hippocampus"].fingerprint, Budget(configurations=asked))


def test_no_cases():
    with pytest.raises(PlanningError, match="no training cases"):
        plan(alike((1.0, 1.0, 1.0), (36, 50, 35), 0), Budget())


@pytest.mark.parametrize("spacing", [(999.0, 1.0, 1.0), (0.5, 1.0, 1.0), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_is_planned_in_2d_across_it(spacing, axis):
    shape = [160, 200, 230]
    shape[axis] = 1
    made = plan(alike(spacing, tuple(shape), 4), Budget())
    assert tuple(made.configurations) == ("2d",)
    assert made.transpose[0] == axis
    assert made.configurations["2d"].median_shape == tuple(float(size) for size in shape if size > 1)
    assert any("single slice" in decision.reason for decision in made.decisions)


def test_silly_batch_is_kept_and_called_so():
    made = plan(GOLDEN["hippocampus"].fingerprint, Budget())
    [decision] = [decision for decision in made.decisions if decision.what == "2d.batch_size"]
    assert decision.value == 366
    assert "far more than useful" in decision.reason


def test_every_configuration_says_why():
    made = plan(GOLDEN["liver"].fingerprint, Budget(device="cpu"))
    for what in ("transpose", "target_spacing", "normalization", "normalization_mask", "3d_lowres",
                 "3d_cascade_fullres", "configurations"):  # fmt: skip
        assert sum(decision.what == what for decision in made.decisions) == 1
    for name in ("2d", "3d_fullres", "3d_lowres"):
        for what in ("spacing", "patch_size", "batch_size", "levels", "base_features", "schedule", "batch_dice"):
            assert sum(decision.what == f"{name}.{what}" for decision in made.decisions) == 1
    [schedule] = [decision for decision in made.decisions if decision.what == "2d.schedule"]
    assert "3600 s per fold (the default for a CPU)" in schedule.reason


def test_too_little_memory_names_the_smallest_that_works():
    fingerprint = GOLDEN["amos"].fingerprint
    with pytest.raises(PlanningError, match="needs a memory budget of") as caught:
        plan(fingerprint, Budget(memory_gigabytes=0.0))
    needed = float(str(caught.value).split("budget of ")[1].split(" GB")[0])
    assert plan(fingerprint, Budget(memory_gigabytes=needed)).configurations["3d_fullres"].batch_size >= 2
    with pytest.raises(PlanningError, match="needs a memory budget of"):
        plan(fingerprint, Budget(memory_gigabytes=needed - 0.001))


def test_more_memory_gives_nnunets_larger_patches():
    # The memory reference is linear in the budget: with 16 GB twice as many elements fit.
    sizes = [
        plan(GOLDEN["liver"].fingerprint, Budget(memory_gigabytes=memory)).configurations["3d_fullres"]
        for memory in (4.0, 8.0, 16.0, 24.0, 80.0)
    ]
    volumes = [math.prod(size.patch_size) * size.batch_size for size in sizes]
    assert volumes == sorted(volumes)
    assert volumes[0] < volumes[2] < volumes[4]
    for memory, size in zip((4.0, 8.0, 16.0, 24.0, 80.0), sizes, strict=True):
        assert size.estimates.feature_map_elements <= 560e6 * memory / 8


@pytest.mark.parametrize(
    ("spacing", "shape", "count", "more"),
    [
        ((0.15, 0.15, 0.15), (2000, 2000, 2000), 3, {}),
        ((50.0, 50.0, 50.0), (9, 7, 11), 3, {}),
        ((6.0, 0.4, 0.4), (25, 512, 512), 2, {"channel_names": ("CT",) * 12}),
        ((1.0, 1.0, 1.0), (120, 130, 140), 2, {"num_labels": 1000}),
        ((1.0, 1.0, 1.0), (5, 7, 6), 1, {}),
        ((1.0, 1.0, 1.0), (2, 2, 300), 1, {}),
        ((999.0, 1.0, 1.0), (1, 3, 5), 1, {"channel_names": ("R", "G", "B")}),
        ((1.0, 1.0, 1.0), (1, 1, 1), 1, {}),
    ],
)
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_odd_data(spacing, shape, count, more, device):
    made = plan(alike(spacing, shape, count, **more), Budget(device=device))
    assert made.configurations
    for configuration in made.configurations.values():
        check(configuration)


def check(configuration: Configuration) -> None:
    total = [math.prod(axis) for axis in zip(*configuration.network.strides, strict=True)]
    assert all(edge % stride == 0 for edge, stride in zip(configuration.patch_size, total, strict=True))
    assert configuration.batch_size >= 2
    assert len(configuration.network.features) >= 2
    for edge, stride, size in zip(configuration.patch_size, total, configuration.median_shape, strict=True):
        assert edge <= max(math.ceil(size / stride) * stride, 12)


spacings = st.tuples(*[st.floats(0.15, 50.0).map(lambda value: round(value, 4))] * 3)
shapes = st.tuples(*[st.integers(1, 700)] * 3)
fingerprints = st.builds(
    lambda cases, channels, labels, regions, ignore, cropped: synthetic_fingerprint(
        [case[0] for case in cases], [case[1] for case in cases], channel_names=("MR", "CT", "rgb_to_0_1")[:channels],
        label_values=range(labels), regions=regions, ignore=ignore,
    ).model_copy(update={"median_cropped_fraction": cropped}),
    st.lists(st.tuples(spacings, shapes), min_size=1, max_size=6), st.integers(1, 3), st.integers(2, 40),
    st.booleans(), st.booleans(), st.floats(0.1, 1.0),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(fingerprints, st.randoms(), st.sampled_from([2.0, 8.0, 24.0]), st.sampled_from(["cpu", "cuda"]))
def test_any_data_gets_a_sound_plan(fingerprint, random, memory, device):
    budget = Budget(memory_gigabytes=memory, device=device, time_per_fold_seconds=36_000.0 if device == "cpu" else None)
    made = plan(fingerprint, budget)
    shuffled = list(fingerprint.cases)
    random.shuffle(shuffled)
    assert plan(fingerprint.model_copy(update={"cases": tuple(shuffled)}), budget) == made
    assert Plan.model_validate_json(made.model_dump_json()) == made
    for name, configuration in made.configurations.items():
        check(configuration)
        limit = 560e6 if configuration.network.dimensions == 3 else 85e6 * 6
        if name != "3d_cascade_fullres":
            assert configuration.estimates.feature_map_elements <= limit * memory / 8
