"""What is typed about boundary refinement becomes options of the stage."""

import argparse

import pytest

from autoseg.cli.options import add_device
from autoseg.cli.refinement import add_refinement, refinement_options
from autoseg.selection.refinement import RefinementOptions


def read(*words):
    parser = argparse.ArgumentParser()
    add_refinement(parser)
    add_device(parser)
    return refinement_options(parser.parse_args(words))


def test_nothing_is_refined_unless_asked_for():
    assert read() is None
    assert read("--refine", "none", "--refine-time", "5s") is None


def test_time_and_device_reach_the_stage():
    assert read("--refine", "boundary") == RefinementOptions(seconds=60.0, device="auto")
    words = ("--refine", "boundary", "--refine-time", "2min", "--device", "cpu")
    assert read(*words) == RefinementOptions(seconds=120.0, device="cpu")


def test_another_word_is_wrong_usage(capsys):
    with pytest.raises(SystemExit):
        read("--refine", "points")
    assert "invalid choice: 'points'" in capsys.readouterr().err
