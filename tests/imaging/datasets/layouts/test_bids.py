"""Small datasets in BIDS."""

import nibabel
import numpy as np
import pytest

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.layouts.bids import find_bids_images
from autoseg.imaging.datasets.layouts.bids_names import read_name
from autoseg.imaging.datasets.layouts.recognition import find_dataset
from autoseg.inference.files.inputs import find_inputs
from autoseg.stages.describe import describe_dataset
from tests.imaging.datasets.small_datasets import AFFINE, SHAPE_XYZ, image, label, save

COARSE = AFFINE @ np.diag([2, 2, 1, 1])
TABLE = "index\tname\tabbreviation\tcolor\n0\tBackground\tBG\t#000000\n1\tTumour core\tTC\t#f00\n2\tEdema\tED\t#0f0\n"


def add_image(folder, session, name, affine=AFFINE, shape=SHAPE_XYZ):
    stem = session.replace("/", "_")
    array = np.random.default_rng([*session.encode(), *name.encode()]).normal(100, 20, shape).astype(np.float32)
    save(folder / session / "anat" / f"{stem}_{name}.nii.gz", array, affine)
    (folder / session / "anat" / f"{stem}_{name}.json").write_text("{}")


def add_label(folder, session, name="dseg", array=None, derivative="manual"):
    path = folder / "derivatives" / derivative / session / "anat" / f"{session.replace('/', '_')}_{name}.nii.gz"
    save(path, label(1, 2) if array is None else array)


def make(folder, sessions=("sub-01", "sub-02", "sub-03"), images=("T1w", "FLAIR"), table=TABLE):
    for session in sessions:
        for name in images:
            add_image(folder, session, name)
        add_label(folder, session)
    (folder / "dataset_description.json").write_text('{"Name": "made", "BIDSVersion": "1.9.0"}')
    (folder / "participants.tsv").write_text("participant_id\tage\nsub-01\t50\n")
    if table:
        (folder / "derivatives" / "manual" / "dseg.tsv").write_text(table)
    return folder


def test_images_and_label_maps_of_subjects(tmp_path):
    description = describe_dataset(make(tmp_path))
    assert (description.layout, description.channel_names) == ("bids", ("FLAIR", "T1w"))
    assert description.labels == {"background": 0, "Tumour core": 1, "Edema": 2}
    assert [files.case for files in description.cases] == ["sub-01", "sub-02", "sub-03"]
    first = description.cases[0]
    assert first.images == ("sub-01/anat/sub-01_FLAIR.nii.gz", "sub-01/anat/sub-01_T1w.nii.gz")
    assert first.label == "derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz"
    assert description.warnings == ()
    assert description.notes[0].startswith("recognised BIDS with the channels FLAIR, T1w: 3 cases, such as sub-01 with")
    assert "labels are named by derivatives/manual/dseg.tsv" in description.notes


def test_sessions_of_a_subject_are_one_group(tmp_path):
    description = describe_dataset(make(tmp_path, ("sub-01/ses-a", "sub-01/ses-b", "sub-02/ses-a")))
    assert [(files.case, files.group) for files in description.cases] == [
        ("sub-01_ses-a", "sub-01"), ("sub-01_ses-b", "sub-01"), ("sub-02_ses-a", ""),
    ]  # fmt: skip


def test_channels_are_those_of_all_cases_on_the_grid_of_the_label_maps(tmp_path):
    make(tmp_path)
    add_image(tmp_path, "sub-01", "PDw")
    for session in ("sub-01", "sub-02", "sub-03"):
        add_image(tmp_path, session, "T2w", COARSE, (6, 4, 5))
    description = describe_dataset(tmp_path)
    assert description.channel_names == ("FLAIR", "T1w")
    assert (
        "channels that are not used: PDw (1 of 3 cases have it), T2w (not on the grid of the label map in 3 of 3 cases)"
        in description.notes
    )


