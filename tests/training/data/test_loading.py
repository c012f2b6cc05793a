"""Batches: content, determinism, failures."""

import dataclasses
from itertools import islice

import blosc2
import numpy as np
import pytest
import torch
from typing_extensions import override

from autoseg.errors import TrainingError
from autoseg.imaging.arrays import stored_arrays
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.imaging.arrays.storage import open_case, save_case
from autoseg.imaging.arrays.stored_arrays import keep_open
from autoseg.inference.windows.neighbor_slices import append_neighbors
from autoseg.networks.devices import is_out_of_memory
from autoseg.records.mirrored_sides import find_training_swap
from autoseg.records.partial_labels import with_annotated_sets
from autoseg.records.sides import Sides
from autoseg.records.training import GrowingPatch
from autoseg.training.data import loading
from autoseg.training.data.augmentation.on_device import build_device_augmentation
from autoseg.training.data.augmentation.parameters import AugmentationRules
from autoseg.training.data.augmentation.spatial import read_patch, rotation_matrix
from autoseg.training.data.batch import BatchStream, Share
from autoseg.training.data.loading import (
    PatchLoader,
    build_loader,
    default_workers,
    smallest_label_type,
    training_cases,
)
from autoseg.training.losses.maps import MAPS, make_maps
from tests.training.small_cases import ENCODING, SHAPES, make_configuration, make_stored_case, open_loader

PATCH = (6, 8, 10)


@pytest.fixture
def cases():
    return {case: make_stored_case(case, shape, seed=seed) for seed, (case, shape) in enumerate(SHAPES.items())}


def with_loss(configuration, loss):
    training = configuration.training.model_copy(update={"loss": loss})
    return configuration.model_copy(update={"training": training})


def load(cases, count, *, patch=PATCH, batch_size=5, loss="dice_ce", **options):
    batches = open_loader(cases, with_loss(make_configuration(patch, batch_size=batch_size), loss), **options)
    try:
        return list(islice(batches, count))
    finally:
        batches.close()


def assert_equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a["cases"] == b["cases"]
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["target"], b["target"])


@pytest.mark.parametrize("patch", [(6, 8, 10), (8, 10)])
@pytest.mark.parametrize("training", [True, False])
def test_batches_have_the_promised_form(cases, patch, training):
    for batch in load(cases, 6, patch=patch, training=training):
        assert sorted(batch) == ["cases", "image", "target"]
        assert batch["image"].shape == (5, 2, *patch)
        assert batch["image"].dtype == np.float32
        assert batch["image"].flags.c_contiguous
        assert batch["target"].shape == (5, *patch)
        assert batch["target"].dtype == np.int8
        assert set(np.unique(batch["target"]).tolist()) <= {0, 1, 2}
        assert set(batch["cases"]) <= set(SHAPES)


@pytest.mark.parametrize("patch", [(6, 8, 10), (8, 10)])
def test_validation_patches_are_cut_from_their_case_as_it_lies(cases, patch):
    triple = (1, *patch)[-3:]
    for batch in load(cases, 4, patch=patch, training=False):
        for image, target, case in zip(batch["image"], batch["target"], batch["cases"], strict=True):
            array = cases[case].array[:]
            padded = np.pad(array, [(0, 0)] + [(8, 8)] * 3)
            windows = np.lib.stride_tricks.sliding_window_view(padded[0], triple)
            match = np.argwhere(windows[..., 0, 0, 0] == image.reshape(2, *triple)[0, 0, 0, 0])
            found = [
                box
                for z, y, x in match
                if np.array_equal(
                    (box := padded[:, z : z + triple[0], y : y + triple[1], x : x + triple[2]])[0],
                    image.reshape(2, *triple)[0],
                )
            ]
            assert found, case
            np.testing.assert_array_equal(image.reshape(2, *triple)[1], found[0][1])
            np.testing.assert_array_equal(target.reshape(triple), found[0][2].clip(0))


def test_last_samples_show_foreground_and_rare_labels_are_not_drowned(cases):
    batches = load(cases, 60, training=False, patch=(1, 1, 1))
    forced = np.concatenate([batch["target"][3:].ravel() for batch in batches])
    free = np.concatenate([batch["target"][:3].ravel() for batch in batches])

    assert (forced > 0).all()
    assert np.mean(forced == 1) == pytest.approx(0.5, abs=0.15)  # 1 voxel against 12 per slice
    assert np.mean(free > 0) < 0.3


