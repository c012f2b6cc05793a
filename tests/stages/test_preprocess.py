"""Preprocessing: equal to nnU-Net's own arrays on real data; order, resuming and failures on made-up cases."""

import hashlib
import json
import logging
from typing import Any

import numpy as np
import pytest
import SimpleITK
from skimage.transform import resize

from autoseg.errors import DatasetError, UsageError
from autoseg.imaging.arrays.damage import find_case_damage
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.imaging.arrays.preprocessing import normalized_crop, preprocess_case
from autoseg.imaging.arrays.resampling import resample_image
from autoseg.imaging.arrays.storage import array_hashes, open_case, stored_cases
from autoseg.imaging.datasets.cases import content_hash, read_case
from autoseg.records.case import PreprocessedCase
from autoseg.records.dataset import CaseFiles, LabelValues
from autoseg.records.network import NormalizationSpec
from autoseg.records.workspace import Workspace
from autoseg.stages import preprocess
from autoseg.stages.preprocess import preprocess_dataset
from tests.builders import make_configuration, make_dataset, make_network_spec, make_plan

LABELS: dict[str, LabelValues] = {"background": 0, "near": 1, "far": 4}


def configuration(name, spacing, *, use_mask=False, scheme="zscore", preprocessed_as=None):
    ones = (1,) * len(spacing)
    return make_configuration(
        spacing,
        median_shape=(8.0,) * len(spacing),
        patch_size=(8,) * len(spacing),
        network=make_network_spec(len(spacing), features=(8, 8), strides=(ones, ones), kernel_sizes=(ones, ones)),
        normalization=(NormalizationSpec(scheme=scheme, use_mask=use_mask),),
        preprocessed_as=preprocessed_as or name,
    )


def plan_of(configurations, *, labels=LABELS, transpose=(0, 1, 2), orientation="as_stored"):
    num_heads = len(make_encoding(labels).heads)
    networks = {
        name: configuration.network.model_copy(update={"output_channels": num_heads})
        for name, configuration in configurations.items()
    }
    return make_plan(
        labels=labels,
        orientation=orientation,
        transpose=transpose,
        configurations={
            name: configuration.model_copy(update={"network": networks[name]})
            for name, configuration in configurations.items()
        },
    )


def preprocessed(image, labels, spacing, plan, name) -> tuple[Any, Any, PreprocessedCase]:
    return preprocess_case(image, labels, spacing, case_id="x", plan=plan, configuration_name=name)


def simple_plan(**options):
    configurations = {
        "2d": configuration("2d", (1.0, 1.0)),
        "3d_fullres": configuration("3d_fullres", (2.0, 1.0, 1.0)),
        "3d_cascade_fullres": configuration("3d_cascade_fullres", (2.0, 1.0, 1.0), preprocessed_as="3d_fullres"),
    }
    return plan_of(configurations, **options)


@pytest.mark.parametrize(
    ("folder", "case", "image", "label", "num_labels", "spacing", "largest_tie_fraction"),
    [
        (
            "nnunet_raw/Dataset027_ACDC",
            "acdc_spacing_5_1.2_1.2/patient001_frame01",
            "imagesTr/patient001_frame01_0000.nii.gz",
            "labelsTr/patient001_frame01.nii.gz",
            3,
            (5.0, 1.2, 1.2),
            0.0,
        ),
        (
            "plain/lung_protonMR",
            "lung_protonMR_spacing_3_3_3/0004H1",
            "images/0004H1.nii.gz",
            "labels/0004H1.nii.gz",
            5,
            (3.0, 3.0, 3.0),
            2e-4,
        ),
    ],
)
def test_equal_to_nnunet_on_real_data(shared, folder, case, image, label, num_labels, spacing, largest_tie_fraction):
    oracle = np.load(shared / "peer_oracles" / "preprocessing" / f"{case}.npz")
    facts = json.loads((shared / "peer_oracles" / "preprocessing" / f"{case}.json").read_text())
    labels: dict[str, LabelValues] = {"background": 0, **{str(value): value for value in range(1, num_labels + 1)}}
    plan = plan_of({"3d_fullres": configuration("3d_fullres", spacing)}, labels=labels)
    files = CaseFiles(case="x", images=(image,), label=label)
    volume = read_case(shared / "data" / folder, files, plan.encoding, "as_stored")
    made, made_labels, record = preprocessed(volume.image, volume.labels, volume.grid.spacing, plan, "3d_fullres")
    np.testing.assert_allclose(made, oracle["image"], atol=1e-4)
    # nnU-Net decides exact ties between two labels by rounding: the shares below are those of the tied voxels.
    assert np.mean(made_labels != oracle["segmentation"][0]) <= largest_tie_fraction
    assert record.original_shape == tuple(facts["shape_before_cropping"])
    box = list(zip(record.crop_start, record.crop_stop, strict=True))
    assert box == [tuple(side) for side in facts["bbox_used_for_cropping"]]
    assert record.original_spacing == pytest.approx(facts["spacing"], rel=1e-6)


