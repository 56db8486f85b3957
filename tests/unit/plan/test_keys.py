"""Keys: their form, and what rotating keeps."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from hubenvs.plan.keys import complete, generate, known_hosts, rotate, ssh_key_pair, without_incomplete_pairs

WANTED = ("ssh_key", "authorized_keys", "munge_key", "crypt_keys", "jwks")


@pytest.fixture(scope="module")
def old() -> dict[str, str]:
    """The keys of a deployment. They are generated once: a signing key takes a tenth of a second."""
    return generate("slurm", 22, WANTED)


def test_an_ssh_pair_belongs_together() -> None:
    """The public line is that of the private key, in OpenSSH's formats."""
    private, public = ssh_key_pair("somebody")
    key = load_ssh_private_key(private.encode(), password=None)
    expected = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert public == f"{expected} somebody"


def test_each_deployment_has_secrets_of_its_own(old: dict[str, str]) -> None:
    """No two deployments share a secret."""
    other = generate("slurm", 22, WANTED)
    assert all(old[key] != other[key] for key in old)
    assert old.keys() == set(WANTED)
    assert old["authorized_keys"].startswith("restrict ssh-ed25519 ")


def test_a_host_key_is_pinned_for_its_port() -> None:
    """Ssh looks a server on another port up as [name]:port."""
    assert known_hosts("slurm", 22, "ssh-ed25519 AAAA x") == "slurm ssh-ed25519 AAAA\n"
    assert known_hosts("slurm", 2222, "ssh-ed25519 AAAA x") == "[slurm]:2222 ssh-ed25519 AAAA\n"


def test_rotating_puts_a_new_crypt_key_before_the_old(old: dict[str, str]) -> None:
    """What the old key encrypted can still be read; everything else is new."""
    new = rotate(old, "slurm", 22)
    assert new["crypt_keys"].split(";")[1:] == [old["crypt_keys"]]
    assert new["crypt_keys"].split(";")[0] != old["crypt_keys"]
    assert all(new[key] != old[key] for key in old)


def test_rotating_keeps_the_last_token_of_the_proxy() -> None:
    """Not more: the next proxy asks the one before by it."""
    first = {"proxy_token": "1" * 64}
    second = rotate(first, "slurm", 22)
    third = rotate(second, "slurm", 22)
    new, kept = second["proxy_token"].split(";")
    assert kept == first["proxy_token"] != new
    assert third["proxy_token"].split(";")[1:] == [new]


@pytest.mark.parametrize("lost", ["ssh_key", "authorized_keys"])
def test_half_of_a_pair_is_no_use(old: dict[str, str], lost: str) -> None:
    """Who has lost one gets two new ones that belong together; the rest stays."""
    left = {key: value for key, value in old.items() if key != lost}
    assert without_incomplete_pairs(left, set(WANTED)).keys() == old.keys() - {"ssh_key", "authorized_keys"}
    assert without_incomplete_pairs(left, left.keys()) == left
    assert without_incomplete_pairs(old, set(WANTED)) == old


def test_a_server_of_another_name_is_pinned_beside_a_missing_key(old: dict[str, str]) -> None:
    """Its public key stays the same; what is missing is generated."""
    wanted = {*WANTED, "ssh_host_ed25519_key", "known_hosts"}
    old = old | generate("slurm", 22, {"ssh_host_ed25519_key", "known_hosts"})
    left = {key: value for key, value in old.items() if key != "jwks"}
    new = complete(left, "login", 2222, wanted)
    assert new["known_hosts"] == old["known_hosts"].replace("slurm", "[login]:2222")
    assert {key: new[key] for key in left if key != "known_hosts"} == {
        key: left[key] for key in left if key != "known_hosts"
    }
    assert new.keys() == wanted


def test_rotating_what_is_left_makes_the_rest(old: dict[str, str]) -> None:
    """After `down --keep-volumes` only the crypt key is left."""
    left = {"crypt_keys": old["crypt_keys"]}
    new = complete(left, "slurm", 22, set(WANTED), rotate_old=True)
    assert new.keys() == set(WANTED)
    assert new["crypt_keys"].split(";")[1:] == [old["crypt_keys"]]
