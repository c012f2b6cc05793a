"""`--max-memory` reaches the predictor, and memory is then given back to the system."""

import argparse

import pytest

from autoseg.cli import predict
from autoseg.networks import devices
from autoseg.stages import predict as stage


@pytest.mark.parametrize(("words", "expected"), [([], None), (["--max-memory", "3GB"], 3_000_000_000),
                                                 (["--max-memory", "500MB"], 500_000_000)])  # fmt: skip
def test_the_limit_is_in_bytes(monkeypatch, words, expected):
    seen: dict[str, object] = {}
    kept = []
    monkeypatch.setattr(stage, "Predictor", lambda model, options: seen.update(vars(options)))
    monkeypatch.setattr(stage, "predict_files", lambda *arguments, **options: [])
    monkeypatch.setattr(devices, "keep_freed_memory", lambda: kept.append(True))
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    assert predict.run(parser.parse_args(["-m", "m", "-i", "i", "-o", "o", *words])) == 0
    assert seen["max_memory"] == expected
    assert len(kept) == (expected is None)


def test_a_size_needs_a_unit(capsys):
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["-m", "m", "-i", "i", "-o", "o", "--max-memory", "3"])
    assert "'3' is not a size such as 8GB" in capsys.readouterr().err
