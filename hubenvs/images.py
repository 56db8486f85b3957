"""Which images an environment needs, each with a tag that says what it was made of; and building those not there.

A tag holds a digest of everything that goes in, so an image whose tag exists is up to date.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from . import archive, repositories
from .commands import Argv, bootstrap_argv, build_argv, import_argv, push_argv
from .console import Console
from .definition import Debian
from .engine import Engine
from .errors import CommandError, DefinitionError, StateError
from .host import build_caches, ca_bundle, make_build_caches
from .model import Environment
from .names import CONTAINERS, PART_OF, REPOSITORIES, TUNNEL, WORKING_COPIES, digest

# Each of our images and what it stands on, in the order in which they can be built.
CHAIN = {
    "tools": "debian-base",
    "jupyterhub-base": "debian-base",
    "slurm-base": "debian-base",
    "jupyterhub": "jupyterhub-base",
    "slurm": "slurm-base",
    "oidc-provider": "debian-base",
    "gateway": "debian-base",
    "accounting": "debian-base",
}
COMMON = "common"  # the folder of files that the images of all containers made here have
# A copy of the file of certificates that this host trusts, for builds: what lies beside that is not their business.
CERTIFICATES = "certificates/ca-certificates.crt"
_NOTE = "note: "
_REGISTRY = re.compile(r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)*\Z")


@dataclass(frozen=True)
class Build:
    """One image: its name, its tag, what it stands on, and what it is made of.

    ``context`` is the folder of its Containerfile (None for debian-base, which has none), ``target`` the stage,
    ``tools`` the image that its build mounts, ``copies`` the files of the development repositories that it carries;
    ``recipe`` is a digest of all that it is made of but those. An image that is ``pulled`` has nothing but its tag.
    """

    name: str
    tag: str
    base: str
    context: Path | None = None
    target: str | None = None
    tools: str | None = None
    copies: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    recipe: str = ""
    pulled: bool = False

    def commands(self, env: Environment, scratch: Path) -> tuple[Argv, ...]:
        """Return the commands that make it of what `gather` puts into the folder ``scratch``."""
        if self.pulled:
            return (("podman", "pull", "--quiet", self.tag),)
        if self.context is None:
            tar = str(scratch / "debian-base.tar")
            return bootstrap_argv(env.debian.release, tar, sources(env.debian)), import_argv(tar, self.tag)
        contexts = {name: str(scratch / name) for name in self.copies}
        if self.tools:
            contexts["tools"] = f"container-image://{self.tools}"
        if self.name in CONTAINERS:
            contexts[COMMON] = str(scratch / COMMON)
        return (
            build_argv(
                tag=self.tag,
                context=scratch / "context",
                base=self.base,
                target=self.target,
                contexts=contexts,
                ca_bundle=str(scratch / CERTIFICATES) if ca_bundle() else None,
                caches=build_caches(),
            ),
        )

    def gather(self, env: Environment, scratch: Path) -> None:
        """Put the folders that it is made of into ``scratch``, with the modes that Git knows: 0644, or 0755.

        A person's umask is no part of an image: munge and sshd refuse what a group can write, and users' jobs have to
        be able to read.
        """
        if self.context is None:
            return
        left_out = shutil.ignore_patterns(WORKING_COPIES, *REPOSITORIES, "__pycache__")
        shutil.copytree(self.context, scratch / "context", ignore=left_out)
        if self.name in CONTAINERS:
            shutil.copytree(env.root / "containers" / COMMON, scratch / COMMON)
        for name, paths in self.copies.items():
            repositories.copy(paths, scratch / name)
        if bundle := ca_bundle():
            (scratch / CERTIFICATES).parent.mkdir()
            shutil.copyfile(bundle, scratch / CERTIFICATES)
        for path in scratch.rglob("*"):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def sources(debian: Debian) -> tuple[str, ...]:
    """Return the lines of sources.list for ``debian``: release, updates and security, or one day's snapshot of them."""
    release = debian.release
    if debian.snapshot:
        # A snapshot's Release files are past their validity by design.
        archives = [
            f"http://snapshot.debian.org/archive/{name}/{debian.snapshot}" for name in ("debian", "debian-security")
        ]
        option = "[check-valid-until=no] "
    else:
        archives, option = [debian.mirror, debian.security_mirror], ""
    main, security = archives
    return (
        f"deb {option}{main} {release} main",
        f"deb {option}{main} {release}-updates main",
        f"deb {option}{security} {release}-security main",
    )


