"""plan.json edited by hand: right values are taken, wrong ones named by field path with what was found and expected."""

import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from autoseg.errors import RecordError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.records.budget import Budget, Overrides, Throughput
from autoseg.records.files import read_record, write_record
from autoseg.records.network import NetworkSpec, NormalizationSpec, ResamplingSpec
from autoseg.records.plan import Configuration, Decision, Estimates, Plan, Split, is_model_of, model_hash
from autoseg.records.training import TrainingSpec

FULL = "configurations.3d_fullres"
CASCADE = "configurations.3d_cascade_fullres"


def make_network(**changes) -> NetworkSpec:
    """Three levels, total stride 2 x 4 x 4."""
    values: dict[str, Any] = {
        "architecture": "unet",
        "dimensions": 3,
        "input_channels": 2,
        "output_channels": 3,
        "features": (8, 16, 24),
        "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        "encoder_blocks": (2, 2, 2),
        "decoder_blocks": (2, 2),
    }
    return NetworkSpec(**(values | changes))


FLAT = {
    "dimensions": 2,
    "strides": ((1, 1), (2, 2), (2, 2)),
    "kernel_sizes": ((3, 3),) * 3,
}


def make_configuration(network: NetworkSpec, **changes) -> Configuration:
    axes = network.dimensions
    values: dict[str, Any] = {
        "spacing": (3.0, 0.9, 0.7)[-axes:],
        "median_shape": (20.0, 55.5, 61.0)[-axes:],
        "patch_size": (10, 48, 64)[-axes:],
        "batch_size": 2,
        "network": network,
        "normalization": (
            NormalizationSpec(scheme="ct", mean=90.0, std=31.0, lower=-10.0, upper=240.0),
            NormalizationSpec(scheme="zscore"),
        ),
        "resampling": ResamplingSpec(),
        "training": TrainingSpec(mirror_axes=tuple(range(axes)), batch_dice=False),
        "estimates": Estimates(feature_map_elements=1, parameters=1, macs=1, training_memory_bytes=1),
    }
    return Configuration(**(values | changes))


PLAN = Plan(
    dataset_name="by hand",
    planner="unet",
    budget=Budget(memory_gigabytes=8.0, throughput=(Throughput(dimensions=3, base_features=8, macs_per_second=2e9),)),
    channel_names=("CT", "PET"),
    labels={"background": 0, "organ": 1, "tumour": 7},
    encoding=make_encoding({"background": 0, "organ": 1, "tumour": 7}),
    orientation="canonical",
    transpose=(0, 2, 1),
    configurations={
        "2d": make_configuration(make_network(**FLAT), preprocessed_as="2d"),
        "3d_lowres": make_configuration(make_network(), spacing=(4.0, 2.0, 2.0), preprocessed_as="3d_lowres"),
        "3d_fullres": make_configuration(make_network(), preprocessed_as="3d_fullres"),
        "3d_cascade_fullres": make_configuration(
            make_network(input_channels=4), preprocessed_as="3d_fullres", previous_configuration="3d_lowres"
        ),
    },
    decisions=(Decision(what="2d.patch_size", value=(48, 64), reason="Because."),),
)


def read_edited(folder, *edits: tuple[str, object]) -> Plan:
    """Write the plan, set the fields at the dotted paths, and read it again."""
    content = json.loads(PLAN.model_dump_json())
    for path, value in edits:
        *parents, last = path.split(".")
        target = content
        for key in parents:
            target = target[int(key) if isinstance(target, list) else key]
        target[int(last) if isinstance(target, list) else last] = value
    (folder / "plan.json").write_text(json.dumps(content))
    return read_record(Plan, folder / "plan.json")


def faults_of(folder, *edits: tuple[str, object]) -> list[str]:
    with pytest.raises(RecordError, match=r"plan\.json: not a valid Plan:\n") as caught:
        read_edited(folder, *edits)
    return [line.strip() for line in str(caught.value).splitlines()[1:-1]]


def test_the_plan_survives_its_file(tmp_path):
    write_record(PLAN, tmp_path / "plan.json")
    assert read_record(Plan, tmp_path / "plan.json") == PLAN