def test_a_table_of_subjects_says_which_labels_were_looked_for(tmp_path):
    make(tmp_path, ("sub-01/ses-a", "sub-01/ses-b", "sub-02", "sub-03"))
    rows = ["participant_id\tage\tAnnotated", "sub-01\t50\tedema", "02\t61\tn/a", "sub-03\tn/a\tEdema; Tumour core"]
    (tmp_path / "participants.tsv").write_text("\n".join(rows))
    described = describe_dataset(tmp_path)
    looked_for = {files.case: files.annotated for files in described.cases}
    assert looked_for == {
        "sub-01_ses-a": ("Edema",), "sub-01_ses-b": ("Edema",), "sub-02": None, "sub-03": None,
    }  # fmt: skip
    (tmp_path / "participants.tsv").write_text("annotated\nedema\n")
    with pytest.raises(
        DatasetError, match=r"participants\.tsv: is no table of subjects \('participant_id'\); expected"
    ):
        find_dataset(tmp_path)


def test_cases_may_lack_channels_that_most_have(tmp_path):
    make(tmp_path)
    for session in ("sub-01", "sub-03"):
        add_image(tmp_path, session, "T2w")
    add_image(tmp_path, "sub-02", "PDw")
    description = describe_dataset(tmp_path, missing_channels=True)
    assert description.channel_names == ("FLAIR", "T1w", "T2w")
    assert [files.absent_channels for files in description.cases] == [(), (2,), ()]
    assert description.cases[1].images == ("sub-02/anat/sub-02_FLAIR.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz")
    assert description.cases[2].images[2] == "sub-03/anat/sub-03_T2w.nii.gz"
    assert "channels that are not used: PDw (1 of 3 cases have it)" in description.notes
    assert describe_dataset(tmp_path).channel_names == ("FLAIR", "T1w")
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "core": 1, "edema": 2}}')
    assert describe_dataset(tmp_path, missing_channels=True).channel_names == ("FLAIR", "T1w", "T2w")


def test_a_case_without_any_of_the_channels_is_a_fault(tmp_path):
    make(tmp_path, ("sub-01", "sub-02"))
    add_image(tmp_path, "sub-03", "PDw")
    add_label(tmp_path, "sub-03")
    (fault,) = find_dataset(tmp_path, missing_channels=True).faults
    assert (fault.case, fault.what) == ("sub-03", "there is no image of the channels FLAIR, T1w for this label map")


def test_subjects_without_label_map_are_counted(tmp_path):
    make(tmp_path)
    add_image(tmp_path, "sub-04", "T1w")
    found = find_dataset(tmp_path)
    assert len(found.cases) == 3
    assert "not used: 1 subjects or sessions without label map" in found.notes
    assert found.faults == ()


def test_a_label_map_without_image_is_a_fault(tmp_path):
    make(tmp_path)
    add_label(tmp_path, "sub-09")
    (fault,) = find_dataset(tmp_path).faults
    assert (fault.severity, fault.case) == ("error", "sub-09")
    assert fault.what == "there is no image for this label map"


def test_the_label_map_tells_the_run(tmp_path):
    make(tmp_path, images=("run-1_T1w", "run-2_T1w"), table=None)
    for session in ("sub-01", "sub-02", "sub-03"):
        (tmp_path / "derivatives" / "manual" / session / "anat" / f"{session}_dseg.nii.gz").unlink()
        add_label(tmp_path, session, "run-2_dseg")
    found = find_dataset(tmp_path)
    assert found.cases[0].images == ("sub-01/anat/sub-01_run-2_T1w.nii.gz",)
    assert [files.case for files in found.cases] == ["sub-01", "sub-02", "sub-03"]
    for session in ("sub-01", "sub-02"):
        add_label(tmp_path, session, "run-1_dseg")
    found = find_dataset(tmp_path)
    assert [files.case for files in found.cases] == [
        "sub-01_run-1", "sub-01_run-2", "sub-02_run-1", "sub-02_run-2", "sub-03",
    ]  # fmt: skip
    assert [files.group for files in found.cases] == ["sub-01", "sub-01", "sub-02", "sub-02", ""]