def test_cases_are_drawn_uniformly(cases):
    drawn = [case for batch in load(cases, 120, training=False, patch=(1, 1, 1)) for case in batch["cases"]]

    assert all(drawn.count(case) == pytest.approx(200, abs=45) for case in SHAPES)


def test_same_batches_with_workers_and_after_a_restart_and_from_disk(cases):
    alone = load(cases, 7)

    assert_equal(load(cases, 7), alone)
    assert_equal(load(cases, 7, workers=2), alone)
    assert_equal(load(cases, 4, first_batch=3), alone[3:])
    assert_equal(load(cases, 4, first_batch=3, workers=2, ram_bytes=0), alone[3:])
    assert_equal(load(dict(reversed(cases.items())), 7), alone)


@pytest.mark.parametrize("options", [{}, {"training": False}, {"workers": 2}, {"intensity_on_device": True}])
@pytest.mark.parametrize("ranks", [2, 3])
def test_shares_of_all_processes_make_up_the_whole_batch(cases, ranks, options):
    whole = load(cases, 3, **options)

    shares = [load(cases, 3, share=Share(rank, ranks), **options) for rank in range(ranks)]

    assert [len(share[0]["cases"]) for share in shares] == {2: [3, 2], 3: [2, 2, 1]}[ranks]
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        assert [case for part in parts for case in part["cases"]] == batch["cases"]
        for name in sorted(set(batch) - {"cases"}):
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), batch[name])


def test_process_without_a_sample_is_refused(cases):
    with pytest.raises(ValueError, match="process 2 of 3 has no part of a batch of 2"):
        load(cases, 1, batch_size=2, share=Share(2, 3))


def test_on_the_device_goes_on_from_what_was_read_and_a_seed_per_sample(cases):
    batches, complete = load(cases, 4, intensity_on_device=True), load(cases, 4)
    gentle = AugmentationRules(rotation_probability=0, scaling_probability=0)
    (as_it_lies,) = load(cases, 1, intensity_on_device=True, rules=gentle)

    for batch, other in zip(batches, complete, strict=True):
        assert batch["cases"] == other["cases"]
        assert batch["seeds"].shape == (5,)
        assert "seeds" not in other
    assert len({seed for batch in batches for seed in batch["seeds"].tolist()}) == 20
    assert any((batch["target"] == -1).any() for batch in batches)
    for image, case in zip(as_it_lies["image"], as_it_lies["cases"], strict=True):
        assert np.isin(image[image != 0], cases[case].array[:-1]).all()  # no intensity was changed


def test_samples_of_a_batch_are_drawn_apart(cases):
    (batch,) = load({"a": cases["a"]}, 1, patch=(3, 3, 3), training=False)

    assert len({image.tobytes() for image in batch["image"]}) == 5


def coded_labels(case):
    """A map that shows where its patch was cut: every label is where the array's first channel is large."""
    return np.digitize(case.array[:][0], (0.0, 1.0)).astype(np.int16)


@pytest.mark.parametrize("on_disk", [True, False])
def test_previous_label_maps_are_appended_where_the_image_is(cases, on_disk):
    previous = {case: coded_labels(stored) for case, stored in cases.items()}
    if on_disk:
        previous = {case: blosc2.asarray(labels) for case, labels in previous.items()}

    patch = (8, 9, 10)  # case c has too few slices, a too few columns

    batches = load(cases, 3, patch=patch, training=False, previous=previous, ram_bytes=0 if on_disk else 10**9)

    plain = load(cases, 3, patch=patch, training=False)
    for batch, other in zip(batches, plain, strict=True):
        assert batch["image"].shape == (5, 4, *patch)
        assert batch["image"].dtype == np.float32
        np.testing.assert_array_equal(batch["image"][:, :2], other["image"])
        is_inside = (batch["image"][:, :2] != 0).all(axis=1)
        for label in (1, 2):
            expected = is_inside & (np.digitize(batch["image"][:, 0], (0.0, 1.0)) == label)
            np.testing.assert_array_equal(batch["image"][:, 1 + label], expected)
    assert any((batch["image"][:, :2] == 0).all(axis=1).any() for batch in batches)