def test_sensible_edits_are_taken(tmp_path):
    plan = read_edited(
        tmp_path,
        (f"{FULL}.batch_size", 5),
        (f"{FULL}.patch_size", [12, 64, 32]),
        (f"{FULL}.training.learning_rate", 1),
        (f"{FULL}.training.epochs", 50),
        (f"{FULL}.training.momentum", 0.0),
        (f"{FULL}.training.mirror_axes", [2]),
        (f"{FULL}.spacing", [2.5, 1, 0.5]),
        (f"{CASCADE}.spacing", [2.5, 1, 0.5]),
        ("configurations.2d.spacing", [2, 0.5]),
    )
    configuration = plan.configurations["3d_fullres"]
    assert (configuration.batch_size, configuration.patch_size) == (5, (12, 64, 32))
    assert configuration.spacing == (2.5, 1.0, 0.5)
    assert (configuration.training.learning_rate, configuration.training.epochs) == (1.0, 50)
    assert plan.configurations["2d"].spacing == (2.0, 0.5)


FAULTS: list[tuple[str, object, str]] = [
    (
        f"{FULL}.patch_size",
        [40, 56, 41],
        "(40, 56, 41) is not divisible by the total stride (2, 4, 4); use (40, 56, 44)",
    ),
    (f"{FULL}.patch_size", [2, 4, 4], "(2, 4, 4) leaves one voxel at the lowest level; use (4, 4, 4) or more"),
    (f"{FULL}.patch_size", [48, 64], "(48, 64), expected 3 numbers because the network is 3D"),
    (f"{FULL}.patch_size.1", 0, "Input should be greater than 0, found 0"),
    (f"{FULL}.spacing", [1.0, 1.0], "(1.0, 1.0), expected 3 numbers because the network is 3D"),
    (f"{FULL}.spacing.2", -0.7, "Input should be greater than 0, found -0.7"),
    (f"{FULL}.median_shape", [1.0, 9.0], "(1.0, 9.0), expected 3 numbers because the network is 3D"),
    (f"{FULL}.batch_size", 0, "Input should be greater than 0, found 0"),
    (f"{FULL}.batch_size", "two", 'Input should be a valid integer, found "two"'),
    *[
        (f"{FULL}.estimates.{name}", -1, "Input should be greater than or equal to 0, found -1")
        for name in ("feature_map_elements", "parameters", "macs", "training_memory_bytes")
    ],
    (f"{FULL}.training.epochs", 0, "Input should be greater than 0, found 0"),
    (f"{FULL}.training.steps_per_epoch", 0, "Input should be greater than 0, found 0"),
    (f"{FULL}.training.validation_steps", 0, "Input should be greater than 0, found 0"),
    (f"{FULL}.training.learning_rate", -0.01, "Input should be greater than or equal to 0, found -0.01"),
    (f"{FULL}.training.weight_decay", -1, "Input should be greater than or equal to 0, found -1"),
    (f"{FULL}.training.gradient_clip", 0, "Input should be greater than 0, found 0"),
    (f"{FULL}.training.time_per_fold_seconds", 0, "Input should be greater than 0, found 0"),
    (f"{FULL}.training.schedule", "step", "Input should be 'poly' or 'cosine', found \"step\""),
    *[
        (f"{FULL}.training.{name}", 1.5, "Input should be less than or equal to 1, found 1.5")
        for name in ("momentum", "warmup_fraction", "foreground_fraction")
    ],
    (f"{FULL}.training.weight_average_decay", 1.0, "Input should be less than 1, found 1.0"),
    (f"{FULL}.training.mirror_axes", [0, 3], "(0, 3), expected different axes from 0 to 2"),
    (f"{FULL}.training.mirror_axes", [1, 1], "(1, 1), expected different axes from 0 to 2"),
    ("configurations.2d.training.mirror_axes", [0, 2], "(0, 2), expected different axes from 0 to 1"),
    (f"{FULL}.normalization.0.std", 0.0, "0, expected more: intensities are divided by it"),
    (f"{FULL}.normalization.1.std", -1, "Input should be greater than or equal to 0, found -1"),
    (f"{FULL}.resampling.anisotropy_threshold", -1, "Input should be greater than or equal to 0, found -1"),
    (f"{FULL}.normalization.0.lower", 250.0, "250, expected at most `upper`, 240"),
    (f"{FULL}.resampling.image_order", 6, "Input should be less than or equal to 5, found 6"),
    (f"{FULL}.network.decoder_blocks", [2], "1 entries, expected 2 because `features` has 3 levels"),
    (f"{FULL}.network.output_channels", 4, "4, expected 3: the heads in `encoding`"),
    (f"{FULL}.network.input_channels", 1, "1, expected 2: 2 in `channel_names`"),
    (
        f"{CASCADE}.network.input_channels",
        2,
        "2, expected 4: 2 in `channel_names` and 2 foreground labels of the previous configuration",
    ),
    ("configurations.2d.normalization", [], "0 entries, expected 2: one for each of `channel_names`"),
    (
        f"{FULL}.preprocessed_as",
        "3d",
        "'3d', expected a configuration of this plan: 2d, 3d_lowres, 3d_fullres, 3d_cascade_fullres",
    ),
    (f"{CASCADE}.previous_configuration", "low", "'low', expected another configuration: 2d, 3d_lowres, 3d_fullres"),
    (
        f"{CASCADE}.previous_configuration",
        "3d_cascade_fullres",
        "'3d_cascade_fullres', expected another configuration: 2d, 3d_lowres, 3d_fullres",
    ),
    (
        f"{CASCADE}.spacing",
        [1.0, 1.0, 1.0],
        "differs from that of 3d_fullres, whose preprocessed arrays are used; change both",
    ),
    ("transpose", [0, 1, 1], "(0, 1, 1), expected an order of the axes 0, 1, 2"),
    ("budget.memory_gigabytes", -8, "Input should be greater than or equal to 0, found -8"),
    ("budget.available_gigabytes", -8, "Input should be greater than or equal to 0, found -8"),
    ("budget.time_per_fold_seconds", 0, "Input should be greater than 0, found 0"),
    ("budget.latency_seconds", 0, "Input should be greater than 0, found 0"),
    *[
        (f"budget.throughput.0.{name}", 0, "Input should be greater than 0, found 0")
        for name in ("base_features", "macs_per_second", "prediction_macs_per_second")
    ],
    ("budget.overrides.patch_size", [64], "Tuple should have at least 2 items after validation, not 1, found [64]"),
    ("labels.tumour", "seven", 'Input should be a valid integer or: Input should be a valid array, found "seven"'),
    ("schema_version", 0, "Input should be 1, found 0"),
    ("comment", "mine", 'Extra inputs are not permitted, found "mine"'),
]