def test_runs_that_no_name_tells_are_refused_with_the_list(tmp_path):
    make(tmp_path, images=("run-1_T1w", "run-2_T1w"))
    with pytest.raises(DatasetError, match=r"several images have the suffix T1w.*sub-01_run-1_T1w.*sub-01_run-2_T1w"):
        describe_dataset(tmp_path)


def test_of_several_images_the_one_without_further_entities_is_taken(tmp_path):
    make(tmp_path, images=("T1w", "acq-fast_T1w", "ce-gd_T1w"))
    found = find_dataset(tmp_path)
    assert found.faults == ()
    assert found.channel_words == ("T1w", "ce-gd_T1w")
    assert found.cases[0].images == ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_ce-gd_T1w.nii.gz")


def test_several_label_maps_are_refused_with_counts_and_one_derivative_can_be_given(tmp_path):
    make(tmp_path)
    for session in ("sub-01", "sub-02"):
        add_label(tmp_path, session, derivative="automatic", array=label(7))
    with pytest.raises(DatasetError) as raised:
        describe_dataset(tmp_path)
    message = str(raised.value)
    assert "2 cases have several label maps" in message
    assert "2 x derivatives/manual/sub-*/**/sub-*_dseg" in message
    assert "2 x derivatives/automatic/sub-*/**/sub-*_dseg" in message
    assert f"  autoseg-plan {tmp_path / 'derivatives' / 'manual'}" in message.splitlines()
    description = describe_dataset(tmp_path / "derivatives" / "manual")
    assert [files.case for files in description.cases] == ["sub-01", "sub-02", "sub-03"]
    assert description.cases[0].images[1] == "../../sub-01/anat/sub-01_T1w.nii.gz"
    assert description.labels == {"background": 0, "Tumour core": 1, "Edema": 2}
    assert description.notes[0].startswith("recognised BIDS")


def test_spaces_need_images_in_them(tmp_path):
    make(tmp_path)
    for session in ("sub-01", "sub-02", "sub-03"):
        add_label(tmp_path, session, "space-MNI152_dseg")
    found = find_dataset(tmp_path)
    assert found.cases[0].label == "derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz"
    assert "not used: 3 label maps in spaces without images (MNI152)" in found.notes
    for session in ("sub-01", "sub-02", "sub-03"):
        (tmp_path / "derivatives" / "manual" / session / "anat" / f"{session}_dseg.nii.gz").unlink()
        path = tmp_path / "derivatives" / "prep" / session / "anat" / f"{session}_space-MNI152_T1w.nii.gz"
        save(path, image(1))
    found = find_dataset(tmp_path)
    assert found.cases[0].images == ("derivatives/prep/sub-01/anat/sub-01_space-MNI152_T1w.nii.gz",)


def test_several_kinds_in_one_derivative_are_to_be_listed(tmp_path):
    make(tmp_path)
    add_label(tmp_path, "sub-01", "desc-aseg_dseg")
    with pytest.raises(
        DatasetError, match=r"1 x derivatives/manual/sub-\*/\*\*/sub-\*_desc-aseg_dseg[^?]*List the files"
    ):
        find_dataset(tmp_path)


def test_images_without_label_maps_are_called_bids(tmp_path):
    add_image(tmp_path, "sub-01", "T1w")
    with pytest.raises(DatasetError, match=r"Nearest: BIDS; there are images of 1 subjects .* no label map"):
        find_dataset(tmp_path)


def test_masks_of_labels(tmp_path):
    """As ATLAS has them beside the images, and as the spinal cord's community names them."""
    for number, session in enumerate(("sub-01", "sub-02")):
        add_image(tmp_path, session, "T1w")
        add_image(tmp_path, session, "T2w")
        save(tmp_path / session / "anat" / f"{session}_T2w_label-SC_seg.nii.gz", label(1, 1))
        if number == 0:
            save(tmp_path / session / "anat" / f"{session}_T2w_label-lesion_seg.nii.gz", label(0, 1))
    description = describe_dataset(tmp_path)
    assert [files.case for files in description.cases] == ["sub-01", "sub-02"]
    assert description.channel_names == ("T2w",)
    assert description.labels == {"background": 0, "SC": (1, 3), "lesion": (2, 3)}
    assert "masks that are missing count as empty: lesion in 1 of 2 cases" in description.notes


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("dseg.tsv", "root"),
        ("derivatives/manual/dseg.tsv", "derivative"),
        ("derivatives/manual/desc-x_dseg.tsv", ""),
        ("derivatives/manual/sub-01/anat/sub-01_dseg.tsv", "file"),
    ],
)
def test_tables_are_inherited(tmp_path, file, expected):
    make(tmp_path, table=None)
    (tmp_path / file).write_text(f"index\tname\n1\t{expected or 'other'}\n2\tb\n")
    found = find_dataset(tmp_path)
    assert found.value_names == ({1: expected, 2: "b"} if expected else None)