def test_labels_that_differ_from_nnunet_are_exact_ties(shared):
    oracle = np.load(shared / "peer_oracles" / "preprocessing" / "lung_protonMR_spacing_3_3_3" / "0004H1.npz")
    labels: dict[str, LabelValues] = {"background": 0, **{str(value): value for value in range(1, 6)}}
    volume = read_case(
        shared / "data" / "plain" / "lung_protonMR",
        CaseFiles(case="x", images=("images/0004H1.nii.gz",), label="labels/0004H1.nii.gz"),
        make_encoding(labels),
        "as_stored",
    )
    spacings = {"native": volume.grid.spacing, "coarse": (3.0, 3.0, 3.0)}
    plan = plan_of({name: configuration(name, spacing) for name, spacing in spacings.items()}, labels=labels)
    native, made = (preprocessed(volume.image, volume.labels, volume.grid.spacing, plan, name)[1] for name in spacings)
    theirs = oracle["segmentation"][0]
    differs = made != theirs
    shares = {
        value: resize((native == value).astype(float), made.shape, 1, mode="edge", anti_aliasing=False)[differs]
        for value in range(-1, 6)
    }
    ours_share = np.choose(made[differs] + 1, list(shares.values()))
    theirs_share = np.choose(theirs[differs] + 1, list(shares.values()))
    assert 0 < differs.sum() < 200
    np.testing.assert_allclose(ours_share, theirs_share, atol=1e-9)
    np.testing.assert_allclose(ours_share, np.max(list(shares.values()), axis=0), atol=1e-9)


def box_case():
    """A bright box inside zeros: (Z, Y, X) = (6, 9, 14), the box is [1:5, 2:8, 3:12]."""
    rng = np.random.default_rng(0)
    image = np.zeros((1, 6, 9, 14), dtype=np.float32)
    image[0, 1:5, 2:8, 3:12] = rng.normal(100, 10, size=(4, 6, 9))
    image[0, 1, 2, 3] = 0.0
    labels = np.zeros((6, 9, 14), dtype=np.int16)
    labels[2:4, 4:6, 5:9] = 1
    return image, labels


def test_transpose_crop_and_the_record():
    image, labels = box_case()
    plan = plan_of({"c": configuration("c", (0.5, 4.0, 2.0))}, transpose=(2, 0, 1))
    made, made_labels, record = preprocessed(image, labels, (4.0, 2.0, 1.0), plan, "c")
    assert record.model_dump(mode="json") == {
        "schema_version": 1,
        "case": "x",
        "configuration": "c",
        "spacing": [0.5, 4.0, 2.0],
        "shape": [18, 4, 6],
        "original_spacing": [1.0, 4.0, 2.0],
        "original_shape": [14, 6, 9],
        "crop_start": [3, 1, 2],
        "crop_stop": [12, 5, 8],
        "transpose": [2, 0, 1],
        "content_hash": "",
    }
    assert made.shape == (1, 18, 4, 6)
    assert made_labels.shape == (18, 4, 6)
    assert set(np.unique(made_labels)) <= {-1, 0, 1}
    # The label fills voxels 2..5 of 9 along the first axis: 4..11 of 18 at half the spacing.
    assert np.argwhere(made_labels == 1).min(axis=0).tolist() == [4, 1, 2]
    assert np.argwhere(made_labels == 1).max(axis=0).tolist() == [11, 2, 3]


