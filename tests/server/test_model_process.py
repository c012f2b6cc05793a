"""The process that has the models: it loads them once, answers, and its death is noticed."""

import os
import signal
import time

import nibabel
import numpy as np
import pytest

from autoseg.errors import PredictionError
from autoseg.server.messages import ModelOptions, PredictionTask, TaskResult
from autoseg.server.model_process import ModelProcess, ModelProcessEndedError
from tests.builders import load_exactly, make_image, make_plan, write_model, write_nifti
from tests.server.served import wait_for

OPTIONS = ModelOptions(device="cpu", precision="fp32", speed="balanced")


@pytest.fixture
def model(tmp_path):
    write_model(tmp_path / "model", make_plan({"3d_fullres": (2.5, 1.0, 0.8)}), {"3d_fullres": ("0",)})
    return tmp_path / "model"


def test_it_predicts_and_its_death_is_noticed(model, tmp_path):
    process = ModelProcess({"made": model}, OPTIONS)
    (facts,) = process.start(120.0)
    assert (facts.name, facts.channels) == ("made", ("MR",))
    try:
        image = write_nifti(make_image(), tmp_path / "job" / "image_0000.nii.gz")
        process.give(
            PredictionTask(model="made", images=(image,), folder=image.parent, ending=".nii.gz", max_image_bytes=10**9)
        )
        result = process.receive(120.0)
        assert isinstance(result, TaskResult)
        labels = np.asarray(nibabel.load(image.parent / result.files["label-map"]).dataobj).T
        assert np.array_equal(labels, load_exactly(model, mirroring=False).predict(image).labels)
        assert process.measure_memory() > 10**8
        assert process._process is not None
        os.kill(process._process.pid or 0, signal.SIGKILL)
        wait_for(lambda: not process.is_running)
        with pytest.raises(ModelProcessEndedError, match="was ended by SIGKILL"):
            process.receive(10.0)
    finally:
        process.kill()
    assert (process.is_running, process.measure_memory()) == (False, 0)
    with pytest.raises(ModelProcessEndedError, match="is not running"):
        process.receive(0.1)


def test_a_model_that_cannot_be_loaded_says_why(tmp_path):
    process = ModelProcess({"gone": tmp_path / "gone"}, OPTIONS)
    with pytest.raises(PredictionError, match="not a model"):
        process.start(120.0)
    assert not process.is_running


def test_loading_has_a_time_limit(model):
    process = ModelProcess({"made": model}, OPTIONS)
    began = time.monotonic()
    with pytest.raises(PredictionError, match="not loaded within 0 s"):
        process.start(0.0)
    assert time.monotonic() - began < 60
    assert not process.is_running
