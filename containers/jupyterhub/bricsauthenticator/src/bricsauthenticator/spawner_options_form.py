"""The options of a server: the form that asks for them, and the check of what comes back."""

import re
from collections.abc import Mapping
from html import escape
from types import MappingProxyType

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


def validate_options(options: object, projects: Projects | None) -> dict[str, str]:
    """Return the options of a server, whoever sent them, with all fields: those left out are empty.

    `projects` are the user's; None means that they aren't known yet and the project is left unchecked. Raises
    OptionsError.
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
    return valid


def make_options_form(
    projects: Projects, gres_enabled: bool = True, chosen: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return the fields of the spawn page's form (HTML for Bootstrap 5) for a user's projects.

    `chosen` are values to fill in, as in a link; those that couldn't be sent are left out.
    """
    if not projects:
        return '<p class="alert alert-warning">You have no project here. Please log out and in again.</p>'
    values = {"runtime": DEFAULT_RUNTIME, "ngpus": str(int(gres_enabled)), "partition": "", "reservation": ""}
    values |= {field: chosen[field] for field in values if re.fullmatch(_PATTERNS[field], chosen.get(field, ""))}
    choices = "\n".join(
        f'    <option value="{escape(key)}"{" selected" * (key == chosen.get("brics_project"))}>'
        f"{escape(project['name'])} ({escape(key)})</option>"
        for key, project in sorted(projects.items(), key=lambda item: item[1]["name"].lower())
    )
    gpus_help = "" if gres_enabled else '\n  <div class="form-text">This cluster has no GPUs declared: not used.</div>'
    return f"""\
<div class="mb-3">
  <label class="form-label" for="brics_project">Project</label>
  <select class="form-select" id="brics_project" name="brics_project" required autofocus>
{choices}
  </select>
</div>
<div class="row">
  <div class="col-sm-6 mb-3">
    <label class="form-label" for="runtime">Run time (HH:MM:SS)</label>
    <input class="form-control" id="runtime" name="runtime" value="{values["runtime"]}" required
           pattern="{_PATTERNS["runtime"]}" title="HH:MM:SS">
  </div>
  <div class="col-sm-6 mb-3">
    <label class="form-label" for="ngpus">GPUs</label>
    <input class="form-control" id="ngpus" name="ngpus" type="number" min="0" max="9" value="{values["ngpus"]}" \
required>{gpus_help}
  </div>
</div>
<div class="row">
  <div class="col-sm-6 mb-3">
    <label class="form-label" for="partition">Partition <span class="text-body-secondary">(optional)</span></label>
    <input class="form-control" id="partition" name="partition" value="{values["partition"]}"
           pattern="{escape(_PATTERNS["partition"])}" title="{_MESSAGES["partition"]}">
  </div>
  <div class="col-sm-6 mb-3">
    <label class="form-label" for="reservation">Reservation <span class="text-body-secondary">(optional)</span></label>
    <input class="form-control" id="reservation" name="reservation" value="{values["reservation"]}"
           pattern="{escape(_PATTERNS["reservation"])}" title="{_MESSAGES["reservation"]}">
  </div>
</div>"""
