"""The table of trials in the terminal."""

from rich.console import Console

from autoseg.cli.trial_table import trial_table
from autoseg.records.trials import Candidate
from tests.builders import make_trial, make_trials


def test_every_candidate_has_a_row():
    names = ("[a]", "b")
    trials = make_trials(
        candidates=tuple(Candidate(name=name, planner="unet", configuration="2d") for name in names),
        trials=tuple(make_trial(name, 0, dice) for name, dice in zip(names, (0.25, 0.5), strict=True)),
        chosen="b",
    )
    console = Console(record=True, width=100)
    console.print(trial_table(trials))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert any(words[1::2] == ["b", "0.500", "chosen"] for words in lines)
    assert any(words[1:4:2] == ["[a]", "0.250"] for words in lines)
