"""The page: what it says at every stage, and that it is complete in itself."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import pytest
from PIL import Image
from typing_extensions import override

from autoseg.errors import UsageError
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import write_record
from autoseg.records.plan import Decision, model_hash
from autoseg.records.workspace import Workspace
from autoseg.report.page.render import render_report
from tests.builders import make_trials


class Page(HTMLParser):
    """Text, links and the balance of tags."""

    EMPTY = ("meta", "link", "img", "input", "br")

    def __init__(self, path):
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: set[str | None] = set()
        self.words: list[str] = []
        self.feed(self.html)
        self.text = " ".join(" ".join(self.words).split())

    @override
    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.links += [attributes[name] or "" for name in ("src", "href", "srcset") if name in attributes]
        self.ids.add(attributes.get("id"))
        if tag not in self.EMPTY:
            self.open.append(tag)

    @override
    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    @override
    def handle_data(self, data):
        self.words.append(data)


def test_a_planned_workspace_shows_dataset_and_plan(planned):
    page = Page(render_report(planned))
    for expected in (
        "Made <by> hand",
        "CT",
        "5; 11; 7",
        "3; 0.9; 0.7",
        "patch_size",
        "It <i>fits</i>.",
        "no <lesion> in it",
    ):
        assert expected in page.text
    # two livers of 2 and 4 ml, no lesion
    assert "<b>liver</b> 10 2 3 2 4 1" in page.text
    assert "lesion 20 0 – – – –" in page.text
    assert {"dataset", "plan", "versions"} <= page.ids
    assert not {"training", "results", "cases", "selection"} & page.ids


def test_trials_are_shown_with_the_plan_that_they_decided(planned, plan):
    write_record(make_trials(chosen="b"), planned.trials_record)
    assert "trials" not in Page(render_report(planned)).ids  # rules made this plan
    decision = Decision(what="trials", value=(("b", 0.5, 25),), reason="b is better than a.")
    write_record(plan.model_copy(update={"decisions": (decision, *plan.decisions)}), planned.plan)
    page = Page(render_report(planned))
    assert "trials" in page.ids
    assert page.open == []


def test_names_are_escaped(selected):
    html = Page(render_report(selected)).html
    assert "<b>liver" not in html
    assert "&lt;b&gt;liver" in html


def test_a_selected_workspace_shows_everything(selected):
    page = Page(render_report(selected))
    assert page.open == []
    assert {"dataset", "plan", "training", "results", "cases", "selection", "versions"} <= page.ids
    for expected in (
        "0.912",
        "keep the largest component of lesion",
        "3d_fullres & nothing else.",
        "Selected: 3d_fullres with its post-processing",
        "Reference cases without a prediction, not scored: c",
        "pseudo-Dice",
    ):
        assert expected in page.text.replace("Pseudo", "pseudo")


def test_the_page_needs_nothing_besides_itself(selected):
    page = Page(render_report(selected))
    pictures = [link for link in page.links if link.startswith("data:image/webp;base64,")]
    assert len(pictures) == 2 + 2 * 4  # samples; a stack and three planes of both cases
    for picture in pictures:
        with Image.open(BytesIO(base64.b64decode(picture.partition(",")[2]))) as image:
            image.load()
    others = [link for link in page.links if link not in pictures]
    assert "data:," in others
    assert all(link.startswith("#") and link[1:] in page.ids for link in others if link != "data:,")
    assert "@import" not in page.html
    assert "url(" not in page.html
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page.html))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, never fetched


def test_worst_cases_are_those_of_the_selected_configuration(selected):
    text = Page(render_report(selected)).text
    assert "3d_fullres, as predicted, before post-processing" in text
    assert "cannot be shown" not in text


def test_a_dataset_that_has_gone_is_said_and_does_not_stop_the_page(selected, tmp_path):
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    text = Page(render_report(selected)).text
    assert "The dataset is no longer at ../data, so its images cannot be shown" in text
    assert "Sample cases that cannot be shown: 2. The dataset is no longer at ../data." in text


def test_a_case_that_cannot_be_read_is_named_and_the_others_are_shown(selected, tmp_path):
    (tmp_path / "data" / "images" / "a.nii.gz").write_bytes(b"half")
    page = Page(render_report(selected))
    assert page.text.count("a cannot be shown:") == 2
    assert len([link for link in page.links if link.startswith("data:image")]) == 1 + 4


def test_a_folder_that_is_no_workspace_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no dataset\.json and no plan\.json found; run autoseg-plan first"):
        render_report(Workspace(tmp_path))


@pytest.mark.parametrize("is_planned_again", [False, True])
def test_results_of_an_earlier_plan_are_named_and_not_shown(selected, plan, is_planned_again):
    folder = selected.fold("3d_fullres", "0")
    (folder / "checkpoint_final.safetensors").touch()
    record = Checkpoint(
        configuration="3d_fullres", fold="0", model_hash=model_hash(plan, "3d_fullres"), cases_hash="",
        training=plan.configurations["3d_fullres"].training, epoch=1, step=1, elapsed_seconds=1.0,
    )  # fmt: skip
    write_record(record, folder / "checkpoint_final.json")
    if is_planned_again:
        write_record(plan.model_copy(update={"orientation": "as_stored"}), selected.plan)
    page = Page(render_report(selected))
    assert (
        "3d_fullres, fold 0 was trained for another plan; its results are not shown" in page.text
    ) == is_planned_again
    assert ("-c 3d_fullres -f 0 --restart" in page.text) == is_planned_again
    assert ("results" in page.ids) != is_planned_again
    assert ("selection" in page.ids) != is_planned_again
