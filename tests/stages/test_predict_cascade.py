"""Cascades at prediction: every step by hand, and what the next step gets."""

import logging
import weakref

import numpy as np
import pytest
import torch
from skimage.transform import resize

from autoseg.imaging.arrays.preprocessing import preprocess_case
from autoseg.inference.models.case_logits import stream_case_logits
from autoseg.inference.models.loading import load_configuration
from autoseg.inference.predictor import member_streams
from autoseg.inference.restoring.restore import LogitStream, restore_labels, restore_on_grid
from autoseg.inference.windows import logit_slab
from autoseg.inference.windows.logit_slab import LogitSlab
from autoseg.records.network import ResamplingSpec
from autoseg.records.workspace import Workspace
from tests.builders import (
    CASCADE,
    LABELS,
    REGIONS,
    SHAPE,
    SPACING,
    load_exactly,
    make_cascade_plan,
    make_image,
    predict_logits,
    write_model,
)


def float_probabilities(prediction):
    return prediction.probabilities.astype(np.float32)


def one_hot(indices, labels):
    return np.stack([indices == index for index in range(1, labels + 1)]).astype(np.float32)


def cascade_by_hand(model, plan, image):
    """Both stages one after the other; probabilities by head on the image's grid."""
    cpu, workspace = torch.device("cpu"), Workspace(model)
    heads = len(plan.encoding.heads)
    answers: list[LogitStream] = []
    for name in ("3d_lowres", CASCADE):
        prepared, _, record = preprocess_case(image, None, SPACING, case_id="x", plan=plan, configuration_name=name)
        if name == CASCADE:
            indices = restore_on_grid(answers[-1], record, plan.encoding)
            assert len(np.unique(indices)) > 2, "otherwise a wrong channel order goes unseen"
            channels = one_hot(indices, len(plan.encoding.values) - 1)
            prepared = np.concatenate([prepared, channels])
        networks = load_configuration(workspace, plan, name, (), "final", cpu).networks
        logits = torch.stack([
            predict_logits(network, torch.from_numpy(prepared), (12, 16, 20), heads, (0, 1, 2)) for network in networks
        ]).mean(dim=0)  # fmt: skip
        answers.append(LogitStream(logits.unbind(1), record, plan.configurations[name].resampling))
    return restore_labels(answers[1:], plan.encoding)


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
def test_a_cascade_is_both_stages_by_hand(tmp_path, labels):
    plan = make_cascade_plan((3.0, 2.0, 1.9), (2.0, 1.2, 1.2), labels=labels, channel_names=("T1", "T2"))
    write_model(tmp_path, plan, {"3d_lowres": ("0", "1"), CASCADE: ("0", "1")})
    image = np.stack([make_image(1), make_image(2)])
    expected = np.array(plan.encoding.values)[cascade_by_hand(tmp_path, plan, image)]
    prediction = load_exactly(tmp_path).predict(image, spacing=SPACING, probabilities=True)
    assert (prediction.labels == expected).mean() > 0.9999  # the order of sums differs
    assert len(np.unique(prediction.labels)) > 2
    assert prediction.probabilities is not None
    assert prediction.probabilities.shape == (len(plan.encoding.heads), *SHAPE)
    if labels is LABELS:
        probabilities = float_probabilities(prediction)
        clear = np.sort(probabilities, axis=0)[-1] - np.sort(probabilities, axis=0)[-2] > 5e-3
        np.testing.assert_array_equal(prediction.labels[clear], np.array([0, 3, 300])[probabilities.argmax(0)][clear])


def test_the_first_stage_matters_and_is_gone_before_the_second(tmp_path, monkeypatch):
    plan = make_cascade_plan((3.0, 2.0, 1.9), (2.0, 1.2, 1.2))
    write_model(tmp_path, plan, {"3d_lowres": ("0",), CASCADE: ("0",)})
    earlier: list[weakref.ref[LogitSlab]] = []

    class WatchedSlab(LogitSlab):
        def __init__(self, *arguments):
            assert [reference() for reference in earlier] == [None] * len(earlier)
            super().__init__(*arguments)
            earlier.append(weakref.ref(self))

    monkeypatch.setattr(logit_slab, "LogitSlab", WatchedSlab)
    before = load_exactly(tmp_path).predict(make_image(), spacing=SPACING).labels
    assert len(earlier) == 2
    monkeypatch.setattr(
        member_streams, "restore_on_grid", lambda _stream, grid, *_arguments: np.ones(grid.shape, dtype=np.int16)
    )
    earlier.clear()
    assert (load_exactly(tmp_path).predict(make_image(), spacing=SPACING).labels != before).any()


def test_a_plan_may_bring_the_label_map_of_the_whole_image_to_the_next_stage(tmp_path, monkeypatch):
    plan = make_cascade_plan((3.0, 2.0, 1.9), (2.0, 1.2, 1.2))
    rule = ResamplingSpec(separate_through_plane="never")
    changes = {"previous_labels": "label_map", "resampling": rule, "preprocessed_as": CASCADE}
    cascade = plan.configurations[CASCADE].model_copy(update=changes)
    plan = plan.model_copy(update={"configurations": {**plan.configurations, CASCADE: cascade}})
    write_model(tmp_path, plan, {"3d_lowres": ("0",), CASCADE: ("0",)})
    seen = []

    def watch(loaded, image, previous, **options):
        seen.append(previous)
        return stream_case_logits(loaded, image, previous, **options)

    monkeypatch.setattr(member_streams, "stream_case_logits", watch)
    load_exactly(tmp_path, configuration=CASCADE).predict(make_image(), spacing=SPACING)
    first, brought = seen
    assert first is None
    values = load_exactly(tmp_path, configuration="3d_lowres").predict(make_image(), spacing=SPACING).labels
    cropped = values[:, 3:]  # what the image leaves black
    shares = [
        resize((cropped == value).astype(float), brought.shape, order=1, mode="edge", anti_aliasing=False)
        for value in (0, 3, 300)
    ]
    clear = np.sort(shares, axis=0)[-1] - np.sort(shares, axis=0)[-2] > 1e-6  # ties may fall either way
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(brought[clear], np.argmax(shares, axis=0)[clear])
    changes = {"previous_labels": "logits"}
    cascade = cascade.model_copy(update=changes)
    plan = plan.model_copy(update={"configurations": {**plan.configurations, CASCADE: cascade}})
    write_model(tmp_path, plan, {"3d_lowres": ("0",), CASCADE: ("0",)})
    load_exactly(tmp_path, configuration=CASCADE).predict(make_image(), spacing=SPACING)
    assert (seen[-1][clear] != brought[clear]).any()


def test_a_cascade_says_both_its_stages(tmp_path, caplog):
    plan = make_cascade_plan((3.0, 2.0, 1.9), (2.0, 1.2, 1.2))
    write_model(tmp_path, plan, {"3d_lowres": ("0", "1", "2"), "3d_fullres": ("0",), CASCADE: ("0", "1")})
    with caplog.at_level(logging.INFO, "autoseg.predict"):
        load_exactly(tmp_path)
    assert caplog.messages == [
        "predicting with 3d_cascade_fullres (fold(s) 0, 1) after 3d_lowres (fold(s) 0, 1); post-processing: none"
    ]
