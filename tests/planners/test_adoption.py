"""Plans that start from another model: its network, spacing and normalisation; one's own data, memory and time."""

from collections.abc import Callable
from typing import Any

import pytest

from autoseg.errors import PlanningError
from autoseg.plugins import find_planner
from autoseg.records.budget import AdoptedModel, Budget, Overrides, Throughput
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import ResamplingSpec
from autoseg.records.plan import Plan
from autoseg.stages.plan import adopt_model, make_plan
from autoseg.testing import synthetic_fingerprint
from planners import residual_encoder, unet, unext


def alike(spacing, shape, count=40, **more) -> Fingerprint:
    return synthetic_fingerprint([spacing] * count, [shape] * count, **more)


HEART = alike((1.37, 1.25, 1.25), (115, 320, 232), 20, channel_names=("MR",), label_values=range(2))
LIVER = alike((1.0, 0.7676, 0.7676), (482, 512, 512), 131, channel_names=("CT",), label_values=range(3))
SAGITTAL = alike((0.9, 0.9, 4.4), (220, 230, 24), 40, channel_names=("T2",))
PICTURES = alike((999.0, 1.0, 1.0), (1, 300, 400), 50, channel_names=("R", "G", "B"))

TWO_CHANNELS = alike((2.0, 1.0, 0.9), (60, 200, 180), 12, channel_names=("CT", "PET"), label_values=range(5))

PLANNERS: dict[str, Callable[[Fingerprint, Budget], Plan]] = {
    "unet": unet.plan,
    "resenc-m": residual_encoder.plan_m,
    "unext": unext.plan,
}


def model(fingerprint: Fingerprint, planner="unet", **budget) -> AdoptedModel:
    return adopt_model(PLANNERS[planner](fingerprint, Budget(**budget)), "old")


def only(adopted: AdoptedModel, *names: str) -> AdoptedModel:
    kept = {name: adopted.configurations[name] for name in names}
    return adopted.model_copy(update={"configurations": kept})


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("other", PLANNERS)
def test_networks_are_the_models_but_for_inputs_and_outputs(planner, other):
    like = model(HEART, planner)
    made = PLANNERS[other](TWO_CHANNELS, Budget(like=like))
    assert tuple(made.configurations) == tuple(like.configurations)
    for name, configuration in made.configurations.items():
        adopted = like.configurations[name]
        assert (configuration.network.input_channels, configuration.network.output_channels) == (2, 5)
        ends = {"input_channels": 1, "output_channels": 2}
        assert configuration.network.model_copy(update=ends) == adopted.network
        assert configuration.spacing == adopted.spacing
        assert configuration.patch_size == adopted.patch_size
        assert configuration.resampling == adopted.resampling
    # 60 * 2 / 1.37 = 87.6, 200 * 1 / 1.25 = 160, 180 * 0.9 / 1.25 = 129.6
    assert made.configurations["3d_fullres"].median_shape == (88.0, 160.0, 130.0)
    assert made.planner == other
    assert make_plan(TWO_CHANNELS, Budget(like=like), other) == made


@pytest.mark.parametrize(
    ("planner", "options"),
    [
        ("unet", {"block": "inception", "skip": "gate", "attention": "mixed", "bottleneck": "atrous_nonlocal"}),
        ("unet++", {}),
        ("mednext", {"kernel": "5", "grn": "true"}),
        ("hrnet", {"stem": "2", "head": "v1"}),
        ("resenc-m", {"head": "points"}),
    ],
)
def test_networks_of_every_family_are_taken_as_they_are(planner, options):
    budget = Budget(configurations=("2d", "3d_fullres"), overrides=Overrides(options=options))
    own = find_planner(planner)(HEART, budget)
    made = make_plan(TWO_CHANNELS, Budget(like=adopt_model(own, "old")), "auto")
    for name, configuration in made.configurations.items():
        network = configuration.network.model_copy(update={"input_channels": 1, "output_channels": 2})
        assert network == own.configurations[name].network
        assert configuration.patch_size == own.configurations[name].patch_size


def test_reasons_name_the_model():
    made = unet.plan(TWO_CHANNELS, Budget(like=model(HEART)))
    reasons = {decision.what: decision.reason for decision in made.decisions}
    for what in ("transpose", "target_spacing", "3d_fullres.spacing", "3d_fullres.patch_size", "3d_fullres.levels",
                 "3d_fullres.base_features", "2d.patch_size"):  # fmt: skip
        assert reasons[what] == "That of old."
    assert reasons["normalization"].endswith("channels that it does not know: CT, PET.")


