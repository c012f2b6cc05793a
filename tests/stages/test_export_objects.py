"""Exports of networks that find objects: what other formats cannot hold is refused before anything else is asked for.

`--format onnx` and `--format nnunet` of a model of `--target mask-rcnn`.
"""

import pytest

from autoseg.errors import InteropError
from autoseg.interop.nnunet_description import refuse_inexpressible
from autoseg.records.budget import Budget
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace
from autoseg.stages.export_onnx import export_onnx
from autoseg.stages.plan import make_plan
from autoseg.testing import synthetic_fingerprint


@pytest.fixture
def workspace(tmp_path):
    fingerprint = synthetic_fingerprint([(999.0, 1.0, 1.0)] * 4, [(1, 48, 40)] * 4)
    found = Workspace(tmp_path / "objects.autoseg")
    write_record(make_plan(fingerprint, Budget(), "unet", "mask_rcnn"), found.plan)
    return found


def test_onnx_is_refused_before_its_packages_are_missed(workspace, tmp_path, monkeypatch):
    def miss():
        pytest.fail("the packages do not help")

    monkeypatch.setattr("autoseg.stages.export_onnx.check_packages", miss)
    with pytest.raises(InteropError, match=r"find objects one by one .* Export the model without --format\."):
        export_onnx(workspace.root, tmp_path / "out")


def test_the_refusal_of_nnunets_format_does_not_advise_onnx(workspace):
    plan = read_record(Plan, workspace.plan)
    with pytest.raises(InteropError, match=r"nnU-Net has no networks for\. Export it without --format\.$"):
        refuse_inexpressible(plan, ["2d"])
