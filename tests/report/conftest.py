"""A small workspace made by hand: two cases with unequal axes and anisotropic spacing, planned, trained, selected."""

import numpy as np
import pytest

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.inference.refinement.patches import plan_refiner
from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.records.dataset import Fault, LabelValues
from autoseg.records.files import write_record, write_text
from autoseg.records.fingerprint import IntensityStatistics, LabelFacts
from autoseg.records.network import NormalizationSpec
from autoseg.records.plan import Decision, Estimates
from autoseg.records.selection import (
    Candidate,
    KeepLargestComponent,
    PatchSettings,
    Refinement,
    RefinementScores,
    Selection,
)
from autoseg.records.training import TrainingSpec
from autoseg.records.workspace import Workspace
from tests import builders
from tests.builders import (
    make_case_fingerprint,
    make_configuration,
    make_dataset,
    make_fingerprint,
    make_network_spec,
    make_plan,
    write_nifti,
)

LABELS: dict[str, LabelValues] = {"background": 0, "<b>liver</b>": 10, "lesion": 20}
ENCODING = make_encoding(LABELS)
SPACING = (3.0, 0.9, 0.7)


def make_epoch(epoch, **changes):
    """Losses fall, and the first epoch has neither a validation nor lesions."""
    values = {
        "seconds": 8.0,
        "data_wait_fraction": 0.25,
        "train_loss": 1.0 / (epoch + 1),
        "validation_loss": None if epoch == 0 else 1.2 / (epoch + 1),
        "pseudo_dice": {"liver": 0.5, "lesion": None if epoch == 0 else 0.7},
    }
    return builders.make_epoch(epoch, **(values | changes))


def make_small_plan():
    """A plan of one configuration, with names that have to be escaped in HTML."""
    network = make_network_spec(
        features=(8, 16),
        strides=((1, 1, 1), (1, 2, 2)),
        kernel_sizes=((1, 3, 3), (3, 3, 3)),
        encoder_blocks=(2, 2),
        decoder_blocks=(2,),
    )
    configuration = make_configuration(
        SPACING,
        median_shape=(5.0, 11.5, 7.0),
        patch_size=(8, 16, 8),
        batch_size=3,
        network=network,
        normalization=(NormalizationSpec(scheme="ct"),),
        training=TrainingSpec(mirror_axes=(0, 1, 2), batch_dice=False, epochs=7, time_per_fold_seconds=600.0),
        estimates=Estimates(feature_map_elements=1, parameters=1_234_567, macs=1, training_memory_bytes=2_500_000_000),
    )
    return make_plan(
        dataset_name="Made <by> hand",
        channel_names=("CT",),
        labels=LABELS,
        configurations={"3d_fullres": configuration},
        decisions=(Decision(what="patch_size", value=(8, 16, 8), reason="It <i>fits</i>."),),
    )


@pytest.fixture
def plan():
    return make_small_plan()


@pytest.fixture
def planned(tmp_path, plan):
    """A workspace with dataset, fingerprint and plan."""
    workspace = Workspace(tmp_path / "workspace")
    facts = []
    for number, case in enumerate("ab"):
        for kind, array in (("images", make_image(number)), ("labels", make_reference(number))):
            write_nifti(array, tmp_path / "data" / kind / f"{case}.nii.gz", SPACING)
        labels = {
            "<b>liver</b>": LabelFacts(voxels=10, volume_mm3=2000.0 * (number + 1), components=1),
            "lesion": LabelFacts(voxels=0, volume_mm3=0.0, components=0),
        }
        facts.append(make_case_fingerprint(case, (5, 11, 7), spacing=SPACING, labels=labels))
    warning = Fault(severity="warning", case="b", file="labels/b.nii.gz", what="no <lesion> in it")
    write_record(make_dataset("ab", plan, folder="../data", warnings=(warning,)), workspace.dataset)
    statistics = IntensityStatistics(**dict.fromkeys(IntensityStatistics.model_fields, 12.5))
    write_record(make_fingerprint(facts, plan, intensities=(statistics,)), workspace.fingerprint)
    write_record(plan, workspace.plan)
    return workspace


@pytest.fixture
def trained(planned):
    """The same with one validated fold."""
    folder = planned.fold("3d_fullres", "0")
    scores = []
    for number, case in enumerate("ab"):
        reference = make_reference(number)
        prediction = np.roll(reference, number, axis=2)
        write_nifti(prediction, folder / "validation" / f"{case}.nii.gz", SPACING)
        scores.append(score_case(case, prediction, reference, LABELS))
    write_record(summarize(scores, ["<b>liver</b>", "lesion"], ["c"]), folder / "validation" / "evaluation.json")
    write_text("".join(make_epoch(epoch).model_dump_json() + "\n" for epoch in range(3)), folder / "history.jsonl")
    return planned


@pytest.fixture
def selected(trained):
    """The same with a selection."""
    selection = Selection(
        configurations=("3d_fullres",),
        folds=("0",),
        postprocessing=(KeepLargestComponent(labels=("lesion",)),),
        mean_foreground_dice=0.9123,
        candidates=(
            Candidate(configurations=("3d_fullres",), folds=("0",), num_cases=2, mean_foreground_dice=0.9),
            Candidate(configurations=("2d",), folds=("0",), num_cases=2, mean_foreground_dice=None),
        ),
        reasons=("3d_fullres & nothing else.",),
    )
    write_record(selection, trained.selection)
    evaluation = trained.fold("3d_fullres", "0") / "validation" / "evaluation.json"
    write_text(evaluation.read_text(), trained.evaluation)
    return trained


def make_image(number):
    return np.random.default_rng(number).normal(size=(5, 11, 7)).astype(np.float32)


def make_reference(number):
    labels = np.zeros((5, 11, 7), dtype=np.uint8)
    labels[1:4, 3:8, 2:5] = 10
    labels[2, 5:7, 3] = 20 * (1 - number)
    return labels


@pytest.fixture
def make_refinement():
    """A refinement of so many networks that changed nothing."""

    def make(count):
        patches = PatchSettings(size=(1, 48, 48), training_distance=(1, 24, 24), prediction_distance=(1, 18, 18))
        scores = RefinementScores(mean_foreground_dice=None, surface_dice=None, hausdorff_95_mm=None)
        return Refinement(
            patches=patches, network=plan_refiner(patches, 1), refiners=("0" * 64,) * count, tolerance_mm=1.0,
            before=scores, after=scores,
        )  # fmt: skip

    return make
