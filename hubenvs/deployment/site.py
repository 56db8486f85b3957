"""The files that a site puts beside env.yaml, checked before anything is started. They are only read."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from ..definition.environment import Environment
from ..definition.layers import parse_yaml, read_text, shown
from ..errors import DefinitionError
from ..files import write
from ..plan import keys
from ..plan.known_hosts import host_trust

# The value of the Secret key of a site without certificates of its own; it can't be empty.
NO_CERTIFICATES = "# no certificates of the site's own\n"


def read_site_files(env: Environment) -> dict[str, str]:
    """Return the content of the site's files by Secret key; nothing if ``env`` needs none.

    Raises DefinitionError for a file that is missing or can't be used.
    """
    checks = {
        "ssh_key": _key_pair,
        "known_hosts": _known_hosts,
        "zenith_key": _key_pair,
        "zenith_public_key": lambda env, path: read_text(path, env.root),  # checked with its private half
        "zenith_config": _configuration,
        "ca_certificates": _certificates,
    }
    return {key: checks[key](env, path) for key, path in env.site_files.items()}


def create_key_pair(env: Environment) -> str:
    """Create the hub's SSH key pair unless it exists, and return its line for the site's authorized_keys.

    Raises DefinitionError if an existing pair can't be used, or if ``env`` needs none.
    """
    path = env.site_files.get("ssh_key")
    if path is None:
        raise DefinitionError(f"--init: the Slurm of {env.name} is its own", "`invoke up` makes its secrets")
    public = path.with_name(f"{path.name}.pub")
    if not os.path.lexists(path) and not os.path.lexists(public):
        private, line = keys.ssh_key_pair("jupyterhub")
        write(path, private)
        write(public, f"{line}\n")
    _key_pair(env, path)
    return keys.authorized(public.read_text())


def _key_pair(env: Environment, path: Path) -> str:
    """Return the private key at ``path``; its public half must be beside it."""
    name, public = shown(path, env.root), path.with_name(f"{path.name}.pub")
    if not path.exists():
        make = f"`invoke secrets {env.options} --init` makes a key pair"
        if path == env.site_files.get("zenith_key"):
            make = "`zenith-client init` makes it, and registers it with the Zenith server"
        hint = f"put it beside {name}.pub, or remove that" if public.exists() else make
        raise DefinitionError(f"{name}: not there", hint)
    if path.stat().st_mode & 0o077:
        problem = f"others than its owner have access (mode {path.stat().st_mode & 0o777:04o})"
        raise DefinitionError(f"{name}: {problem}", f"chmod 600 {name}")
    text = read_text(path, env.root)
    try:
        key = load_ssh_private_key(text.encode(), password=None)
    except TypeError:
        hint = f"`ssh-keygen -p -N '' -f {name}` removes it"
        raise DefinitionError(f"{name}: has a passphrase, which the hub can't type", hint) from None
    except (ValueError, UnsupportedAlgorithm):
        convert = f"`ssh-keygen -p -N '' -f {name}` converts one in PEM format"
        raise DefinitionError(f"{name}: not a private key in OpenSSH's format", convert) from None
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    remedy = f"`ssh-keygen -y -f {name} > {name}.pub`, if {name} is the right one"
    if not public.exists():
        raise DefinitionError(f"{name}.pub: not there", remedy)
    if read_text(public, env.root).split()[:2] != line.split():
        raise DefinitionError(f"{name}.pub: not the public half of {name}", remedy)
    return text


def _configuration(env: Environment, path: Path) -> str:
    """Return the tunnel client's configuration at ``path``."""
    text = read_text(path, env.root)
    parse_yaml(text, shown(path, env.root))
    return text


def _certificates(env: Environment, path: Path) -> str:
    """Return the certificates at ``path``, in PEM format; without the file, a text without certificates."""
    from cryptography import x509

    if not os.path.lexists(path):  # a link that leads nowhere is an error
        return NO_CERTIFICATES
    name, text = shown(path, env.root), read_text(path, env.root)
    if "PRIVATE KEY" in text:
        hint = "keep that elsewhere; certificates are enough"
        raise DefinitionError(f"{name}: contains a private key", hint)
    try:
        x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        hint = f"`openssl x509 -inform der -in FILE -out {name}` converts one, if it is in the other format"
        raise DefinitionError(f"{name}: not certificates in PEM format", hint) from None
    return text


def _known_hosts(env: Environment, path: Path) -> str:
    """Return the known_hosts file at ``path``, with a key of slurm.ssh_hostname or of its authority."""
    name, host, port = shown(path, env.root), env.slurm.ssh_hostname, env.slurm.ssh_port
    compare = "compare their fingerprints with those that the site publishes"
    scan = f"`ssh-keyscan -p {port} {host}` prints its keys: {compare}"
    if not path.exists():
        raise DefinitionError(f"{name}: not there", scan)
    if path.stat().st_mode & 0o002:
        raise DefinitionError(f"{name}: everybody can write it", f"chmod o-w {name}")
    text = read_text(path, env.root)
    try:
        trust = host_trust(text, host, port)
    except ValueError as error:
        raise DefinitionError(f"{name}: not a host key: {error}", "correct the line") from None
    if not trust.keys and not trust.authorities:
        raise DefinitionError(f"{name}: has no key of {keys.host_pattern(host, port)}", scan)
    return text
