"""Division into core and border by hand and by geometry, and back to instances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial.distance import cdist
from skimage.measure import label, regionprops

from autoseg.components import label_components
from autoseg.errors import PlanningError
from autoseg.imaging.arrays.border_core import choose_border_width, divide_encoding, divide_labels, find_cores
from autoseg.imaging.arrays.instances import find_instances
from autoseg.imaging.arrays.labels import decode_label_map, encode_label_map, make_encoding
from autoseg.records.dataset import Head, LabelEncoding, indices_by_label
from autoseg.records.fingerprint import LabelFacts
from autoseg.testing import synthetic_fingerprint

TWO = make_encoding({"cell": 255, "nerve": 9, "ignore": 77})
DIVIDED = divide_encoding(TWO)


def test_the_encoding_by_hand():
    expected = LabelEncoding(
        values=(0, 9, 9, 255, 255),
        ignore_value=77,
        activation="softmax",
        heads=(
            Head(name="background", indices=(0,), painted_index=0),
            Head(name="nerve core", indices=(1,), painted_index=1, part_of="nerve"),
            Head(name="nerve border", indices=(2,), painted_index=2, part_of="nerve"),
            Head(name="cell core", indices=(3,), painted_index=3, part_of="cell"),
            Head(name="cell border", indices=(4,), painted_index=4, part_of="cell"),
        ),
    )
    assert expected == DIVIDED
    assert indices_by_label(DIVIDED) == {"background": (0,), "nerve": (1, 2), "cell": (3, 4)}
    assert indices_by_label(TWO) == {"background": (0,), "nerve": (1,), "cell": (2,)}
    assert LabelEncoding.model_validate_json(DIVIDED.model_dump_json()) == DIVIDED
    assert "part_of" not in TWO.model_dump_json()


def test_regions_cannot_be_divided():
    with pytest.raises(PlanningError, match="this dataset has regions, which overlap"):
        divide_encoding(make_encoding({"whole": (1, 2), "core": 2}, (1, 2)))


def test_a_square_by_hand_with_the_ignore_label_and_another_label():
    values = np.zeros((1, 7, 9), dtype=np.uint8)
    values[0, 1:6, 1:6] = 255
    values[0, :, 8] = 9
    values[0, 6, 0] = 77
    divided = divide_labels(encode_label_map(values, DIVIDED), DIVIDED, (1.0, 1.0, 1.0), 1.5)
    expected = np.zeros((7, 9), dtype=int)
    expected[1:6, 1:6] = 4
    expected[2:5, 2:5] = 3
    expected[:, 8] = 2
    expected[3, 8] = 1  # too thin for a core, so its middle
    expected[6, 0] = 5
    np.testing.assert_array_equal(divided[0], expected)
    np.testing.assert_array_equal(decode_label_map(divided, DIVIDED), values)


def test_the_rim_of_the_image_is_no_border():
    ids = np.ones((1, 4, 6), dtype=np.int32)
    assert find_cores(ids, (1.0, 1.0, 1.0), 3.0).all()
    ids[0, :, 5] = 0
    np.testing.assert_array_equal(find_cores(ids, (1.0, 1.0, 1.0), 2.0)[0], [[True] * 3 + [False] * 3] * 4)


def test_slices_thicker_than_the_border_have_none_between_them():
    ids = np.zeros((5, 9, 10), dtype=np.int32)
    ids[1:4, 2:7, 2:8] = 1
    cores = find_cores(ids, (5.0, 1.0, 1.0), 1.5)
    expected = np.zeros(ids.shape, dtype=bool)
    expected[1:4, 3:6, 3:7] = True
    np.testing.assert_array_equal(cores, expected)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.0, 1.0)])
def test_objects_that_touch_never_have_cores_side_by_side(spacing):
    ids = np.zeros((4, 6, 7), dtype=np.int32)
    ids[:2], ids[2:, :, :4], ids[2:, :, 4:] = 1, 2, 3
    cores = find_cores(ids, spacing, 1.0)
    parts = label_components(cores, "full")
    assert parts.max() == 3
    for number in (1, 2, 3):
        assert len(np.unique(parts[cores & (ids == number)])) == 1


def deepest_by_hand(ids, spacing):
    """Distance of every object voxel to the nearest voxel that is not of the same object, by all pairs."""
    places = np.argwhere(np.ones(ids.shape)) * spacing
    flat = ids.ravel()
    depth = np.full(ids.size, np.inf)
    for number in np.unique(flat[flat > 0]):
        inside, outside = flat == number, flat != number
        if outside.any():
            depth[inside] = cdist(places[inside], places[outside]).min(axis=1)
    return depth.reshape(ids.shape)


@settings(deadline=None, max_examples=60)
@given(
    mask=arrays.arrays(np.bool_, (3, 6, 7), elements=st.sampled_from([True, True, True, False])),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (2.5, 1.0, 0.8)]),
    width=st.sampled_from([0.9, 1.5, 2.2]),
)
def test_cores_are_by_distance_and_no_object_is_without(mask, spacing, width):
    ids = label_components(mask, "face")
    cores = find_cores(ids, spacing, width)
    depth = deepest_by_hand(ids, spacing)
    for number in range(1, ids.max() + 1):
        inside = ids == number
        far = inside & (depth > width)
        near_others = np.zeros_like(mask)
        for z, y, x in np.argwhere(inside):
            around = ids[max(z - 1, 0) : z + 2, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            near_others[z, y, x] = bool(((around > 0) & (around != number)).any())
        far &= ~near_others
        pieces = list(regionprops(label(far, connectivity=1)))
        for piece in pieces:
            if piece.area < 0.1 * max(other.area for other in pieces):
                far[tuple(piece.coords.T)] = False
        if far.any():
            np.testing.assert_array_equal(cores & inside, far)
        else:
            assert (cores & inside).sum() == 1
            assert depth[cores & inside] == pytest.approx(depth[inside].max())


def test_small_pieces_of_a_core_are_border():
    """Two squares joined by a neck that is too thin for a core: a small one is no object of its own."""
    for edge, pieces in ((4, 1), (9, 2)):
        ids = np.zeros((1, 20, 40), dtype=np.int32)
        ids[0, 2:18, 2:18] = ids[0, 9, 18:25] = ids[0, 6 : 6 + edge, 25 : 25 + edge] = 1
        cores = find_cores(ids, (1.0, 1.0, 1.0), 1.5)
        assert label_components(cores, "face").max() == pieces
        assert cores[0, 3:17, 3:17].all()


@settings(deadline=None, max_examples=60)
@given(
    values=arrays.arrays(np.uint8, (3, 7, 8), elements=st.sampled_from([0, 9, 255, 255, 255, 77])),
    width=st.sampled_from([1.0, 1.5, 2.3]),
)
def test_encoded_divided_and_decoded_is_what_it_was(values, width):
    divided = divide_labels(encode_label_map(values, DIVIDED), DIVIDED, (2.0, 1.0, 0.7), width)
    np.testing.assert_array_equal(decode_label_map(divided, DIVIDED), values)
    for value, core in ((9, 1), (255, 3)):
        expected = find_cores(label_components(values == value, "face"), (2.0, 1.0, 0.7), width)
        np.testing.assert_array_equal(divided == core, expected)


def convex_objects(seed):
    """Boxes that do not touch but at corners, of at least three voxels along each axis."""
    generator = np.random.default_rng(seed)
    labels = np.zeros((8, 30, 33), dtype=np.uint8)
    for row in range(0, 30, 10):
        for column in range(0, 33, 11):
            height, width = generator.integers(3, 10, size=2)
            labels[1 : generator.integers(4, 8), row : row + height, column : column + width] = 255
    return labels


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("width", [1.0, 1.5, 2.5])
def test_convex_objects_come_back_from_their_cores(seed, width):
    values = convex_objects(seed)
    encoding = divide_encoding(make_encoding({"cell": 255}))
    spacing = (1.6, 1.0, 0.9)
    divided = divide_labels(encode_label_map(values, encoding), encoding, spacing, width)
    found, owners = find_instances(divided, encoding, spacing)
    expected = label_components(values > 0, "face")
    assert len(owners) == expected.max() == 9
    pairs = {*zip(found[values > 0].tolist(), expected[values > 0].tolist(), strict=True)}
    assert len(pairs) == 9


def test_objects_that_touch_at_a_corner_stay_two():
    values = np.zeros((1, 12, 12), dtype=np.uint8)
    values[0, :6, :6] = values[0, 6:, 6:] = 255
    encoding = divide_encoding(make_encoding({"cell": 255}))
    divided = divide_labels(encode_label_map(values, encoding), encoding, (1.0, 1.0, 1.0), 1.5)
    found, owners = find_instances(divided, encoding, (1.0, 1.0, 1.0))
    assert len(owners) == 2
    assert len(np.unique(found[0, :6, :6])) == len(np.unique(found[0, 6:, 6:])) == 1
    plain, merged = find_instances((values > 0).astype(np.uint8), make_encoding({"cell": 255}), (1.0, 1.0, 1.0))
    assert len(merged) == plain.max() == 1


def test_objects_with_numbers_stay_apart_where_components_join_them():
    values = np.full((1, 7, 12), 255, dtype=np.uint8)
    values[0, 0] = 0
    ids = np.zeros(values.shape, dtype=np.int64)
    ids[0, :, :5], ids[0, :, 5:] = 900_000, 7
    ids[0, 6, 11] = 0  # foreground without an object
    encoding = divide_encoding(make_encoding({"cell": 255}))
    divided = divide_labels(encode_label_map(values, encoding), encoding, (1.0, 1.0, 1.0), 1.0, ids=ids)
    expected = np.zeros((7, 12), dtype=int)
    expected[1:] = 2
    expected[2:, :4] = expected[2:, 6:] = 1
    expected[5:, 11] = expected[6, 10:] = 2
    np.testing.assert_array_equal(divided[0], expected)
    found, owners = find_instances(divided, encoding, (1.0, 1.0, 1.0))
    assert len(owners) == 2
    assert len(np.unique(found[0, 1:, :5])) == 1


def with_objects(fingerprint, facts):
    cases = tuple(case.model_copy(update={"labels": {"cell": facts}}) for case in fingerprint.cases)
    return fingerprint.model_copy(update={"cases": cases})


def test_the_width_follows_objects_that_have_numbers():
    """Four discs of radius 40 that touch are one component."""
    pictures = synthetic_fingerprint([(999.0, 1.0, 1.0)] * 3, [(1, 200, 300)] * 3)
    volume = 4 * 999.0 * np.pi * 40**2
    facts = LabelFacts(voxels=1, volume_mm3=volume, components=1, instance_sizes=((1, 80, 80),) * 4)
    assert choose_border_width(with_objects(pictures, facts))[0] == pytest.approx(4.0)


def test_the_width_follows_the_size_of_objects():
    """Discs of radius 40 on pictures; balls of radius 30 mm; and nuclei so small that a voxel counts."""
    pictures = synthetic_fingerprint([(999.0, 1.0, 1.0)] * 3, [(1, 200, 300)] * 3)
    discs = LabelFacts(voxels=15000, volume_mm3=999 * 3 * np.pi * 40**2, components=3)
    assert choose_border_width(with_objects(pictures, discs))[0] == pytest.approx(0.05 * 80)
    volumes = synthetic_fingerprint([(2.0, 1.0, 0.8)] * 3, [(40, 200, 300)] * 3)
    balls = LabelFacts(voxels=1, volume_mm3=2 * 4 / 3 * np.pi * 30**3, components=2)
    width, reason = choose_border_width(with_objects(volumes, balls))
    assert width == pytest.approx(0.05 * 60)
    assert reason == "5% of the median object's diameter, 60 mm, and at least 1.5 voxels of 1 mm."
    nuclei = LabelFacts(voxels=1, volume_mm3=4 / 3 * np.pi * 4**3, components=1)
    assert choose_border_width(with_objects(volumes, nuclei))[0] == 1.5


def test_nothing_to_divide():
    fingerprint = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 3, [(20, 20, 20)] * 3)
    with pytest.raises(PlanningError, match="no label has a voxel in any case"):
        choose_border_width(fingerprint)