def test_background_outside_the_mask_is_marked_and_foreground_is_kept():
    image, labels = box_case()
    labels[1, 2, 3] = 2
    image[0, 1, 2, 4] = 0.0
    plan = plan_of({"c": configuration("c", (1.0, 1.0, 1.0), use_mask=True)})
    made, made_labels, _ = preprocessed(image, labels, (1.0, 1.0, 1.0), plan, "c")
    assert made_labels[0, 0, :3].tolist() == [2, -1, 0]
    inside = image[image != 0].astype(np.float64)
    assert made[0, 0, 0, :2].tolist() == [0.0, 0.0]
    assert made[0, 1, 1, 1] == pytest.approx((image[0, 2, 3, 4] - inside.mean()) / inside.std(), rel=1e-4)


def test_callers_arrays_stay_as_they_are():
    image, labels = box_case()
    before = image.copy(), labels.copy()
    plan = plan_of({"c": configuration("c", (1.0, 1.0, 1.0))})
    full = np.ascontiguousarray(image[:, 1:5, 2:8, 3:12])
    full_labels = np.ascontiguousarray(labels[1:5, 2:8, 3:12])
    full_before, full_labels_before = full.copy(), full_labels.copy()
    preprocessed(full, full_labels, (1.0, 1.0, 1.0), plan, "c")
    np.testing.assert_array_equal(full_labels, full_labels_before)
    preprocessed(image, labels, (1.0, 1.0, 1.0), plan, "c")
    preprocessed(full, None, (1.0, 1.0, 1.0), plan, "c")
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(labels, before[1])
    np.testing.assert_array_equal(full, full_before)


@pytest.mark.parametrize("use_mask", [False, True])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 0.8)])
def test_an_image_that_is_given_away_gives_the_same(use_mask, spacing):
    image, _ = box_case()
    plan = plan_of({"c": configuration("c", (1.0, 1.0, 1.0), use_mask=use_mask)}, transpose=(2, 0, 1))
    options = {"case_id": "x", "plan": plan, "configuration_name": "c"}
    flipped = image[:, :, ::-1]
    kept, _, record = preprocess_case(flipped, None, spacing, **options)
    given = flipped.copy()[:, ::-1][:, ::-1]
    made, _, same = preprocess_case(given, None, spacing, **options, overwrite=True)
    assert same == record
    np.testing.assert_allclose(made, kept, rtol=1e-6, atol=1e-6)
    assert np.shares_memory(made, given) == (spacing == (1.0, 1.0, 1.0))
    read_only = flipped.copy()
    read_only.setflags(write=False)
    made, _, _ = preprocess_case(read_only, None, spacing, **options, overwrite=True)
    np.testing.assert_array_equal(made, kept)


def test_the_image_does_not_depend_on_labels():
    image, labels = box_case()
    labels[0, 0, 0] = 1
    labels[1, 2, 3] = 1
    plan = plan_of({"c": configuration("c", (2.0, 1.0, 0.8), use_mask=True)})
    with_labels, _, record = preprocessed(image, labels, (1.0, 1.0, 1.0), plan, "c")
    without, none, same = preprocessed(image, None, (1.0, 1.0, 1.0), plan, "c")
    assert none is None
    assert same == record
    np.testing.assert_array_equal(with_labels, without)


def test_2d_keeps_the_slices_of_each_case():
    image, labels = box_case()
    plan = simple_plan()
    made, _, record = preprocessed(image, labels, (7.5, 2.0, 1.0), plan, "2d")
    assert record.spacing == (7.5, 1.0, 1.0)
    assert made.shape == (1, 4, 12, 9)


def test_image_of_zeros_gives_zeros():
    plan = plan_of({"c": configuration("c", (1.0, 1.0, 1.0), use_mask=True)})
    made, _, record = preprocess_case(
        np.zeros((1, 3, 5, 7), dtype=np.float32), None, (2.0, 1.0, 1.0), case_id="x", plan=plan, configuration_name="c"
    )
    assert record.shape == (6, 5, 7)
    np.testing.assert_array_equal(made, 0)


