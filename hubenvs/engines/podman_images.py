"""Podman builds and stores images, for its own pods and for a cluster's."""

from __future__ import annotations

import json
import os
import platform
import re
import tarfile
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from .. import files
from ..definition.names import LABEL_PART_OF, PART_OF
from ..errors import CommandError, StateError, quoted
from . import host
from .containers_conf import containers_conf
from .findings import Info
from .process import ANSWER, Argv, Completed, Programs

OLDEST = (4, 3)
LISTINGS = 5  # most attempts to get a list from podman
# Variables that make podman the client of a service, which may be another host's (podman(1)).
REMOTE = ("CONTAINER_HOST", "CONTAINER_CONNECTION")
# The PATH of an imported image, which would have none.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _of(architecture: str | None) -> tuple[str, ...]:
    return (f"--arch={architecture}",) if architecture else ()


class PodmanImages:
    """Podman's images. ``folder``: for a containers.conf if this host needs one (None: none is written)."""

    def __init__(self, folder: Path | None, programs: Programs) -> None:
        self.programs = programs
        self._folder = folder

    # -- running -----------------------------------------------------------------------------------

    @cached_property
    def variables(self) -> Mapping[str, str]:
        """The environment variables that podman needs here; writes a containers.conf if it needs one.

        Raises StateError if the user's variables lead podman to another host.
        """
        for name in REMOTE if platform.system() == "Linux" else ():
            if os.environ.get(name):
                problem = f"{name} is set, so that podman would work elsewhere than on this host"
                raise StateError(problem, f"unset {name}")
        if not (self._folder and (configuration := containers_conf())):
            return {}
        path = self._folder / "containers.conf"
        if not path.exists() or path.read_text() != configuration:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write(path, configuration)
        return {"CONTAINERS_CONF": str(path)}

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        """Run a command line of podman; ``options`` are those of `Programs.run`."""
        return self.programs.run(argv, variables=self.variables, **options)

    def listed(self, argv: Sequence[str]) -> Completed:
        """Run a podman command that lists resources; CommandError if `LISTINGS` attempts fail.

        podman<5.3: `ps --pod` and `volume ls` fail if somebody removes a pod or a volume meanwhile.
        """
        for _ in range(LISTINGS):
            done = self.run(argv, check=False, timeout=ANSWER)
            if done.returncode == 0:
                return done
        raise CommandError(argv, done.returncode, done.stderr)

    def _json(self, argv: Sequence[str]) -> Any:
        """Return the JSON that ``argv`` prints, an empty list if it prints nothing."""
        output = self.listed(argv).stdout or b"[]"
        try:
            return json.loads(output) or []
        except ValueError:
            self.version()  # raises if podman is too old
            raise StateError(f"`{quoted(argv)}` printed no JSON", f"is this the real {argv[0]}?") from None

    def info(self) -> Info:
        """Return what podman says of this host's runtime and storage."""
        described = "--format={{.Host.OCIRuntime.Name}} {{.Store.GraphDriverName}} {{.Store.GraphRoot}}"
        return Info(*self.run(("podman", "info", described), timeout=ANSWER).text.split(" ", 2))

    def version(self) -> tuple[int, ...]:
        """Return podman's version, such as (4, 3, 1); StateError if it is missing or too old."""
        return self._version

    @cached_property
    def _version(self) -> tuple[int, ...]:
        text = self.run(("podman", "--version"), timeout=ANSWER).text
        try:
            version = tuple(int(part) for part in text.split()[-1].split("-")[0].split(".")[:3])
        except (ValueError, IndexError):
            raise StateError(f"`podman --version` says {text!r}", "is this podman?") from None
        if version < OLDEST:
            raise StateError(f"podman {text.split()[-1]} is too old", "install podman 4.3 or newer")
        return version

    # -- images ------------------------------------------------------------------------------------

    def has_image(self, name: str) -> bool:
        """Return whether the image ``name`` is here."""
        argv = ("podman", "image", "exists", name)  # a listing would take longer with every image on the host
        done = self.run(argv, check=False, timeout=ANSWER)
        if done.returncode not in (0, 1):
            raise CommandError(argv, done.returncode, done.stderr)
        return done.returncode == 0

    def build_command(
        self,
        *,
        tag: str,
        context: Path,
        base: str,
        target: str | None = None,
        contexts: Mapping[str, str] | None = None,
        ca_bundle: str | None = None,
        index: str | None = None,
        architecture: str | None = None,
    ) -> Argv:
        """Return the command that builds the image ``tag`` from ``context``/Containerfile on top of ``base``.

        ``target`` is the stage, ``contexts`` further folders and images (``container-image://…``) by name,
        ``ca_bundle`` a certificate file that downloads during the build trust and the image doesn't keep,
        ``index`` a folder with `host.index_files`, which it doesn't keep either,
        ``architecture`` that of the image (None: this host's).
        """
        caches = host.build_caches()
        argv = ["env", f"TMPDIR={caches}"] if caches else []
        argv += ["podman", "build", "--tag", tag, "--file", str(context / "Containerfile")]
        argv += ["--build-arg", f"BASE_IMAGE={base}"]
        argv += ["--label", f"{LABEL_PART_OF}={PART_OF}", *_of(architecture)]
        if target:
            argv += ["--target", target]
        for name, source in sorted((contexts or {}).items()):
            argv += ["--build-context", f"{name}={source}"]
        if ca_bundle:
            argv += ["--volume", f"{Path(ca_bundle).parent}:/etc/ssl/certs:ro"]
            argv += ["--build-arg", f"SSL_CERT_FILE=/etc/ssl/certs/{Path(ca_bundle).name}"]
        if index:
            # A folder that every Debian image has: a new one would stay in the image, empty.
            argv += ["--volume", f"{index}:/mnt:ro"]
        if ca_bundle or index:
            # SELinux would keep the build from them, and `:z` would relabel the host's own trust store.
            argv += ["--security-opt", "label=disable"]
        return (*argv, str(context))

    def prepare_builds(self) -> None:
        """Create the folder for build caches if this host needs one; StateError if another user owns it."""
        self.version()
        host.make_build_caches()

    def import_image_command(
        self, tar: str, tag: str, architecture: str | None = None, label: str | None = None
    ) -> Argv:
        """Return the command that turns the root file system ``tar`` into the image ``tag``.

        ``label`` is a ``name=value`` that it and all images built on it get.
        """
        change = ["--change", f"ENV PATH={_PATH}"]
        if label:
            change += ["--change", f"LABEL {label}"]
        return ("podman", "import", "--quiet", *change, *_of(architecture), tar, tag)

    def pull_command(self, tag: str, architecture: str | None = None) -> Argv:
        """Return the command that pulls the image ``tag``."""
        return ("podman", "pull", "--quiet", *_of(architecture), tag)

    def architecture(self) -> str:
        """Return the architecture of the engine's host, such as amd64 or arm64."""
        return self.run(("podman", "info", "--format={{.Host.Arch}}"), timeout=ANSWER).text

    def login(self, registry: str) -> str:
        """Return the command with which a user logs in to ``registry``."""
        return f"podman login {registry.partition('/')[0]}"

    def push(self, tag: str, target: str, architecture: str) -> str:
        """Push the image ``tag``, put it in the manifest list ``target``, and return the list's digest.

        The list keeps its images of other architectures than ``architecture``, and has one of each.
        """
        repository = target.rpartition(":")[0]
        pushed = self._digest("push", "--quiet", tag, f"{target}-{architecture}")
        name = f"localhost/hubenvs-push-{uuid.uuid4().hex}"
        self.run(("podman", "manifest", "create", name), timeout=ANSWER)
        try:
            self._add_others(name, target, architecture)
            image = f"docker://{repository}@{pushed}"
            self.run(("podman", "manifest", "add", name, image), timeout=None)
            return self._digest("manifest", "push", "--all=false", name, f"docker://{target}")
        finally:
            self.run(("podman", "manifest", "rm", name), check=False, timeout=ANSWER)

    def _digest(self, *command: str) -> str:
        """Run a podman ``command`` that pushes an image or a list, and return its digest."""
        with tempfile.NamedTemporaryFile(prefix="hubenvs-") as digest:
            *words, source, target = command
            self.run(("podman", *words, "--digestfile", digest.name, source, target), timeout=None)
            return digest.read().decode()

    def _add_others(self, name: str, target: str, architecture: str) -> None:
        """Add the images of the list ``target`` to the list ``name``, except ``architecture``'s.

        podman<5: `manifest inspect TARGET` would not log in, `manifest add` does.
        """
        add = ("podman", "manifest", "add", "--all", name, f"docker://{target}")
        done = self.run(add, check=False, timeout=None)
        if done.returncode != 0:
            if not re.search("manifest unknown|not found", done.stderr, re.IGNORECASE):
                raise CommandError(add, done.returncode, done.stderr)
            return
        manifests = json.loads(self.run(("podman", "manifest", "inspect", name), timeout=ANSWER).stdout)
        for row in manifests["manifests"] or ():
            if row["platform"]["architecture"] == architecture:
                self.run(("podman", "manifest", "remove", name, row["digest"]), timeout=ANSWER)

    def save_images(self, tags: Sequence[str], tar: Path) -> None:
        """Write the images ``tags`` to the file ``tar``; layers that they share are written once.

        If podman is interrupted it leaves layers beside ``tar``: the caller has to remove that folder.
        """
        self.run(("env", f"TMPDIR={tar.parent}", *self.save_command(tags), f"--output={tar}"), timeout=None)

    def save_command(self, tags: Sequence[str]) -> Argv:
        """Return the command that writes the images ``tags`` to standard output."""
        return ("podman", "save", "--quiet", "--multi-image-archive", "--format=docker-archive", *tags)

    def archived_tags(self, archive: IO[bytes]) -> set[str]:
        """Return the tags that `load_images` would give to images; ValueError if it isn't `save_images`'s."""
        try:
            with tarfile.open(fileobj=archive, mode="r:") as tar:
                names: list[str] = []
                for member in tar:
                    names.append(Path(member.name).name)
                    if member.size < 0:  # it leads back to where it was read
                        raise ValueError("a file of negative size")
                # Podman would take another format's index first, and perhaps the other one of two files.
                if names.count("manifest.json") != 1 or {"index.json", "oci-layout"} & set(names):
                    raise ValueError("not one archive in docker's format")
                manifest = tar.extractfile("manifest.json")
                rows = json.loads(manifest.read(2**20)) if manifest else ()
                return {str(tag) for row in rows for tag in row["RepoTags"] or ()}
        except (tarfile.TarError, EOFError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            raise ValueError(str(error)) from None

    def load_images(self, tar: Path) -> None:
        """Load the images in the file ``tar``; see `save_images`."""
        argv = ("env", f"TMPDIR={tar.parent}", "podman", "load", "--quiet", f"--input={tar}")
        self.run(argv, timeout=None)

    def run_image_command(self, tag: str, *command: str, workdir: str) -> Argv:
        """Return the command that runs ``command`` in a new container of ``tag`` without a network."""
        options = ("--rm", "--init", "--network=none", f"--workdir={workdir}", "--entrypoint=")
        return ("podman", "run", *options, tag, *command)
