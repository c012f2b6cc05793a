"""Names that are code for a browser, a spreadsheet or a shell: they stay names."""

import csv
import json
import shutil
from html.parser import HTMLParser

import pytest
from typing_extensions import override

from autoseg.cli.main import main
from tests.faults.battery import CASES, draw, save

HARMFUL = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</title><script>", "--><b>", "{{7*7}}",
    "=HYPERLINK(0)", "+1+1", "-1+1", "@SUM(A1)", "$(touch ran)", "`touch ran`", "; touch ran", "%s%n", "a\nb",
)  # fmt: skip
CASE_NAMES = (
    "=cmd", "+cmd", "-cmd", "@cmd", "<b>x", "a&b", "two words", "ümläut", "日本", "$(touch ran)", "{a,b}", "[1]", "*",
    "new\nline", "tab\tx", "%d", "n" * 200, "x;y", "'quoted'", "UPPER",
)  # fmt: skip


class Elements(HTMLParser):
    """Elements and attributes of a page."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[str, str]] = []

    @override
    def handle_starttag(self, tag, attrs):
        self.found += [(tag, name) for name, _ in attrs] or [(tag, "")]


@pytest.mark.parametrize("name", HARMFUL)
def test_names_of_labels_and_channels_are_no_code_in_the_report(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = tmp_path / "data"
    for seed, case in enumerate(CASES[:2]):
        image, labels = draw(seed)
        save(dataset / "imagesTr" / f"{case}_0000.nii.gz", image)
        save(dataset / "labelsTr" / f"{case}.nii.gz", labels)
    content = {"name": name, "channel_names": {"0": name}, "labels": {"background": 0, name: 1, "lesion": 2},
               "numTraining": 2, "file_ending": ".nii.gz"}  # fmt: skip
    (dataset / "dataset.json").write_text(json.dumps(content))
    words = ["plan", dataset, "-w", "w", "--device", "cuda", "--planner", "unet", "-c", "3d_fullres", "--folds", "2",
             "-j", "1", "--no-preprocess"]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    assert main(["report", "w"]) == 0
    page = (tmp_path / "w" / "report.html").read_text(encoding="utf-8")
    elements = Elements()
    elements.feed(page)
    assert not [(tag, attribute) for tag, attribute in elements.found if attribute.startswith("on")]
    assert ("img", "src") not in [pair for pair in elements.found if pair[0] == "script"]
    assert "alert(1)</script>" not in page
    assert not (tmp_path / "ran").exists()


def test_names_of_cases_are_names_everywhere(sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for case in CASE_NAMES:
        shutil.copy(sound.images / "case_0_0000.nii.gz", tmp_path / "images" / f"{case}_0000.nii.gz")
        shutil.copy(sound.labels / "case_0.nii.gz", tmp_path / "labels" / f"{case}.nii.gz")
    words = ["predict", "-m", sound.workspace, "-i", "images", "-o", "out", "--device", "cpu", "--speed", "fast",
             "--statistics", "--instances"]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    assert all((tmp_path / "out" / f"{case}.nii.gz").exists() for case in CASE_NAMES)
    assert main(["evaluate", "out", "labels", "-j", "1"]) == 0
    for name in ("statistics.csv", "instances.csv", "evaluation.csv"):
        with (tmp_path / "out" / name).open(encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        harmful = [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\r"))]
        assert not harmful
        assert "'=cmd" in cells
        assert "new\nline" in cells
    assert not (tmp_path / "ran").exists()
