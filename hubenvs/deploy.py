"""The stages that change what runs: volumes, secrets, play, down; and `status`, which looks."""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import archive, images, keys, ready, render, repositories, site, state
from .console import Console
from .engine import (
    Engine,
    Holdings,
    instance_of,
    play_argv,
    rootless,
    volume_argv,
    volume_data_argv,
)
from .errors import CommandError, PortError, StateError
from .model import (
    CONTAINERS,
    LABEL_CHECKOUT,
    LABEL_DIGEST,
    LABEL_ENVIRONMENT,
    LABEL_RECIPE,
    PORTS,
    Endpoint,
    Environment,
    Volume,
    checkout_id,
    deploy_folder,
    pod_name,
)

PASSWORD_KEY = "dummyauth_password"  # the name of the key, not a password
# What must outlive `down --keep-volumes`: the database that is kept is encrypted with it.
KEPT_WITH_VOLUMES = ("crypt_keys",)
# How long a container may take to stop before podman kills it, in seconds; ours take well under one.
STOP_TIMEOUT = 2


@dataclass(frozen=True)
class Deployed:
    """What the engine has of one deployment, found by label (secrets, which have none, by derived name)."""

    instance: str
    pod: Mapping[str, Any] | None
    containers: tuple[Mapping[str, Any], ...]
    volumes: tuple[str, ...]
    secrets: tuple[str, ...]
    environment: str
    checkout: str

    @property
    def instance_name(self) -> str | None:
        """Return what --instance was when it was brought up."""
        return self.instance.removeprefix(pod_name(self.environment, None)).removeprefix("-") or None

    @property
    def holds_ports(self) -> bool:
        """Return whether the pod listens on what it publishes, whatever has become of the containers in it."""
        return self.pod is not None and self.pod["Status"] in ("Running", "Degraded", "Paused")

    def state(self, env: Environment | None) -> str:
        """Return ``up``, ``degraded``, ``stopped`` or ``partial`` (parts without a pod).

        ``env``, if it is known, says how many containers there have to be.
        """
        if self.pod is None or not self.containers:
            return "partial"
        running = [container["State"] == "running" for container in self.containers]
        whole = env is None or len(running) == len(env.containers)
        return "up" if whole and all(running) else "degraded" if any(running) else "stopped"


def find(there: Holdings) -> dict[str, Deployed]:
    """Return all deployments of which there is anything, by instance (the pod's name)."""
    labels: dict[str, Mapping[str, str]] = {}
    for described in (*there.volumes, *there.containers, *there.pods):
        if instance := instance_of(described):
            labels[instance] = described["Labels"]
    return {
        instance: Deployed(
            instance=instance,
            pod=next((pod for pod in there.pods if instance_of(pod) == instance), None),
            containers=tuple(item for item in there.containers if instance_of(item) == instance),
            volumes=tuple(sorted(item["Name"] for item in there.volumes if instance_of(item) == instance)),
            secrets=tuple(sorted(there.secrets & _derived_names(instance))),
            environment=found.get(LABEL_ENVIRONMENT, ""),
            checkout=found.get(LABEL_CHECKOUT, ""),
        )
        for instance, found in sorted(labels.items())
    }


def look(env: Environment, there: Holdings) -> Deployed:
    """Return what there is of ``env``."""
    return find(there).get(env.pod) or leftovers(env.pod, env.name, checkout_id(env.root), there)


def leftovers(pod: str, environment: str, checkout: str, there: Holdings) -> Deployed:
    """Return what is left of a deployment that has nothing labelled any more: its Secrets, by their names."""
    secrets = tuple(sorted(there.secrets & _derived_names(pod)))
    return Deployed(pod, None, (), (), secrets, environment, checkout)


def _derived_names(pod: str) -> set[str]:
    """Return what podman calls the containers of ``pod``, and we its Secrets."""
    return {f"{pod}-{container}" for container in CONTAINERS}


