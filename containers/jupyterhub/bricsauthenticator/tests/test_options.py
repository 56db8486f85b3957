"""The options of a server: the form and its check."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bricsauthenticator.spawner_options_form import (
    OptionsError,
    make_options_form,
    options_from_form,
    validate_options,
)

PROJECTS = {"p1.brics": {"name": "<b>One & only</b>", "username": "alice.p1"}}
GOOD = {"brics_project": "p1.brics", "runtime": "01:30:00", "ngpus": "1", "partition": "", "reservation": ""}


def test_good_options() -> None:
    """Good options come back with all fields; the optional ones may be left out."""
    assert validate_options(GOOD, PROJECTS) == GOOD
    assert validate_options({key: value for key, value in GOOD.items() if value}, PROJECTS) == GOOD


def test_unknown_projects() -> None:
    """As long as the projects aren't known any project will do, but none won't."""
    assert validate_options({**GOOD, "brics_project": "p9.brics"}, None)["brics_project"] == "p9.brics"
    with pytest.raises(OptionsError):
        validate_options({**GOOD, "brics_project": ""}, None)


INJECTIONS = ["x; id", "$(id)", "`id`", "a\nb", "a\n", "--x", "a b", "{{cmd}}", "{username}", "'", '"', "é", "a" * 65]


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field in GOOD for value in INJECTIONS]
    + [("brics_project", "p2.brics")]
    + [("runtime", value) for value in ("1:00:00", "01:60:00", "01:00", "00:00:00", "100:00:00", "\u0660\u0661:00:00")]
    + [("ngpus", value) for value in ("-1", "10", "\u0663", "1.0")]
    + [("cmd", "id"), ("username", "root"), ("homedir", "/root")],
)
def test_bad_options(field: str, value: str) -> None:
    """A wrong value, or a field that isn't an option, is a 400 that shows a message and not the value."""
    with pytest.raises(OptionsError) as error:
        validate_options({**GOOD, field: value}, PROJECTS)
    assert error.value.status_code == 400
    assert error.value.headers == {}
    assert value not in error.value.jupyterhub_message


@pytest.mark.parametrize("field", ["brics_project", "runtime", "ngpus"])
def test_missing(field: str) -> None:
    """The required fields are required, and not empty."""
    for options in ({key: value for key, value in GOOD.items() if key != field}, {**GOOD, field: ""}):
        with pytest.raises(OptionsError):
            validate_options(options, PROJECTS)


@given(
    st.none()
    | st.text()
    | st.lists(st.text())
    | st.dictionaries(st.sampled_from(list(GOOD)) | st.text(), st.text() | st.integers())
)
def test_any_options(options: object) -> None:
    """Whatever the REST API lets through, OptionsError is the only exception."""
    with contextlib.suppress(OptionsError):
        assert set(validate_options(options, PROJECTS)) == set(GOOD)


def test_form_fields() -> None:
    """A form's fields are stripped, its protection against forgery dropped, a field given twice or a file refused."""
    assert options_from_form({"runtime": [" 01:00:00 "], "_xsrf": ["x"]}) == {"runtime": "01:00:00"}
    for values in (["1", "2"], [], [{"filename": "x"}]):
        with pytest.raises(OptionsError):
            options_from_form({"ngpus": values})


def test_form_html() -> None:
    """The form names the projects, as text; without any it says so."""
    form = make_options_form(PROJECTS)
    assert '<option value="p1.brics">&lt;b&gt;One &amp; only&lt;/b&gt; (p1.brics)</option>' in form
    assert 'value="01:00:00"' in form
    assert "no project" in make_options_form({})


def test_form_filled_in() -> None:
    """A link's values are in the form, as text, unless they couldn't be sent."""
    chosen = {"brics_project": "p2.brics", "runtime": "02:00:00", "partition": "gpu", "reservation": '"><script>'}
    form = make_options_form({**PROJECTS, "p2.brics": {"name": "Two", "username": "alice.p2"}}, chosen=chosen)
    assert '<option value="p2.brics" selected>' in form
    assert '<option value="p1.brics">' in form
    assert 'value="02:00:00"' in form
    assert 'value="gpu"' in form
    assert "<script>" not in form
    assert "unknown" not in make_options_form(PROJECTS, chosen={"brics_project": "unknown", "x": "unknown"})


CHOICES = {
    "durations": ["00:30:00", "08:00:00"],
    "gpus": [{"count": 0, "label": "none"}, {"count": 1, "label": "1 <GH200>"}],
    "partitions": ["main"],
    "reservations": ["course"],
    "free_text": False,
}


def test_a_form_of_choices() -> None:
    """What is listed can be chosen, by its label, and what is optional be left out; nothing can be typed."""
    form = make_options_form(PROJECTS, choices=CHOICES)
    assert '<option value="1">1 &lt;GH200&gt;</option>' in form
    assert '<option value="08:00:00">' in form
    assert form.count('<option value="">default</option>') == 2
    assert "<input" not in form


def test_a_form_of_suggestions() -> None:
    """With free text the listed values are suggested, and the first duration is preset."""
    form = make_options_form(PROJECTS, choices={**CHOICES, "gpus": [], "free_text": True})
    assert '<datalist id="partition-list">' in form
    assert 'value="00:30:00" required list="runtime-list"' in form
    assert 'name="ngpus" type="number"' in form


@pytest.mark.parametrize("wrong", [{"runtime": "01:00:00"}, {"ngpus": "2"}, {"partition": "x"}, {"reservation": "x"}])
def test_what_is_not_offered_is_refused(wrong: dict[str, str]) -> None:
    """A REST client's too; the number of GPUs even where other values can be typed."""
    chosen = {
        "brics_project": "p1.brics",
        "runtime": "08:00:00",
        "ngpus": "1",
        "partition": "",
        "reservation": "course",
    }
    assert validate_options(chosen, PROJECTS, CHOICES) == chosen
    with pytest.raises(OptionsError, match="not one of those offered"):
        validate_options({**chosen, **wrong}, PROJECTS, CHOICES)
    free = {**CHOICES, "free_text": True}
    if "ngpus" in wrong:
        with pytest.raises(OptionsError, match="not one of those offered"):
            validate_options({**chosen, **wrong}, PROJECTS, free)
    else:
        assert validate_options({**chosen, **wrong}, PROJECTS, free)
