"""Cross-validation: nnU-Net's folds, groups, and small datasets."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import UsageError
from autoseg.records.fingerprint import Fingerprint
from autoseg.stages.plan import make_splits
from autoseg.testing import synthetic_fingerprint


def with_ids(*ids: str) -> Fingerprint:
    fingerprint = synthetic_fingerprint([(1.0, 1.0, 1.0)] * len(ids), [(9, 9, 9)] * len(ids))
    cases = tuple(case.model_copy(update={"case": name}) for case, name in zip(fingerprint.cases, ids, strict=True))
    return fingerprint.model_copy(update={"cases": cases})


def numbered(count: int) -> Fingerprint:
    return with_ids(*(f"case{index:03d}" for index in range(count)))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        # scikit-learn 1.9.1: KFold(n_splits=5, shuffle=True, random_state=12345)
        (10, [[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]]),
        (12, [[0, 3, 8], [7, 10, 11], [6, 9], [1, 4], [2, 5]]),
    ],
)
def test_folds_are_those_of_scikit_learn(count, expected):
    splits = make_splits(numbered(count))
    assert [[int(case[4:]) for case in split.validation] for split in splits.folds] == expected


def test_any_number_of_cases_against_scikit_learn():
    model_selection = pytest.importorskip("sklearn.model_selection")
    for count in (5, 6, 13, 41, 200, 260):
        ids = [f"case{index:03d}" for index in range(count)]
        folds = model_selection.KFold(n_splits=5, shuffle=True, random_state=12345).split(ids)
        expected = [([ids[i] for i in training], [ids[i] for i in validation]) for training, validation in folds]
        splits = make_splits(numbered(count))
        assert [(list(split.training), list(split.validation)) for split in splits.folds] == expected


def test_ids_are_sorted_first():
    assert make_splits(with_ids("d", "a", "c", "b", "e", "f")) == make_splits(with_ids("a", "b", "c", "d", "e", "f"))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_fewer_cases_than_folds(count):
    splits = make_splits(numbered(count))
    assert len(splits.folds) == count
    assert all(len(split.validation) == 1 for split in splits.folds)
    assert f"only {count} for 5 asked for" in splits.reason


def test_one_case_leaves_fold_all():
    splits = make_splits(numbered(1))
    assert splits.folds == ()
    assert "only one case" in splits.reason
    assert "fold 'all'" in splits.reason


def test_other_numbers_of_folds():
    assert len(make_splits(numbered(10), folds=3).folds) == 3
    with pytest.raises(UsageError, match="needs at least 2"):
        make_splits(numbered(10), folds=1)


def test_persons_are_guessed_and_kept_together():
    ids = [f"patient{person:03d}_frame{frame:02d}" for person in range(20) for frame in (1, 12)]
    splits = make_splits(with_ids(*ids))
    persons = make_splits(with_ids(*(f"case{person:03d}" for person in range(20))))
    assert "cases of one person kept together (patient000 has 2" in splits.reason
    for split, alone in zip(splits.folds, persons.folds, strict=True):
        assert [case[7:10] for case in split.validation[::2]] == [case[4:] for case in alone.validation]
        assert len(split.validation) == 8
        assert not {case[:10] for case in split.validation} & {case[:10] for case in split.training}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("sub-01_ses-1", "sub-01_ses-2"),
        ("sub-AB_ses-1", "sub-AB_ses-2"),
        ("Subject_7-left", "Subject_7-right"),
        ("siteA_pat12_t0", "siteA_pat12_t1"),
        ("subj3_a", "subj3_b"),
    ],
)
def test_names_of_persons(first, second):
    splits = make_splits(with_ids(first, second, "other_1", "other_2", "sub-77_ses-1", "x"))
    [split] = [split for split in splits.folds if first in split.validation]
    assert second in split.validation
    assert "5 folds of 5 groups" in splits.reason


@pytest.mark.parametrize(
    "ids", [("hippocampus_001", "hippocampus_002"), ("subtle_1", "subtle_2"), ("patient1", "patient2")]
)
def test_other_names_are_not_grouped(ids):
    splits = make_splits(with_ids(*ids))
    assert len(splits.folds) == 2
    assert "person" not in splits.reason


@pytest.mark.parametrize("expression", [r"_(site\d)_[xy]", r"site\d"])
def test_group_by(expression):
    ids = [f"a{index}_site{index % 3}_{'xy'[index % 2]}" for index in range(12)]
    splits = make_splits(with_ids(*ids), group_by=expression)
    assert len(splits.folds) == 3
    assert all(len({case.split("_")[1] for case in split.validation}) == 1 for split in splits.folds)
    assert f"grouped by '{expression}'" in splits.reason


def test_group_by_may_undo_a_guess():
    ids = [f"patient{person}_frame{frame}" for person in range(3) for frame in range(2)]
    assert len(make_splits(with_ids(*ids), group_by=".*").folds) == 5


def test_group_by_that_does_not_fit():
    with pytest.raises(UsageError, match=r"does not match 2 of 3 case ids: b2, c3\. Every case needs a group"):
        make_splits(with_ids("a1", "b2", "c3"), group_by="a.")
    with pytest.raises(UsageError, match=r"'\(' is not a regular expression"):
        make_splits(with_ids("a1", "b2", "c3"), group_by="(")


def test_one_group_leaves_fold_all():
    splits = make_splits(with_ids("p1_a", "p1_b"), group_by="p1")
    assert splits.folds == ()
    assert "2 cases in one group" in splits.reason


@settings(deadline=None)
@given(
    st.sets(
        st.builds("{}{}{}".format, st.sampled_from(["sub-", "patient", "case"]), st.integers(0, 20),
                  st.sampled_from(["", "_a", "_b"])),
        min_size=2, max_size=40,
    )
)  # fmt: skip
def test_every_case_is_validated_once(ids):
    splits = make_splits(with_ids(*ids))
    validated = [case for split in splits.folds for case in split.validation]
    assert len(splits.folds) == 0 or sorted(validated) == sorted(ids)
    for split in splits.folds:
        assert sorted((*split.training, *split.validation)) == sorted(ids)
        assert split.training