def write_case(folder, case, seed):
    image, labels = box_case()
    image += np.random.default_rng(seed).normal(size=image.shape).astype(np.float32) * (image != 0)
    for name, array in (("images", image[0]), ("labels", np.where(labels == 1, 4, 0).astype(np.uint8))):
        (folder / name).mkdir(exist_ok=True)
        file = SimpleITK.GetImageFromArray(array)
        file.SetSpacing((1.0, 2.0, 4.0))
        SimpleITK.WriteImage(file, folder / name / f"{case}.nii.gz")


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    names = ("Fall ä", "b", "c")
    for seed, name in enumerate(names):
        write_case(folder, name, seed)
    return folder, description_of(folder, names)


def description_of(folder, names):
    return make_dataset(names, make_plan(labels=LABELS, orientation="as_stored"), folder=str(folder))


def modification_times(workspace):
    return {path.name: path.stat().st_mtime_ns for path in workspace.preprocessed("3d_fullres").iterdir()}


def test_every_case_is_stored_for_every_configuration_but_the_cascade(dataset, tmp_path):
    _, description = dataset
    workspace, seen = Workspace(tmp_path / "run"), []
    preprocess_dataset(
        description, simple_plan(), workspace, ("2d", "3d_fullres", "3d_cascade_fullres"), 1,
        lambda *done: seen.append(done),
    )  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert sorted(path.name for path in (tmp_path / "run" / "preprocessed").iterdir()) == ["2d", "3d_fullres"]
    for name in ("2d", "3d_fullres"):
        assert stored_cases(workspace.preprocessed(name)) == ("Fall ä", "b", "c")
    stored = open_case(workspace.preprocessed("3d_fullres"), "Fall ä")
    assert stored.record.spacing == (2.0, 1.0, 1.0)
    assert stored.array.shape == (2, 8, 12, 9)
    assert sorted(stored.locations) == [1, 2]
    assert len(stored.locations[1]) == 0
    labels = stored.array[-1]
    assert (labels[tuple(stored.locations[2].T)] == 2).all()
    assert len(stored.locations[2]) == (labels == 2).sum() > 0


def test_a_second_run_does_nothing_and_changes_are_noticed(dataset, tmp_path, monkeypatch):
    folder, description = dataset
    workspace, plan = Workspace(tmp_path / "run"), simple_plan()
    run = ("3d_fullres",)
    preprocess_dataset(description, plan, workspace, run, 1)
    first = modification_times(workspace)
    preprocess_dataset(description, plan, workspace, run, 1)
    assert modification_times(workspace) == first
    with monkeypatch.context() as patches:
        patches.setattr(preprocess, "read_case", None)  # hashing is enough to see that nothing changed
        preprocess_dataset(description, plan, workspace, run, 1)
    write_case(folder, "b", seed=77)
    (workspace.preprocessed("3d_fullres") / "c.json").unlink()
    preprocess_dataset(description, plan, workspace, run, 1)
    changed = {name for name, time in modification_times(workspace).items() if time != first[name]}
    assert changed == {"b.b2nd", "b.json", "c.b2nd", "c.json"}
    other = plan.configurations["3d_fullres"].model_copy(
        update={"normalization": (NormalizationSpec(scheme="rescale_0_1"),)}
    )
    preprocess_dataset(
        description, plan.model_copy(update={"configurations": {"3d_fullres": other}}), workspace, run, 1
    )
    assert open_case(workspace.preprocessed("3d_fullres"), "b").array[0].min() >= 0.0


def resample_elsewhere(*arguments):
    """As a GPU: other last bits, here more of them."""
    return resample_image(*arguments) + np.float32(0.125), "cuda:0"


