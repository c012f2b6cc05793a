"""A NetworkSpec that exists is consistent in itself; every contradiction is named by field."""

from typing import Any

import pytest
from pydantic import ValidationError

from autoseg.records.files import FieldFaultsError
from autoseg.records.network import NetworkSpec, ResamplingSpec

UNET: dict[str, Any] = {
    "architecture": "unet",
    "dimensions": 3,
    "input_channels": 1,
    "output_channels": 2,
    "features": (4, 8, 12),
    "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 5, 3)),
    "encoder_blocks": (2, 1, 3),
    "decoder_blocks": (2, 1),
}
UNEXT = UNET | {
    "architecture": "unext",
    "features": (4, 4, 12),
    "encoder_blocks": (1, 1, 1),
    "decoder_blocks": (1, 1),
    "token_levels": 2,
}
HRNET = UNET | {
    "architecture": "hrnet",
    "encoder_blocks": (1, 2, 3),
    "decoder_blocks": (1, 1),
    "branches": {"stem_levels": 1, "first_blocks": 2, "modules": (1,), "joined_features": 8},
}

MEDNEXT = UNET | {"architecture": "mednext", "expansions": (2, 3, 4)}


def faults_of(values: dict[str, Any]) -> dict[tuple[int | str, ...], str]:
    with pytest.raises(ValidationError, match="1 validation error for NetworkSpec") as caught:
        NetworkSpec(**values)
    [fault] = caught.value.errors()
    cause = fault["ctx"]["error"]
    assert isinstance(cause, FieldFaultsError)
    return dict(cause.faults)


@pytest.mark.parametrize(
    "values",
    [
        UNET,
        UNET | {"architecture": "residual_unet"},
        UNET | {"head": "points", "coarse_level": 1, "independent_heads": True},
        UNEXT,
        UNEXT | {"token_levels": 1, "full_resolution_skip": True},
        HRNET,
        MEDNEXT,
        MEDNEXT | {"response_normalization": True},
    ],
)
def test_consistent_networks_are_taken(values):
    spec = NetworkSpec(**values)
    assert NetworkSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_full_head_is_not_written_down():
    written = NetworkSpec(**UNET).model_dump_json()
    assert not any(f'"{name}"' in written for name in ("head", "coarse_level", "independent_heads"))


@pytest.mark.parametrize(
    ("changes", "path", "sentence"),
    [
        ({"head": "points"}, "coarse_level", "0, expected 1 to 1: a level of the decoder below full resolution"),
        ({"head": "points", "coarse_level": 2}, "coarse_level", "2, expected 1 to 1: a level of the decoder"),
        ({"coarse_level": 1}, "coarse_level", "1, expected 0: only a point head ends the decoder earlier"),
        ({"independent_heads": True}, "independent_heads", "true, expected false: only a point head needs to know"),
        (
            {"architecture": "hrnet", "branches": HRNET["branches"], "decoder_blocks": (1, 1)}
            | {"encoder_blocks": (1, 2, 3), "head": "points", "coarse_level": 1},
            "head",
            "points, expected full: only networks with a decoder of levels",
        ),
    ],
)
def test_contradictions_of_heads(changes, path, sentence):
    faults = faults_of(UNET | changes)
    assert list(faults) == [(path,)]
    assert faults[path,].startswith(sentence)


@pytest.mark.parametrize("token_levels", [0, 1, 2])
def test_any_level_of_unext_but_the_first_may_be_a_token_level(token_levels):
    assert NetworkSpec(**UNEXT | {"token_levels": token_levels}).token_levels == token_levels


@pytest.mark.parametrize(
    ("field", "value", "path", "sentence"),
    [
        ("strides", UNET["strides"][:2], ("strides",), "2 entries, expected 3 because `features` has 3 levels"),
        ("kernel_sizes", ((3, 3, 3),) * 4, ("kernel_sizes",), "4 entries, expected 3"),
        ("encoder_blocks", (2,), ("encoder_blocks",), "1 entries, expected 3"),
        ("decoder_blocks", (2, 1, 1), ("decoder_blocks",), "3 entries, expected 2"),
        ("strides", ((1, 1, 1), (2, 2), (2, 2, 2)), ("strides", 1), "(2, 2), expected 3 numbers in a 3D network"),
        ("strides", ((1, 2, 1), (2, 2, 2), (2, 2, 2)), ("strides", 0), "(1, 2, 1), expected all ones"),
        ("kernel_sizes", ((1, 3, 3), (3, 3), (3, 3, 3)), ("kernel_sizes", 1), "(3, 3), expected 3 numbers"),
        ("kernel_sizes", ((1, 3, 3), (3, 3, 3), (3, 4, 3)), ("kernel_sizes", 2), "(3, 4, 3) has even numbers"),
        ("token_levels", 1, ("token_levels",), "1, expected 0: only unext has token levels"),
        ("full_resolution_skip", True, ("full_resolution_skip",), "true, expected false"),
        ("expansions", (2, 2, 2), ("expansions",), "(2, 2, 2), expected (): only mednext has hidden layers of a"),
        ("response_normalization", True, ("response_normalization",), "true, expected false: only mednext"),
    ],
)
@pytest.mark.parametrize("architecture", ["unet", "residual_unet"])
def test_contradictions(architecture, field, value, path, sentence):
    faults = faults_of(UNET | {"architecture": architecture, field: value})
    assert list(faults) == [path]
    assert faults[path].startswith(sentence)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("features", (4, 8, 12), "begins with (4, 8), expected two equal numbers in unext"),
        ("token_levels", 3, "3, expected 0 to 2: level 0 is no token level"),
        ("encoder_blocks", (1, 2, 1), "(1, 2, 1), expected one block per level in unext"),
        ("decoder_blocks", (2, 1), "(2, 1), expected one block per level in unext"),
    ],
)
def test_contradictions_of_unext(field, value, sentence):
    assert faults_of(UNEXT | {field: value}) == {(field,): sentence}


