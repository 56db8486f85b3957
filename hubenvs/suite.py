"""What the tasks are made of: one environment, the engine and the console, and the stages in their order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import bundle, deploy, images, kubernetes, load, ready, render, repositories, site, ssh, state
from .console import Console
from .engine import Engine, play_argv, rootless, volume_argv, volume_data_argv
from .errors import DefinitionError, HubEnvsError, PortError, StateError
from .model import REPOSITORIES, Environment, check_instance, checkout_id, deploy_folder, pod_name


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
        prints results only, ``echo`` every command, ``dry`` promises that nothing will be started; ``as_deployed``
        prefers the definition that the environment was brought up with, if no ``settings`` say otherwise.
        """
        if not name:
            raise DefinitionError("--env: which environment?", f"one of {', '.join(load.environment_names(root))}")
        deployed = _definition(deploy_folder(root, name, instance)) if as_deployed and not settings else None
        env = deployed or load.load(
            root, name, instance=instance, settings=settings, configuration=configuration, config_map=config_map
        )
        keys = (setting.partition("=")[0] for setting in settings)
        declared = frozenset(key.removeprefix("publish.") for key in keys)
        console = Console(quiet, echo)
        engine = Engine(None if dry else root / ".deploy", console.echo)
        return cls(deployed or deploy.with_ports(env, declared), engine, console, declared)

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

    def volumes(self) -> None:
        """Make and seed the volumes."""
        deploy.make_volumes(self.env, self.engine, self.console)

    def secrets(self, rotate: bool = False) -> dict[str, str]:
        """Make the secrets if they aren't there, or anew, and return them."""
        return deploy.make_secrets(self.env, self.console, rotate)

    def init_secrets(self) -> None:
        """Make the key pair that the site owns if it isn't there, and print its public line."""
        line = site.init(self.env)
        self.console.say("secrets", f"key pair in {self.env.site_data}")
        self.console.say("", f"for the authorized_keys of {ssh.SERVICE_ACCOUNT} on {self.env.slurm.ssh_hostname}:")
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
        builds = images.of_containers(self.env, images.current(self.env, self.engine))
        references = {container: build.tag for container, build in builds.items()}
        return kubernetes.folder(self.env, references, deploy.seeds(self.env))

    def bundle(self, target: Path) -> None:
        """Write images, working copies and manifest to the file ``target``."""
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
        self.console.say("push", f"{len(pushed)} images; in local.yaml of those who are to run them:")
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

    def _play(self, builds: tuple[images.Build, ...], values: Mapping[str, str], deployed: deploy.Deployed) -> bool:
        documents = deploy.documents(self.env, builds, values)
        return deploy.play(self.env, documents, deployed, self.engine, self.console)

    def look(self) -> deploy.Deployed:
        """Return what there is of the environment; refuse what somebody else made under its names."""
        there = self.engine.holdings()
        deployed = deploy.look(self.env, there)
        deploy.refuse_foreign(self.env, deployed, there)
        return deployed

    def is_up(self) -> bool:
        """Return whether the pod is there."""
        return deploy.look(self.env, self.engine.holdings()).pod is not None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the pod answers."""
        ready.wait(self.env, self.engine, self.console, timeout)

    def preflight(self) -> deploy.Deployed:
        """Refuse, before anything is made, what would fail later, and return what there is of the environment."""
        self.engine.version()
        deployed = self.look()
        if not deployed.holds_ports:
            deploy.require_free(self.env, self.engine)
        deploy.seeds(self.env)
        site.read(self.env)
        return deployed

    def up(self) -> None:
        """Bring the environment up: clone, build, volumes, secrets, play, wait, check."""
        with self.locked():
            deployed = self.preflight()
            self.clone()
            builds = self.build()
            self.volumes()
            values = self.secrets()
            played = self._play_where_free(builds, values, deployed)
            played.remember()
            played.wait()
            if "jupyterhub" in played.env.containers:
                ssh.check(played.env, self.engine, self.console, brief=True)
        played.announce()

    def _play_where_free(
        self, builds: tuple[images.Build, ...], values: Mapping[str, str], deployed: deploy.Deployed
    ) -> Suite:
        """Play, and return the suite with the ports that it took: another `up` may be faster to those found free."""
        suite = self
        while True:
            try:
                suite._play(builds, values, deployed)
                return suite
            except PortError:
                env = deploy.with_ports(suite.env, self.declared)
                if env.publish == suite.env.publish:
                    raise
                suite, deployed = replace(suite, env=env), suite.look()

    def remember(self) -> None:
        """Keep what was chosen and what the definition is: later tasks look at what is up, whatever is written now."""
        definition = self.env.model_dump_json(by_alias=True, exclude={"dummy_password"})
        state.write_definition(self.env.deploy_folder, definition)
        ports = {container: str(endpoint.port) for container, endpoint in self.env.published.items()}
        state.write_record(self.env.deploy_folder, {**state.read_record(self.env.deploy_folder), **ports})

    def reload(self) -> None:
        """Bring what was edited into the running pod."""
        from . import reload

        with self.locked():
            whole = reload.reload(self.env, self.engine, self.console)
            if whole is not None:
                builds = images.current(self.env, self.engine)
                manifest = deploy.documents(self.env, builds, self._kept_secrets())
                deploy.reloaded(self.env, manifest, whole, self.engine, self.console)

    def watch(self) -> None:
        """Reload at every save until Ctrl-C; an edit that doesn't work is reported, and the next one awaited."""
        import watchfiles

        folders = [self.env.working_copy(name) for name, image in REPOSITORIES.items() if image in self.env.containers]
        folders += [folder for folder in deploy.seed_folders(self.env) if folder.is_dir()]
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
            self.console.say("error", str(error))

    def announce(self) -> None:
        """Say where the hub is, who logs in, and what can be done next."""
        password = self.env.deploy_folder / state.SECRETS / deploy.PASSWORD_KEY
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
            say("build", f"{build.tag}" + ("" if build in absent else " (there)"))
            for command in build.commands(env, scratch) if build in absent else ():
                self._show(command)
        there = self.engine.volume_names()
        for volume in env.volumes:
            say("volumes", volume.name + (" (there)" if volume.name in there else ""))
            if volume.name not in there:
                self._show(volume_argv(volume.name, env.labels))
            if volume.seeded:
                self._show(volume_data_argv("import", volume.name))
        for secret in env.secrets:
            say("secrets", f"{secret.name}: {', '.join(secret.keys)}")
        self._show(play_argv(self.engine.version(), rootless()))
        say("play", f"pod {env.pod}: {', '.join(env.container(name) for name in env.containers)}")
        if env.url:
            say("wait", env.url)

    def _show(self, command: Sequence[str]) -> None:
        import shlex

        self.console.say("", f"$ {shlex.join(command)}")