def test_the_nearest_table_counts_and_contradictions_are_refused(tmp_path):
    make(tmp_path)
    (tmp_path / "dseg.tsv").write_text("index\tname\n1\tfar\n")
    assert find_dataset(tmp_path).value_names == {1: "Tumour core", 2: "Edema"}
    near = tmp_path / "derivatives" / "manual" / "sub-02" / "anat" / "sub-02_dseg.tsv"
    near.write_text("index\tname\n1\tEdema\n")
    with pytest.raises(
        DatasetError, match=r"sub-02_dseg\.tsv: calls the value 1 'Edema', and .* calls it 'Tumour core'"
    ):
        find_dataset(tmp_path)
    near.write_text("index,name\n1,Edema\n")
    with pytest.raises(DatasetError, match=r"sub-02_dseg\.tsv: is no table of labels"):
        find_dataset(tmp_path)


def test_a_value_without_a_name_is_a_fault(tmp_path):
    make(tmp_path)
    add_label(tmp_path, "sub-02", array=label(1, 2, 3))
    with pytest.raises(DatasetError, match=r"undeclared label values: 3 in 1 voxels; declared are 0, 1, 2"):
        describe_dataset(tmp_path)


def test_names_of_files():
    file = read_name("derivatives/x/sub-01/anat/sub-01_ses-2_acq-a_run-1_space-orig_T2w_label-SC_seg.nii.gz")
    assert (file.session, file.suffix, file.words, file.space) == ("sub-01_ses-2", "seg", ("T2w", "seg"), "")
    assert file.choosing == {"acq": "a", "run": "1"}


def test_prediction_finds_the_channels_of_the_model(tmp_path):
    make(tmp_path, ("sub-01/ses-a", "sub-02/ses-a"), images=("T1w", "FLAIR", "T2w"))
    (tmp_path / "sub-02" / "ses-a" / "anat" / "sub-02_ses-a_T1w.nii.gz").unlink()
    assert list(find_bids_images(tmp_path, ["T1w"])) == list(find_bids_images(tmp_path, ["t1"])) == ["sub-01_ses-a"]
    assert find_bids_images(tmp_path, ["CT"]) == {}
    first, second = find_inputs(tmp_path, ["T1w", "FLAIR"])
    folder = tmp_path / "sub-01" / "ses-a" / "anat"
    assert first.case == "sub-01_ses-a"
    assert first.images == (folder / "sub-01_ses-a_T1w.nii.gz", folder / "sub-01_ses-a_FLAIR.nii.gz")
    assert (first.fault, second.fault) == ("", "there is no image of the channels T1w; add it")


def test_images_of_one_suffix_fit_a_model_with_one_channel(tmp_path):
    add_image(tmp_path, "sub-01", "T1w")
    (found,) = find_inputs(tmp_path, ["MRI"])
    assert (found.case, found.images) == ("sub-01", (tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz",))


def test_grids_are_those_of_nibabel(tmp_path):
    make(tmp_path)
    nibabel.load(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz")  # the oracle reads what was made
    (tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_bytes(b"damaged")
    assert find_dataset(tmp_path).channel_words == ("FLAIR", "T1w")
    with pytest.raises(DatasetError, match=r"error +sub-01 +sub-01/anat/sub-01_T1w.nii.gz"):
        describe_dataset(tmp_path)
