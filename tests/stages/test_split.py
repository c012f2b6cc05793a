"""Cross-validation: nnU-Net's folds, groups, small datasets, and rare labels."""

import json
from collections import defaultdict
from collections.abc import Mapping, Set

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import PlanningError, RecordError, UsageError
from autoseg.folds import find_split
from autoseg.records.dataset import CaseFiles
from autoseg.records.files import write_record
from autoseg.records.fingerprint import Fingerprint, LabelFacts
from autoseg.records.plan import Split, Splits
from autoseg.records.workspace import Workspace
from autoseg.stages.split import keep_edited_splits, make_splits
from autoseg.testing import synthetic_fingerprint
from tests.builders import make_dataset


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


def listed(**groups_and_folds: tuple[str, int | None]) -> list[CaseFiles]:
    return [
        CaseFiles(case=case, images=(f"{case}.nii",), label="l.nii", group=group, fold=fold)
        for case, (group, fold) in groups_and_folds.items()
    ]


def test_folds_that_the_dataset_names_are_kept():
    named = listed(a=("", 3), b=("", 1), c=("", None), d=("", 1))
    splits = make_splits(with_ids("a", "b", "c", "d"), folds=4, listed=named)
    assert [(split.training, split.validation) for split in splits.folds] == [
        (("a", "c"), ("b", "d")),
        (("b", "c", "d"), ("a",)),
    ]
    assert splits.reason == (
        "2 folds (there 1, 3) as the dataset says; 1 cases without a fold are in every training part."
    )
    (only,) = make_splits(with_ids("a", "b"), listed=listed(a=("", None), b=("", 0))).folds
    assert (only.training, only.validation) == (("a",), ("b",))


def test_groups_that_the_dataset_names_stay_together():
    ids = [f"scan{index:02d}" for index in range(20)]
    named = listed(**{case: (f"p{index % 7}" if index < 18 else "", None) for index, case in enumerate(ids)})
    splits = make_splits(with_ids(*ids), listed=named)
    groups = {files.case: files.group or files.case for files in named}
    parts = [{groups[case] for case in split.validation} for split in splits.folds]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 9
    assert "5 folds of 9 groups, grouped as the dataset says" in splits.reason
    with pytest.raises(UsageError, match="--group-by and the groups that the dataset lists contradict each other"):
        make_splits(with_ids(*ids), listed=named, group_by="scan.")


def test_groups_of_one_case_each_give_the_folds_of_no_groups():
    ids = [f"p{index:02d}" for index in range(12)]
    splits = make_splits(with_ids(*ids), listed=listed(**{case: (case, None) for case in ids}))
    assert splits.folds == make_splits(with_ids(*ids)).folds


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


def with_labels(labels: Mapping[str, Set[str]]) -> Fingerprint:
    """Cases by id, and the labels that are present in each; all others of them have no voxels."""
    known = sorted(set().union(*labels.values()))
    plain = with_ids(*labels)
    cases = tuple(
        case.model_copy(
            update={
                "labels": {
                    name: LabelFacts(voxels=int(name in labels[case.case]), volume_mm3=0.0, components=0)
                    for name in known
                }
            }
        )
        for case in plain.cases
    )
    return plain.model_copy(update={"cases": cases})


def folds_with(splits: Splits, labels: Mapping[str, Set[str]], label: str) -> list[int]:
    """How many validation cases of each fold have the label."""
    return [sum(label in labels[case] for case in split.validation) for split in splits.folds]


def validated(splits: Splits) -> list[tuple[str, ...]]:
    return [split.validation for split in splits.folds]


def test_labels_that_are_nowhere_rare_leave_nnunets_folds():
    labels = {f"case{index:03d}": {"organ"} | ({"vessel"} if index % 7 else set()) for index in range(60)}
    splits = make_splits(with_labels(labels))
    assert validated(splits) == validated(make_splits(numbered(60)))
    assert splits.reason == "5 folds of 60 cases, shuffled with seed 12345 as nnU-Net does."