# -- volumes -------------------------------------------------------------------------------------------------------


def seeds(env: Environment) -> dict[str, dict[str, bytes]]:
    """Return each seeded volume's files: the common ones, under the overlays that apply.

    Overlays are, in order, that of the kind of authentication, that of the environment, and those it names.
    """
    result: dict[str, dict[str, bytes]] = {}
    for volume in env.volumes:
        if volume.seeded:
            tree: dict[str, bytes] = {}
            for folder in seed_folders(env):
                tree.update(archive.read_tree(folder / volume.suffix))
            result[volume.name] = render.seed_files(env, tree)
    return result


def seed_folders(env: Environment) -> tuple[Path, ...]:
    """Return the folders of seed files; what a later one has wins."""
    names = ("common", f"auth-{env.auth.kind}", env.name)
    return (*(env.root / "volumes" / name for name in names), *env.overlay_folders)


def seed_source(env: Environment, volume: Volume, name: str) -> Path | None:
    """Return the file that ``name`` in ``volume`` is seeded from, or None if none is."""
    found = (folder / volume.suffix / f"{name}{end}" for folder in reversed(seed_folders(env)) for end in ("", ".j2"))
    return next((path for path in found if path.is_file()), None)


def make_volumes(env: Environment, engine: Engine, console: Console) -> None:
    """Make the volumes of ``env`` that aren't there, and bring changed seed files into those that are."""
    there = engine.volume_names()
    seed = seeds(env)

    def make(volume: Volume) -> list[str]:
        current: dict[str, bytes] = {}
        if volume.name not in there:
            engine.run(volume_argv(volume.name, env.labels))
        elif volume.seeded:
            current = archive.unpack(engine.run(volume_data_argv("export", volume.name)).stdout)
        if not volume.seeded:
            return []
        seeding = archive.seeding(seed[volume.name], current)
        if seeding.files:
            tar = archive.pack(seeding.files, volume.owner)
            engine.run(volume_data_argv("import", volume.name), stdin=tar)
        return [f"{volume.suffix}: {note}" for note in seeding.notes]

    notes = engine.at_once([partial(make, volume) for volume in env.volumes])
    kept = sum(volume.name in there for volume in env.volumes)
    made = len(env.volumes) - kept
    console.say("volumes", ", ".join(text for count, text in ((made, f"made {made}"), (kept, f"kept {kept}")) if count))
    for note in itertools.chain.from_iterable(notes):
        console.say("volumes", note)


# -- secrets -------------------------------------------------------------------------------------------------------


def make_secrets(env: Environment, console: Console, rotate: bool = False) -> dict[str, str]:
    """Return the secrets of ``env`` from its deploy folder, made first if they aren't there or ``rotate`` is set.

    What a site owns is never made: it is read anew from the site's files.
    """
    folder = env.deploy_folder
    own = site.read(env)
    values = state.read_secrets(folder)
    where = (env.slurm.ssh_hostname, env.slurm.ssh_port)
    if rotate and values:
        made, text = keys.rotate(values, *where), "rotated; the new crypt key stands before the old"
    else:
        # What is there stays: after `down --keep-volumes` that is the crypt key.
        wanted = env.secret_keys - own.keys()
        made = {**keys.deployment(*where, wanted), **keys.without_halves(values, wanted)}
        text = "kept" if made.keys() | own.keys() == values.keys() else "made"
        if text == "kept" and "known_hosts" in made:
            made["known_hosts"] = _pinned(made["known_hosts"], *where)
    made |= own
    if env.dummy_password:
        made[PASSWORD_KEY] = env.dummy_password.get_secret_value()
    if made != values:
        state.write_secrets(folder, made)
    console.say("secrets", f"{text} ({len(made)} keys in {folder.relative_to(env.root) / state.SECRETS})")
    return made


