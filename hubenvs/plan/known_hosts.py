"""Host keys in known_hosts files, read as OpenSSH reads them (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT). Pure."""

from __future__ import annotations

import base64
import hmac
import re
import time
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
    load_ssh_public_key,
)
from cryptography.hazmat.primitives.serialization.ssh import SSHCertPublicKeyTypes

from .keys import host_pattern

# A public key as OpenSSH writes it: its type, a space, and base64.
PublicKey = str


@dataclass(frozen=True)
class HostTrust:
    """The entries of a known_hosts file for one server: host keys, certificate authorities, revoked keys."""

    hostname: str
    keys: frozenset[PublicKey]
    authorities: frozenset[PublicKey]
    revoked: frozenset[PublicKey]

    def certified(self, certificate: str) -> PublicKey | None:
        """Return the host key in ``certificate`` (a line as in a .pub file); None if it isn't trusted."""
        try:
            identity = load_ssh_public_identity(certificate.encode())
            if not isinstance(identity, SSHCertificate) or identity.type != SSHCertificateType.HOST:
                return None
            identity.verify_cert_signature()
        except (ValueError, UnsupportedAlgorithm, InvalidSignature):
            return None
        names = [name.decode() for name in identity.valid_principals]
        is_named = not names or any(_matches(name, self.hostname) for name in names)
        is_valid = identity.valid_after <= time.time() < identity.valid_before
        signer, key = _line(identity.signature_key()), _line(identity.public_key())
        is_trusted = signer in self.authorities and not {signer, key} & self.revoked
        return key if is_named and is_valid and is_trusted and not identity.critical_options else None


def host_trust(text: str, hostname: str, port: int) -> HostTrust:
    """Return the entries of the known_hosts file ``text`` for the server at ``hostname`` and ``port``.

    A host key counts only if it is listed for that port, an authority or a revoked key also if it is listed
    for the host name alone. Raises ValueError, with the line as its message, for a malformed line.
    """
    hostname = hostname.lower()  # as ssh does, so hashed names are those of this spelling
    keys: dict[str, set[PublicKey]] = {"": set(), "@cert-authority": set(), "@revoked": set()}
    for line in text.splitlines():
        if entry := _entry(line):
            marker, hosts, key = entry
            if _is_about(hosts, host_pattern(hostname, port)) or (marker and _is_about(hosts, hostname)):
                keys[marker].add(key)
    revoked = keys["@revoked"]
    return HostTrust(
        hostname,
        frozenset(keys[""] - revoked),
        frozenset(keys["@cert-authority"] - revoked),
        frozenset(revoked),
    )


def _entry(line: str) -> tuple[str, str, PublicKey] | None:
    """Return marker, hosts and key of a line; None for a comment, or a key of an unknown type."""
    fields = line.split()
    if not fields or fields[0].startswith("#"):
        return None
    marker = fields.pop(0) if fields[0].startswith("@") else ""
    if marker not in ("", "@cert-authority", "@revoked") or len(fields) < 3:
        raise ValueError(line)
    key = " ".join(fields[1:3])
    try:
        if fields[0].startswith("|"):
            _is_about(fields[0], "")  # raises ValueError if it is malformed
        load_ssh_public_key(key.encode())
    except UnsupportedAlgorithm:
        return None
    except ValueError:
        raise ValueError(line) from None
    return marker, fields[0], key


def _is_about(hosts: str, name: str) -> bool:
    """Return whether the first field of a line, hashed or patterns, is about the server ``name``."""
    if hosts.startswith("|"):
        _, _, salt, hashed = hosts.split("|")
        expected = hmac.digest(base64.b64decode(salt), name.encode(), "sha1")
        return hmac.compare_digest(base64.b64encode(expected).decode(), hashed)
    patterns = hosts.split(",")
    denied = any(_matches(pattern[1:], name) for pattern in patterns if pattern.startswith("!"))
    return not denied and any(_matches(pattern, name) for pattern in patterns)


def _matches(pattern: str, name: str) -> bool:
    regex = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(regex, name, re.IGNORECASE) is not None


def _line(key: SSHCertPublicKeyTypes) -> PublicKey:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
