"""What `build --refresh` records, and when."""

from __future__ import annotations

from typing import Any

import pytest

from hubenvs.definition.environment import Environment
from hubenvs.deployment.desired import desired_builds
from hubenvs.deployment.mirrors import read_mirrors, write_mirrors
from hubenvs.errors import StateError
from hubenvs.plan.images import Build
from hubenvs.session import Session
from hubenvs.stages.build import build

from ..helpers import session

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def tags(env: Environment, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tags of the Debian base that were to be built; a mirror whose packages are always those of today."""
    tags: list[str] = []

    def build_images(of: Session, *, with_debian: bool) -> tuple[Build, ...]:
        builds = desired_builds(of.env, of.engine)
        tags.append(builds[0].tag)
        if len(tags) == 3:
            raise StateError("image tools can't be built", "see above")
        return builds

    def seen(sources: Any) -> str:
        assert [line.split()[2] for line in sources] == ["trixie", "trixie-updates", "trixie-security"]
        return f"packages{len(tags)}"

    monkeypatch.setattr("hubenvs.deployment.desired.has_mmdebstrap", lambda: True)
    monkeypatch.setattr("hubenvs.stages.refresh.mirror_state", seen)
    monkeypatch.setattr("hubenvs.stages.build.clone", lambda session: None)
    monkeypatch.setattr("hubenvs.stages.build.build_images", build_images)
    return tags


def test_what_was_seen_is_kept_for_up(env: Environment, tags: list[str]) -> None:
    """A plain build takes what the last refresh has seen; a refresh that fails changes nothing."""
    build(session(env))
    assert read_mirrors(env.root) == {}
    build(session(env), refresh=True)
    assert read_mirrors(env.root) == {"trixie": "packages1"}
    with pytest.raises(StateError):
        build(session(env), refresh=True)
    assert read_mirrors(env.root) == {"trixie": "packages1"}
    build(session(env))
    plain, refreshed, failed, again = tags
    assert again == refreshed
    assert len({plain, refreshed, failed}) == 3


def test_without_updates_no_tag_changes(env: Environment, tags: list[str]) -> None:
    """So nothing is built."""
    write_mirrors(env.root, {"trixie": "packages0", "sid": "x"})
    build(session(env), refresh=True)
    build(session(env))
    assert tags[0] == tags[1]
    assert read_mirrors(env.root) == {"trixie": "packages0", "sid": "x"}


def test_a_record_that_is_damaged_is_named(env: Environment) -> None:
    """With what to do about it."""
    write_mirrors(env.root, {"trixie": "x"})
    (env.root / ".deploy/mirrors.json").write_text("[")
    with pytest.raises(StateError, match=r"mirrors\.json"):
        read_mirrors(env.root)