def plan(env: Environment, copies: Mapping[str, Mapping[str, Path]], has_mmdebstrap: bool) -> tuple[Build, ...]:
    """Return the builds of ``env`` in order.

    ``copies`` has the files of each development repository; without mmdebstrap the base comes from a registry.
    """
    references: dict[str, str] = {}
    builds: list[Build] = []
    common = _content(archive.paths(env.root / "containers" / COMMON))
    base = env.images.base("debian-base")
    if base is None and has_mmdebstrap:
        tag = _debian_base(env)
        builds.append(Build("debian-base", tag, base="scratch"))
        base = tag
    references["debian-base"] = base or f"docker.io/library/debian:{env.debian.release}-slim"
    for name, below in CHAIN.items():
        product = _container(name)
        if name != "tools" and product not in env.containers:
            continue
        if reference := env.images.image(product):
            if name == product:
                builds.append(_pulled(name, reference))
            continue
        if name != product and env.images.base(product) is not None:
            continue  # the product image stands on the site's own
        context = env.root / "containers" / name
        carried = {repository: copies[repository] for repository, image in REPOSITORIES.items() if image == name}
        stage = env.stage if carried else None
        reference = env.images.base(name) or references[below]
        content = _content(archive.paths(context, skip=(WORKING_COPIES, *REPOSITORIES)))
        copied = {f"{repository}/{path}": file for repository, files in carried.items() for path, file in files.items()}
        tools = references.get("tools")
        recipe = digest(reference, tools or "", stage or "", content, common if name in CONTAINERS else {})
        references[name] = tag = _tag(name, digest(recipe, _content(copied)), stage)
        target = f"stage-{stage}" if stage else None
        builds.append(Build(name, tag, reference, context, target, tools, carried, recipe))
    if TUNNEL in env.containers:
        builds.append(_pulled(TUNNEL, env.zenith.image))
    return tuple(builds)


def _container(image: str) -> str:
    """Return which container ``image`` is made for, if it is made for one."""
    return image.removesuffix("-base")


def _content(files: Mapping[str, Path]) -> dict[str, bytes]:
    """Return the content of ``files`` by name, with the one mode bit that `gather` takes along."""
    return {f"{name}:{path.stat().st_mode & 0o100:o}": path.read_bytes() for name, path in files.items()}


def _pulled(name: str, reference: str) -> Build:
    return Build(name, reference, base="", recipe=reference, pulled=True)


def current(env: Environment, engine: Engine, offered: Iterable[str] = ()) -> tuple[Build, ...]:
    """Return the builds of ``env`` with the working copies as they are now.

    A Debian base that has been made elsewhere (it is there, or among the tags ``offered``) does for mmdebstrap.
    """
    copies = {
        name: repositories.files(folder if (folder := env.working_copy(name)).is_dir() else env.bundled(name), engine)
        for name, image in REPOSITORIES.items()
        if image in env.containers
    }
    base = _debian_base(env)
    has_base = shutil.which("mmdebstrap") is not None or base in offered or engine.has_image(base)
    return plan(env, copies, has_base)


def of_containers(env: Environment, builds: tuple[Build, ...]) -> dict[str, Build]:
    """Return the build that each container of ``env`` runs."""
    return {build.name: build for build in builds if build.name in env.containers}


