"""Helpers of the unit tests: a session whose engine starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hubenvs.console import Console
from hubenvs.definition.environment import Environment
from hubenvs.deployment.sources import read_templates
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
