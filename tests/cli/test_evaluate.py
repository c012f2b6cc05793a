"""The evaluate command."""

import numpy as np
from PIL import Image

from autoseg.cli.main import UNUSABLE, main


def test_the_table_is_shown_even_when_the_file_cannot_be_written(tmp_path, capsys):
    for folder in ("predictions", "references"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.eye(5, 7, dtype=np.uint8)).save(tmp_path / folder / "a.png")
    (tmp_path / "file").touch()
    words = [
        "evaluate",
        str(tmp_path / "predictions"),
        str(tmp_path / "references"),
        "-o",
        str(tmp_path / "file/e.json"),
    ]
    assert main([*words, "--workers", "1"]) == UNUSABLE
    shown = capsys.readouterr()
    assert "label_1" in shown.out
    assert "e.json: cannot be written" in shown.err