def test_normalization_follows_the_channels_name():
    intensities = LIVER.intensities[0].model_copy(update={"mean": 55.0, "std": 11.0, "percentile_99_5": 170.0})
    liver = LIVER.model_copy(update={"intensities": (intensities,)})
    made = unet.plan(TWO_CHANNELS, Budget(like=model(liver)))
    own = unet.plan(TWO_CHANNELS, Budget())
    for configuration in made.configurations.values():
        ct, pet = configuration.normalization
        assert (ct.scheme, ct.mean, ct.std, ct.upper) == ("ct", 55.0, 11.0, 170.0)
        assert pet == own.configurations["2d"].normalization[1]
    assert own.configurations["2d"].normalization[0].mean == 90.0


def test_axes_follow_the_models_transpose():
    like = model(SAGITTAL)
    assert like.transpose == (2, 0, 1)
    made = unet.plan(TWO_CHANNELS, Budget(like=like))
    assert made.transpose == (2, 0, 1)
    full = made.configurations["3d_fullres"]
    assert full.spacing == (4.4, 0.9, 0.9)
    # x, z, y: 180 * 0.9 / 4.4, 60 * 2 / 0.9, 200 * 1 / 0.9
    assert full.median_shape == (37.0, 133.0, 222.0)
    assert made.configurations["2d"].spacing == (0.9, 0.9)
    assert made.configurations["2d"].median_shape == (133.0, 222.0)


def test_the_cascade_is_adopted_with_its_own_label_channels():
    like = model(LIVER)
    assert "3d_cascade_fullres" in like.configurations
    made = unet.plan(TWO_CHANNELS, Budget(like=like))
    assert tuple(made.configurations) == ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
    cascade, full = made.configurations["3d_cascade_fullres"], made.configurations["3d_fullres"]
    assert cascade.network.input_channels == 2 + 4
    assert cascade.network.model_copy(update={"input_channels": 2}) == full.network
    assert (cascade.previous_configuration, cascade.preprocessed_as) == ("3d_lowres", "3d_fullres")
    assert full.training.batch_dice is True
    low = made.configurations["3d_lowres"]
    assert low.spacing == like.configurations["3d_lowres"].spacing
    # 120, 200 and 162 mm
    assert low.spacing == pytest.approx((2.5, 1.919, 1.919), abs=1e-3)
    assert low.median_shape == (48.0, 104.0, 84.0)
    assert low.training.batch_dice is False


def test_the_cascade_brings_what_it_needs():
    made = unet.plan(TWO_CHANNELS, Budget(like=model(LIVER), configurations=("3d_cascade_fullres",)))
    assert tuple(made.configurations) == ("3d_fullres", "3d_lowres", "3d_cascade_fullres")


def test_no_cascade_when_the_model_has_none():
    made = unet.plan(LIVER, Budget(like=model(HEART)))
    assert tuple(made.configurations) == ("2d", "3d_fullres")
    with pytest.raises(
        PlanningError, match="3d_lowres is not available for this data, budget or model; available: 2d, 3d_fullres"
    ):
        unet.plan(LIVER, Budget(like=model(HEART), configurations=("3d_lowres",)))


def test_a_spacing_of_ones_own():
    overrides = Overrides(spacing=(3.0, 2.0, 2.0))
    made = unet.plan(TWO_CHANNELS, Budget(like=model(HEART), overrides=overrides))
    full = made.configurations["3d_fullres"]
    assert full.spacing == (3.0, 2.0, 2.0)
    assert full.median_shape == (40.0, 100.0, 81.0)
    assert made.configurations["2d"].spacing == (2.0, 2.0)
    assert full.patch_size == model(HEART).configurations["3d_fullres"].patch_size


def test_resampling_is_the_models():
    like = model(HEART)
    full = like.configurations["3d_fullres"]
    smooth = full.model_copy(update={"resampling": ResamplingSpec(image_order=1, separate_through_plane="never")})
    like = like.model_copy(update={"configurations": {"3d_fullres": smooth}})
    made = unet.plan(TWO_CHANNELS, Budget(like=like)).configurations["3d_fullres"]
    assert made.resampling == smooth.resampling
    assert made.resampling != ResamplingSpec()


def test_a_patch_and_batch_of_ones_own():
    overrides = Overrides(patch_size=(33, 64, 60), batch_size=3)
    made = unet.plan(TWO_CHANNELS, Budget(like=model(HEART), overrides=overrides))
    full = made.configurations["3d_fullres"]
    # strides of the heart's network: 16 x 32 x 32
    assert (full.patch_size, full.batch_size) == ((48, 64, 64), 3)
    assert full.network.strides == model(HEART).configurations["3d_fullres"].network.strides
    assert made.configurations["2d"].patch_size == model(HEART).configurations["2d"].patch_size


