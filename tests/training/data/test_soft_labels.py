"""Patches of images that a teacher labelled, and how often they come."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from autoseg.imaging.arrays.soft_codes import encode_soft_labels
from autoseg.records.training import SoftLabelSpec
from autoseg.training.data.batch import TRAINING_STREAM, BatchStream
from autoseg.training.data.loading import build_loader, split_pools, training_cases
from autoseg.training.data.soft_labels import DrawnArray, SoftLabels
from autoseg.training.folds.soft_cases import with_ignored
from tests.training.small_cases import ENCODING, SHAPES, make_configuration, make_stored_case

NUM_LABELS = len(ENCODING.values)


def make_codes(shape, label, probability):
    return encode_soft_labels(np.full((1, *shape), label), np.full((1, *shape), probability), NUM_LABELS)


def make_cases(soft):
    """Three labelled cases, of which those named in `soft` have labels of a teacher instead."""
    stored = {case: make_stored_case(case, shape, seed=seed) for seed, (case, shape) in enumerate(SHAPES.items())}
    cases = training_cases(stored, ENCODING, ram_bytes=10**9)
    codes = {case: make_codes(SHAPES[case], label=2, probability=0.5) for case in soft}
    return tuple(
        replace(case, soft=SoftLabels(codes[case.case_id], NUM_LABELS, 0.25)) if case.case_id in soft else case
        for case in cases
    )


def draw_batches(cases, count, *, fraction=0.5, sampling="uniform"):
    configuration = make_configuration((4, 6, 8), batch_size=4)
    spec = SoftLabelSpec(teacher="3d_fullres", labelled_fraction=fraction)
    training = configuration.training.model_copy(update={"soft_labels": spec, "case_sampling": sampling})
    configuration = configuration.model_copy(update={"training": training})
    stream = BatchStream(seed=(7, TRAINING_STREAM), rules=None)
    batches = build_loader(cases, configuration, with_ignored(ENCODING), stream, workers=0)
    return list(islice(batches, count))


def test_labels_are_drawn_and_the_image_stays():
    generator = np.random.default_rng(2)
    image = generator.standard_normal((3, 5, 6, 7)).astype(np.float32)
    codes = make_codes((5, 6, 7), label=1, probability=0.5)
    array = DrawnArray(image, SoftLabels(codes, NUM_LABELS, 0.25), generator)
    box = (slice(None), slice(1, 5), slice(0, 6), slice(2, 7))
    before = image.copy()
    first, second = array[box], array[box]
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(first[:-1], image[box][:-1])
    assert set(np.unique(first[-1]).tolist()) == {1, NUM_LABELS}
    assert not np.array_equal(first[-1], second[-1])
    assert array.shape == image.shape


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
@pytest.mark.parametrize("fraction", [0.25, 0.75])
def test_labelled_and_other_patches_are_balanced_whatever_their_number(fraction, sampling):
    batches = draw_batches(make_cases({"b", "c"}), 150, fraction=fraction, sampling=sampling)
    names = [name for batch in batches for name in batch["cases"]]
    assert np.mean([name == "a" for name in names]) == pytest.approx(fraction, abs=0.06)
    for batch in batches[:20]:
        for name, target in zip(batch["cases"], batch["target"], strict=True):
            allowed = {0, 1, 2} if name == "a" else {0, 2, NUM_LABELS}  # 0: beyond the border
            assert set(np.unique(target).tolist()) <= allowed


def test_without_other_cases_there_is_one_pool():
    (pool,) = split_pools(make_cases(set()), by_head=True)
    assert [case.case_id for case in pool.cases] == ["a", "b", "c"]
    assert set(pool.by_head) == {1, 2}


def test_a_dataset_with_an_ignore_label_keeps_its_own():
    ignoring = ENCODING.model_copy(update={"ignore_value": 9})
    assert with_ignored(ignoring) == ignoring
    assert with_ignored(ENCODING).ignore_value == 6
