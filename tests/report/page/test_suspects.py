"""The section about suspects: reasons, images, and what is left out."""

from autoseg.records.files import read_record, write_record
from autoseg.records.selection import Selection
from autoseg.records.suspects import Suspect, Suspects
from autoseg.report.page.render import render_report


def make_suspects(*cases):
    suspects = tuple(
        Suspect(
            case=case, score=7.5, deviation=5.0, label="<b>liver</b>", dice=0.25, expected_dice=0.875,
            kind="shifted", reason=f"<{case}> is shifted by (0, 2, 3) voxels",
        )
        for case in cases
    )  # fmt: skip
    return Suspects(num_cases=40, suspects=suspects)


def test_suspects_have_a_table_and_images(selected):
    write_record(make_suspects("b", "gone"), selected.suspects)
    html = render_report(selected).read_text(encoding="utf-8")
    section = html[html.index('<section id="suspects">') : html.index("</section>", html.index('id="suspects"'))]
    assert "Of 40 cases\n2 stand out" in section
    assert "&lt;gone&gt; is shifted" in section  # in the table, although it has no images
    assert "0.25" in section
    assert "0.88" in section
    assert section.count("<article") == 1
    assert "suspect 1" in section
    assert section.count("&lt;b&gt; is shifted by (0, 2, 3) voxels") == 2  # table and card
    assert '<a href="#suspects">' in html


def test_nobody_stands_out(selected):
    write_record(make_suspects(), selected.suspects)
    html = render_report(selected).read_text(encoding="utf-8")
    assert "Of 40 cases\nnone stands out." in html
    assert "hide-suspected-reference" not in html[html.index("<body>") :]
    write_record(make_suspects().model_copy(update={"num_cases": 0}), selected.suspects)
    html = render_report(selected).read_text(encoding="utf-8")
    assert "Not looked for: 5 validation cases with the same label are needed." in html
    assert "none stands out" not in html


def test_suspects_of_a_selection_that_is_not_shown_are_not_shown(trained, selected):
    write_record(make_suspects("b"), selected.suspects)
    assert 'id="suspects"' in render_report(selected).read_text(encoding="utf-8")
    assert read_record(Selection, selected.selection).folds == ("0",)
    selected.selection.unlink()
    assert 'id="suspects"' not in render_report(trained).read_text(encoding="utf-8")