def test_configurations_that_wait_for_each_other_are_named_with_their_way(tmp_path):
    low, full = "configurations.3d_lowres", "configurations.3d_fullres"
    names = ["3d_cascade_fullres", "3d_lowres", "3d_fullres"]
    edits = [(f"{low}.previous_configuration", "3d_fullres"), (f"{low}.network.input_channels", 4)]
    chain = read_edited(tmp_path, *edits)  # three stages, the first of which is 3d_fullres
    assert [chain.configurations[name].previous_configuration for name in names] == ["3d_lowres", "3d_fullres", None]
    edits += [(f"{full}.previous_configuration", "3d_lowres"), (f"{full}.network.input_channels", 4)]
    assert faults_of(tmp_path, *edits) == [  # the cascade waits for them, but they do not wait for it
        f"{low}.previous_configuration: '3d_fullres' leads back to 3d_lowres (3d_lowres -> 3d_fullres -> 3d_lowres); "
        "one of them must have none",
        f"{full}.previous_configuration: '3d_lowres' leads back to 3d_fullres (3d_fullres -> 3d_lowres -> 3d_fullres); "
        "one of them must have none",
    ]


@pytest.mark.parametrize(("path", "value", "sentence"), FAULTS)
def test_a_wrong_edit_is_named_with_its_path(tmp_path, path, value, sentence):
    assert f"{path}: {sentence}" in faults_of(tmp_path, (path, value))


def test_points_of_regions_do_not_suit_labels(tmp_path):
    points = {"head": "points", "coarse_level": 1}
    edits = [(f"{FULL}.network.{name}", value) for name, value in points.items()]
    lines = faults_of(tmp_path, *edits, (f"{FULL}.network.independent_heads", True))
    expected = "true, expected false: the activation in `encoding` is softmax"
    assert f"{FULL}.network.independent_heads: {expected}" in lines
    assert read_edited(tmp_path, *edits).configurations["3d_fullres"].network.coarse_level == 1


def test_a_contradiction_is_named_where_it_shows(tmp_path):
    lines = faults_of(tmp_path, (f"{FULL}.network.features", [8, 16]))
    assert lines == [
        f"{FULL}.network.{name}: {found} entries, expected {expected} because `features` has 2 levels"
        for name, found, expected in (
            ("strides", 3, 2), ("kernel_sizes", 3, 2), ("encoder_blocks", 3, 2), ("decoder_blocks", 2, 1)
        )
    ]  # fmt: skip
    lines = faults_of(tmp_path, (f"{CASCADE}.resampling.image_order", 1))
    assert lines == [
        f"{CASCADE}.resampling: differs from that of 3d_fullres, whose preprocessed arrays are used; change both"
    ]


