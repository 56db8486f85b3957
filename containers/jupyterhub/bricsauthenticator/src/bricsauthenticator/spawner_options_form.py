"""The options of a server: the form that asks for them, and the check of the values sent."""

import re
from collections.abc import Iterable, Mapping
from html import escape
from types import MappingProxyType
from typing import Any

from tornado import web

from bricsauthenticator.projects import Projects

DEFAULT_RUNTIME = "01:00:00"

# Also used by the browser, whose dialect wants `-` escaped.
_PATTERNS = {
    "runtime": r"[0-9]{2}:[0-5][0-9]:[0-5][0-9]",
    "ngpus": r"[0-9]",
    "partition": r"[A-Za-z0-9_][A-Za-z0-9_\-]{0,63}",
    "reservation": r"[A-Za-z0-9_][A-Za-z0-9_\-]{0,63}",
}
_MESSAGES = {
    "brics_project": "Project is missing or not one of yours.",
    "runtime": "Run time must be HH:MM:SS and not zero.",
    "ngpus": "Number of GPUs must be one digit.",
    "partition": "Partition may have letters, digits, - and _ only.",
    "reservation": "Reservation may have letters, digits, - and _ only.",
}
_OPTIONAL = frozenset(["partition", "reservation"])
_NAMES = {"runtime": "run time", "ngpus": "number of GPUs", "partition": "partition", "reservation": "reservation"}
# The list of choices that each field has.
_CHOICES = {"runtime": "durations", "partition": "partitions", "reservation": "reservations"}


class OptionsError(web.HTTPError):
    """400: the options of a server are wrong; `jupyterhub_message` is for the user and never quotes what was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "%s", message)
        self.jupyterhub_message = message
        # JupyterHub 5.4.2 reads this of whatever HTTPError options_from_form raises.
        self.headers: dict[str, str] = {}


def options_from_form(form_data: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the fields of a form, unchecked but each given once; OptionsError if one is not."""
    options = {}
    for field, values in form_data.items():
        if len(values) != 1 or not isinstance(values[0], str):
            raise OptionsError("Each field must be text and given once.")
        # The form's own protection against cross-site requests; no option of the server.
        if field != "_xsrf":
            options[field] = values[0].strip()
    return options


