"""What the tasks are made of: one environment, the engine and the console, and the stages in their order."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import deploy, deployed, images, load, ports, ready, render, repositories, site, ssh, state, volumes
from .commands import play_argv, volume_argv, volume_data_argv
from .console import Console
from .deployed import Deployed
from .engine import Engine
from .errors import DefinitionError, HubEnvsError, PortError, StateError
from .model import PASSWORD_KEY, Environment
from .names import REPOSITORIES, deploy_folder, environment_names


@dataclass(frozen=True)
class Suite:
    """An environment and the means to bring it up; each stage can be run alone and is idempotent."""

    env: Environment
    engine: Engine
    console: Console
    declared: frozenset[str] = frozenset()  # whose ports `--set` gives

    @classmethod
    def open(
        cls,
        root: Path,
        name: str | None,
        *,
        instance: str | None = None,
        settings: Sequence[str] = (),
        configuration: Mapping[str, Any] | None = None,
        config_map: Path | None = None,
        quiet: bool = False,
        echo: bool = False,
        dry: bool = False,
        as_deployed: bool = False,
    ) -> Suite:
        """Return the suite for environment ``name`` of the checkout ``root``; raise DefinitionError if there is none.

        ``settings``, ``configuration`` and ``config_map`` are laid over the definition as `load.load` says; ``quiet``
        prints results only, ``echo`` every command, ``dry`` promises that podman is only asked; ``as_deployed``
        prefers the definition that the environment was brought up with, if no ``settings`` say otherwise.
        """
        if not name:
            raise DefinitionError("--env: which environment?", f"one of {', '.join(environment_names(root))}")
        kept = load.brought_up(deploy_folder(root, name, instance)) if as_deployed and not settings else None
        env = kept or load.load(
            root, name, instance=instance, settings=settings, configuration=configuration, config_map=config_map
        )
        keys = (setting.partition("=")[0] for setting in settings)
        declared = frozenset(key.removeprefix("publish.") for key in keys)
        console = Console(quiet, echo)
        engine = Engine(None if dry else root / ".deploy", console.echo)
        return cls(kept or ports.with_ports(env, declared), engine, console, declared)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the environment's lock while the block changes it."""
        with state.lock(self.env.deploy_folder):
            yield

    def clone(self) -> None:
        """Make the working copies."""
        for note in repositories.clone(self.env, self.engine):
            self.console.say("clone", note)

    def build(self) -> tuple[images.Build, ...]:
        """Build the images that are missing, and return what all of them are."""
        return images.build(self.env, self.engine, self.console)

    def volumes(self, found: Deployed) -> None:
        """Make and seed the volumes that aren't ``found``, and bring changed seed files into the others."""
        volumes.make_volumes(self.env, found.there.volume_names, self.engine, self.console)

    def secrets(self, rotate: bool = False) -> dict[str, str]:
        """Make the secrets if they aren't there, or anew, and return them."""
        return deploy.make_secrets(self.env, self.console, rotate)

    def init_secrets(self) -> None:
        """Make the key pair that the site owns if it isn't there, and print its public line."""
        line = site.init(self.env)
        self.console.say("secrets", f"key pair in {self.env.site_data}")
        self.console.say("", f"for the authorized_keys of {self.env.ssh_target}:")
        print(line, end="")

    def manifest(self, with_secrets: bool = False) -> tuple[render.Document, ...]:
        """Return the manifest as it would be played, its Secrets redacted unless ``with_secrets``."""
        if with_secrets:
            values = self._kept_secrets()
        else:
            values = dict.fromkeys(self.env.secret_keys, "")
            values |= state.read_secrets(self.env.deploy_folder)
        documents = deploy.documents(self.env, images.current(self.env, self.engine), values)
        return documents if with_secrets else render.redacted(documents)

    def kubernetes(self) -> dict[str, str]:
        """Return the files of the folder that `kubectl apply -k` takes."""
        from . import kubernetes

        builds = images.of_containers(self.env, images.current(self.env, self.engine))
        references = {container: build.tag for container, build in builds.items()}
        return kubernetes.folder(self.env, references, volumes.seeds(self.env))

    def bundle(self, target: Path) -> None:
        """Write images, working copies and manifest to the file ``target``."""
        from . import bundle

        if target.is_dir():
            raise StateError(f"{target}: a folder", "name the file to write")
        bundle.write(self.env, self.build(), self.manifest(), target, self.engine, self.console)

    def push(self, registry: str) -> None:
        """Push the images to ``registry``, and print what of local.yaml pulls them again."""
        images.check_registry(registry)
        self.clone()
        with self.locked():
            builds = self.build()
            with self.console.busy("push", registry):
                pushed = images.push(self.env, builds, registry, self.engine)
        self.console.say("push", f"{len(pushed)} images; add this to the local.yaml of whoever runs them:")
        print("images:")
        for name, reference in pushed.items():
            print(f"  {name}: {{image: {reference!r}}}".replace("'", '"'))

    def play(self) -> bool:
        """Play the manifest; return False if the pod that runs is that already."""
        builds = images.current(self.env, self.engine)
        absent = images.missing(builds, self.engine)
        if absent:
            raise StateError(f"no image {absent[-1].tag}", f"invoke build {self.env.options}")
        return self._play(builds, self._kept_secrets(), self.look())

    def _kept_secrets(self) -> dict[str, str]:
        """Return the secrets in the deploy folder; raise StateError if they haven't all been made."""
        values = state.read_secrets(self.env.deploy_folder)
        if not values.keys() >= self.env.secret_keys:
            raise StateError(f"{self.env.name} has no secrets yet", f"invoke secrets {self.env.options}")
        return values

    def _play(self, builds: tuple[images.Build, ...], values: Mapping[str, str], found: Deployed) -> bool:
        documents = deploy.documents(self.env, builds, values)
        played = deploy.play(self.env, documents, found, self.engine, self.console)
        self.remember()
        return played

    def look(self) -> Deployed:
        """Return what there is of the environment; refuse what somebody else made under its names."""
        found = self._find()
        deployed.refuse_foreign(self.env, found)
        return found

    def _find(self) -> Deployed:
        return deployed.look(self.engine.holdings(), self.env.root, self.env.name, self.env.instance)

    def is_up(self) -> bool:
        """Return whether the pod is there."""
        return self._find().pod is not None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the pod answers."""
        ready.wait(self.env, self.engine, self.console, timeout)

    def preflight(self) -> Deployed:
        """Refuse, before anything is made, what would fail later, and return what there is of the environment."""
        self.engine.version()
        found = self.look()
        ports.require_free(self.env, self.engine, found.held_ports)
        volumes.seeds(self.env)
        site.read(self.env)
        return found

    def up(self) -> None:
        """Bring the environment up: clone, build, volumes, secrets, play, wait, check."""
        with self.locked():
            found = self.preflight()
            self.clone()
            builds = self.build()
            self.volumes(found)
            values = self.secrets()
            played = self._play_where_free(builds, values, found)
            with ThreadPoolExecutor() as pool:
                pool.submit(ssh.prepare)  # while the pod starts there is time for that
                played.wait()
            if "jupyterhub" in played.env.containers:
                ssh.check(played.env, self.engine, self.console, brief=True)
        played.announce()

    def _play_where_free(self, builds: tuple[images.Build, ...], values: Mapping[str, str], found: Deployed) -> Suite:
        """Play, and return the suite with the ports that it took: another `up` may be faster to those found free."""
        suite = self
        while True:
            try:
                suite._play(builds, values, found)
                return suite
            except PortError:
                env = ports.with_ports(suite.env, self.declared)
                if env.publish == suite.env.publish:
                    raise
                suite, found = replace(suite, env=env), suite.look()

    def remember(self) -> None:
        """Keep what was chosen and what the definition is: later tasks look at what is up, whatever is written now."""
        definition = self.env.model_dump_json(by_alias=True, exclude={"dummy_password"})
        state.write_definition(self.env.deploy_folder, definition)
        ports = {container: str(endpoint.port) for container, endpoint in self.env.published.items()}
        state.write_record(self.env.deploy_folder, {**state.read_record(self.env.deploy_folder), **ports})

    def reload(self) -> None:
        """Bring what was edited into the running pod."""
        from . import reload

        reload.require_development(self.env)
        with self.locked():
            pod = deploy.inspect_pod(self.env, self.engine)
            # As the edits are now: one that is saved meanwhile may be brought in, but doesn't count as that.
            builds = images.current(self.env, self.engine)
            manifest = deploy.documents(self.env, builds, self._kept_secrets())
            before = state.read_record(self.env.deploy_folder)
            deploy.remember_made_of(self.env, pod, deploy.MIXED)  # for good if we are interrupted
            outcome = reload.reload(self.env, self.engine, self.console)
            if not outcome.changes:
                state.write_record(self.env.deploy_folder, before)
            elif outcome.whole:
                deploy.reloaded(self.env, pod, manifest, self.console)
            if outcome.failure:
                raise outcome.failure

    def watch(self) -> None:
        """Reload at every save until Ctrl-C; an edit that doesn't work is reported, and the next one awaited."""
        import watchfiles

        folders = [self.env.working_copy(name) for name, image in REPOSITORIES.items() if image in self.env.containers]
        folders += [folder for folder in volumes.seed_folders(self.env) if folder.is_dir()]
        self.console.say("watch", f"{len(folders)} folders; Ctrl-C ends it")
        try:
            self._reload_saying()
            for _ in watchfiles.watch(*folders, step=20, debounce=200):
                self._reload_saying()
        except KeyboardInterrupt:
            self.console.say("watch", "ended")

    def _reload_saying(self) -> None:
        try:
            self.reload()
        except HubEnvsError as error:
            print(error.report)
        except OSError as error:  # an editor's temporary file is gone again
            self.console.say("watch", f"{error.filename}: {error.strerror}; the next save is awaited")

    def announce(self) -> None:
        """Say where the hub is, who logs in, and what can be done next."""
        password = self.env.deploy_folder / state.SECRETS / PASSWORD_KEY
        options = self.env.options
        say = self.console.say
        if "jupyterhub" not in self.env.containers:
            say("up", f"{self.env.pod}: {', '.join(self.env.containers)}")
            return
        say("up", self.env.url or "the hub is not published on this host")
        if self.env.auth.kind == "dummy":
            say("", f"log in as {self.env.user} with the password in {_near(password)}")
        elif self.env.gateway_url:
            say("", f"choose who to be at the provider's page: {', '.join(self.env.users)}")
        else:
            say("", f"log in with an ID token of {self.env.issuer} in the header X-Auth-Id-Token")
        say("", f"next: invoke verify {options}; invoke logs {options} --follow; invoke down {options}")

    def dry_run(self) -> None:
        """Print what `up` would do, and touch nothing."""
        env, say = self.env, self.console.say
        for name, image in REPOSITORIES.items():
            if image in env.containers:
                say("clone", f"{name} from {env.repositories.source(name).url} in {env.working_copy(name)}")
        builds = images.current(env, self.engine)
        absent = images.missing(builds, self.engine)
        scratch = Path(tempfile.gettempdir()) / "hubenvs-XXXX"
        for build in builds:
            say("build", f"{build.tag}" + ("" if build in absent else " (exists)"))
            for command in build.commands(env, scratch) if build in absent else ():
                self._show(command)
        there = self._find().there.volume_names
        for volume in env.volumes:
            say("volumes", volume.name + (" (exists)" if volume.name in there else ""))
            if volume.name not in there:
                self._show(volume_argv(volume.name, env.labels))
            if volume.seeded:
                self._show(volume_data_argv("import", volume.name))
        for secret in env.secrets:
            say("secrets", f"{secret.name}: {', '.join(secret.keys)}")
        self._show(play_argv(self.engine.network))
        say("play", f"pod {env.pod}: {', '.join(env.container(name) for name in env.containers)}")
        if env.url:
            say("wait", env.url)

    def _show(self, command: Sequence[str]) -> None:
        self.console.say("", f"$ {shlex.join(command)}")


def _near(path: Path) -> str:
    """Return ``path`` as seen from the current folder, if that is shorter."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
