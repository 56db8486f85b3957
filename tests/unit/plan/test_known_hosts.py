"""Host keys: what OpenSSH takes of a known_hosts file is taken here."""

from __future__ import annotations

import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
)
from paramiko import HostKeys

from hubenvs.plan.keys import ssh_key_pair
from hubenvs.plan.known_hosts import host_trust

HOST = "login.example.org"
KEY, OTHER = (ssh_key_pair("")[1].strip() for _ in range(2))


@pytest.mark.parametrize(
    ("text", "port", "keys"),
    [
        (f"{HOST} {KEY} comment", 22, {KEY}),
        (f"# {HOST} {OTHER}\n\nnode,{HOST} {KEY}\n{HOST} {OTHER}", 22, {KEY, OTHER}),
        (f"*.example.org {KEY}", 22, {KEY}),
        (f"LOGIN?.example.org,l?gin.Example.org {KEY}", 22, {KEY}),
        (f"*.example.org,!{HOST} {KEY}", 22, set()),
        (f"{HostKeys.hash_host(HOST)} {KEY}", 22, {KEY}),
        (f"[{HOST}]:2222 {KEY}\n{HOST} {OTHER}", 2222, {KEY}),
        (f"[*.example.org]:2222 {KEY}", 2222, {KEY}),
        (f"[{HOST}]:2222 {KEY}", 22, set()),
        (f"{HOST} {KEY}", 2222, set()),
        (f"{HOST} {KEY}\n{HOST} {OTHER}\n@revoked * {KEY}", 22, {OTHER}),
        (f"{HOST} {KEY}\n@revoked other.example.org {KEY}", 22, {KEY}),
        (f"@cert-authority *.example.org {OTHER}", 22, set()),
        (f"{HOST} sk-unknown@example.org AAAA\n{HOST} {KEY}", 22, {KEY}),
    ],
)
def test_the_keys_of_a_server(text: str, port: int, keys: set[str]) -> None:
    """Patterns, hashed names, ports and markers mean what sshd(8) says."""
    assert host_trust(text, HOST, port).keys == keys
    assert host_trust(text, HOST.title(), port).keys == keys


@pytest.mark.parametrize("text", [f"{HOST} ssh-ed25519", f"{HOST} ssh-ed25519 A", f"@authority {HOST} {KEY}"])
def test_a_line_that_is_no_entry_is_named(text: str) -> None:
    """The line itself is the message."""
    with pytest.raises(ValueError, match="^" + text.split()[0]):
        host_trust(text, HOST, 22)


@pytest.mark.parametrize(
    ("names", "kind", "lasts", "more", "trusted"),
    [
        ([HOST.encode()], SSHCertificateType.HOST, 60, "", True),
        ([b"*.example.org"], SSHCertificateType.HOST, 60, "", True),
        ([b"other"], SSHCertificateType.HOST, 60, "", False),
        ([HOST.encode()], SSHCertificateType.USER, 60, "", False),
        ([HOST.encode()], SSHCertificateType.HOST, -1, "", False),
        ([HOST.encode()], SSHCertificateType.HOST, 60, "@revoked * {ca}", False),
        ([HOST.encode()], SSHCertificateType.HOST, 60, "@revoked * {key}", False),
    ],
)
def test_a_certified_key_is_trusted(
    names: list[bytes], kind: SSHCertificateType, lasts: int, more: str, trusted: bool
) -> None:
    """A host certificate of an authority that the file names: for this server, in time, nothing of it revoked."""
    authority, host = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    ca, key = (
        each.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        for each in (authority, host)
    )
    builder = SSHCertificateBuilder().public_key(host.public_key()).serial(1).type(kind).key_id(b"x")
    builder = builder.valid_principals(names).valid_after(0).valid_before(int(time.time()) + lasts)
    certificate = builder.sign(authority).public_bytes().decode()
    trust = host_trust(f"@cert-authority *.example.org {ca}\n{more.format(ca=ca, key=key)}", HOST, 22)
    assert trust.certified(certificate) == (key if trusted else None)
    assert host_trust(f"{HOST} {ca}", HOST, 22).certified(certificate) is None
    assert trust.certified(key) is None