@pytest.mark.parametrize(
    ("change", "field", "sentence"),
    [
        ({"patch_size": [5, 12]}, "patch_size", "(5, 12), expected 3 numbers like the patch (10, 48, 64)"),
        ({"patch_size": [5, 12, 18]}, "patch_size", "(5, 12, 18), expected multiples of the total stride (2, 4, 4)"),
        ({"patch_size": [2, 4, 4]}, "patch_size", "(2, 4, 4), expected multiples of the total stride (2, 4, 4)"),
        ({"patch_size": [12, 12, 16]}, "patch_size", "(12, 12, 16), expected at least (2, 4, 4) and at most (10, 48"),
        ({"batch_size": 1}, "batch_size", "1, expected at least 2, the planned batch"),
        ({"until": 1.0}, "until", "Input should be less than 1, found 1.0"),
    ],
)
def test_a_smaller_patch_that_cannot_be_trained_on_is_named(tmp_path, change, field, sentence):
    growing = {"patch_size": [4, 12, 16], "batch_size": 4, "until": 0.5} | change
    (line,) = faults_of(tmp_path, (f"{FULL}.training.growing_patches", [growing]))
    assert line.startswith(f"{FULL}.training.growing_patches.0.{field}: {sentence}")


def test_patches_that_shrink_or_end_before_they_begin_are_named(tmp_path):
    larger = {"patch_size": [4, 24, 16], "batch_size": 3, "until": 0.4}
    smaller = {"patch_size": [4, 12, 16], "batch_size": 3, "until": 0.4}
    lines = faults_of(tmp_path, (f"{FULL}.training.growing_patches", [larger, smaller]))
    path = f"{FULL}.training.growing_patches.1"
    assert lines == [
        f"{path}.patch_size: (4, 12, 16), expected at least (4, 24, 16) and at most (10, 48, 64): patches grow",
        f"{path}.until: 0.4, expected more than 0.4, where it begins",
    ]


def test_plans_without_growing_patches_are_written_as_ever():
    assert "growing_patches" not in PLAN.model_dump_json()
    assert "progressive" not in PLAN.model_dump_json()


def test_faults_of_several_places_are_named_at_once(tmp_path):
    lines = faults_of(
        tmp_path,
        (f"{FULL}.patch_size", [10, 48, 63]),
        (f"{FULL}.training.mirror_axes", [5]),
        ("configurations.2d.batch_size", 0),
        ("configurations.3d_lowres.network.kernel_sizes.0", [2, 3, 3]),
        ("configurations.3d_lowres.network.encoder_blocks", [2]),
    )
    assert [line.split(": ")[0] for line in lines] == [
        "configurations.2d.batch_size",
        "configurations.3d_lowres.network.encoder_blocks",
        "configurations.3d_lowres.network.kernel_sizes.0",
        f"{FULL}.training.mirror_axes",
        f"{FULL}.patch_size",
    ]


def test_a_missing_field_is_named(tmp_path):
    content = json.loads(PLAN.model_dump_json())
    del content["configurations"]["2d"]["network"]["features"]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match=r"\n  configurations\.2d\.network\.features: Field required\n"):
        read_record(Plan, tmp_path / "plan.json")


def test_overrides_are_checked_too(tmp_path):
    lines = faults_of(tmp_path, ("budget.overrides.spacing", [1.0, 1.0, 0.0]), ("budget.overrides.batch_size", 0))
    assert lines == [
        "budget.overrides.spacing.2: Input should be greater than 0, found 0.0",
        "budget.overrides.batch_size: Input should be greater than 0, found 0",
    ]


def test_long_values_are_shortened(tmp_path):
    [line] = faults_of(tmp_path, ("planner", list(range(1000))))
    assert line.endswith("...")
    assert len(line) < 150


def test_a_constant_ct_is_no_fault():
    spec = NormalizationSpec(scheme="ct", mean=7.0, std=0.0, lower=7.0, upper=7.0)
    assert spec.std == 0.0


def test_the_numbers_of_other_schemes_are_not_compared():
    assert NormalizationSpec(scheme="zscore", lower=3.0, upper=-3.0, std=0.0).lower == 3.0


def test_code_gets_the_same_faults_as_a_file():
    with pytest.raises(ValidationError, match=r"patch_size: \(10, 48, 63\) is not divisible by the total stride"):
        make_configuration(make_network(), patch_size=(10, 48, 63), preprocessed_as="x")


def test_a_case_cannot_be_trained_on_and_held_out():
    with pytest.raises(ValidationError, match=r"validation: 4 cases are also in `training`, for example b"):
        Split(training=("a", "b", "c", "e", "f"), validation=("f", "e", "c", "d", "b"))


