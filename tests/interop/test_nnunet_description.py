import pytest

from autoseg.errors import InteropError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.interop.nnunet_description import (
    dataset_folder,
    describe_dataset,
    describe_differences,
    describe_fingerprint,
    describe_plans,
    refuse_inexpressible,
)
from autoseg.records.dataset import LabelValues
from autoseg.records.network import NormalizationSpec, ResamplingSpec
from autoseg.records.selection import KeepLargestComponent, Selection
from tests.builders import (
    CASCADE,
    REGIONS,
    make_cascade_plan,
    make_case_fingerprint,
    make_configuration,
    make_fingerprint,
    make_network_spec,
    make_plan,
)
from tests.interop.nnunet_models import RESAMPLING, architecture

NAME = "3d_fullres"
CLOSE = {"background": 0, "a": 1, "b": 2}


def selection(**changes):
    values = {"configurations": (NAME,), "folds": ("0",), "mean_foreground_dice": None, "candidates": (), "reasons": ()}
    return Selection(**(values | changes))


def differences(plan, **changes):
    return " ".join(describe_differences(plan, selection(**changes), plan.configurations))


def test_a_configuration_has_nnunets_keys():
    network = make_network_spec(
        features=(3, 5, 7), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)), kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        encoder_blocks=(1, 2, 2), decoder_blocks=(1, 2), input_channels=2,
    )  # fmt: skip
    normalization = (
        NormalizationSpec(scheme="zscore", use_mask=True),
        NormalizationSpec(scheme="ct", mean=40.0, std=3.0, lower=-8.0, upper=99.0),
    )
    configuration = make_configuration(
        (2.5, 1.0, 1.25), network=network, normalization=normalization, patch_size=(12, 16, 20)
    )
    plan = make_plan(
        channel_names=("T1", "CT"), labels=CLOSE, transpose=(1, 2, 0), configurations={NAME: configuration}
    )
    cases = [make_case_fingerprint("a", (9, 21, 26), spacing=(4.0, 2.0, 1.0)), make_case_fingerprint("b", (11, 20, 30))]
    plans = describe_plans(plan, [NAME], NAME, make_fingerprint(cases, plan))
    assert (plans["transpose_forward"], plans["transpose_backward"]) == ([1, 2, 0], [2, 0, 1])
    assert plans["original_median_spacing_after_transp"] == [1.5, 1.0, 2.5]
    assert plans["original_median_shape_after_transp"] == [20.5, 28.0, 10.0]
    facts = plans["foreground_intensity_properties_per_channel"]["1"]
    assert facts == {"mean": 40.0, "std": 3.0, "percentile_00_5": -8.0, "percentile_99_5": 99.0}
    written = plans["configurations"][NAME]
    assert written["architecture"] == architecture()
    assert written["normalization_schemes"] == ["ZScoreNormalization", "CTNormalization"]
    assert written["use_mask_for_norm"] == [True, False]
    assert written["patch_size"] == [12, 16, 20]
    assert written["spacing"] == [2.5, 1.0, 1.25]
    assert written["resampling_fn_data_kwargs"] == RESAMPLING
    assert written["resampling_fn_seg_kwargs"] == {**RESAMPLING, "is_seg": True, "order": 1}
    assert "previous_stage" not in written


def test_a_fingerprint_has_nnunets_keys_and_no_order_of_cases():
    cases = [make_case_fingerprint("a", (9, 21, 26), spacing=(4.0, 2.0, 1.0)), make_case_fingerprint("b", (8, 20, 30))]
    written = describe_fingerprint(make_fingerprint(cases, median_cropped_fraction=0.75))
    assert written["spacings"] == [[1.0, 1.0, 1.0], [4.0, 2.0, 1.0]]
    assert written["shapes_after_crop"] == [[8, 20, 30], [9, 21, 26]]
    assert written["median_relative_size_after_cropping"] == 0.75
    names = {"mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5"}
    assert written["foreground_intensity_properties_per_channel"]["0"] == dict.fromkeys(names, 1.0)


@pytest.mark.parametrize(("rule", "forced"), [("always", True), ("never", False)])
def test_another_rule_about_thick_slices_is_kept(rule, forced):
    spec = ResamplingSpec(separate_through_plane=rule, anisotropy_threshold=2.0, through_plane_order=1, image_order=2)
    plan = make_plan(configurations={NAME: make_configuration(resampling=spec)})
    written = describe_plans(plan, [NAME], NAME, None)["configurations"][NAME]["resampling_fn_data_kwargs"]
    expected = {"is_seg": False, "order": 2, "order_z": 1, "force_separate_z": forced}
    assert written == {**expected, "separate_z_anisotropy_threshold": 2.0}


def test_cascade_steps_name_each_other():
    plan = make_cascade_plan((4.0, 2.0, 2.0), (2.0, 1.0, 1.0))
    written = describe_plans(plan, ["3d_lowres", CASCADE], CASCADE, None)["configurations"]
    assert written.keys() == {"3d_lowres", CASCADE}
    assert written["3d_lowres"]["next_stage"] == CASCADE
    assert written[CASCADE]["previous_stage"] == "3d_lowres"
    said = differences(plan)
    assert "-prev_stage_predictions" in said
    assert "not logits" in said