def validate_options(
    options: object, projects: Projects | None, choices: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Return the options of a server, whoever sent them, with all fields: those left out are empty.

    `projects` are the user's; None means that they aren't known yet and the project is left unchecked. `choices`: see
    `BricsSlurmSpawner.form_choices`. Raises OptionsError.
    """
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise OptionsError("Server options must be an object of strings.")
    if set(options) - set(_MESSAGES):
        raise OptionsError("Unknown server option; there are " + ", ".join(_MESSAGES) + ".")
    project = options.get("brics_project", "")
    if not project or (projects is not None and project not in projects):
        raise OptionsError(_MESSAGES["brics_project"])
    valid = {"brics_project": project}
    for field, pattern in _PATTERNS.items():
        value = options.get(field, "")
        if not re.fullmatch(pattern, value) and not (value == "" and field in _OPTIONAL):
            raise OptionsError(_MESSAGES[field])
        valid[field] = value
    if valid["runtime"] == "00:00:00":  # to Slurm: no limit
        raise OptionsError(_MESSAGES["runtime"])
    for field, offered in _offered(choices or {}).items():
        if valid[field] not in offered and not (valid[field] == "" and field in _OPTIONAL):
            raise OptionsError(f"This {_NAMES[field]} is not one of those offered.")
    return valid


def _offered(choices: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the allowed values of each field that has a fixed list."""
    offered = {"ngpus": [str(choice["count"]) for choice in choices.get("gpus") or []]}
    if not choices.get("free_text", True):
        offered |= {field: choices.get(name) or [] for field, name in _CHOICES.items()}
    return {field: values for field, values in offered.items() if values}


def make_options_form(
    projects: Projects,
    gres_enabled: bool = True,
    chosen: Mapping[str, str] = MappingProxyType({}),
    choices: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Return the fields of the spawn page's form (HTML for Bootstrap 5) for a user's projects.

    `chosen` are values to fill in, as in a link; those that couldn't be sent are left out. `choices`: see
    `BricsSlurmSpawner.form_choices`.
    """
    if not projects:
        return '<p class="alert alert-warning">You have no project here. Once you have one, log out and in again.</p>'
    runtime = (choices.get("durations") or [DEFAULT_RUNTIME])[0]
    values = {"runtime": runtime, "ngpus": str(int(gres_enabled)), "partition": "", "reservation": ""}
    values |= {field: chosen[field] for field in values if re.fullmatch(_PATTERNS[field], chosen.get(field, ""))}
    named = sorted(projects.items(), key=lambda item: item[1]["name"].lower())
    labels = [(key, f"{project['name']} ({key})") for key, project in named]
    gpus = [(str(choice["count"]), choice["label"]) for choice in choices.get("gpus") or []]
    if gpus:
        gpus_field = _select("ngpus", gpus, values["ngpus"] if "ngpus" in chosen else "")
    else:
        attributes = f'type="number" min="0" max="9" value="{values["ngpus"]}" required'
        gpus_field = f'<input class="form-control" id="ngpus" name="ngpus" {attributes}>'
        if not gres_enabled:
            gpus_field += '\n  <div class="form-text">No GPUs are declared here: the number is ignored.</div>'
    optional = '<span class="text-body-secondary">(optional)</span>'
    return f"""\
<div class="mb-3">
  <label class="form-label" for="brics_project">Project</label>
  {_select("brics_project", labels, chosen.get("brics_project", ""), " required autofocus")}
</div>
<div class="row">
  <div class="col-sm-6 mb-3">
    <label class="form-label" for="runtime">Run time (HH:MM:SS)</label>
    {_field("runtime", choices, values["runtime"])}
  </div>
  <div class="col-sm-6 mb-3">
    <label class="form-label" for="ngpus">GPUs</label>
    {gpus_field}
  </div>
</div>
<div class="row">
  <div class="col-sm-6 mb-3">
    <label class="form-label" for="partition">Partition {optional}</label>
    {_field("partition", choices, values["partition"])}
  </div>
  <div class="col-sm-6 mb-3">
    <label class="form-label" for="reservation">Reservation {optional}</label>
    {_field("reservation", choices, values["reservation"])}
  </div>
</div>"""


def _options(values: Iterable[tuple[str, str]], selected: str = "") -> str:
    """Return the options of a select: values and labels."""
    return "\n".join(
        f'    <option value="{escape(value)}"{" selected" * bool(value and value == selected)}>{escape(label)}</option>'
        for value, label in values
    )


def _select(name: str, values: Iterable[tuple[str, str]], selected: str, attributes: str = " required") -> str:
    options = _options(values, selected)
    return f'<select class="form-select" id="{name}" name="{name}"{attributes}>\n{options}\n  </select>'


def _field(name: str, choices: Mapping[str, Any], value: str) -> str:
    """Return the field `name`: a choice if values are listed and no others accepted, else text with suggestions."""
    listed = [(each, each) for each in choices.get(_CHOICES[name]) or []]
    required = "" if name in _OPTIONAL else " required"
    if listed and not choices.get("free_text", True):
        return _select(name, listed if required else [("", "default"), *listed], value, required)
    suggestions = f'\n    <datalist id="{name}-list">\n{_options(listed)}\n    </datalist>' if listed else ""
    attribute = f' list="{name}-list"' if listed else ""
    return f"""<input class="form-control" id="{name}" name="{name}" value="{escape(value)}"{required}{attribute}
           pattern="{escape(_PATTERNS[name])}" title="{_MESSAGES[name]}">{suggestions}"""
