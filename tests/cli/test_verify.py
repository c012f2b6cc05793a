"""`autoseg verify`: exit codes, one line for each mismatch, and the same as JSON."""

import json

import pytest

from autoseg.cli.main import main
from autoseg.stages.export import export_model
from tests.builders import write_two_configurations


@pytest.fixture
def model(tmp_path):
    return write_two_configurations(tmp_path / "model")


def test_a_model_in_order_is_exit_code_0(model, capsys):
    assert main(["verify", str(model), "-q"]) == 0
    assert capsys.readouterr().out == "Compared: 4 records, 3 weights. Everything belongs together.\n"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_mismatch_is_exit_code_1_with_the_command_that_corrects_it(model, capsys, options):
    path = model / "models" / "2d" / "fold_0" / "checkpoint_final.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["verify", str(model), "-q", *options]) == 1
    out = capsys.readouterr().out
    if options:
        (mismatch,) = json.loads(out)["mismatches"]
        assert mismatch["file"] == str(path)
        assert mismatch["command"] == f"autoseg-train {model} -c 2d -f 0"
    else:
        line, summary = out.splitlines()
        assert line.startswith(f"{path}: is damaged (")
        assert line.endswith(f". To correct it: autoseg-train {model} -c 2d -f 0")
        assert summary == "Compared: 4 records, 3 weights. Faults: 1."


def test_networks_for_other_programs_are_told_in_sentences_with_one_full_stop(model, tmp_path, capsys):
    export_model(model, tmp_path / "exported")
    manifest = tmp_path / "exported" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": "autoseg"', '"format": "onnx"'))
    assert main(["verify", str(tmp_path / "exported"), "-q"]) == 1
    out = capsys.readouterr().out
    assert "were exported from. To correct it: copy" in out


def test_what_is_no_model_is_exit_code_2(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "neither a workspace nor an exported model" in capsys.readouterr().err
