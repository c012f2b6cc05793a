import json

import pytest

from autoseg.errors import UsageError
from autoseg.imaging.formats.dicom.codes import TISSUE, find_code, known_codes, read_codes


@pytest.mark.parametrize(
    ("label", "code", "side"),
    [
        ("liver", "10200004", None),
        ("Liver", "10200004", None),
        ("kidney_left", "64033007", "left"),
        ("Right Kidney", "64033007", "right"),
        ("kidney-l", "64033007", "left"),
        ("lung_upper_lobe_right", "45653009", "right"),
        ("adrenal_gland_left", "23451007", "left"),
        ("vertebrae_L1", "51282000", None),
        ("ribs", "113197003", None),
        ("left ventricle", "87878005", None),
        ("tumour", "108369006", None),
        ("label_3", "85756007", None),
        ("left thing", "85756007", "left"),
    ],
)
def test_code_of_a_name(label, code, side):
    found = find_code(label)
    assert (found.kind.value, found.side) == (code, side)
    assert found.is_known == (code != TISSUE.value)


def test_something_abnormal_in_an_organ():
    found = find_code("kidney_tumour_left")
    assert (found.kind.meaning, found.side) == ("Neoplasm", "left")
    assert found.region is not None
    assert found.region.meaning == "Kidney"
    assert found.category.meaning == "Morphologically Abnormal Structure"


def test_table_agrees_with_the_dictionaries_of_pydicom():
    concepts = pytest.importorskip("pydicom.sr._concepts_dict", reason="pydicom is not installed (extra `dicom`)")
    published: dict[str, list[str]] = {code: [] for entries in concepts.concepts["SCT"].values() for code in entries}
    for entries in concepts.concepts["SCT"].values():
        for code, (meaning, _) in entries.items():
            published[code].append(meaning.lower())
    assert len(known_codes()) > 150
    for name, (_, code) in known_codes().items():
        meanings = " ".join(published[code.value])
        assert code.meaning.lower().split()[0] in meanings, name


def test_codes_of_a_file(tmp_path):
    path = tmp_path / "codes.json"
    path.write_text(json.dumps({
        "a": {"code": "1", "meaning": "One", "scheme": "99X", "category": "2", "category_meaning": "Two"},
        "b": {"code": "4147007", "meaning": "Mass", "side": "left", "region": "liver"},
    }))  # fmt: skip
    found = read_codes(path, ["a", "b", "c"])
    assert (found["a"].kind.scheme, found["a"].category.meaning) == ("99X", "Two")
    assert (found["b"].kind.scheme, found["b"].category.meaning, found["b"].side) == (
        "SCT",
        "Anatomical Structure",
        "left",
    )
    assert found["b"].region is not None
    assert found["b"].region.value == "10200004"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "has no codes; expected"),
        ({"a": "1"}, "has no codes; expected"),
        ({"x": {"code": "1", "meaning": "One"}}, "the model has no label 'x'; its labels are a"),
        ({"a": {"code": "1"}}, "the codes of 'a' are"),
        ({"a": {"code": 1, "meaning": "One"}}, "the codes of 'a' are"),
        ({"a": {"code": "1", "meaning": "One", "side": "up"}}, "the codes of 'a' are"),
        ({"a": {"code": "1", "meaning": "One", "category": "2"}}, "the codes of 'a' are"),
    ],
)
def test_files_without_codes(tmp_path, content, message):
    path = tmp_path / "codes.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        read_codes(path, ["a"])