def test_overrides_take_pairs_and_triples():
    assert Overrides(patch_size=(64, 32)).patch_size == (64, 32)
    with pytest.raises(ValidationError, match=r"at most 3 items"):
        Overrides(patch_size=(1, 2, 3, 4))


def test_a_plan_without_borders_is_written_as_ever_and_one_with_them_needs_a_width(tmp_path):
    text = PLAN.model_dump_json()
    assert not any(word in text for word in ("target", "border_width_mm", "part_of"))
    divided = PLAN.model_copy(update={"target": "border_core", "border_width_mm": 1.5})
    write_record(divided, tmp_path / "divided.json")
    assert read_record(Plan, tmp_path / "divided.json") == divided
    assert model_hash(PLAN, "3d_fullres") != model_hash(divided, "3d_fullres")
    assert faults_of(tmp_path, ("target", "border_core")) == ["border_width_mm: None, expected a width for border_core"]
    assert faults_of(tmp_path, ("border_width_mm", 2.0)) == ["border_width_mm: 2.0, expected null for labels"]


def with_normalization(normalization, **changes):
    """The plan with foreground intensities of its own, and with another median shape if these are changed."""
    spec = NormalizationSpec(scheme=normalization, mean=40.0, std=20.0, lower=-10.0, upper=90.0)
    configuration = PLAN.configurations["3d_fullres"]
    values = {
        "normalization": (spec.model_copy(update=changes),) * len(configuration.normalization),
        "median_shape": (30.0, 40.0, 50.0 + len(changes)),
    }
    return PLAN.model_copy(update={"configurations": {"3d_fullres": configuration.model_copy(update=values)}})


@pytest.mark.parametrize("scheme", ["zscore", "rescale_0_1", "rgb_0_1", "none"])
@pytest.mark.parametrize("changes", [{"mean": 41.0}, {"std": 21.0}, {"lower": -11.0}, {"upper": 91.0}])
def test_statistics_that_a_normalisation_does_not_use_are_not_part_of_the_model(scheme, changes):
    before, after = with_normalization(scheme), with_normalization(scheme, **changes)
    assert is_model_of(after, "3d_fullres", model_hash(before, "3d_fullres"))


@pytest.mark.parametrize(
    ("scheme", "changes"),
    [("ct", {name: 30.0}) for name in ("mean", "std", "lower", "upper")]
    + [("zscore", {"use_mask": True}), ("zscore", {"scheme": "none"})],
)
def test_what_a_normalisation_uses_is_part_of_the_model(scheme, changes):
    before, after = with_normalization(scheme), with_normalization(scheme, **changes)
    assert not is_model_of(after, "3d_fullres", model_hash(before, "3d_fullres"))


@pytest.mark.parametrize("scheme", ["zscore", "ct"])
def test_checkpoints_of_0_2_serve_the_plan_that_they_were_trained_for(scheme):
    """Version 0.2.0 hashed the JSON of the configuration with all statistics."""
    plan = with_normalization(scheme)
    content = json.loads(plan.model_dump_json())
    settings = content["configurations"]["3d_fullres"]
    for name in ("training", "estimates", "batch_size", "previous_labels", "logits_precision"):
        del settings[name]
    shared = {name: content[name] for name in ("encoding", "orientation", "transpose", "channel_names")}
    if "border_width_mm" in content:
        shared["border_width_mm"] = content["border_width_mm"]
    text = json.dumps([settings, shared], sort_keys=True)
    trained = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    assert is_model_of(plan, "3d_fullres", trained)
    assert not is_model_of(with_normalization(scheme, mean=41.0), "3d_fullres", trained)
    assert not is_model_of(plan, "2d", trained)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 10**30),
        ("batch_size", 10**9),
        ("network.features", [100_000, 100_000, 100_000]),
        ("network.encoder_blocks", [10**6, 2, 2]),
        ("network.kernel_sizes", [[10**7 + 1] * 3] * 3),
        ("patch_size", [10**12, 48, 64]),
        ("training.epochs", 10**18),
        ("training.steps_per_epoch", 10**30),
    ],
)
def test_numbers_that_no_device_could_hold_are_refused_by_name(tmp_path, field, value):
    path = tmp_path / "configuration.json"
    content = json.loads(make_configuration(make_network(), preprocessed_as="3d_fullres").model_dump_json())
    *parents, last = field.split(".")
    inner = content
    for key in parents:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=rf"{field}.*less than or equal to"):
        read_record(Configuration, path)
