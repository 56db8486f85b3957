"""Keys and passwords, made afresh for a deployment; pure, but for the randomness."""

from __future__ import annotations

import json
import secrets
from collections.abc import Container, Mapping, Set

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

# JupyterHub takes a crypt key of exactly 32 bytes (it is a Fernet key), here as hexadecimal digits. munge takes 32 to
# 1024 bytes and its own mungekey makes 128; 64 as hexadecimal digits are 128 that can be carried as text.
CRYPT_KEY_BYTES = 32
MUNGE_KEY_BYTES = 64
# 15 bytes are 20 characters, 120 bits: nothing to guess, still something to type.
PASSWORD_BYTES = 15
# RFC 7518, section 3.3: RS256 needs 2048 at least.
RSA_BITS = 2048
PAIRS = ({"ssh_key", "authorized_keys"}, {"ssh_host_ed25519_key", "known_hosts"})


def ssh_key_pair(comment: str) -> tuple[str, str]:
    """Return a new ed25519 pair: the private key in OpenSSH's format, and the public line ending in ``comment``."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return private, f"{public} {comment}"


def known_hosts(hostname: str, port: int, public_key: str) -> str:
    """Return the known_hosts line that pins ``public_key`` to the server at ``hostname`` and ``port``."""
    kind, key, *_ = public_key.split()
    return f"{host_pattern(hostname, port)} {kind} {key}\n"


def host_pattern(hostname: str, port: int) -> str:
    """Return what a known_hosts file calls the server at ``hostname`` and ``port``."""
    return hostname if port == 22 else f"[{hostname}]:{port}"


def authorized(public_key: str) -> str:
    """Return the authorized_keys line that lets the owner of ``public_key`` run commands, and nothing else."""
    # `restrict`: no forwarding of any kind, no terminal, no ~/.ssh/rc.
    return f"restrict {public_key.strip()}\n"


def signing_keys() -> str:
    """Return a new JSON Web Key Set with one private key to sign ID tokens with (RS256, which every client takes)."""
    from jwt.algorithms import RSAAlgorithm  # here: it takes 50 ms to import, and only a provider needs it

    key = RSAAlgorithm.to_jwk(rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS), as_dict=True)
    return json.dumps({"keys": [{**key, "kid": secrets.token_hex(8), "alg": "RS256", "use": "sig"}]})


def deployment(hostname: str, port: int, wanted: Container[str]) -> dict[str, str]:
    """Return new secrets, those ``wanted``, for a deployment whose hub reaches sshd at ``hostname`` and ``port``."""
    client, client_public = ssh_key_pair("jupyterhub")
    host, host_public = ssh_key_pair("slurm")
    made = {
        "ssh_key": client,
        "authorized_keys": authorized(client_public),
        "ssh_host_ed25519_key": host,
        "known_hosts": known_hosts(hostname, port, host_public),
        "munge_key": secrets.token_hex(MUNGE_KEY_BYTES),
        "crypt_keys": secrets.token_hex(CRYPT_KEY_BYTES),
        "cookie_secret": secrets.token_hex(CRYPT_KEY_BYTES),
        "dummyauth_password": secrets.token_urlsafe(PASSWORD_BYTES),
        "client_secret": secrets.token_hex(CRYPT_KEY_BYTES),
        "cookie_keys": secrets.token_hex(CRYPT_KEY_BYTES),
        "crypto_passphrase": secrets.token_hex(CRYPT_KEY_BYTES),
    }
    if "jwks" in wanted:  # takes a tenth of a second
        made["jwks"] = signing_keys()
    return {key: value for key, value in made.items() if key in wanted}


def without_halves(old: Mapping[str, str], wanted: Set[str]) -> dict[str, str]:
    """Return ``old`` without either half of a key pair of which a half that is ``wanted`` is gone: no new one fits."""
    halves = {key for pair in PAIRS if wanted & pair - old.keys() for key in pair}
    return {key: value for key, value in old.items() if key not in halves}


def rotate(old: Mapping[str, str], hostname: str, port: int) -> dict[str, str]:
    """Return new secrets in place of ``old``; the new crypt key stands before the old ones.

    JupyterHub encrypts with the first crypt key and decrypts with any, so what the database holds stays readable.
    """
    new = deployment(hostname, port, old.keys())
    if "crypt_keys" in old:
        new["crypt_keys"] = ";".join((new["crypt_keys"], *old["crypt_keys"].split(";")))
    return new
