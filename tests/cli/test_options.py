from autoseg.cli.options import default_workspace


def test_the_workspace_is_named_after_the_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Task04").mkdir()
    (tmp_path / "cases.csv").touch()
    assert default_workspace(tmp_path / "Task04") == tmp_path / "Task04.autoseg"
    assert default_workspace(tmp_path / "cases.csv") == tmp_path / "cases.autoseg"
