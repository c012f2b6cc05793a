"""`autoseg info`: tables for people, JSON for programs."""

import json

from autoseg.cli.main import main
from tests.builders import write_two_configurations


def test_the_tables_name_channels_labels_and_folds(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    model = write_two_configurations(tmp_path / "model")
    assert main(["info", str(model)]) == 0
    out = capsys.readouterr().out
    rows = {cells[0].strip(): cells[1:] for line in out.splitlines() if len(cells := line.strip("│").split("│")) > 1}
    assert [cell.strip() for cell in rows["3d_fullres"][:2]] == ["0 1", "unet"]
    assert rows["channels"][0].strip()
    assert rows["licence"][0].strip() == "not stated"


def test_the_json_has_every_fact(tmp_path, capsys):
    model = write_two_configurations(tmp_path / "model")
    assert main(["info", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["configurations"]["2d"]["folds"] == ["0"]
    assert facts["model"] == str(model)


def test_what_is_no_model_is_exit_code_2(tmp_path, capsys):
    assert main(["info", str(tmp_path)]) == 2
    assert "has no plan.json" in capsys.readouterr().err
