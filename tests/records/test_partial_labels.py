"""Sets of labels that were looked for, and the numbers that targets carry."""

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.records.partial_labels import (
    code_labels,
    find_never_sought,
    find_set,
    heads_of_set,
    swap_codes,
    with_annotated_sets,
)
from autoseg.records.sides import find_side_swap

ENCODING = make_encoding({"background": 0, "liver": 4, "kidney left": 7, "kidney right": 9, "ignore": 200})
REGIONS = make_encoding({"background": 0, "whole": (1, 2), "core": 2}, (1, 2))


def test_a_dataset_that_is_labelled_in_full_has_no_sets():
    assert with_annotated_sets(ENCODING, [None, ("liver", "kidney left", "kidney right"), None]) is ENCODING
    assert find_set(ENCODING, None) == 0
    assert heads_of_set(ENCODING, 0) == {0, 1, 2, 3}


def test_sets_are_numbered_with_the_full_one_first():
    encoding = with_annotated_sets(ENCODING, [("liver",), None, ("kidney right", "liver"), ("liver",)])
    assert encoding.annotated_sets == (
        ("liver", "kidney left", "kidney right"), ("liver",), ("liver", "kidney right"),
    )  # fmt: skip
    assert [find_set(encoding, names) for names in (None, ("liver",), ("kidney right", "liver"))] == [0, 1, 2]
    assert heads_of_set(encoding, 2) == {0, 1, 3}
    # five indices with that of the ignore label; kidneys are background where nobody looked for them; -1 comes last
    assert code_labels(encoding, 1) == (5, 6, 5, 5, 9, -1)
    assert code_labels(encoding, 2) == (10, 11, 10, 13, 14, -1)


def test_regions_keep_their_indices_because_each_has_a_mask():
    encoding = with_annotated_sets(REGIONS, [("whole",), None])
    assert encoding.annotated_sets == (("whole", "core"), ("whole",))
    assert code_labels(encoding, 1) == (4, 5, 6, 7, -1)


def test_labels_that_no_case_looks_for():
    assert find_never_sought(ENCODING, [None]) == ()
    assert find_never_sought(ENCODING, [("liver",), ("kidney left",)]) == ("kidney right",)
    assert find_never_sought(REGIONS, [("core",)]) == ("whole",)
    swap = find_side_swap(2, (("kidney left", "kidney right"),), ENCODING)
    assert find_never_sought(ENCODING, [("kidney left",)], swap) == ("liver",), "a mirrored image shows the other side"


def test_a_mirrored_case_is_one_of_the_other_side():
    pairs = (("kidney left", "kidney right"),)
    swap = find_side_swap(2, pairs, ENCODING)
    assert swap is not None
    encoding = with_annotated_sets(ENCODING, [None, ("kidney left",)], swap)
    every, left, right = ("liver", "kidney left", "kidney right"), ("kidney left",), ("kidney right",)
    assert encoding.annotated_sets == (every, left, right)
    swapped = swap_codes(encoding, swap)
    # by set: background, liver, kidneys, ignore
    assert swapped.labels == (0, 1, 3, 2, 4, 10, 11, 13, 12, 14, 5, 6, 8, 7, 9)
    assert [swapped.labels[code] for code in swapped.labels] == list(range(15)), "it is its own inverse"
    assert swap_codes(ENCODING, swap) == swap
