"""Stage `secrets`: keys and passwords of the deployment, generated into its deploy folder."""

from __future__ import annotations

from pathlib import Path

from ..definition.containers import PASSWORD_KEY
from ..definition.environment import Environment
from ..deployment import folder
from ..deployment.site import create_key_pair, read_site_files
from ..errors import StateError
from ..plan import keys
from ..session import Session
from .build import build_images
from .play import play
from .wait import wait


def secrets(session: Session, rotate: bool = False, init: bool = False) -> None:
    """Generate missing secrets.

    ``rotate``: replace the existing ones, and restart the pod with the new ones if it is up. ``init``: only
    create the site's SSH key pair, and print the line for its authorized_keys.
    """
    if init:
        line = create_key_pair(session.env)
        session.console.say("secrets", f"key pair in {session.env.site_data}")
        session.console.say("", f"for the authorized_keys of {session.env.ssh_target}:")
        print(line, end="")
        return
    with session.locked():
        restart = rotate and session.existing().pod is not None
        if restart:
            # First, because the new pod runs the working copies as they are now.
            build_images(session, pull=session.engine.cluster_engine() is None)
        generate_secrets(session, rotate)
        if restart:
            play(session)
            wait(session)


def _require_new_database(session: Session) -> None:
    """Raise StateError if a cluster has a database already: a new crypt key can't read it."""
    env, place = session.env, _place(session.env)
    claim = f"{env.pod}-jupyterhub-data"
    if session.engine.cluster_engine() and claim in session.existing().listing.volume_names:
        problem = f"claim {claim} has a database, and its crypt key is neither in the cluster nor in {place}"
        hint = f"copy {place}/crypt_keys from the checkout that ran `down`, or from a backup"
        raise StateError(problem, hint)


def _place(env: Environment) -> Path:
    """Return the folder of the secrets, relative to the checkout."""
    return env.deploy_folder.relative_to(env.root) / folder.SECRETS


def generate_secrets(session: Session, rotate: bool = False) -> dict[str, str]:
    """Return the secrets from the deploy folder; missing ones, and with ``rotate`` all, are generated.

    Keys that a site owns are never generated: they are read from the site's files each time.
    """
    env = session.env
    site_values = read_site_files(env)
    local = folder.read_secrets(env.deploy_folder)
    # A cluster's Secrets win: another checkout may have created them.
    in_cluster = session.engine.secret_values([secret.name for secret in env.secrets])
    # After `down --keep-volumes` the old crypt key is still here, and stays.
    old = keys.with_all_crypt_keys(local, in_cluster)
    wanted = env.secret_keys - site_values.keys()
    if "crypt_keys" in wanted - old.keys():
        _require_new_database(session)
    values = keys.complete(old, env.slurm.ssh_hostname, env.slurm.ssh_port, wanted, rotate)
    text = "kept" if wanted <= old.keys() else "made"
    if rotate and old:
        text = "rotated; the old crypt key stays, for what is encrypted with it"
    values |= site_values
    if env.dummy_password:
        values[PASSWORD_KEY] = env.dummy_password.get_secret_value()
    if values != local:
        folder.write_secrets(env.deploy_folder, values)
    session.console.say("secrets", f"{text} ({len(values)} keys in {_place(env)})")
    return values
