"""The stages `secrets` and `play`: keys and passwords of a deployment, and the pod that is played with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from . import deployed, images, keys, ports, render, site, state, volumes
from .commands import play_argv
from .console import Console
from .deployed import Deployed
from .engine import Engine
from .errors import CommandError, StateError
from .model import PASSWORD_KEY, Environment
from .names import LABEL_DIGEST, LABEL_RECIPE

# A pod that is made of this is no manifest's: part of a reload has been brought in. The next `up` replaces it.
MIXED = "mixed"


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
        made = keys.rotate(values, *where)
        text = "rotated; the old crypt key stays, for what is encrypted with it"
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
    files = {f"{volume}/{name}": data for volume, tree in volumes.seeds(env).items() for name, data in tree.items()}
    recipe = render.manifest(env, {name: build.recipe for name, build in of.items()}, values, {})
    labels = {LABEL_RECIPE: render.pod_digest(recipe)}
    return render.manifest(env, {name: build.tag for name, build in of.items()}, values, files, labels)


def play(
    env: Environment, manifest: tuple[render.Document, ...], found: Deployed, engine: Engine, console: Console
) -> bool:
    """Play ``manifest`` where ``found`` is so far; return False if the pod that runs is that already.

    A pod that differs is replaced. A play that fails or is interrupted takes down what it began.
    """
    if found.pod:
        if made_of(env, found.pod) == render.pod_digest(manifest) and found.state(env) == "up":
            console.say("play", f"pod {env.pod} is up and unchanged")
            return False
        ports.require_free(env, engine, found.held_ports)  # before what runs is taken away
        console.say("play", f"replacing pod {env.pod}")
    if found.pod or found.secrets:
        deployed.clear(found, engine)
    ports.require_free(env, engine)
    # The volumes are there by now, and podman 4.3 refuses a claim for one that is.
    played = [document for document in manifest if document["kind"] != "PersistentVolumeClaim"]
    try:
        engine.run(play_argv(engine.network), stdin=render.dump(played).encode(), whole=True)
    except BaseException as error:
        deployed.clear(deployed.look(engine.holdings(), env.root, env.name, env.instance), engine)
        if isinstance(error, CommandError):
            ports.require_free(env, engine)  # another `up` may have been faster to its port
        raise
    console.say("play", f"pod {env.pod}: {', '.join(env.containers)}")
    return True


def made_of(env: Environment, pod: Mapping[str, Any]) -> str:
    """Return the digest of what ``pod`` is made of now: as it was played, or as `reload` left it."""
    record = state.read_record(env.deploy_folder)
    return record["digest"] if record.get("reloaded") == pod["Id"] else pod["Labels"].get(LABEL_DIGEST, "")


def inspect_pod(env: Environment, engine: Engine) -> Mapping[str, Any]:
    """Return what podman says of the pod of ``env``; raise StateError if there is none."""
    described = engine.run(("podman", "pod", "inspect", env.pod), check=False)
    if described.returncode != 0:
        raise StateError(f"{env.pod} is not up", f"invoke up {env.options}", described.stderr.splitlines()[-3:])
    pod = json.loads(described.stdout)
    found: Mapping[str, Any] = pod[0] if isinstance(pod, list) else pod  # podman 5 makes a list of it
    return found


def remember_made_of(env: Environment, pod: Mapping[str, Any], digest: str) -> None:
    """Keep that ``pod`` is made of what has ``digest``, until it is replaced."""
    record = state.read_record(env.deploy_folder)
    state.write_record(env.deploy_folder, {**record, "reloaded": pod["Id"], "digest": digest})


def reloaded(env: Environment, pod: Mapping[str, Any], manifest: tuple[render.Document, ...], console: Console) -> None:
    """Keep that ``pod`` is as ``manifest`` says, unless more has changed than a reload brings in."""
    if pod["Labels"].get(LABEL_RECIPE) == render.pod_digest(manifest, LABEL_RECIPE):
        remember_made_of(env, pod, render.pod_digest(manifest))
    else:
        console.say("reload", f"more than that has changed: `invoke up {env.options}` replaces the pod")