def test_a_label_of_a_single_case_leaves_nnunets_folds():
    labels = {f"case{index:03d}": {"organ"} | ({"tumour"} if index == 3 else set()) for index in range(12)}
    assert validated(make_splits(with_labels(labels))) == validated(make_splits(numbered(12)))


def test_a_label_that_nnunets_folds_would_not_validate_is_spread():
    # nnU-Net's folds of ten cases are 07 39 46 18 25: the first two and the last two hold no third of these
    labels = {
        f"case{index:03d}": {"organ"} | ({"tumour"} if index in (0, 7, 3, 9, 4, 6) else set()) for index in range(10)
    }
    assert folds_with(make_splits(numbered(10)), labels, "tumour") == [2, 2, 2, 0, 0]
    splits = make_splits(with_labels(labels))
    assert sorted(folds_with(splits, labels, "tumour")) == [1, 1, 1, 1, 2]
    assert splits.reason == (
        "5 folds of 10 cases, divided by label presence: some training or validation part of nnU-Net's folds lacks "
        "tumour."
    )


def test_a_label_of_two_cases_is_in_every_training_part():
    labels = {f"case{index:03d}": {"tumour"} if index in (3, 9) else {"organ"} for index in range(10)}
    assert folds_with(make_splits(numbered(10)), labels, "tumour") == [0, 2, 0, 0, 0]
    assert sorted(folds_with(make_splits(with_labels(labels)), labels, "tumour")) == [0, 0, 0, 1, 1]


def test_the_rarest_label_comes_first_and_shared_groups_are_balanced():
    """Five cases with both labels, five with one, ten with none: every fold can have all."""
    labels: dict[str, Set[str]] = {f"case{index:03d}": set() for index in range(20)}
    order = [case for split in make_splits(numbered(20)).folds for case in split.validation]
    for case in order[:5]:
        labels[case] = {"rare", "common"}
    for case in order[5:10]:
        labels[case] = {"common"}
    splits = make_splits(with_labels(labels))
    assert folds_with(splits, labels, "rare") == [1] * 5
    assert folds_with(splits, labels, "common") == [2] * 5
    assert splits.reason.endswith("lacks common, rare.")


@pytest.mark.parametrize(
    ("folds", "letters"),
    [
        # found by search: lost when the commonest label comes first, when a part's own lack does not count, and when
        # the group's other labels do not break ties
        (2, ["a", "d", "ad", "c"]),
        (2, ["ac", "a", "ab", "bc"]),
        (2, ["abc", "", "ab", "ac"]),
        (3, ["ab", "bc", "b", "cd", "cd", "", "bcd"]),
        (3, ["abc", "abc", "a", "ad", "cd", "bcd"]),
    ],
)
def test_divisions_that_need_every_rule(folds, letters):
    labels = {f"case{index}": frozenset(names) for index, names in enumerate(letters)}
    assert count_lacking(make_splits(with_ids(*labels), folds=folds), labels) > 0
    assert count_lacking(make_splits(with_labels(labels), folds=folds), labels) == 0


def test_whole_groups_are_moved():
    persons = [f"patient{person:02d}" for person in range(10)]
    labels = {
        f"{person}_{visit}": {"scar"} if index in (0, 7, 3, 9, 4) and visit == "late" else set[str]()
        for index, person in enumerate(persons)
        for visit in ("early", "late")
    }
    splits = make_splits(with_labels(labels))
    assert folds_with(splits, labels, "scar") == [1] * 5
    assert all(len({case[:9] for case in split.validation}) == 2 for split in splits.folds)
    assert "5 folds of 10 groups, cases of one person kept together" in splits.reason


def test_nnunets_folds_stay_where_none_are_better():
    """Three labels, one on each side of a triangle of cases: two folds always leave one of them out."""
    labels = {"a": {"ab", "ac"}, "b": {"ab", "bc"}, "c": {"ac", "bc"}, "d": set[str]()}
    splits = make_splits(with_labels(labels), folds=2)
    assert validated(splits) == validated(make_splits(with_ids(*labels), folds=2))
    [lacking] = [name for name in ("ab", "ac", "bc") if 0 in folds_with(splits, labels, name)]
    assert splits.reason.endswith(f"lacks {lacking}, and no better division was found.")


