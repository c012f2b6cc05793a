"""Suspects in the terminal."""

from autoseg.cli.suspect_table import print_suspects
from autoseg.records.files import write_record
from autoseg.records.suspects import Suspect, Suspects
from autoseg.records.workspace import Workspace


def test_the_first_suspects_and_their_number_are_printed(tmp_path, capsys):
    workspace = Workspace(tmp_path)
    print_suspects(workspace)
    assert capsys.readouterr().out == ""
    first = Suspect(
        case="case",
        score=7.5,
        deviation=5.0,
        label="[b]",
        dice=0.25,
        expected_dice=0.87,
        kind="mirrored",
        reason="wrong",
    )
    suspects = tuple(first.model_copy(update={"case": f"case_{number}"}) for number in range(17))
    write_record(Suspects(num_cases=40, suspects=suspects), workspace.suspects)
    print_suspects(workspace)
    printed = capsys.readouterr().out
    assert "case_14" in printed
    assert "case_15" not in printed
    assert "[b] 0.25" in printed
    assert "17 of 40 validation cases" in printed


def test_no_suspects_are_said_to_be_none(tmp_path, capsys):
    write_record(Suspects(num_cases=40, suspects=()), Workspace(tmp_path).suspects)
    print_suspects(Workspace(tmp_path))
    assert capsys.readouterr().out == "Suspects of wrong labels: none among 40 validation cases.\n"


def test_too_few_cases_are_not_said_to_be_free_of_suspects(tmp_path, capsys):
    write_record(Suspects(num_cases=0, suspects=()), Workspace(tmp_path).suspects)
    print_suspects(Workspace(tmp_path))
    assert "not looked for; 5 validation cases with the same label are needed." in capsys.readouterr().out
