"""Task `push`: the images, to a site's registry."""

from __future__ import annotations

import re

from ..errors import CommandError, DefinitionError, StateError
from ..plan.images import container_builds
from ..session import Session
from ..stages.build import build

_REGISTRY = re.compile(r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)*\Z")


def push(session: Session, registry: str) -> None:
    """Build the images, push them to ``registry``, and print lines of local.yaml that pull them by digest.

    Each becomes part of a manifest list, beside the images of other architectures that `push` put there.
    ``registry`` may have a path (``registry.example.org/site``). Raises DefinitionError if it can't be a
    registry, StateError if it refuses an image.
    """
    if not _REGISTRY.match(registry):
        hint = "like registry.example.org/site, without https://"
        raise DefinitionError(f"--registry {registry}: not the name of a registry", hint)
    builds = container_builds(session.env, build(session))
    architecture, pushed = session.architecture(), {}
    with session.console.busy("push", registry):
        for name, item in builds.items():
            if item.pulled:
                continue
            target = f"{registry}/{name}:{item.tag.rpartition(':')[2].removesuffix(f'-{architecture}')}"
            try:
                digest = session.engine.images.push(item.tag, target, architecture)
            except CommandError as error:
                hint = f"`{session.engine.images.login(registry)}` first, as somebody who may push there"
                raise StateError(f"{target}: can't be pushed", hint, error.details) from None
            pushed[name] = f"{registry}/{name}@{digest}"
    session.console.say("push", f"{len(pushed)} images; add this to the local.yaml of whoever runs them:")
    print("images:")
    for name, reference in pushed.items():
        print(f'  {name}: {{image: "{reference}"}}')