@pytest.mark.parametrize("workers", [1, 2])
def test_arrays_that_a_gpu_resampled_serve_the_same_plan_and_say_so(dataset, tmp_path, caplog, workers):
    _, description = dataset
    caplog.set_level(logging.INFO, "autoseg.preprocess")
    on_cpu, workspace, plan, run = Workspace(tmp_path / "cpu"), Workspace(tmp_path / "run"), simple_plan(), ("2d",)
    preprocess_dataset(description, plan, on_cpu, run, 1)
    assert caplog.messages == []
    preprocess_dataset(description, plan, workspace, run, workers, resampler=resample_elsewhere)
    assert caplog.messages == ["resampled on cuda:0: 3 of the 3 arrays written"]
    expected = open_case(on_cpu.preprocessed("2d"), "b")
    found = open_case(workspace.preprocessed("2d"), "b")
    assert found.record.resampled_on == "cuda:0"
    assert found.record.content_hash == expected.record.content_hash
    np.testing.assert_array_equal(found.read_image(), expected.read_image() + np.float32(0.125))
    assert find_case_damage(workspace.preprocessed("2d"), "b") == ""
    assert "resampled_on" not in (on_cpu.preprocessed("2d") / "b.json").read_text()
    times = [path.stat().st_mtime_ns for path in workspace.preprocessed("2d").iterdir()]
    preprocess_dataset(description, plan, workspace, run, 1)  # planning again, on the CPU
    assert [path.stat().st_mtime_ns for path in workspace.preprocessed("2d").iterdir()] == times


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_array_is_made_again_and_no_other_one(dataset, tmp_path, damage):
    _, description = dataset
    workspace, run = Workspace(tmp_path / "run"), ("3d_fullres",)
    preprocess_dataset(description, simple_plan(), workspace, run, 1)
    first, path = modification_times(workspace), workspace.preprocessed("3d_fullres") / "b.b2nd"
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = bytes([content[middle] ^ 4])
    path.write_bytes(content[:middle] + (b"" if damage == "cut" else flipped + content[middle + 1 :]))
    preprocess_dataset(description, simple_plan(), workspace, run, 1)
    assert path.read_bytes() == content
    changed = {name for name, time in modification_times(workspace).items() if time != first[name]}
    assert changed == {"b.b2nd", "b.json"}


def with_statistics(plan, **values):
    """The plan with other foreground statistics, as they follow from another label map."""
    spec = plan.configurations["3d_fullres"].normalization[0].model_copy(update=values)
    changed = plan.configurations["3d_fullres"].model_copy(update={"normalization": (spec,)})
    return plan.model_copy(update={"configurations": {**plan.configurations, "3d_fullres": changed}})


def test_statistics_that_the_normalisation_does_not_use_change_no_array(dataset, tmp_path):
    _, description = dataset
    workspace, plan = Workspace(tmp_path / "run"), with_statistics(simple_plan(), scheme="zscore")
    preprocess_dataset(description, plan, workspace, ("3d_fullres",), 1)
    first = modification_times(workspace)
    preprocess_dataset(description, with_statistics(plan, mean=7.0, upper=9.0), workspace, ("3d_fullres",), 1)
    assert modification_times(workspace) == first
    preprocess_dataset(description, with_statistics(plan, use_mask=True), workspace, ("3d_fullres",), 1)
    assert all(time != first[name] for name, time in modification_times(workspace).items())


def test_arrays_of_0_2_are_up_to_date(dataset, tmp_path):
    """Version 0.2.0 hashed all statistics, used or not."""
    folder, description = dataset
    workspace, plan = Workspace(tmp_path / "run"), with_statistics(simple_plan(), scheme="zscore", mean=7.0)
    preprocess_dataset(description, plan, workspace, ("3d_fullres",), 1)
    content, settings = json.loads(plan.model_dump_json()), {}
    configuration = content["configurations"]["3d_fullres"]
    for files in description.cases:
        settings = {
            "source": content_hash(folder, files), "version": 1, "orientation": content["orientation"],
            "transpose": content["transpose"], "encoding": content["encoding"], "spacing": configuration["spacing"],
            "normalization": configuration["normalization"], "resampling": configuration["resampling"],
        }  # fmt: skip
        path = workspace.preprocessed("3d_fullres") / f"{files.case}.json"
        record = json.loads(path.read_text())
        text = json.dumps(settings, sort_keys=True)
        record["content_hash"] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        path.write_text(json.dumps(record))
    first = modification_times(workspace)
    preprocess_dataset(description, plan, workspace, ("3d_fullres",), 1)
    assert modification_times(workspace) == first


def test_only_outdated_configurations_are_redone(dataset, tmp_path):
    _, description = dataset
    workspace = Workspace(tmp_path / "run")
    preprocess_dataset(description, simple_plan(), workspace, ("2d", "3d_fullres"), 1)
    first = modification_times(workspace)
    (workspace.preprocessed("2d") / "b.json").unlink()
    preprocess_dataset(description, simple_plan(), workspace, ("2d", "3d_fullres"), 1)
    assert modification_times(workspace) == first
    assert stored_cases(workspace.preprocessed("2d")) == ("Fall ä", "b", "c")


