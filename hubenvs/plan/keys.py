"""Generate the keys and passwords of a deployment. Pure, except for the randomness."""

from __future__ import annotations

import json
import secrets
from collections.abc import Container, Mapping, Set

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ..definition.containers import PASSWORD_KEY, PROVIDER_PASSWORD_KEY

# JupyterHub requires a crypt key of 32 bytes (a Fernet key), here as hexadecimal digits. munge accepts 32 to
# 1024 bytes; 64 bytes as hexadecimal digits are the 128 that mungekey generates, as text.
CRYPT_KEY_BYTES = 32
MUNGE_KEY_BYTES = 64
# 120 bits can't be guessed, and their 20 characters can still be typed.
PASSWORD_BYTES = 15
# RFC 7518, section 3.3: RS256 needs 2048 at least.
RSA_BITS = 2048
# Secrets that are CRYPT_KEY_BYTES random bytes, written as hexadecimal digits.
HEXADECIMAL = (
    "crypt_keys", "cookie_secret", "proxy_token", "client_secret", "cookie_keys", "crypto_passphrase",
)  # fmt: skip
PAIRS = ({"ssh_key", "authorized_keys"}, {"ssh_host_ed25519_key", "known_hosts"})


def ssh_key_pair(comment: str) -> tuple[str, str]:
    """Return a new ed25519 key pair in OpenSSH's format: private key, and public line with ``comment``."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return private, f"{public} {comment}"


def known_hosts(hostname: str, port: int, public_key: str) -> str:
    """Return the known_hosts line that pins ``public_key`` to the server at ``hostname`` and ``port``."""
    kind, key, *_ = public_key.split()
    return f"{host_pattern(hostname, port)} {kind} {key}\n"


def host_pattern(hostname: str, port: int) -> str:
    """Return the name of the server at ``hostname`` and ``port`` in known_hosts files."""
    return hostname if port == 22 else f"[{hostname}]:{port}"


def authorized(public_key: str) -> str:
    """Return an authorized_keys line that lets the owner of ``public_key`` run commands, nothing else."""
    # `restrict`: no forwarding of any kind, no terminal, no ~/.ssh/rc.
    return f"restrict {public_key.strip()}\n"


def signing_keys() -> str:
    """Return a new JSON Web Key Set with one private RSA key that signs ID tokens (RS256)."""
    from jwt.algorithms import RSAAlgorithm  # takes 50 ms, and only a provider needs it

    private = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    key = RSAAlgorithm.to_jwk(private, as_dict=True)
    return json.dumps({"keys": [{**key, "kid": secrets.token_hex(8), "alg": "RS256", "use": "sig"}]})


def generate(hostname: str, port: int, wanted: Container[str]) -> dict[str, str]:
    """Return new values for the keys ``wanted``. The hub reaches sshd at ``hostname`` and ``port``."""
    client, client_public = ssh_key_pair("jupyterhub")
    host, host_public = ssh_key_pair("slurm")
    values = {
        "ssh_key": client,
        "authorized_keys": authorized(client_public),
        "ssh_host_ed25519_key": host,
        "known_hosts": known_hosts(hostname, port, host_public),
        "munge_key": secrets.token_hex(MUNGE_KEY_BYTES),
        PASSWORD_KEY: secrets.token_urlsafe(PASSWORD_BYTES),
        PROVIDER_PASSWORD_KEY: secrets.token_urlsafe(PASSWORD_BYTES),
        **{key: secrets.token_hex(CRYPT_KEY_BYTES) for key in HEXADECIMAL},
    }
    if "jwks" in wanted:  # takes a tenth of a second
        values["jwks"] = signing_keys()
    return {key: value for key, value in values.items() if key in wanted}


def without_incomplete_pairs(old: Mapping[str, str], wanted: Set[str]) -> dict[str, str]:
    """Drop both halves of an incomplete pair from ``old``; they must be regenerated together."""
    incomplete = [pair for pair in PAIRS if wanted & (pair - old.keys())]
    return {key: value for key, value in old.items() if key not in set().union(*incomplete)}


def complete(
    old: Mapping[str, str], hostname: str, port: int, wanted: Set[str], rotate_old: bool = False
) -> dict[str, str]:
    """Return the secrets ``old``, with new values for the keys ``wanted`` that it lacks.

    ``hostname`` and ``port``: where the hub reaches sshd. ``rotate_old``: replace the values of ``old`` too.
    """
    kept = without_incomplete_pairs(old, wanted)
    values = generate(hostname, port, wanted - kept.keys())
    values |= rotate(kept, hostname, port) if rotate_old else kept
    if "known_hosts" in values:  # the server's name or port may have changed
        public_key = " ".join(values["known_hosts"].split()[1:])
        values["known_hosts"] = known_hosts(hostname, port, public_key)
    return values


def with_all_crypt_keys(local: Mapping[str, str], cluster: Mapping[str, str]) -> dict[str, str]:
    """Return ``local`` overridden by ``cluster``, but the crypt keys of both.

    Either may have encrypted the database.
    """
    values = {**local, **cluster}
    if "crypt_keys" in local.keys() & cluster.keys():
        both = f"{cluster['crypt_keys']};{local['crypt_keys']}".split(";")
        values["crypt_keys"] = ";".join(dict.fromkeys(map(str.strip, both)))
    return values


def rotate(old: Mapping[str, str], hostname: str, port: int) -> dict[str, str]:
    """Return new values for the keys of ``old``, with a new crypt key in front of the old ones.

    JupyterHub encrypts with the first crypt key and decrypts with any, so its database stays readable. The
    next proxy takes over the routes of the one before with the last token, which it doesn't accept itself.
    """
    new = generate(hostname, port, old.keys())
    for key, kept in (("crypt_keys", None), ("proxy_token", 1)):
        if key in old:
            new[key] = ";".join((new[key], *old[key].split(";")[:kept]))
    return new