def _pinned(known_hosts: str, hostname: str, port: int) -> str:
    """Return ``known_hosts`` for a server whose name or port may have changed in the definition."""
    return keys.known_hosts(hostname, port, " ".join(known_hosts.split()[1:]))


# -- play ----------------------------------------------------------------------------------------------------------


def documents(
    env: Environment, builds: tuple[images.Build, ...], values: Mapping[str, str]
) -> tuple[render.Document, ...]:
    """Return the manifest of ``env``, with everything it depends on in the pod's digest."""
    of = images.of_containers(env, builds)
    files = {f"{volume}/{name}": data for volume, tree in seeds(env).items() for name, data in tree.items()}
    recipe = render.manifest(env, {name: build.recipe for name, build in of.items()}, values, {})
    labels = {LABEL_RECIPE: render.pod_digest(recipe)}
    return render.manifest(env, {name: build.tag for name, build in of.items()}, values, files, labels)


def play(
    env: Environment, manifest: tuple[render.Document, ...], deployed: Deployed, engine: Engine, console: Console
) -> bool:
    """Play ``manifest`` where there is ``deployed`` so far; return False if the pod that runs is that already.

    A pod that differs is replaced. A play that fails or is interrupted takes down what it began.
    """
    if deployed.pod:
        if made_of(env, deployed.pod) == render.pod_digest(manifest) and deployed.state(env) == "up":
            console.say("play", f"pod {env.pod} is up and unchanged")
            return False
        console.say("play", f"replacing pod {env.pod}")
    if deployed.pod or deployed.secrets:
        clear(env.pod, engine)
    require_free(env, engine)
    # The volumes are there by now, and podman 4.3 refuses a claim for one that is.
    played = [document for document in manifest if document["kind"] != "PersistentVolumeClaim"]
    try:
        engine.run(play_argv(engine.version(), rootless()), stdin=render.dump(played).encode(), whole=True)
    except BaseException as error:
        clear(env.pod, engine)
        if isinstance(error, CommandError):
            require_free(env, engine)  # another `up` may have been faster to its port
        raise
    console.say("play", f"pod {env.pod}: {', '.join(env.containers)}")
    return True


def made_of(env: Environment, pod: Mapping[str, Any]) -> str:
    """Return the digest of what ``pod`` is made of now: as it was played, or as `reload` left it."""
    record = state.read_record(env.deploy_folder)
    return record["digest"] if record.get("reloaded") == pod["Id"] else pod["Labels"].get(LABEL_DIGEST, "")


def reloaded(
    env: Environment, manifest: tuple[render.Document, ...], whole: bool, engine: Engine, console: Console
) -> None:
    """Keep what the pod is made of after a reload: ``manifest``, if that has been brought in ``whole``.

    Otherwise it is nothing that a manifest describes, and the next `up` replaces it.
    """
    described = engine.json(("podman", "pod", "inspect", env.pod))
    pod = described[0] if isinstance(described, list) else described  # podman 5 makes a list of it
    if whole and pod["Labels"].get(LABEL_RECIPE) != render.pod_digest(manifest, LABEL_RECIPE):
        whole = False
        console.say("reload", f"more than that has changed: `invoke up {env.options}` replaces the pod")
    digest = render.pod_digest(manifest) if whole else "mixed"
    record = state.read_record(env.deploy_folder)
    state.write_record(env.deploy_folder, {**record, "reloaded": pod["Id"], "digest": digest})


def refuse_foreign(env: Environment, deployed: Deployed, there: Holdings) -> None:
    """Raise StateError if ``deployed`` is another checkout's, or somebody has a pod or a volume of one of its names."""
    if deployed.checkout != checkout_id(env.root):
        raise StateError(
            f"{env.pod} is up already, from another checkout", "give this one a name of its own with --instance NAME"
        )
    hint = "it isn't ours to touch: remove it by hand, or take --instance NAME"
    if deployed.pod is None and any(pod["Name"] == env.pod for pod in there.pods):
        raise StateError(f"there is a pod {env.pod} without this suite's labels", hint)
    if others := {volume.name for volume in env.volumes} & there.volume_names - set(deployed.volumes):
        raise StateError(f"there is a volume {min(others)} without this suite's labels", hint)