def test_a_damaged_or_missing_array_is_made_again(dataset, tmp_path):
    _, description = dataset
    workspace = Workspace(tmp_path / "run")
    preprocess_dataset(description, simple_plan(), workspace, ("3d_fullres",), 1)
    stored = workspace.preprocessed("3d_fullres")
    (stored / "b.b2nd").unlink()
    (stored / "c.json").write_text("{")
    preprocess_dataset(description, simple_plan(), workspace, ("3d_fullres",), 1)
    for case in ("b", "c"):
        assert open_case(stored, case).array.shape == (2, 8, 12, 9)


def test_cases_that_left_the_dataset_are_removed(dataset, tmp_path):
    folder, description = dataset
    workspace = Workspace(tmp_path / "run")
    preprocess_dataset(description, simple_plan(), workspace, ("3d_fullres",), 1)
    preprocess_dataset(description_of(folder, ("b",)), simple_plan(), workspace, ("3d_fullres",), 1)
    assert stored_cases(workspace.preprocessed("3d_fullres")) == ("b",)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_case_is_named_and_the_others_are_stored(dataset, tmp_path, workers):
    folder, description = dataset
    workspace = Workspace(tmp_path / "run")
    (folder / "images" / "b.nii.gz").write_bytes(b"no image at all")
    with pytest.raises(DatasetError, match=r"preprocessing failed for 1 of 3 case\(s\):\n  b: .*b\.nii\.gz"):
        preprocess_dataset(description, simple_plan(), workspace, ("3d_fullres",), workers)
    assert stored_cases(workspace.preprocessed("3d_fullres")) == ("Fall ä", "c")


def test_a_case_without_label_is_refused(dataset, tmp_path):
    _, description = dataset
    cases = (description.cases[0].model_copy(update={"label": ""}),)
    with pytest.raises(DatasetError, match="Fall ä: no label file"):
        preprocess_dataset(
            description.model_copy(update={"cases": cases}), simple_plan(), Workspace(tmp_path), ("2d",), 1
        )


def test_an_unknown_configuration_is_refused(dataset, tmp_path):
    _, description = dataset
    with pytest.raises(UsageError, match="no configuration 3d_ful in the plan; it has 2d, 3d_fullres"):
        preprocess_dataset(description, simple_plan(), Workspace(tmp_path), ("3d_ful",), 1)


def lacking_plan(scheme):
    spec = NormalizationSpec(scheme=scheme, mean=50.0, std=10.0, lower=-100.0, upper=200.0)
    network = make_network_spec(3, input_channels=4)
    configuration = make_configuration(network=network, normalization=(spec,) * 2, channel_presence=True)
    return make_plan(channel_names=("CT", "PET"), configurations={"3d_fullres": configuration})


@pytest.mark.parametrize("scheme", ["zscore", "ct", "rescale_0_1", "none"])
def test_a_missing_channel_is_0_whatever_the_normalisation(scheme):
    image = np.zeros((2, 9, 10, 11), dtype=np.float32)
    image[0, 1:8] = np.random.default_rng(3).normal(60, 20, size=(7, 10, 11))
    plan = lacking_plan(scheme)
    values, _, record = preprocess_case(
        image, None, (1.0, 1.0, 1.0), case_id="a", plan=plan, configuration_name="3d_fullres"
    )
    assert record.absent_channels == (1,)
    assert not values[1].any()
    assert values[0].std() > 0
    assert values.shape == (2, 7, 10, 11)
    crop = normalized_crop(image, record, plan.configurations["3d_fullres"].normalization)
    np.testing.assert_array_equal(crop, values)
    complete = plan.configurations["3d_fullres"].model_copy(update={"channel_presence": False})
    plain = plan.model_copy(update={"configurations": {"3d_fullres": complete}})
    _, _, record = preprocess_case(
        image, None, (1.0, 1.0, 1.0), case_id="a", plan=plain, configuration_name="3d_fullres"
    )
    assert record.absent_channels == ()
    assert array_hashes("", plan, "3d_fullres") != array_hashes("", plain, "3d_fullres")