def test_what_nnunet_cannot_decide_is_said():
    plan = make_plan({NAME: (1.0, 1.0, 1.0), "2d": (1.0, 1.0)}, labels=CLOSE)
    said = differences(plan, configurations=(NAME, "2d"), member_weights=(0.8, 0.2), decision="expected-dice")
    assert "The decision by expected Dice is left out" in said
    assert "It averages them half and half; their weights are left out." in said
    assert "expected Dice" not in differences(plan)


@pytest.mark.parametrize(
    ("orientation", "ending", "reader", "expected"),
    [
        ("canonical", ".nii.gz", "SimpleITKIO", ".nii.gz"),
        ("as_stored", ".nrrd", "SimpleITKIO", ".nrrd"),
        ("as_stored", ".mhd", "SimpleITKIO", ".nii.gz"),
        ("canonical_ras", ".nii.gz", "NibabelIOWithReorient", ".nii.gz"),
        ("canonical", ".png", "NaturalImage2DIO", ".png"),
        ("canonical", ".JPG", "NaturalImage2DIO", ".png"),
    ],
)
def test_the_reader_goes_by_orientation_and_ending(orientation, ending, reader, expected):
    plan = make_plan({NAME: (1.0, 1.0, 1.0)}, labels=CLOSE, orientation=orientation, file_ending=ending)
    assert describe_plans(plan, [NAME], NAME, None)["image_reader_writer"] == reader
    assert describe_dataset(plan, 3, "", [])["file_ending"] == expected
    said = differences(plan)
    assert ("DICOMOrient" in said) == (orientation == "canonical" and reader == "SimpleITKIO")
    assert (f"does not find {ending}" in said) == (expected != ending)


def test_labels_are_counted_without_gaps():
    labels = {"background": 0, "anterior": 300, "posterior": 3, "ignore": 255}
    plan = make_plan({NAME: (1.0, 1.0, 1.0)}, labels=labels, channel_names=("MR", "CT"))
    dataset = describe_dataset(plan, 4, "MIT", ["One.", "Two."])
    assert dataset["labels"] == {"background": 0, "posterior": 1, "anterior": 2, "ignore": 3}
    assert dataset["channel_names"] == {"0": "MR", "1": "CT"}
    assert (dataset["numTraining"], dataset["licence"], dataset["description"]) == (4, "MIT", "One. Two.")
    assert "0 -> 0, 3 -> 1, 300 -> 2" in differences(plan)
    assert "counts labels" not in differences(make_plan(labels=CLOSE))


def test_regions_keep_their_order():
    labels = {**REGIONS, "ignore": 4}
    plan = make_plan(labels=labels, encoding=make_encoding(labels, (2, 1, 3)))
    dataset = describe_dataset(plan, 0, "", [])
    regions = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    assert dataset["labels"] == {"background": 0, **regions, "ignore": 4}
    assert [*dataset["labels"]][1:4] == ["whole", "core", "enhancing"]
    assert dataset["regions_class_order"] == [2, 1, 3]


def test_what_is_left_out_is_said():
    steps = (KeepLargestComponent(labels=("a",)),)
    said = differences(
        make_plan(labels=CLOSE), postprocessing=steps, region_thresholds={"a": 0.4}, configurations=(NAME, "2d")
    )
    assert "keep_largest_component" in said
    assert "Thresholds" in said
    assert "nnUNetv2_ensemble" in said
    plain = make_plan(labels=CLOSE, orientation="as_stored")
    assert differences(plain) == ""


def test_what_nnunet_does_not_have_is_refused_by_name():
    unext = make_network_spec(architecture="unext", features=(4, 4, 6), token_levels=1)
    plan = make_plan(configurations={"thin": make_configuration(network=unext, preprocessed_as="thin")})
    with pytest.raises(InteropError, match="the network of thin is unext"):
        refuse_inexpressible(plan, ["thin"])
    points = make_network_spec(features=(4, 6, 8), head="points", coarse_level=1, skip="gate")
    plan = make_plan(configurations={"odd": make_configuration(network=points, preprocessed_as="odd")})
    with pytest.raises(InteropError, match=r"of odd has skip gate, and nnU-Net's have plain; .* has head points"):
        refuse_inexpressible(plan, ["odd"])
    with pytest.raises(InteropError, match="cores and borders"):
        refuse_inexpressible(make_plan(target="border_core", border_width_mm=1.0), [])
    labels: dict[str, LabelValues] = {"background": 0, "a": (1, 3), "b": (2, 3)}
    overlapping = make_encoding(labels, (1, 2), overlapping=True)
    with pytest.raises(InteropError, match="labels overlap"):
        refuse_inexpressible(make_plan(labels=labels, encoding=overlapping), [])
    refuse_inexpressible(make_plan({NAME: (1.0, 1.0, 1.0)}), [NAME])


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Dataset004_Hippocampus", "Dataset004_Hippocampus"),
        ("hippo (left)", "Dataset900_hippo_left"),
        ("Dataset4_X/..", "Dataset900_Dataset4_X"),
        ("Leber ä", "Dataset900_Leber"),
        ("__", "Dataset900_model"),
    ],
)
def test_the_folder_has_a_name_of_nnunets_form(name, folder):
    assert dataset_folder(make_plan(dataset_name=name)) == folder