@pytest.mark.parametrize(
    ("changes", "path", "sentence"),
    [
        ({"branches": None}, ("branches",), "none, expected what the branches of hrnet are made of"),
        (
            {"branches": {"stem_levels": 2, "first_blocks": 1, "modules": (1,)}, "deep_supervision": False}
            | {"encoder_blocks": (1, 1, 3)},
            ("branches", "stem_levels"),
            "2 of 3 levels, expected two branches or more below the stem",
        ),
        (
            {"branches": {"first_blocks": 1, "modules": (1,)}},
            ("branches", "modules"),
            "1 entries, expected 2 because there are 3 branches",
        ),
        ({"encoder_blocks": (2, 2, 3)}, ("encoder_blocks",), "(2, 2, 3), expected one per level that has none"),
        ({"decoder_blocks": (1, 2)}, ("decoder_blocks",), "(1, 2), expected one per level that has none"),
        ({"token_levels": 1}, ("token_levels",), "1, expected 0: only unext has token levels"),
        ({"attention": "mixed"}, ("attention",), "mixed, expected none: only unet has parts to choose from"),
    ],
)
def test_contradictions_of_hrnet(changes, path, sentence):
    faults = faults_of(HRNET | changes)
    assert list(faults) == [path]
    assert faults[path].startswith(sentence)


def test_a_stem_of_two_levels_has_no_deep_supervision():
    four = {
        "features": (4, 4, 8, 12),
        "strides": ((1, 1, 1), *((2, 2, 2),) * 3),
        "kernel_sizes": ((3, 3, 3),) * 4,
        "encoder_blocks": (1, 1, 2, 2),
        "decoder_blocks": (1, 1, 1),
        "branches": {"stem_levels": 2, "first_blocks": 1, "modules": (1,)},
    }
    assert NetworkSpec(**HRNET | four | {"deep_supervision": False}).branches is not None
    assert list(faults_of(HRNET | four)) == [("deep_supervision",)]


def test_only_hrnet_has_branches():
    faults = faults_of(UNET | {"branches": HRNET["branches"]})
    assert list(faults) == [("branches",)]
    assert faults["branches",].endswith("expected none: only hrnet has branches")


def test_plans_of_other_networks_do_not_mention_branches():
    assert "branches" not in NetworkSpec(**UNET).model_dump()


def test_mednext_has_a_hidden_width_for_each_level():
    sentence = "2 entries, expected 3 because `features` has 3 levels"
    assert faults_of(MEDNEXT | {"expansions": (2, 2)}) == {("expansions",): sentence}
    assert "expansions" not in NetworkSpec(**UNET).model_dump_json()


def test_skip_at_full_resolution_needs_a_convolution_there():
    faults = faults_of(UNEXT | {"token_levels": 2, "full_resolution_skip": True})
    assert faults == {
        ("full_resolution_skip",): "true, expected false: with 2 token levels nothing convolves at level 0"
    }


def test_all_contradictions_at_once():
    faults = faults_of(UNET | {"encoder_blocks": (1,), "kernel_sizes": ((2, 3, 3), (3, 3, 3), (3, 3))})
    assert list(faults) == [("encoder_blocks",), ("kernel_sizes", 2), ("kernel_sizes", 0)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("features", (4, 0, 12)),
        ("strides", ((1, 1, 1), (0, 2, 2), (2, 2, 2))),
        ("kernel_sizes", ((1, 3, 3), (3, 3, 3), (3, -1, 3))),
        ("encoder_blocks", (2, 0, 2)),
        ("decoder_blocks", (0, 2)),
        ("input_channels", 0),
        ("output_channels", 0),
        ("token_levels", -1),
    ],
)
def test_counts_start_at_one(field, value):
    with pytest.raises(ValidationError, match=rf"{field}.*\n  Input should be greater than"):
        NetworkSpec(**UNEXT | {field: value})


def test_one_level_is_no_network():
    one = {"features": (4,), "strides": ((1, 1, 1),), "kernel_sizes": ((3, 3, 3),), "encoder_blocks": (1,)}
    with pytest.raises(ValidationError, match=r"features\n  Tuple should have at least 2 items"):
        NetworkSpec(**UNET | one | {"decoder_blocks": ()})


@pytest.mark.parametrize("field", ["image_order", "label_order", "logits_order", "through_plane_order"])
@pytest.mark.parametrize("order", [-1, 6])
def test_spline_orders_beyond_0_to_5(field, order):
    with pytest.raises(ValidationError, match=rf"1 validation error .*\n{field}\n  Input should be"):
        ResamplingSpec.model_validate({field: order})


@pytest.mark.parametrize(
    ("part", "value"), [("block", "dense"), ("skip", "gate"), ("attention", "mixed"), ("bottleneck", "atrous")]
)
def test_parts_are_of_unet_alone_and_appear_in_files_only_where_they_are_chosen(part, value):
    plain = NetworkSpec(**UNET)
    assert part not in plain.model_dump(mode="json")
    assert NetworkSpec(**UNET, **{part: value}).model_dump(mode="json")[part] == value
    [(place, sentence)] = faults_of(UNET | {"architecture": "residual_unet", part: value}).items()
    assert place == (part,)
    assert f"{value}, expected " in sentence
    assert "only unet has parts to choose from" in sentence


def test_multires_blocks_need_three_feature_maps():
    [sentence] = faults_of(UNET | {"block": "multires", "features": (2, 8, 12)}).values()
    assert sentence == "(2, 8, 12), expected 3 or more each with multires blocks"
