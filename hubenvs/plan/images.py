"""The images that an environment needs: source files, base image and tag of each.

A tag contains a digest of every input, so an image whose tag exists is up to date. Images for another
architecture than the host's have the same tag, with the architecture appended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..definition.containers import BASE_IMAGES, CONTAINERS, REPOSITORIES, SLURM_IMAGES, TUNNEL
from ..definition.environment import Environment
from ..definition.names import PART_OF
from ..definition.schema import SLURM_RELEASES, Debian
from ..files import Tree, digest

# Options of mmdebstrap. No container needs manual pages, translations and most of /usr/share/doc. Copyright
# files stay.
DEBIAN_OPTIONS = (
    "--variant=minbase",
    "--quiet",
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "locale", "info", "doc")),
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
)


@dataclass(frozen=True)
class Sources:
    """The files that images are built from. Names end in ``:100`` if the file is executable, else in ``:0``.

    ``contexts`` has the build context of each image, ``common`` the files that all containers' images share,
    ``copies`` the working copy of each development repository. ``mirrors`` has, by Debian release, a digest
    of the packages that its mirrors had at the last `build --refresh`.
    """

    contexts: Mapping[str, Tree]
    common: Tree
    copies: Mapping[str, Tree]
    mirrors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Build:
    """An image to build or to pull.

    ``base``: the image below. ``target``: the stage. ``tools``: an image with build tools, mounted meanwhile.
    ``repository``: the development repository in it. ``recipe``: digest of every input except working copies.
    ``pulled``: the image is pulled, not built. ``debian``: mmdebstrap builds this release. ``mirrors``: the
    digest of its packages at the last refresh ("": there was none).
    """

    name: str
    tag: str
    base: str
    target: str | None = None
    tools: str | None = None
    repository: str | None = None
    recipe: str = ""
    pulled: bool = False
    debian: Debian | None = None
    mirrors: str = ""


def plan_images(env: Environment, sources: Sources, has_mmdebstrap: bool) -> tuple[Build, ...]:
    """Return the builds of ``env`` in an order in which they can be built.

    ``has_mmdebstrap``: the Debian base can be built here; otherwise it is pulled from a registry.
    """
    references: dict[str, str] = {}
    builds: list[Build] = []
    buildable = _buildable(env)
    for debian in debian_releases(env):
        base = env.images["debian-base"].base if debian == env.debian else None
        if base is None and has_mmdebstrap:
            seen = sources.mirrors.get(debian.release, "")
            base = debian_base_tag(debian, seen)
            builds.append(Build("debian-base", base, base="scratch", debian=debian, mirrors=seen))
        # Short names are ambiguous. The host's registries.conf can lead this one to a mirror.
        references[debian.release] = base or f"docker.io/library/debian:{debian.release}-slim"
    for name, below in buildable.items():
        release = slurm_debian(env).release if name in SLURM_IMAGES else env.debian.release
        reference = env.images[name].base or references[release if below == "debian-base" else below]
        repository = CONTAINERS[name].repository if name in CONTAINERS else None
        tools = references.get("tools")
        stage = env.stage if repository else None
        common = sources.common if name in CONTAINERS else {}
        recipe = digest(reference, tools or "", stage or "", sources.contexts[name], common)
        copy = sources.copies[repository] if repository else {}
        copied = {f"{repository}/{path}": data for path, data in copy.items()}
        references[name] = tag = _tag(name, digest(recipe, copied), stage)
        target = f"stage-{stage}" if stage else None
        builds.append(Build(name, tag, reference, target, tools, repository, recipe))
    for name in env.containers:
        image = env.zenith.image if name == TUNNEL else env.images[name].image
        if image:
            builds.append(Build(name, image, base="", recipe=image, pulled=True))
    return _for_architecture(builds, env.debian.architecture)


def _for_architecture(builds: list[Build], architecture: str | None) -> tuple[Build, ...]:
    tags = {build.tag: with_architecture(build.tag, architecture) for build in builds if not build.pulled}

    def renamed(build: Build) -> Build:
        tag, base = tags.get(build.tag, build.tag), tags.get(build.base, build.base)
        return replace(build, tag=tag, base=base, tools=tags.get(build.tools or "", build.tools))

    return tuple(map(renamed, builds))


def with_architecture(tag: str, architecture: str | None) -> str:
    """Return the tag of the image ``tag`` for ``architecture`` (None: this host's)."""
    return f"{tag}-{architecture}" if architecture else tag


def _buildable(env: Environment) -> dict[str, str]:
    """Return the images to build for ``env``, each with the image that it is built on."""
    containers = {row.name: row.below for row in env.rows if row.below and not env.images[row.name].image}
    # An image between Debian and a container's isn't needed if the definition puts another image below that.
    needed = {below for name, below in containers.items() if env.images[name].base is None}
    needed.add("tools")
    bases = {name: below for name, below in BASE_IMAGES.items() if below and name in needed}
    return {**bases, **containers}


def slurm_debian(env: Environment) -> Debian:
    """Return the Debian that Slurm's images are built on."""
    return env.debian.model_copy(update={"release": SLURM_RELEASES[env.slurm.release]})


def debian_releases(env: Environment) -> tuple[Debian, ...]:
    """Return each Debian that an image of ``env`` is built on: one, or two if Slurm's images need another."""
    needs = any(name in SLURM_IMAGES and env.images[name].base is None for name in _buildable(env))
    return tuple(dict.fromkeys((env.debian, slurm_debian(env)) if needs else (env.debian,)))


def container_builds(env: Environment, builds: tuple[Build, ...]) -> dict[str, Build]:
    """Return the build of each container's image."""
    return {build.name: build for build in builds if build.name in env.containers}


def repositories_in(env: Environment) -> tuple[str, ...]:
    """Return the development repositories that the containers of ``env`` contain."""
    return tuple(name for name, container in REPOSITORIES.items() if container in env.containers)


def debian_sources(debian: Debian) -> tuple[str, ...]:
    """Return the lines of sources.list: release, updates and security, or one day's snapshot of them.

    sid is a single suite. Without a mirror there are none: mmdebstrap has a default.
    """
    release, main, option = debian.release, debian.mirror, ""
    security = debian.security_mirror or f"{main}-security"
    if debian.snapshot:
        # No mirror has past states, so no setting of the host names another one.
        archive = "http://snapshot.debian.org/archive"
        main = f"{archive}/debian/{debian.snapshot}"
        security = f"{archive}/debian-security/{debian.snapshot}"
        option = "[check-valid-until=no] "  # a snapshot's Release files are past their validity by design
    if main is None:
        return ()
    if release == "sid":
        # Its Release files are valid for a week: a mirror that is updated less often would be refused.
        return (f"deb [check-valid-until=no] {main} sid main",)
    return (
        f"deb {option}{main} {release} main",
        f"deb {option}{main} {release}-updates main",
        f"deb {option}{security} {release}-security main",
    )


def debian_base_tag(debian: Debian, seen: str = "") -> str:
    """Return the tag of the base image that mmdebstrap builds; hosts with different mirrors agree on it.

    ``seen``: digest of the mirrors' packages at the last refresh. A new one gives every image a new tag.
    """
    content = ("mmdebstrap", *DEBIAN_OPTIONS, debian.release, seen, *debian_sources(debian))
    return _tag("debian-base", digest(*content))


def _tag(name: str, content: str, stage: str | None = None) -> str:
    return f"localhost/{PART_OF}/{name}:{f'{stage}-' if stage else ''}{content}"
