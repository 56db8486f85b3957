"""The `projects` claim of an ID token."""

import json
import re

USERNAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}\.[a-z0-9_][a-z0-9_-]{0,31}")
"""Account of one person in one project, `<user>.<project>`, each part as useradd takes it (32 characters at most).

System accounts have no dot, so that none of them matches.
"""

_PROJECT_KEY = re.compile(r"[a-z0-9_][a-z0-9_-]{0,31}(\.[A-Za-z0-9_-]{1,64})+")

Projects = dict[str, dict[str, str]]
"""`{"<project>.<portal>": {"name": <human name>, "username": "<user>.<project>"}}`."""


class ClaimError(ValueError):
    """A claim of the ID token has the wrong form; the message never quotes it."""


def project_of(key: str) -> str:
    """Return `<project>` of a `<project>.<portal>`: the part before the first dot."""
    return key.partition(".")[0]


def user_of(project: dict[str, str]) -> str:
    """Return `<user>` of a project's `username`."""
    return project["username"].partition(".")[0]


def parse_projects(claim: object, platform: str) -> Projects:
    """Return the projects of a `projects` claim that have a resource named `platform`.

    `claim` is the decoded claim: an object, or a string of JSON that holds one. Raises ClaimError for anything else,
    and for a project on the platform whose account name isn't its own: such a token is refused as a whole, because
    leaving the project out would hide the provider's mistake.
    """
    if isinstance(claim, str):
        try:
            claim = json.loads(claim)
        except (ValueError, RecursionError):
            raise ClaimError("projects is not JSON") from None
    projects = {}
    for key, project in _object(claim, "projects").items():
        content = _object(project, "a project")
        name = _text(content.get("name"), "a project's name")
        usernames = set()
        for resource in _list(content.get("resources"), "a project's resources"):
            fields = _object(resource, "a resource")
            username = _text(fields.get("username"), "a resource's username")
            if _text(fields.get("name"), "a resource's name") == platform:
                usernames.add(username)
        if usernames:
            projects[key] = {"name": name, "username": _account(key, usernames)}
    return projects


def _account(key: str, usernames: set[str]) -> str:
    """Return the one account name that a project has on the platform."""
    if len(usernames) > 1:
        raise ClaimError("a project has several usernames on one platform")
    (username,) = usernames
    if not _PROJECT_KEY.fullmatch(key) or not USERNAME.fullmatch(username):
        raise ClaimError("a project's key or username is not a valid name")
    if username.partition(".")[2] != project_of(key):
        raise ClaimError("a project's username is of another project")
    return username


def _object(value: object, what: str) -> dict:
    if not isinstance(value, dict):
        raise ClaimError(f"{what} is not an object")
    return value


def _list(value: object, what: str) -> list:
    if not isinstance(value, list):
        raise ClaimError(f"{what} is not a list")
    return value


def _text(value: object, what: str) -> str:
    # JSON can hold half a surrogate pair, which no page and no shell could be sent.
    if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value):
        raise ClaimError(f"{what} is not text")
    return value
