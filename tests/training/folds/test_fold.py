"""What the processes of one machine share: its cores and its memory."""

from dataclasses import replace

import pytest
import torch

from autoseg.records.dataset import CaseFiles, foreground_names
from autoseg.records.partial_labels import find_set, heads_of_set
from autoseg.records.plan import Split
from autoseg.records.workspace import Workspace
from autoseg.training.data import loading
from autoseg.training.distributed import Ranks
from autoseg.training.folds import fold as fold_module
from autoseg.training.folds.fold import Fold, open_training_batches, open_validation_batches
from autoseg.training.options import TrainingOptions
from tests.builders import make_dataset, make_plan


@pytest.fixture
def training(tmp_path):
    plan = make_plan({"3d_fullres": (1.0, 1.0, 1.0)})
    description = make_dataset((), plan)
    return Fold(
        workspace=Workspace(tmp_path), dataset=description, plan=plan, configuration_name="3d_fullres",
        configuration=plan.configurations["3d_fullres"], fold_name="0", split=Split(training=(), validation=()),
        device=torch.device("cuda"), training_precision=torch.float32,
    )  # fmt: skip


@pytest.mark.parametrize(("count_here", "expected"), [(1, 8), (2, 4), (4, 2)])
def test_processes_share_the_cores_for_their_workers(training, monkeypatch, count_here, expected):
    monkeypatch.setattr(loading, "count_cores", lambda: 8)
    ranks = Ranks(rank=0, count=8, count_here=count_here)
    assert replace(training, ranks=ranks).workers == expected
    assert replace(training, ranks=ranks, options=TrainingOptions(workers=3)).workers == 3


@pytest.mark.parametrize("count_here", [1, 2])
def test_the_loaders_of_all_processes_share_a_quarter_of_the_memory(training, monkeypatch, count_here):
    given = []
    monkeypatch.setattr(fold_module, "training_cases", lambda *_, ram_bytes, **__: given.append(ram_bytes))
    monkeypatch.setattr(fold_module, "build_loader", lambda *_, **__: None)
    monkeypatch.setattr(fold_module, "measure_total_memory", lambda: 4096 * 1024)
    for rank in range(count_here):
        fold = replace(training, ranks=Ranks(rank=rank, count=4, count_here=count_here))
        open_training_batches(fold, 0)
        open_validation_batches(fold, 0)
    assert len(given) == 2 * count_here
    assert sum(given) == 4096 * 1024 / 4


def test_a_label_that_no_training_case_looks_for_counts_as_absent(training):
    first, second = foreground_names(training.plan.encoding)
    annotated = {"a": (first,), "b": (first,), "c": (second,), "d": None}
    cases = [CaseFiles(case=case, images=("i",), label="l", annotated=names) for case, names in annotated.items()]
    dataset = training.dataset.model_copy(update={"cases": tuple(cases)})

    def fold_of(*training_cases):
        return replace(training, dataset=dataset, split=Split(training=training_cases, validation=("b",)))

    fold = fold_of("a")
    assert fold.never_sought == (second,)
    assert [find_set(fold.encoding, fold.annotated.get(case)) for case in "abd"] == [0, 0, 0]
    assert heads_of_set(fold.encoding, find_set(fold.encoding, fold.annotated["c"])) == {0, 2}
    for sought in (fold_of("a", "c"), fold_of("a", "d")):
        assert sought.never_sought == ()
        assert sought.annotated == {case: names for case, names in annotated.items() if names}
