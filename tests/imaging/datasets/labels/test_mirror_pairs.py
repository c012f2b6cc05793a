"""Pairs of labels that lie mirrored."""

import numpy as np

from autoseg.imaging.datasets.labels.mirror_pairs import ask_about_sides, find_mirror_pairs, find_places

SPACING = (3.0, 1.0, 0.8)


def case(seed: int, *, swapped: bool = False) -> np.ndarray:
    """Two blocks on both sides of the middle of x, 1 at low x (right), and one in front of them."""
    dz, dy = np.random.default_rng(seed).integers(0, 3, 2)
    values = np.zeros((20, 50, 70), np.uint8)
    values[5 + dz : 13 + dz, 20 + dy : 34 + dy, 8:22] = 2 if swapped else 1
    values[5 + dz : 13 + dz, 21 + dy : 35 + dy, 47:62] = 1 if swapped else 2
    values[5:13, 2:12, 25:45] = 5
    return values


def test_places_are_in_millimetres():
    values = np.zeros((4, 10, 20), np.uint8)
    values[1:3, 4:6, 10:14] = 7
    (place,) = find_places(values, SPACING).values()
    np.testing.assert_allclose(place.center_mm, (1.5 * 3, 4.5, 11.5 * 0.8))
    np.testing.assert_allclose(place.extent_mm, np.array([0.5 * 3, 0.5, np.sqrt(1.25) * 0.8]))


def test_large_label_maps_are_thinned_out():
    values = np.zeros((100, 200, 200), np.uint8)
    values[20:60, 50:100, 120:180] = 1
    (place,) = find_places(values, (1.0, 1.0, 1.0)).values()
    np.testing.assert_allclose(place.center_mm, (39.5, 74.5, 149.5), atol=2)


def test_labels_that_lie_mirrored_in_every_case_are_a_pair():
    places = [find_places(case(seed), SPACING) for seed in range(3)]
    assert find_mirror_pairs(places) == [(2, 1)]  # 2 is at the larger x, which is left
    assert "2 and 1 lie like the left and right side" in ask_about_sides(
        [(2, 1)], {"background": 0, "label_1": 1, "label_2": 2, "label_5": 5}
    )


def test_the_question_names_every_label():
    question = ask_about_sides(
        [(2, 1), (4, 3)], {"background": 0, **{f"label_{value}": value for value in range(1, 6)}}
    )
    assert "--label-names 'right=1,left=2,right_2=3,left_2=4,label_5=5'" in question


def test_labels_that_change_sides_or_lie_otherwise_are_none():
    swapped = [find_places(case(seed, swapped=seed == 1), SPACING) for seed in range(3)]
    assert find_mirror_pairs(swapped) == []
    turned = [find_places(np.swapaxes(case(seed), 1, 2), SPACING) for seed in range(3)]
    assert find_mirror_pairs(turned) == []
    missing = [find_places(case(seed) * (case(seed) != 2 * (seed == 1)), SPACING) for seed in range(3)]
    assert find_mirror_pairs(missing) == []
    assert find_mirror_pairs([find_places(case(0), SPACING)]) == []
    assert find_mirror_pairs([]) == []


def test_sides_of_other_sizes_are_none():
    values = case(0)
    values[5:13, 10:45, 47:68][values[5:13, 10:45, 47:68] == 0] = 2
    assert find_mirror_pairs([find_places(values, SPACING)] * 3) == []


def test_2d_images_have_no_sides():
    assert find_places(np.ones((1, 9, 9), np.uint8), (999.0, 1.0, 1.0)) == {}
