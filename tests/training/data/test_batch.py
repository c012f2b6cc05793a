"""The part of a batch that each process makes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.training.data.batch import Share


def test_shares_by_hand():
    assert [list(Share(rank, 3).samples(5)) for rank in range(3)] == [[0, 1], [2, 3], [4]]
    assert list(Share().samples(4)) == [0, 1, 2, 3]


@given(ranks=st.integers(1, 9), extra=st.integers(0, 30))
def test_shares_follow_each_other_and_differ_by_one_at_most(ranks, extra):
    shares = [Share(rank, ranks).samples(ranks + extra) for rank in range(ranks)]

    assert [sample for share in shares for sample in share] == list(range(ranks + extra))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("rank", "ranks"), [(2, 3), (3, 3), (-1, 2)])
def test_empty_share_is_refused(rank, ranks):
    with pytest.raises(ValueError, match=f"process {rank} of {ranks} has no part of a batch of 2"):
        Share(rank, ranks).samples(2)