def test_many_names_are_cut_short():
    labels = {f"case{index:03d}": {f"label{index // 2:02d}"} for index in range(60)}
    first = set(make_splits(numbered(60), folds=2).folds[0].validation)
    alone = [f"label{i:02d}" for i in range(30) if (f"case{2 * i:03d}" in first) == (f"case{2 * i + 1:03d}" in first)]
    splits = make_splits(with_labels(labels), folds=2)
    assert splits.reason.endswith(f"lacks {', '.join(alone[:8])} and {len(alone) - 8} more.")


LABELLED = st.dictionaries(
    st.builds("case{:02d}".format, st.integers(0, 60)),
    st.frozensets(st.sampled_from(["a", "b", "c", "d"]), max_size=4),
    min_size=2,
    max_size=30,
)


@settings(deadline=None)
@given(LABELLED, st.integers(2, 6), st.randoms(use_true_random=False))
def test_division_by_labels(labels, folds, random):
    splits = make_splits(with_labels(labels), folds=folds)
    number = min(folds, len(labels))
    assert sorted(case for part in validated(splits) for case in part) == sorted(labels)
    sizes = [len(part) for part in validated(splits)]
    assert sizes == [len(labels) // number + (fold < len(labels) % number) for fold in range(number)]
    for split in splits.folds:
        assert sorted((*split.training, *split.validation)) == sorted(labels)

    shuffled = list(labels)
    random.shuffle(shuffled)
    assert make_splits(with_labels({case: labels[case] for case in shuffled}), folds=folds) == splits

    nnunets = make_splits(with_ids(*labels), folds=folds)
    lacking, nnunets_lacking = count_lacking(splits, labels), count_lacking(nnunets, labels)
    assert lacking <= nnunets_lacking
    assert (splits == nnunets) == (nnunets_lacking == 0)


def count_lacking(splits: Splits, labels: Mapping[str, Set[str]]) -> int:
    """Folds without a label that as many cases have, and training parts without one that several cases have."""
    count = 0
    for label in sorted(set().union(*labels.values())):
        cases = {case for case in labels if label in labels[case]}
        if len(cases) >= len(splits.folds):
            count += sum(not cases.intersection(split.validation) for split in splits.folds)
        elif len(cases) >= 2:
            count += sum(not cases.intersection(split.training) for split in splits.folds)
    return count


@settings(deadline=None)
@given(st.dictionaries(st.builds("case{:02d}".format, st.integers(0, 60)), st.sampled_from("abc"), min_size=2),
       st.integers(2, 6))  # fmt: skip
def test_labels_that_share_no_case_are_always_spread(label_of, folds):
    """Then it is always possible: no label in one fold only, none of enough cases missing anywhere."""
    labels = {case: {label} for case, label in label_of.items()}
    splits = make_splits(with_labels(labels), folds=folds)
    cases = defaultdict(list)
    for case, label in label_of.items():
        cases[label].append(case)
    for label, members in cases.items():
        present = sum(count > 0 for count in folds_with(splits, labels, label))
        assert present >= (len(splits.folds) if len(members) >= len(splits.folds) else min(len(members), 2))


def test_a_fold_is_found_by_its_name(tmp_path):
    dataset = make_dataset("abc")
    workspace = Workspace(tmp_path)
    folds = tuple(Split(training=tuple(sorted(set("abc") - {case})), validation=(case,)) for case in "ca")
    write_record(Splits(folds=folds, reason="by hand"), workspace.splits)
    assert find_split(workspace, dataset, "1") == Split(training=("b", "c"), validation=("a",))
    assert find_split(workspace, dataset, "all") == Split(training=("a", "b", "c"), validation=())
    for fold in ("2", "-1", "01", "first"):
        with pytest.raises(UsageError, match=rf"fold '{fold}' does not exist; .*splits\.json has 0, 1, all"):
            find_split(workspace, dataset, fold)


def planned(folder, fingerprint):
    """A workspace after planning, with nothing edited."""
    workspace = Workspace(folder)
    write_record(fingerprint, workspace.fingerprint)
    write_record(make_splits(fingerprint, folds=3), workspace.splits)
    return workspace


def edit(workspace, change):
    """Edit the folds as a person does, in the JSON text."""
    content = json.loads(workspace.splits.read_text())
    content["folds"] = change(content["folds"])
    workspace.splits.write_text(json.dumps(content))
    return content["folds"]


def test_edited_folds_are_kept(tmp_path):
    fingerprint = numbered(7)
    workspace = planned(tmp_path, fingerprint)
    folds = edit(workspace, lambda folds: folds[::-1])
    for made in (make_splits(fingerprint, folds=3), make_splits(fingerprint, folds=5)):
        assert keep_edited_splits(workspace, made, fingerprint).model_dump(mode="json")["folds"] == folds


def test_folds_that_nobody_edited_are_made_again(tmp_path):
    workspace = planned(tmp_path, numbered(7))
    more = numbered(9)
    made = make_splits(more, folds=4)
    assert keep_edited_splits(workspace, made, more) is made
    workspace.splits.unlink()
    assert keep_edited_splits(workspace, made, more) is made


def test_folds_without_their_hash_are_compared_with_what_was_planned(tmp_path):
    """As an earlier version wrote them, and as they are written by hand from nothing."""
    fingerprint, made = numbered(7), make_splits(numbered(7), folds=5)
    workspace = planned(tmp_path, fingerprint)
    three = make_splits(fingerprint, folds=3).folds
    write_record(Splits(folds=three, reason="earlier"), workspace.splits)
    assert keep_edited_splits(workspace, made, fingerprint) is made
    write_record(Splits(folds=three[:1], reason="mine"), workspace.splits)
    assert keep_edited_splits(workspace, made, fingerprint).folds == three[:1]
    workspace.fingerprint.write_text("{}")
    assert keep_edited_splits(workspace, made, fingerprint).reason == "mine"


def test_edited_folds_may_leave_out_known_cases_but_not_new_ones(tmp_path):
    workspace = planned(tmp_path, numbered(7))

    def without_case_2(folds):
        return [{part: [case for case in fold[part] if case != "case002"] for part in fold} for fold in folds]

    folds = edit(workspace, without_case_2)
    assert (
        keep_edited_splits(workspace, make_splits(numbered(7)), numbered(7)).model_dump(mode="json")["folds"] == folds
    )
    with pytest.raises(PlanningError, match=r"no fold has case007, case008, which are new") as caught:
        keep_edited_splits(workspace, make_splits(numbered(9)), numbered(9))
    assert "delete it to get new folds" in str(caught.value)


def test_every_fault_of_edited_folds_is_listed(tmp_path):
    workspace = planned(tmp_path, numbered(7))

    def spoil(_folds):
        return [
            {"training": ["case000", "case000", "case003"], "validation": ["case009"]},
            {"training": [], "validation": ["case001"]},
        ]

    edit(workspace, spoil)
    with pytest.raises(PlanningError) as caught:
        keep_edited_splits(workspace, make_splits(numbered(7)), numbered(7))
    assert str(caught.value).splitlines()[1:4] == [
        "  fold 0: training lists case000 more than once",
        "  fold 0: validation lists case009, which the dataset does not have",
        "  fold 1 has no training case",
    ]


def test_edited_folds_that_are_no_valid_record_are_refused(tmp_path):
    workspace = planned(tmp_path, numbered(7))
    edit(workspace, lambda folds: [{**fold, "validation": fold["training"]} for fold in folds])
    with pytest.raises(RecordError, match=r"splits\.json.*(?s:.)*also in `training`"):
        keep_edited_splits(workspace, make_splits(numbered(7)), numbered(7))
