"""Scores of instances from the table that prediction writes."""

import pytest

from autoseg.errors import UsageError
from autoseg.inference.files.instance_scores import read_instance_scores


def test_the_score_is_taken_before_the_mean_probability(tmp_path):
    table = tmp_path / "instances.csv"
    table.write_text("case,id,mean_probability,score\na,1,0.5,0.7\na,2,0.6,\nb,1,0.1,0.2\n")
    found = read_instance_scores(tmp_path)
    assert found.source == "score"
    assert found.by_case == {"a": {1: 0.7}, "b": {1: 0.2}}
    table.write_text("case,id,mean_probability\na,1,0.5\n")
    assert read_instance_scores(tmp_path).by_case == {"a": {1: 0.5}}
    assert read_instance_scores(tmp_path).source == "mean_probability"


def test_no_table_and_an_empty_one(tmp_path):
    assert read_instance_scores(tmp_path).source == "none"
    (tmp_path / "instances.csv").write_text("case,id,mean_probability\n")
    assert read_instance_scores(tmp_path).source == "none"


@pytest.mark.parametrize("text", ["case,id,score\na,one,0.5\n", "case,id,score\na\n", "id,score\n1,0.5\n"])
def test_a_damaged_table_is_named(tmp_path, text):
    (tmp_path / "instances.csv").write_text(text)
    with pytest.raises(UsageError, match=r"instances\.csv: cannot be read as a table of instances"):
        read_instance_scores(tmp_path)
