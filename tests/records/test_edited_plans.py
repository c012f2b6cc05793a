"""Whatever stands in a plan's file: it is read, or refused by an error that names the file."""

import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoseg.errors import RecordError
from autoseg.records.files import read_record
from autoseg.records.plan import Plan

GOLDEN = Path(__file__).parents[1] / "golden" / "acdc.json"

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def plan_content():
    return json.loads(GOLDEN.read_text())["plan"]


@st.composite
def edited_plans(draw):
    """A plan in which one value, at any depth, is another one, is missing, or has a stranger beside it."""
    content = plan_content()
    place = content
    while True:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.integers(0, 3)) == 0:
            break
        place = inner
    match draw(st.sampled_from(["replace", "remove", "add"])):
        case "replace":
            place[key] = draw(JSON_VALUES)
        case "remove":
            del place[key]
        case _ if isinstance(place, dict):
            place[draw(st.text(max_size=8))] = draw(JSON_VALUES)
        case _:
            place.append(draw(JSON_VALUES))
    return content


def test_the_plan_is_sound(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_content()))
    assert read_record(Plan, path).configurations


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edited_plans())
def test_edited_plans_are_read_or_refused_by_name(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    assert str(path) in (refusal(path) or str(path))


def refusal(path):
    """Message of the error; None if the plan is read."""
    try:
        read_record(Plan, path)
    except RecordError as error:
        return str(error)
    return None
