"""Task `test-repo`: the tests of a working copy, in the image that is built from it."""

from __future__ import annotations

from collections.abc import Sequence

from ..definition.containers import CONTAINERS, REPOSITORIES, SOURCES
from ..errors import DefinitionError, suggestion
from ..plan.images import container_builds
from ..session import Session
from ..stages.build import build


def test_repo(session: Session, repository: str, arguments: Sequence[str]) -> int:
    """Run pytest with ``arguments`` on ``repository`` in its image; return the exit status."""
    env = session.env
    if repository not in REPOSITORIES:
        raise DefinitionError(f"{repository}: no such repository", suggestion(repository, REPOSITORIES))
    container = REPOSITORIES[repository]
    if container not in env.containers or env.stage != "dev":
        problem = f"--env {env.name}: does not install {repository} for development"
        raise DefinitionError(problem, f"choose one of stage dev with the container {container}")
    image = container_builds(env, build(session))[container]
    session.console.say("test", f"{repository} in {image.tag}")
    pytest = (CONTAINERS[container].python or "python3", "-m", "pytest", "-p", "no:cacheprovider", *arguments)
    command = session.engine.images.run_image_command(image.tag, *pytest, workdir=f"{SOURCES}/{repository}")
    return session.engine.images.run(command, terminal=True, check=False, timeout=None).returncode