@pytest.mark.parametrize("options", [{}, {"intensity_on_device": True}])
def test_previous_label_maps_are_turned_and_mirrored_as_the_labels_are(cases, options):
    previous = {case: stored.array[:][-1].clip(0).astype(np.int16) for case, stored in cases.items()}
    rules = AugmentationRules(
        rotation_probability=1, scaling_probability=1, noise_probability=1, morphology_probability=0,
        removal_probability=0,
    )  # fmt: skip

    batches = load(cases, 4, previous=previous, rules=rules, **options)

    for batch in batches:
        differs = batch["image"][:, 3] != (batch["target"] == 2)
        assert batch["image"][:, 3].any()
        assert differs.mean() < 0.005  # next to -1, which has weight where the previous map has background
    assert_equal(load(cases, 4, previous=previous, rules=rules, workers=2, **options), batches)


@pytest.mark.parametrize(("cores", "ranks", "expected"), [(4, 1, 4), (30, 1, 12), (30, 4, 7), (2, 3, 1)])
def test_training_processes_of_a_machine_share_its_cores(monkeypatch, cores, ranks, expected):
    monkeypatch.setattr(loading, "count_cores", lambda: cores)

    assert default_workers(torch.device("cuda"), ranks_here=ranks) == expected
    assert default_workers(torch.device("cpu"), ranks_here=ranks) == 0


SHAPES_OF_LEVELS = ((6, 8, 10), (3, 4, 5))


@pytest.mark.parametrize("options", [{}, {"training": False}, {"intensity_on_device": True}], ids=str)
@pytest.mark.parametrize(("workers", "loss"), [(0, "boundary"), (2, "boundary"), (0, "skeleton_recall")])
def test_batches_bring_the_maps_of_the_target_that_the_loss_gets(cases, options, workers, loss):
    configuration = make_configuration(PATCH, batch_size=5)
    mirroring = AugmentationRules(mirror_axis_probability=0.5)
    batches = load(cases, 3, workers=workers, rules=mirroring, loss=loss, map_shapes=SHAPES_OF_LEVELS, **options)
    continued = build_device_augmentation(configuration, mirroring)

    for batch in batches:
        target = batch["target"]
        if "seeds" in batch:
            made = continued(torch.from_numpy(batch["image"]), torch.from_numpy(target), batch["seeds"])
            assert not np.array_equal(made[1].numpy(), target)
            target = made[1].numpy()
        assert len(batch["maps"]) == 2
        for found, shape in zip(batch["maps"], SHAPES_OF_LEVELS, strict=True):
            assert found.shape == (5, 2, *shape)
            np.testing.assert_array_equal(found, make_maps(target, ENCODING, shape, MAPS[loss]))
    assert_equal(load(cases, 3, rules=mirroring, **options), batches)  # nothing else changes


@pytest.mark.parametrize("options", [{}, {"intensity_on_device": True, "map_shapes": SHAPES_OF_LEVELS}], ids=str)
@pytest.mark.parametrize("is_cascade", [True, False])
def test_a_batch_is_as_large_as_its_loader_says(cases, options, is_cascade):
    previous = {case: coded_labels(stored) for case, stored in cases.items()} if is_cascade else None
    stream = BatchStream(seed=(0,), rules=AugmentationRules(), **options)
    opened = training_cases(cases, ENCODING, ram_bytes=0, previous=previous)
    loader = PatchLoader(opened, with_loss(make_configuration(PATCH), "boundary"), ENCODING, stream)
    batch = loader.draw_batch(0)
    arrays = [batch["image"], batch["target"], *batch.get("maps", ()), *([batch["seeds"]] if options else [])]
    without_seeds = 0 if options else 5 * 8
    assert loader.batch_bytes() == sum(array.nbytes for array in arrays) + without_seeds


def test_seeds_and_streams_differ(cases):
    training, validation = load(cases, 1), load(cases, 1, training=False)

    assert not np.array_equal(training[0]["image"], load(cases, 1, seed=8)[0]["image"])
    assert training[0]["cases"] != validation[0]["cases"]


def global_state():
    return np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002 - the legacy generator is what must stay untouched


