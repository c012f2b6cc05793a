"""The preview: what is taken from the workspace, and how often it is augmented."""

import numpy as np
import pytest
from PIL import Image

from autoseg.errors import UsageError
from autoseg.imaging.arrays.storage import save_case
from autoseg.records.budget import Budget
from autoseg.records.files import write_record
from autoseg.records.plan import Split, Splits
from autoseg.records.workspace import Workspace
from autoseg.stages import preview
from autoseg.stages.preview import preview_augmentation
from autoseg.training.data.augmentation.parameters import AugmentationRules
from autoseg.training.options import TrainingOptions
from tests.builders import make_dataset, make_plan
from tests.training.small_cases import SHAPES, make_configuration, make_stored_case

PATCH = (4, 8, 6)


def make_preview_plan():
    configuration = make_configuration(PATCH).model_copy(update={"spacing": (3.0, 2.0, 1.0)})
    network = configuration.network.model_copy(update={"input_channels": 4})
    cascade = configuration.model_copy(update={"network": network, "previous_configuration": "test"})
    return make_plan(
        dataset_name="Preview",
        budget=Budget(device="cpu", memory_gigabytes=1),
        channel_names=("CT", "PET"),
        labels={"background": 0, "rare": 1, "common": 5},
        configurations={"test": configuration, "cascade": cascade},
    )


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path / "w")
    write_record(make_preview_plan(), workspace.plan)
    write_record(make_dataset(sorted(SHAPES), make_preview_plan()), workspace.dataset)
    write_record(Splits(folds=(Split(training=("a", "c"), validation=("b",)),), reason="by hand"), workspace.splits)
    for seed, (case, shape) in enumerate(SHAPES.items()):
        stored = make_stored_case(case, shape, seed=seed)
        array = stored.array[:]
        folder, labels = workspace.preprocessed("test"), array[-1].astype(np.int16)
        save_case(folder, stored.record, array[:-1], labels, (stored.locations, None), PATCH)
    return workspace


@pytest.fixture
def drawn(monkeypatch):
    """What is handed to the drawing function."""
    calls = []
    monkeypatch.setattr(preview, "plot_versions", lambda rows, names, path: calls.append((rows, names, path)))
    return calls


def test_writes_a_picture_into_a_new_folder(workspace, tmp_path):
    path = tmp_path / "new" / "preview.png"

    preview_augmentation(workspace, "test", "0", path)

    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 1


def test_rows_are_training_cases_first_as_they_lie(workspace, tmp_path, drawn):
    preview_augmentation(workspace, "test", "0", tmp_path / "preview.png")

    ((rows, names, path),) = drawn
    assert path == tmp_path / "preview.png"
    assert names == {1: "rare", 2: "common"}
    assert [row.title.split(":")[0] for row in rows] == ["a", "c"]
    for row, case in zip(rows, ("a", "c"), strict=True):
        assert row.images.shape == row.labels.shape == (6, *PATCH)
        assert row.pixel_aspect == 2.0
        assert row.labels[0].any()  # around foreground
        array = make_stored_case(case, SHAPES[case], seed=list(SHAPES).index(case)).array[:]
        windows = np.lib.stride_tricks.sliding_window_view(array[0], PATCH)
        (corner,) = np.argwhere((windows == row.images[0]).all(axis=(3, 4, 5)))
        box = tuple(slice(low, low + edge) for low, edge in zip(corner, PATCH, strict=True))
        np.testing.assert_array_equal(row.labels[0], array[-1][box].clip(0))
        assert len({version.tobytes() for version in row.images}) >= 4  # some are left alone by chance


def test_all_cases_when_the_fold_is_all_and_other_patches_with_another_seed(workspace, tmp_path, drawn):
    for seed in (0, 0, 1):
        preview_augmentation(workspace, "test", "all", tmp_path / "preview.png", TrainingOptions(seed=seed))

    first, same, other = (rows for rows, _, _ in drawn)
    assert [row.title.split(":")[0] for row in first] == ["a", "b", "c"]
    for row, again, different in zip(first, same, other, strict=True):
        np.testing.assert_array_equal(row.images, again.images)
        assert (row.images != different.images).any()


def test_the_seed_chooses_the_cases(workspace, tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(preview, "MAX_PATCHES", 1)
    for seed in (0, 0, 0, 0, 0, 1, 2, 3, 4):
        preview_augmentation(workspace, "test", "all", tmp_path / "preview.png", TrainingOptions(seed=seed))

    titles = [row.title for (row,), _, _ in drawn]
    assert len(set(titles[:5])) == 1
    assert len(set(titles)) > 1


@pytest.mark.parametrize("axes", [(), (2,)])
def test_patches_are_mirrored_as_the_options_say(workspace, tmp_path, drawn, monkeypatch, axes):
    rules = AugmentationRules(mirror_axis_probability=1.0, rotation_probability=0.0, scaling_probability=0.0)
    monkeypatch.setattr(preview, "choose_rules", lambda _contrasts: rules)

    preview_augmentation(workspace, "test", "0", tmp_path / "preview.png", TrainingOptions(mirror_axes=axes))

    ((rows, _, _),) = drawn
    for row in rows:
        for labels in row.labels[1:]:
            np.testing.assert_array_equal(labels, np.flip(row.labels[0], axes))


def test_options_that_do_not_fit_are_refused(workspace, tmp_path):
    with pytest.raises(UsageError, match=r"These options do not fit the plan: .*mirror_axes"):
        preview_augmentation(workspace, "test", "0", tmp_path / "preview.png", TrainingOptions(mirror_axes=(3,)))
    assert not (tmp_path / "preview.png").exists()


def test_cascade_shows_the_previous_labels(workspace, tmp_path, drawn, monkeypatch):
    asked = []

    def load(_workspace, _plan, name, cases):
        asked.append((name, tuple(cases)))
        return {
            case: make_stored_case(case, SHAPES[case], seed=0).array[:][-1].clip(0).astype(np.int16) for case in cases
        }

    monkeypatch.setattr(preview, "load_previous", load)

    preview_augmentation(workspace, "cascade", "0", tmp_path / "preview.png")

    ((rows, _, _),) = drawn
    assert asked == [("cascade", ("a", "c"))]
    for row in rows:
        np.testing.assert_array_equal(row.previous[0], row.labels[0])
        assert row.previous.shape == (6, *PATCH)
        assert set(np.unique(row.previous).tolist()) <= {0, 1, 2}


def test_unknown_names_and_missing_cases_are_refused(workspace, tmp_path):
    path = tmp_path / "preview.png"

    with pytest.raises(UsageError, match=r"plan\.json: no configuration '2d'; it has test, cascade"):
        preview_augmentation(workspace, "2d", "0", path)
    with pytest.raises(UsageError, match=r"fold '7' does not exist; .*splits\.json has 0, all"):
        preview_augmentation(workspace, "test", "7", path)
    for record in workspace.preprocessed("test").glob("*.json"):
        record.unlink()
    with pytest.raises(UsageError, match=r"no training case of fold 0 is preprocessed.*without --no-preprocess"):
        preview_augmentation(workspace, "test", "0", path)
    assert not path.exists()
