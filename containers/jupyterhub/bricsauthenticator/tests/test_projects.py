"""The parser of the projects claim."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bricsauthenticator.projects import USERNAME, ClaimError, parse_projects, project_of

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ANY_JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
NAMES = st.sampled_from(["alice.p1", "bob.p2", "-R", "root", "x; id", "../p1", "p1.brics", "p2.brics", "here", "there"])
NEARLY = st.dictionaries(
    NAMES | st.text(),
    st.fixed_dictionaries(
        {"name": SCALARS, "resources": st.lists(st.fixed_dictionaries({"name": NAMES, "username": NAMES | SCALARS}))}
    ),
)


@given(ANY_JSON | ANY_JSON.map(json.dumps) | NEARLY | NEARLY.map(json.dumps) | st.text())
def test_any_json(claim: object) -> None:
    """Any JSON is parsed or refused by ClaimError, and what is parsed holds only accounts of their own projects."""
    try:
        projects = parse_projects(claim, "here")
    except ClaimError:
        return
    for key, project in projects.items():
        assert set(project) == {"name", "username"}
        assert USERNAME.fullmatch(project["username"])
        assert project["username"].split(".")[1] == project_of(key)


@pytest.mark.parametrize("text", [False, True], ids=["object", "string"])
def test_platform(text: bool) -> None:
    """The projects with a resource on the platform are what comes out, with that resource's account."""
    claim = {
        "p1.brics": {
            "name": "One <&>",
            "resources": [{"name": "there", "username": "x"}, {"name": "here", "username": "alice.p1"}],
        },
        "p2.brics": {"name": "Two", "resources": [{"name": "there", "username": "alice.p2"}]},
        "p3.brics": {"name": "Three", "resources": []},
    }
    assert parse_projects(json.dumps(claim) if text else claim, "here") == {
        "p1.brics": {"name": "One <&>", "username": "alice.p1"}
    }
