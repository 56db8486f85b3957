"""Reading the hub's pages."""

from __future__ import annotations

from hubenvs.tools.client import form_fields


def test_a_form_is_read_as_a_browser_would_send_it() -> None:
    """Inputs keep their values, a select its selected option or else the first."""
    page = """<form><input name="runtime" value="01:00:00"><input type="submit">
        <select name="brics_project">
            <option value="a.brics">A</option><option value="b.brics" selected>B</option></select>
        <select name="other"><option value="1">1</option><option value="2">2</option></select></form>"""
    fields, options = form_fields(page)
    assert fields == {"runtime": "01:00:00", "brics_project": "b.brics", "other": "1"}
    assert options["brics_project"] == ["a.brics", "b.brics"]