def test_loading_does_not_touch_the_global_generator_or_the_cases(cases):
    before = global_state()
    arrays = {case: stored.array[:] for case, stored in cases.items()}
    always = AugmentationRules(
        rotation_probability=1,
        noise_probability=1,
        blur_probability=1,
        brightness_probability=1,
        contrast_probability=1,
        low_resolution_probability=1,
        inverted_gamma_probability=1,
        gamma_probability=1,
    )

    kept = {case: dataclasses.replace(stored, array=arrays[case].copy()) for case, stored in cases.items()}
    load(kept, 5, rules=always)

    np.testing.assert_array_equal(global_state(), before)
    for case, stored in kept.items():
        np.testing.assert_array_equal(stored.array, arrays[case])


def test_cases_are_kept_in_memory_only_when_all_fit(cases):
    total = sum(3 * 4 * int(np.prod(shape)) for shape in SHAPES.values())

    in_memory = training_cases(cases, ENCODING, ram_bytes=total)
    on_disk = training_cases(cases, ENCODING, ram_bytes=total - 1)
    previous = {case: blosc2.asarray(coded_labels(stored)) for case, stored in cases.items()}
    map_bytes = sum(2 * int(np.prod(shape)) for shape in SHAPES.values())
    with_maps = training_cases(cases, ENCODING, ram_bytes=total + map_bytes, previous=previous)
    maps_too_many = training_cases(cases, ENCODING, ram_bytes=total + map_bytes - 1, previous=previous)

    assert [case.case_id for case in in_memory] == ["a", "b", "c"]
    assert all(isinstance(case.array, np.ndarray) for case in in_memory)
    assert not any(isinstance(case.array, np.ndarray) for case in on_disk)
    assert all(isinstance(case.previous, np.ndarray) for case in with_maps)
    assert not any(isinstance(case.array, np.ndarray) for case in maps_too_many)
    assert [case.previous is previous[case.case_id] for case in maps_too_many] == [True] * 3


def test_background_head_is_never_a_reason_to_place_a_patch(cases):
    stored = cases["a"]
    with_background = dataclasses.replace(stored, locations={0: np.array([[0, 5, 9]], np.int32), **stored.locations})

    (case,) = training_cases({"a": with_background}, ENCODING, ram_bytes=0)

    assert sorted(case.locations) == [1, 2]


@pytest.mark.parametrize(
    ("workers", "start_method"), [(0, None), (2, "fork"), pytest.param(2, "forkserver", marks=pytest.mark.slow)]
)
def test_files_written_by_preprocessing_can_be_loaded(cases, tmp_path, monkeypatch, workers, start_method):
    for stored in cases.values():
        array = stored.array[:]
        save_case(tmp_path, stored.record, array[:-1], array[-1].astype(np.int16), (stored.locations, None), PATCH)
    monkeypatch.setattr(stored_arrays, "MAX_OPEN_ARRAYS", 1)  # fewer than cases
    opener = keep_open()
    opened = {case: open_case(tmp_path, case, opener) for case in cases}

    assert_equal(load(opened, 4, workers=workers, start_method=start_method, ram_bytes=0), load(cases, 4))


def test_no_cases_is_refused():
    with pytest.raises(TrainingError, match=r"validation part of this fold has no cases.*splits\.json"):
        load({}, 1, training=False)


class BrokenArray:
    """An array on a disk that fails."""

    shape, dtype = (3, 9, 14, 10), np.dtype(np.float32)

    def __getitem__(self, box):
        raise OSError("the disk is on fire")


@pytest.mark.parametrize("workers", [0, 2])
def test_error_in_a_case_names_it(cases, workers):
    broken = {"a": dataclasses.replace(cases["a"], array=BrokenArray())}

    with pytest.raises(TrainingError, match="Reading a patch of case a failed: OSError: the disk is on fire") as raised:
        load(broken, 1, workers=workers, ram_bytes=0)
    assert isinstance(raised.value.__cause__, OSError)


class ExhaustingArray(BrokenArray):
    """An array whose patches do not fit into memory."""

    @override
    def __getitem__(self, box):
        raise MemoryError("Unable to allocate 3 GiB")