def _near(path: Path) -> str:
    """Return ``path`` as seen from the current folder, if that is shorter."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _definition(folder: Path) -> Environment | None:
    """Return the definition kept in a deploy ``folder``; None if there is none, or another version wrote it."""
    try:
        text = state.read_definition(folder)
        return Environment.model_validate_json(text) if text else None
    except (OSError, ValueError):  # pydantic's is one, and that of what isn't text
        return None


def describe(root: Path) -> list[dict[str, Any]]:
    """Return what `envs --json` prints: each environment, and why one can't run here."""
    rows = []
    for name in load.environment_names(root):
        try:
            env = load.load(root, name)
            said = {"description": env.description, "stage": env.stage, "auth": env.auth.kind}
            row = {**said, "can_run": True, "why_not": None}
        except HubEnvsError as error:
            row = {**load.outline(root, name), "can_run": False, "why_not": str(error)}
        rows.append({"env": name, **row})
    return rows


def status(root: Path, engine: Engine) -> list[dict[str, Any]]:
    """Return what `status --json` prints, one entry a deployment."""
    deployed = deploy.find(engine.holdings())
    definitions = load.definitions(root)
    environments = []
    for found in deployed.values():
        folder = deploy.own_folder(root, found)
        if folder and (brought_up := _definition(folder)):
            environments.append(brought_up)
        elif env := definitions.get(found.environment):
            environments.append(env.model_copy(update={"instance": found.instance_name}))
    return deploy.status(root, deployed, environments, engine)


def down(
    root: Path,
    engine: Engine,
    console: Console,
    *,
    env: str | None,
    instance: str | None,
    every: bool,
    keep_volumes: bool,
    confirm: Callable[[str], None],
) -> None:
    """Take down environment ``env`` (its ``instance``), the only one that is up, or ``every`` one of this checkout.

    ``confirm`` gets each one's name before anything is taken down, and raises what it likes to keep it from that.
    Raises DefinitionError for a name that can't be, StateError when it isn't clear which one is meant.
    """
    try:
        check_instance(instance)
    except ValueError as error:
        raise DefinitionError(f"--instance {instance!r}: {error}", "`invoke status` lists what is up") from None
    mine = checkout_id(root)
    there = engine.holdings()
    deployed = deploy.find(there)
    if env is not None:
        if env not in load.environment_names(root) and not any(item.environment == env for item in deployed.values()):
            names = load.environment_names(root)
            raise DefinitionError(f"--env {env}: there is no such environment", load.suggestion(env, names))
        pod = pod_name(env, instance)
        chosen = [deployed[pod]] if pod in deployed else [deploy.leftovers(pod, env, mine, there)]
        if chosen[0].checkout != mine:
            raise StateError(f"{pod} was brought up from another checkout", "take it down there")
    else:
        chosen = [item for item in deployed.values() if item.checkout == mine]
        if instance is not None:
            chosen = [item for item in chosen if item.instance_name == instance]
        if len(chosen) > 1 and not every:
            raise StateError(
                f"{len(chosen)} are up: {', '.join(item.instance for item in chosen)}", "give --env, or --all"
            )
    to_do = []
    for item in chosen:
        folder = deploy.own_folder(root, item)
        if folder and not folder.exists():
            folder = None
        if folder or item.pod or item.containers or item.secrets or (item.volumes and not keep_volumes):
            confirm(item.environment)
            to_do.append((item, folder))
    for item, folder in to_do:
        # A folder made just to be locked would be left behind if we are stopped.
        with state.lock(folder) if folder else nullcontext():
            deploy.down(root, item, engine, console, keep_volumes)
    if not to_do:
        console.say("down", "there is nothing to take down")
