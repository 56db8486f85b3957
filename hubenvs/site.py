"""What a site owns and the suite only reads: the files beside env.yaml, checked before anything is started."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from . import keys, state
from .errors import DefinitionError
from .layers import parse_yaml, read_text, shown
from .model import Environment

# What stands in a Secret, which can't be empty, for the certificates of a site that has none of its own.
NO_CERTIFICATES = "# no certificates of the site's own\n"


def read(env: Environment) -> dict[str, str]:
    """Return the Secrets' values that come from the site's files, by key; nothing if ``env`` needs none.

    Raises DefinitionError, naming the file and what to do, for one that isn't there or can't be used.
    """
    checks = {
        "ssh_key": _key_pair,
        "known_hosts": _known_hosts,
        "zenith_key": _key_pair,
        "zenith_config": _configuration,
        "ca_certificates": _certificates,
    }
    return {key: checks[key](env, path) for key, path in env.site_files.items()}


def init(env: Environment) -> str:
    """Make the hub's key pair if it isn't there, and return its line for the site's authorized_keys.

    Nothing is overwritten. Raises DefinitionError if a pair that is there can't be used, or if ``env`` needs none.
    """
    path = env.site_files.get("ssh_key")
    if path is None:
        raise DefinitionError(f"--init: the Slurm of {env.name} is its own", "`invoke up` makes its secrets")
    public = path.with_name(f"{path.name}.pub")
    if not os.path.lexists(path) and not os.path.lexists(public):
        made = keys.ssh_key_pair("jupyterhub")
        for file, content in ((path, made[0]), (public, f"{made[1]}\n")):
            state.write(file, content)
    _key_pair(env, path)
    return keys.authorized(public.read_text())


def _key_pair(env: Environment, path: Path) -> str:
    """Return the private key at ``path``, beside which its public half stands."""
    name, public = shown(path, env.root), path.with_name(f"{path.name}.pub")
    if not path.exists():
        make = f"`invoke secrets {env.options} --init` makes a key pair"
        if path == env.site_files.get("zenith_key"):
            make = "`zenith-client init` makes it, and has it known at the other end"
        hint = f"put it beside {name}.pub, or take that away" if public.exists() else make
        raise DefinitionError(f"{name}: not there", hint)
    if path.stat().st_mode & 0o077:
        mode = path.stat().st_mode & 0o777
        raise DefinitionError(f"{name}: others than its owner have access (mode {mode:04o})", f"chmod 600 {name}")
    text = read_text(path, env.root)
    try:
        key = load_ssh_private_key(text.encode(), password=None)
    except TypeError:
        hint = f"`ssh-keygen -p -N '' -f {name}` takes it away"
        raise DefinitionError(f"{name}: has a passphrase, and the hub has nobody to type it", hint) from None
    except (ValueError, UnsupportedAlgorithm):
        raise DefinitionError(f"{name}: not a private key in OpenSSH's format", "make another") from None
    own = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    remedy = f"`ssh-keygen -y -f {name} > {name}.pub`, if {name} is the right one"
    if not public.exists():
        raise DefinitionError(f"{name}.pub: not there", remedy)
    if read_text(public, env.root).split()[:2] != own.split():
        raise DefinitionError(f"{name}.pub: not the public half of {name}", remedy)
    return text


def _configuration(env: Environment, path: Path) -> str:
    """Return the tunnel client's configuration at ``path``."""
    text = read_text(path, env.root)
    parse_yaml(text, shown(path, env.root))
    return text


def _certificates(env: Environment, path: Path) -> str:
    """Return the certificates at ``path``, in PEM format; if there is no such file, text that has none."""
    from cryptography import x509

    if not path.exists():
        return NO_CERTIFICATES
    name, text = shown(path, env.root), read_text(path, env.root)
    if "PRIVATE KEY" in text:
        raise DefinitionError(f"{name}: has a private key in it", "keep that elsewhere; certificates are enough")
    try:
        x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        hint = f"`openssl x509 -inform der -in FILE -out {name}` converts one, if it is in the other format"
        raise DefinitionError(f"{name}: not certificates in PEM format", hint) from None
    return text


def _known_hosts(env: Environment, path: Path) -> str:
    """Return the known_hosts file at ``path``, which has a key of the server that ``env`` names."""
    from paramiko import HostKeys
    from paramiko.hostkeys import InvalidHostKey

    name, host, port = shown(path, env.root), env.slurm.ssh_hostname, env.slurm.ssh_port
    scan = f"`ssh-keyscan -p {port} {host}` prints its keys: compare their fingerprints with what the site says"
    if not path.exists():
        raise DefinitionError(f"{name}: not there", scan)
    if path.stat().st_mode & 0o002:
        raise DefinitionError(f"{name}: everybody can write it", f"chmod o-w {name}")
    text = read_text(path, env.root)
    try:
        known = HostKeys(str(path)).lookup(keys.host_pattern(host, port))
    except InvalidHostKey as error:
        raise DefinitionError(f"{name}: not a host key: {error.line}", "correct the line") from None
    if not known:
        raise DefinitionError(f"{name}: has no key of {keys.host_pattern(host, port)}", scan)
    return text