def clear(pod: str, engine: Engine, grace: int = STOP_TIMEOUT, volumes: Iterable[str] = ()) -> None:
    """Remove ``pod`` with its Secrets, the volumes podman keeps beside those, and ``volumes``, where they are.

    ``grace`` is how many seconds a container has to end by itself.
    """
    there = engine.holdings()
    for found in there.pods:
        if instance_of(found) == pod:  # another one of that name is somebody else's
            if found["Status"] != "Running":  # podman 5 can't end a container that is paused
                engine.run(("podman", "pod", "unpause", found["Id"]), check=False)
            _remove_pod(found["Id"], engine, grace)
    names = _derived_names(pod)
    tidy = [("podman", "secret", "rm", *secrets)] if (secrets := sorted(names & there.secrets)) else []
    # A container that podman was killed in making is in its storage alone, and no other can have the name until it is
    # gone. One that podman knows by a name of ours is somebody's, and left alone.
    known = {name for item in there.containers for name in item["Names"]}
    if unknown := sorted(names - known):
        tidy.append(("podman", "rm", "--force", "--ignore", *unknown))
    engine.at_once([partial(engine.run, argv) for argv in tidy])
    if gone := sorted(names.union(volumes) & there.volume_names):
        engine.run(("podman", "volume", "rm", "--force", *gone))


def _remove_pod(pod: str, engine: Engine, grace: int) -> None:
    # Stopped first: `pod rm --force` of podman 4.3 waits out its whole time for each container, however soon it ends.
    engine.run(("podman", "pod", "stop", "--ignore", f"--time={grace}", pod), check=False, whole=True)
    remove = ("podman", "pod", "rm", "--force", "--ignore", f"--time={STOP_TIMEOUT}", pod)
    removed = engine.run(remove, check=False, whole=True)
    if removed.returncode != 0 and engine.run(("podman", "pod", "exists", pod), check=False).returncode == 0:
        raise StateError(f"pod {pod} can't be removed", "see what podman says", removed.stderr.splitlines())


def require_free(env: Environment, engine: Engine) -> None:
    """Raise PortError, saying who has it if that can be told, unless all that ``env`` publishes can be listened on."""
    for container, endpoint in env.published.items():
        if (problem := port_problem(endpoint)) is None:
            continue
        holder = ""
        if problem == "is taken":
            listing = engine.run(("ss", "-Hltnp", f"sport = :{endpoint.port}"), check=False).text
            holder = listing.partition('users:(("')[2].partition('"')[0]
            for pod in engine.json(("podman", "ps", "--format=json")):
                if any(port.get("host_port") == endpoint.port for port in pod.get("Ports") or ()):
                    holder = f"container {pod['Names'][0]}"
        by = f" by {holder}" if holder else ""
        raise PortError(
            f"publish.{container}: port {endpoint.port} {problem}{by}", f"--set publish.{container}=127.0.0.1:PORT"
        )


def port_problem(endpoint: Endpoint) -> str | None:
    """Return what keeps this user from listening on ``endpoint``, or None."""
    family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((endpoint.address, endpoint.port))
        except PermissionError:
            return "needs root (it is below 1024)"
        except OSError as error:
            return "is taken" if error.errno == errno.EADDRINUSE else f"can't be had ({error.strerror})"
    return None