@pytest.mark.parametrize("workers", [0, 2])
def test_lack_of_memory_is_recognised_in_a_worker_too(cases, workers):
    vast = {"a": dataclasses.replace(cases["a"], array=ExhaustingArray())}
    with pytest.raises(TrainingError) as raised:
        load(vast, 1, workers=workers, ram_bytes=0)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(("num_labels", "expected"), [(127, np.int8), (128, np.int16)])
def test_labels_take_the_smallest_type_that_holds_the_ignore_index(num_labels, expected):
    encoding = make_encoding({"background": 0, **{f"l{label}": label for label in range(1, num_labels)}})
    assert smallest_label_type(encoding) == expected
    assert np.iinfo(expected).max >= num_labels  # the index of the ignore label


def test_error_in_a_transform_names_the_cases(cases):
    impossible = AugmentationRules(noise_probability=1, noise_std_range=(1.0, float("inf")))

    with pytest.raises(TrainingError, match=r"Augmenting patches of the cases ., ., ., ., . failed: OverflowError"):
        load(cases, 1, first_batch=4, rules=impossible)


def test_masked_channels_of_the_plan_stay_zero_outside(cases):
    configuration = make_configuration((6, 14, 10), masked=(1,), mirror_axes=())
    noisy = AugmentationRules(noise_probability=1, rotation_probability=0, scaling_probability=0)

    batches = open_loader({"a": cases["a"]}, configuration, seed=1, ram_bytes=0, rules=noisy)
    image = next(batches)["image"]

    # the whole y axis of case a fits, and its first plane is outside the mask
    assert (image[:, 1, :, 0] == 0).all()
    assert (image[:, 0, :, 0] != 0).all()
    assert (image[:, :, :, 1:] != 0).all()


def growing(patch_size, batch_size, until=0.5):
    return GrowingPatch(patch_size=patch_size, batch_size=batch_size, until=until)


def draw(cases, configuration, stream, count=1):
    stored = training_cases(cases, ENCODING, ram_bytes=0)
    loader = PatchLoader(stored, configuration, ENCODING, stream)
    return [loader.draw_batch(number) for number in range(count)]


def test_smaller_patches_have_their_own_size_and_batch(cases):
    stream = BatchStream(seed=(1,), rules=AugmentationRules(), growing=growing((2, 4, 6), 7))
    for batch in draw(cases, make_configuration(PATCH), stream, 3):
        assert batch["image"].shape == (7, 2, 2, 4, 6)
        assert batch["target"].shape == (7, 2, 4, 6)
        assert len(batch["cases"]) == 7


def test_a_larger_batch_has_the_part_of_foreground_that_the_planned_one_has(cases, monkeypatch):
    """At 0.33 a batch of 2 has 1 patch around foreground, a half; so of 8 smaller patches 4 have."""
    seen = []

    def draw_corner(_self, _case, _generator, *, forced):
        seen.append(forced)
        return (0, 0, 0)

    monkeypatch.setattr(PatchLoader, "draw_corner", draw_corner)
    configuration = make_configuration(PATCH, batch_size=2)
    draw(cases, configuration, BatchStream(seed=(1,), rules=None))
    draw(cases, configuration, BatchStream(seed=(1,), rules=None, growing=growing((2, 4, 6), 8)))
    assert seen == [False, True, *[False] * 4, *[True] * 4]


def test_smaller_patches_of_a_flat_one_are_turned_within_their_slices(cases):
    """Planned (4, 16, 16) is turned slice by slice; the smaller (4, 4, 4) alone would be turned in space."""
    shape = (12, 40, 40)
    array = np.broadcast_to(np.arange(shape[0], dtype=np.float32)[None, :, None, None], (2, *shape)).copy()
    array[-1] = 0
    stored = dataclasses.replace(make_stored_case("a", shape, seed=0, channels=1), array=blosc2.asarray(array))
    rules = dataclasses.replace(
        AugmentationRules(), rotation_probability=1.0, scaling_probability=1.0, noise_probability=0.0,
        blur_probability=0.0, brightness_probability=0.0, contrast_probability=0.0, low_resolution_probability=0.0,
        inverted_gamma_probability=0.0, gamma_probability=0.0,
    )  # fmt: skip
    (case,) = training_cases({"a": stored}, ENCODING, ram_bytes=0)
    stream = BatchStream(seed=(1,), rules=rules, growing=growing((4, 4, 4), 6))
    loader = PatchLoader([case], make_configuration((4, 16, 16), channels=1, mirror_axes=()), ENCODING, stream)
    batch = loader.make_batch([case] * 6, [(3, 18, 18)] * 6, [np.random.default_rng(seed) for seed in range(6)])
    expected = np.broadcast_to(np.arange(3.0, 7.0)[:, None, None], (6, 1, 4, 4, 4))
    np.testing.assert_allclose(batch["image"], expected, atol=1e-4)