def test_the_schedule_follows_ones_own_budget():
    like = model(HEART, device="cpu", time_per_fold_seconds=600.0)
    width = like.configurations["3d_fullres"].network.features[0]
    assert width < 32
    full = unet.plan(TWO_CHANNELS, Budget(like=like)).configurations["3d_fullres"]
    assert (full.training.epochs, full.training.steps_per_epoch, full.training.optimizer) == (1000, 250, "sgd")
    assert full.network.features[0] == width

    speed = (Throughput(dimensions=3, base_features=32, macs_per_second=1e11),)
    limit: dict[str, Any] = {
        "device": "cpu",
        "memory_gigabytes": 16.0,
        "time_per_fold_seconds": 5000.0,
        "throughput": speed,
    }
    short = unet.plan(TWO_CHANNELS, Budget(like=model(HEART), **limit)).configurations["3d_fullres"]
    assert short.training.time_per_fold_seconds == 5000.0
    assert short.training.optimizer == "adamw"
    # neither narrower nor a smaller patch: the weights would not fit, or see another scale
    assert short.network.features[0] == 32
    assert short.patch_size == model(HEART).configurations["3d_fullres"].patch_size


def test_a_model_for_pictures():
    made = unet.plan(PICTURES, Budget(like=model(alike((999.0, 1.0, 1.0), (1, 700, 500), 90))))
    assert tuple(made.configurations) == ("2d",)
    assert made.configurations["2d"].median_shape == (300.0, 400.0)
    assert made.configurations["2d"].network.input_channels == 3


@pytest.mark.parametrize(
    "across",
    [1.37, 999.0],
)
def test_a_single_slice_takes_the_flat_network_alone(across):
    pictures = alike((across, 1.25, 1.25), (1, 300, 400), 50, channel_names=("MR",))
    made = unet.plan(pictures, Budget(like=model(HEART)))
    assert tuple(made.configurations) == ("2d",)
    assert made.configurations["2d"].median_shape == (300.0, 400.0)
    # a batch covers 5 % of the dataset's voxels
    patch = made.configurations["2d"].patch_size
    assert made.configurations["2d"].batch_size <= max(round(0.05 * 50 * 300 * 400 / (patch[0] * patch[1])), 2)


@pytest.mark.parametrize("overrides", [Overrides(), Overrides(patch_size=(64, 64))])
def test_a_single_slice_has_nothing_from_a_3d_model(overrides):
    slices = alike((1.37, 1.25, 1.25), (1, 300, 400), 50, channel_names=("MR",))
    with pytest.raises(PlanningError, match=r"old.*3d_fullres.*single slice|single slice.*old.*3d_fullres"):
        unet.plan(slices, Budget(like=only(model(HEART), "3d_fullres"), overrides=overrides))


@pytest.mark.parametrize(
    ("memory", "overrides"),
    [(0.5, Overrides()), (8.0, Overrides(patch_size=(512, 512, 512)))],
)
def test_too_little_memory_names_what_works(memory, overrides):
    like = model(HEART)
    with pytest.raises(PlanningError, match="memory budget of") as caught:
        unet.plan(TWO_CHANNELS, Budget(like=like, memory_gigabytes=memory, overrides=overrides))
    needed = float(str(caught.value).split("memory budget of ")[1].split(" GB")[0])
    assert needed > memory
    assert unet.plan(TWO_CHANNELS, Budget(like=like, memory_gigabytes=needed, overrides=overrides)).configurations


def test_a_patch_of_one_voxel_at_the_lowest_level():
    with pytest.raises(PlanningError, match="--patch-size 9 9 9"):
        unet.plan(TWO_CHANNELS, Budget(like=model(HEART), overrides=Overrides(patch_size=(9, 9, 9))))


def test_the_batch_follows_ones_own_data_and_memory():
    like = model(alike((1.0, 1.0, 1.0), (36, 50, 35), 260))
    few = unet.plan(alike((1.0, 1.0, 1.0), (36, 50, 35), 20), Budget(like=like)).configurations["3d_fullres"]
    many = unet.plan(alike((1.0, 1.0, 1.0), (36, 50, 35), 9000), Budget(like=like)).configurations["3d_fullres"]
    double = unet.plan(
        alike((1.0, 1.0, 1.0), (36, 50, 35), 9000), Budget(like=like, memory_gigabytes=16.0)
    ).configurations["3d_fullres"]  # fmt: skip
    assert few.batch_size == 2
    assert many.batch_size > 50
    assert double.batch_size == pytest.approx(2 * many.batch_size, abs=1)


def test_a_model_adopted_twice_stays_the_same():
    like = model(HEART)
    again = adopt_model(unet.plan(HEART, Budget(like=like)), "old")
    assert again == like
    made = unet.plan(TWO_CHANNELS, Budget(like=like))
    assert Plan.model_validate_json(made.model_dump_json()) == made
