"""Helpers of the unit tests: a session whose engine starts nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hubenvs.console import Console
from hubenvs.definition.environment import Environment
from hubenvs.deployment.sources import read_templates
from hubenvs.engines.cluster import Cluster
from hubenvs.engines.kubernetes import Kubernetes
from hubenvs.engines.podman import Podman
from hubenvs.engines.process import Completed, Programs
from hubenvs.plan.seeds import render_seeds
from hubenvs.session import Session


class NoGit(Programs):
    """Answers every command as Git does in a folder that is no repository."""

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        """Return Git's exit status; refuse any other program."""
        assert argv[0] == "git", f"a unit test started {argv}"
        return Completed(128, b"", "fatal: not a git repository")


def session(env: Environment, quiet: bool = True) -> Session:
    """Return a session for ``env`` in which working copies are plain folders."""
    return Session(env, Podman(None, NoGit()), Console(quiet))


def rendered(env: Environment, tree: dict[str, bytes]) -> dict[str, bytes]:
    """Return the seed files of ``tree``."""
    return render_seeds(env, read_templates(env.root), tree)


class Lab(Programs):
    """A cluster with ``secrets`` and ``claims``."""

    def __init__(self, secrets: dict[str, str], claims: Sequence[str]) -> None:
        super().__init__()
        data = {key: base64.b64encode(value.encode()).decode() for key, value in secrets.items()}
        self.secret = {"kind": "Secret", "metadata": {"name": "s"}, "data": data}
        self.claims = [{"kind": "PersistentVolumeClaim", "metadata": {"name": name}} for name in claims]

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        """Return what `kubectl get` prints."""
        items = [self.secret] if "secrets" in argv else self.claims
        return Completed(0, b"" if "--output=name" in argv else json.dumps({"items": items}).encode(), "")


def in_lab(env: Environment, secrets: dict[str, str], claims: Sequence[str] = ()) -> Session:
    """Return a session for ``env`` in a cluster with these ``secrets`` and ``claims``."""
    engine = Kubernetes(None, Lab(secrets, claims), Cluster("lab", "hub"), "1234")
    return replace(session(env), engine=engine)