def test_smaller_patches_of_a_cascade_bring_the_label_map_of_its_previous_step(cases):
    previous = {case: np.full(shape, 2, dtype=np.int16) for case, shape in SHAPES.items()}
    stored = training_cases(cases, ENCODING, ram_bytes=0, previous=previous)
    stream = BatchStream(seed=(1,), rules=None, growing=growing((2, 4, 6), 3))
    batch = PatchLoader(stored, make_configuration(PATCH), ENCODING, stream).draw_batch(0)
    assert batch["image"].shape == (3, 4, 2, 4, 6)
    assert not batch["image"][:, 2].any()  # no voxel has the first label
    assert batch["image"][:, 3].all()  # patches lie inside the cases


def test_balanced_sampling_takes_forced_samples_from_cases_with_foreground():
    """One of four cases has foreground, a single voxel; half of each batch is forced."""
    empty = {case: make_stored_case(case, (9, 14, 10), seed=0) for case in "abd"}
    cases = {case: dataclasses.replace(stored, locations={}) for case, stored in empty.items()}
    cases["c"] = make_stored_case("c", (6, 9, 12), seed=1)
    cases["c"] = dataclasses.replace(cases["c"], locations={1: cases["c"].locations[1]})
    configuration = make_configuration((4, 5, 6), batch_size=4)

    def draw(sampling):
        spec = configuration.training.model_copy(update={"case_sampling": sampling, "foreground_fraction": 0.5})
        changed = configuration.model_copy(update={"training": spec})
        batches = islice(open_loader(cases, changed, training=False), 60)
        return [(batch["cases"], (batch["target"] == 1).any(axis=(1, 2, 3))) for batch in batches]

    balanced = draw("balanced")
    assert all(names[2:] == ["c", "c"] and shown[2:].all() for names, shown in balanced)
    assert {name for names, _ in balanced for name in names[:2]} == {"a", "b", "c", "d"}
    uniform = draw("uniform")
    assert {name for names, _ in uniform for name in names[2:]} == {"a", "b", "c", "d"}
    assert [names[:2] for names, _ in balanced] == [names[:2] for names, _ in uniform]