def with_ports(env: Environment, declared: Container[str]) -> Environment:
    """Return ``env`` with the ports that this deployment has.

    An instance gets those it had before, or the next free ones, for each container whose port isn't ``declared``. The
    hub's API stays where compute nodes were told that it is.
    """
    if env.instance is None:
        return env
    record = state.read_record(env.deploy_folder)
    stay = {name for name in env.published if name in declared or name == "hub-api"}
    ports = {name: endpoint.port for name, endpoint in env.published.items() if name in stay}
    for name, endpoint in env.published.items():
        if name in stay:
            continue
        free = (
            port
            for port in range(endpoint.port, min(endpoint.port + 1000, 65536))
            if port not in ports.values() and port_problem(endpoint.model_copy(update={"port": port})) is None
        )
        before = record.get(name, "")
        ports[name] = int(before) if before.isdecimal() and int(before) < 65536 else next(free, endpoint.port)
    return env.model_copy(update={"publish": env.publish.on(ports)})


# -- down ----------------------------------------------------------------------------------------------------------


def down(root: Path, deployed: Deployed, engine: Engine, console: Console, keep_volumes: bool = False) -> None:
    """Take ``deployed`` down: pod, Secrets, volumes (unless ``keep_volumes``) and its deploy folder."""
    if keep_volumes:
        clear(deployed.instance, engine)
    else:
        # No grace: what the containers would still write goes with the volumes.
        clear(deployed.instance, engine, grace=0, volumes=deployed.volumes)
    if folder := own_folder(root, deployed):
        state.remove(folder, keep=KEPT_WITH_VOLUMES if keep_volumes else ())
    kept = f", kept {len(deployed.volumes)} volumes" if keep_volumes else ""
    console.say("down", f"{deployed.instance} is gone{kept}")


def own_folder(root: Path, deployed: Deployed) -> Path | None:
    """Return the deploy folder of ``deployed`` in this checkout, or None if it is another checkout's."""
    if deployed.checkout != checkout_id(root):
        return None
    return deploy_folder(root, deployed.environment, deployed.instance_name)


# -- status --------------------------------------------------------------------------------------------------------


def status(
    root: Path, deployments: Mapping[str, Deployed], environments: Iterable[Environment], engine: Engine
) -> list[dict[str, Any]]:
    """Return what `status --json` prints of ``deployments``; ``environments`` are their definitions."""
    by_pod = {env.pod: env for env in environments}
    rows = []
    for instance, deployed in deployments.items():
        env = by_pod.get(instance)
        folder = own_folder(root, deployed)
        password = folder / state.SECRETS / PASSWORD_KEY if folder else None
        state_now = deployed.state(env)
        hub_url, gateway_url = (_published_url(deployed, env, name) for name in ("jupyterhub", "gateway"))
        rows.append(
            {
                "env": deployed.environment,
                "instance": deployed.instance_name,
                "state": state_now if state_now != "up" or _answers(env, engine) else "starting",
                "url": hub_url or gateway_url,
                "gateway_url": gateway_url,
                "user": (env.user or None) if env and folder else None,
                "password_file": str(password) if password and password.exists() else None,
                "pod": instance if deployed.pod else None,
                "containers": [{"name": item["Names"][0], "state": item["State"]} for item in deployed.containers],
                "volumes": list(deployed.volumes),
                "secrets": list(deployed.secrets),
                "repositories": repositories.describe(env, engine) if env and folder else [],
            }
        )
    return rows


def _published_url(deployed: Deployed, env: Environment | None, name: str) -> str | None:
    """Return where container ``name`` is published, as the engine has it, whatever the definition says now."""
    path = env.base_url.rstrip("/") if env else "/"
    for container in deployed.containers:
        for port in container.get("Ports") or ():
            if port.get("container_port") == PORTS[name] and port.get("host_port"):
                return f"http://{port.get('host_ip') or '127.0.0.1'}:{port['host_port']}{path}"
    return None


def _answers(env: Environment | None, engine: Engine) -> bool:
    """Return whether the hub of ``env`` answers; one whose definition isn't known is taken to."""
    return env is None or "jupyterhub" not in env.containers or ready.hub_answers(env, engine)