def missing(builds: tuple[Build, ...], engine: Engine) -> tuple[Build, ...]:
    """Return those of ``builds`` that have to be made, without what is only underneath an image that is there."""
    by_tag = {build.tag: build for build in builds}
    products = [build.tag for build in builds if build.name in CONTAINERS]
    there = engine.at_once([partial(engine.has_image, tag) for tag in products])
    needed = {tag for tag, found in zip(products, there, strict=True) if not found}
    for build in reversed(builds):  # from what stands on top to what is underneath
        if build.tag in needed:
            underneath = by_tag.keys() & {build.base, build.tools}
            needed |= {tag for tag in underneath if not engine.has_image(tag)}
    return tuple(build for build in builds if build.tag in needed)


def build(env: Environment, engine: Engine, console: Console) -> tuple[Build, ...]:
    """Build what is missing, both containers' images at the same time, and return all builds.

    Raises StateError with the failing step's last lines; what was built before stays.
    """
    builds = current(env, engine)
    to_do = missing(builds, engine)
    if not to_do:
        console.say("build", "images are up to date")
        return builds
    engine.version()
    make_build_caches()
    chains = [[item for item in to_do if _container(item.name) == name] for name in env.containers]
    first = [item for item in to_do if not any(item in chain for chain in chains)]
    with console.busy("build", ", ".join(item.name for item in to_do)):
        for item in first:
            _make(item, env, engine, console)
        engine.at_once([partial(_make_chain, chain, env, engine, console) for chain in chains])
    return builds


def check_registry(registry: str) -> None:
    """Raise DefinitionError unless ``registry`` can be one."""
    if not _REGISTRY.match(registry):
        hint = "like registry.example.org/site, without https://"
        raise DefinitionError(f"--registry {registry}: not the name of a registry", hint)


def push(env: Environment, builds: tuple[Build, ...], registry: str, engine: Engine) -> dict[str, str]:
    """Push the images built here to ``registry``, and return by container what pulls each by its digest.

    ``registry`` may have a path (``registry.example.org/site``); who may push there is `podman login`'s business.
    Raises StateError with podman's last lines.
    """
    pushed = {}
    for name, build in of_containers(env, builds).items():
        if build.pulled:
            continue
        repository = f"{registry}/{name}"
        with tempfile.NamedTemporaryFile(prefix="hubenvs-") as written:
            target = f"{repository}:{build.tag.rpartition(':')[2]}"
            try:
                engine.run(push_argv(build.tag, target, written.name), timeout=None)
            except CommandError as error:
                raise StateError(f"{target}: can't be pushed", "is `podman login` done?", error.details) from None
            pushed[name] = f"{repository}@{written.read().decode()}"
    return pushed


def _make_chain(chain: Iterable[Build], env: Environment, engine: Engine, console: Console) -> None:
    for item in chain:
        _make(item, env, engine, console)


def _make(item: Build, env: Environment, engine: Engine, console: Console) -> None:
    logs = env.deploy_folder / "log"
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_path = logs / f"build-{item.name}.log"
    how = "pulled" if item.pulled else "built"
    with tempfile.TemporaryDirectory(prefix="hubenvs-") as folder, log_path.open("wb") as log:
        scratch = Path(folder)
        item.gather(env, scratch)
        for command in item.commands(env, scratch):
            done = engine.run(command, check=False, log=log, timeout=None)
            if done.returncode != 0:
                failed = CommandError(command, done.returncode, log_path.read_text(errors="replace"))
                raise StateError(
                    f"image {item.name} can't be {how}",
                    f"the whole log is {log_path}",
                    failed.details,
                )
    console.say("build", f"{item.name}: {how} {item.tag}")
    for line in log_path.read_text(errors="replace").splitlines():
        if line.startswith(_NOTE):  # what a Containerfile's own commands have to say
            console.say("build", f"{item.name}: {line.removeprefix(_NOTE)}")


def _debian_base(env: Environment) -> str:
    """Return the tag of the base image that mmdebstrap makes."""
    return _tag("debian-base", digest(*bootstrap_argv(env.debian.release, "", sources(env.debian))))


def _tag(name: str, content: str, stage: str | None = None) -> str:
    return f"localhost/{PART_OF}/{name}:{f'{stage}-' if stage else ''}{content}"