@pytest.mark.parametrize("neighbors", [1, 2])
def test_neighboring_slices_are_what_prediction_gives_the_network(cases, neighbors):
    shape = max(shape[1:] for shape in SHAPES.values())
    configuration = make_configuration(shape, batch_size=4).model_copy(update={"neighbor_slices": neighbors})
    loader = PatchLoader(
        training_cases(cases, ENCODING, ram_bytes=10**9), configuration, ENCODING, BatchStream(seed=(0,), rules=None)
    )
    for number, case in enumerate(loader.cases):
        array = np.asarray(case.array)
        image = array[:-1]
        channels = append_neighbors(list(image), neighbors)
        for z in range(image.shape[1]):
            corner = (z, (image.shape[2] - shape[0]) // 2, (image.shape[3] - shape[1]) // 2)
            batch = loader.make_batch([case], [corner], [np.random.default_rng(number)])
            assert batch["image"].shape == (1, len(channels), *shape)
            rows, columns = (slice(max(0, start), start + edge) for start, edge in zip(corner[1:], shape, strict=True))
            inner = [
                slice(max(0, -start), max(0, -start) + size)
                for start, size in zip(corner[1:], image.shape[2:], strict=True)
            ]
            wanted = np.stack([channel[z, rows, columns] for channel in channels])
            np.testing.assert_array_equal(batch["image"][0][:, *inner], wanted)
            labels = np.maximum(array[-1, z, rows, columns], 0)
            np.testing.assert_array_equal(batch["target"][0][*inner], labels)


def test_neighboring_slices_are_turned_together(cases):
    case = training_cases(cases, ENCODING, ram_bytes=10**9)[0]
    array = np.asarray(case.array)
    same = np.repeat(array[:, :1], array.shape[1], axis=1)
    matrix = rotation_matrix([0.3])
    image, labels = np.empty((3 * (len(same) - 1), 1, 8, 10), np.float32), np.empty((1, 8, 10), np.int16)
    read_patch(same, (0, 1, 1), matrix, image=image, labels=labels, neighbor_slices=1)
    before, own, after = np.split(image, 3)
    np.testing.assert_array_equal(before, own)
    np.testing.assert_array_equal(after, own)


def test_random_contrasts_change_training_images_alone(cases):
    configuration = make_configuration(PATCH, batch_size=8)
    ready = training_cases(cases, ENCODING, ram_bytes=10**9)
    still = AugmentationRules(
        rotation_probability=0.0,
        scaling_probability=0.0,
        noise_probability=0.0,
        blur_probability=0.0,
        brightness_probability=0.0,
        contrast_probability=0.0,
        low_resolution_probability=0.0,
        inverted_gamma_probability=0.0,
        gamma_probability=0.0,
        mirror_axis_probability=0.0,
    )
    contrasts = dataclasses.replace(still, random_contrast_probability=1.0)
    plain, changed = (
        PatchLoader(ready, configuration, ENCODING, BatchStream(seed=(0,), rules=rules)).draw_batch(0)
        for rules in (still, contrasts)
    )
    np.testing.assert_array_equal(plain["target"], changed["target"])
    assert all(not np.array_equal(*images) for images in zip(plain["image"], changed["image"], strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_targets_tell_which_labels_were_looked_for(cases, workers):
    annotated = {"a": ("rare",), "b": ("common",)}
    encoding = with_annotated_sets(ENCODING, [*annotated.values(), None])
    configuration = make_configuration(PATCH, batch_size=6)
    stream = BatchStream(seed=(3, 0), rules=AugmentationRules())
    loaded = training_cases(cases, encoding, ram_bytes=10**9, annotated=annotated)
    assert {case.case_id: sorted(case.locations) for case in loaded} == {"a": [1], "b": [2], "c": [1, 2]}
    loader = build_loader(loaded, configuration, encoding, stream, workers=workers)
    try:
        batches = list(islice(loader, 8))
    finally:
        loader.close()
    # sets: all labels 0, common 1, rare 2; four indices each; outside the image 0
    allowed = {"a": {0, 8, 9}, "b": {0, 4, 6}, "c": {0, 1, 2}}
    found: dict[str, set[int]] = {case: set() for case in allowed}
    for batch in batches:
        for target, case in zip(batch["target"], batch["cases"], strict=True):
            found[case] |= set(np.unique(target).tolist())
    assert all(found[case] <= allowed[case] for case in allowed), found
    assert {"a": {8}, "b": {4, 6}, "c": {2}} == {case: found[case] & {8, 4, 6, 2} for case in found}
    with_foreground = [batch["cases"][sample] for batch in batches for sample in (4, 5)]
    assert set(with_foreground) == {"a", "b", "c"}


def test_a_mirrored_case_was_labelled_on_the_other_side(cases):
    encoding = make_encoding({"background": 0, "left": 1, "right": 5})
    sides = Sides(axis=2, pairs=(("left", "right"),))
    configuration = make_configuration(PATCH, batch_size=6)
    training = configuration.training.model_copy(update={"sides": sides})
    configuration = configuration.model_copy(update={"training": training})
    swap = find_training_swap(training, encoding)
    encoding = with_annotated_sets(encoding, [("left",), None], swap)
    annotated = dict.fromkeys(cases, ("left",))
    loaded = training_cases(cases, encoding, ram_bytes=10**9, annotated=annotated)
    loader = PatchLoader(loaded, configuration, encoding, BatchStream(seed=(5, 0), rules=AugmentationRules()))
    sets = [
        set((target[target > 0] // 4).tolist()) for number in range(6) for target in loader.draw_batch(number)["target"]
    ]
    assert {frozenset(found) for found in sets} - {frozenset()} == {frozenset({1}), frozenset({2})}
