import pytest

from autoseg.cli.main import main
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from tests.interop.nnunet_models import write_model


@pytest.fixture
def model(tmp_path, capsys):
    source = write_model(tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    assert main(["import-nnunet", str(source), "-o", str(tmp_path / "model")]) == 0
    said = capsys.readouterr().out
    assert "3d_fullres: fold(s) 0, all" in said
    assert f"Model: {tmp_path / 'model'}" in said
    return tmp_path / "model"


def test_an_import_makes_a_model(model):
    assert list(read_record(Plan, model / "plan.json").configurations) == ["3d_fullres"]


def test_a_target_that_is_there_is_one_line_without_traceback(model, tmp_path, capsys):
    source = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    assert main(["import-nnunet", str(source), "-o", str(model)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("autoseg import-nnunet: ")
    assert "already exists. Choose another folder" in error
    assert "Traceback" not in error


def test_the_report_shows_what_was_imported(model):
    assert main(["report", str(model)]) == 0
    page = (model / "report.html").read_text(encoding="utf-8")
    assert "Imported from nnU-Net" in page
    assert "not estimated" in page


def test_select_says_that_there_is_nothing_to_compare(model, capsys):
    code = main(["select", str(model)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert code == 2
    assert (
        captured.err
        == f"autoseg select: {model}: imported without validation cases, so there are no scores to select by; "
        "use it with autoseg-predict\n"
    )
