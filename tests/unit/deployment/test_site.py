"""What a site owns: made only when asked for, never overwritten, and refused before anything is started."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import NameOID

from hubenvs.definition.environment import Environment
from hubenvs.definition.read import read_environment
from hubenvs.deployment import site
from hubenvs.errors import DefinitionError
from hubenvs.files import write
from hubenvs.plan.keys import known_hosts, ssh_key_pair
from hubenvs.stages.secrets import generate_secrets

from ..helpers import session

FOLDER = Path("envs/dev_dummyauth_extslurm")


@pytest.fixture
def env(root: Path) -> Environment:
    """An environment whose Slurm is elsewhere, as its example has it, with keys."""
    env = read_environment(root, "dev_dummyauth_extslurm")
    site.create_key_pair(env)
    return env


def locked_key() -> bytes:
    encryption = BestAvailableEncryption(b"secret")
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption)


def test_a_pair_is_made_once_and_its_line_restricts_it(env: Environment) -> None:
    """Asking again prints the same line, for a key that can run commands and nothing else."""
    line = site.create_key_pair(env)
    assert line.startswith("restrict ssh-ed25519 ")
    assert site.create_key_pair(env) == line
    assert {path.stat().st_mode & 0o777 for path in env.site_data.glob("ssh_client_key*")} == {0o600}


def test_the_sites_files_become_the_secrets(env: Environment) -> None:
    """The hub gets the site's key and host keys; only the deployment's own keys are generated."""
    made = generate_secrets(session(env))
    assert made.keys() == env.secret_keys
    for key, path in env.site_files.items():
        assert made[key] == path.read_text()
    (env.root / FOLDER / "ssh_known_hosts").write_text(
        known_hosts("login.example.org", 22, ssh_key_pair("x")[1])
    )
    again = generate_secrets(session(env), rotate=True)
    assert again["known_hosts"] != made["known_hosts"]
    assert again["ssh_key"] == made["ssh_key"]


@pytest.mark.parametrize("hosts", ["@cert-authority *.example.org", "*.example.org", "|1|"])
def test_what_openssh_takes_is_taken(env: Environment, hosts: str) -> None:
    """Authorities, wildcards and hashed names are as good as the server's own name."""
    from paramiko import HostKeys

    hosts = HostKeys.hash_host("login.example.org") if hosts == "|1|" else hosts
    text = f"@revoked * {ssh_key_pair('')[1]}\n{hosts} {ssh_key_pair('')[1]}\n"
    (env.root / FOLDER / "ssh_known_hosts").write_text(text)
    assert site.read_site_files(env)["known_hosts"] == text


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: (f / "ssh_client_key").unlink(), r"ssh_client_key: not there: put it beside envs/.*\.pub"),
        (
            lambda f: [file.unlink() for file in f.glob("ssh_client*")],
            r"not there: `invoke secrets .* --init` makes",
        ),
        (lambda f: (f / "ssh_client_key.pub").unlink(), r"ssh_client_key.pub: not there: `ssh-keygen -y"),
        (
            lambda f: (f / "ssh_client_key").chmod(0o644),
            r"ssh_client_key: others .* \(mode 0644\): chmod 600",
        ),
        (lambda f: (f / "ssh_client_key").write_bytes(locked_key()), r"ssh_client_key: has a passphrase"),
        (
            lambda f: (f / "ssh_client_key").write_text("-----BEGIN"),
            r"ssh_client_key: not a private key in OpenSSH's",
        ),
        (
            lambda f: (f / "ssh_client_key.pub").write_text(ssh_key_pair("x")[1]),
            r"\.pub: not the public half of envs/",
        ),
        (
            lambda f: (f / "ssh_known_hosts").unlink(),
            r"ssh_known_hosts: not there: `ssh-keyscan -p 22 login.example",
        ),
        (lambda f: (f / "ssh_known_hosts").chmod(0o666), r"ssh_known_hosts: everybody can write it"),
        (
            lambda f: (f / "ssh_known_hosts").write_text(""),
            r"ssh_known_hosts: has no key of login\.example\.org",
        ),
        (
            lambda f: (f / "ssh_known_hosts").write_text("login.example.org ssh-ed25519 A\n"),
            r"known_hosts: not a host",
        ),
    ],
)
def test_what_cannot_work_is_refused(env: Environment, spoil: Callable[[Path], object], told: str) -> None:
    """One line names the file and what to do."""
    spoil(env.root / FOLDER)
    with pytest.raises(DefinitionError, match=told) as caught:
        site.read_site_files(env)
    assert str(FOLDER) in caught.value.message
    assert "\n" not in str(caught.value)


def test_the_tunnels_files_are_asked_for(root: Path) -> None:
    """Its key is made where it is made known, and its configuration is a mapping."""
    env = read_environment(root, "prod")
    site.create_key_pair(env)
    with pytest.raises(
        DefinitionError, match=r"envs/prod/zenith_client_key: not there: `zenith-client init` makes it"
    ):
        site.read_site_files(env)
    key, configuration = env.site_files["zenith_key"], env.site_files["zenith_config"]
    for path, content in zip((key, key.with_name(f"{key.name}.pub")), ssh_key_pair("tunnel"), strict=True):
        write(path, content)
    assert site.read_site_files(env).keys() == {
        "ssh_key",
        "known_hosts",
        "zenith_key",
        "zenith_public_key",
        "zenith_config",
        "ca_certificates",
    }
    configuration.write_text("- a")
    with pytest.raises(DefinitionError, match=r"envs/prod/zenith_client\.yaml: not one mapping"):
        site.read_site_files(env)


def test_where_slurm_is_in_the_pod_no_key_is_made(root: Path) -> None:
    """The hub's key for it is made with the other secrets."""
    with pytest.raises(DefinitionError, match="--init: the Slurm of dev_dummyauth is its own"):
        site.create_key_pair(read_environment(root, "dev_dummyauth"))


def test_a_host_key_must_be_pinned_for_the_port(root: Path) -> None:
    """OpenSSH looks a server on another port up as [name]:port."""
    env = read_environment(root, "dev_dummyauth_extslurm", settings=["slurm.ssh_port=2222"])
    site.create_key_pair(env)
    with pytest.raises(DefinitionError, match=r"has no key of \[login\.example\.org\]:2222"):
        site.read_site_files(env)


def test_half_a_pair_is_not_completed(env: Environment) -> None:
    """A public key whose private half is elsewhere stays, and nothing is made beside it."""
    (env.root / FOLDER / "ssh_client_key").unlink()
    with pytest.raises(DefinitionError, match="ssh_client_key: not there"):
        site.create_key_pair(env)


def test_the_files_can_be_outside_the_checkout(root: Path, tmp_path: Path) -> None:
    """`site_folder` says where a site keeps them."""
    env = read_environment(root, "dev_dummyauth_extslurm", settings=[f"site_folder={tmp_path}/keys"])
    assert env.site_files["ssh_key"] == tmp_path / "keys/ssh_client_key"


@pytest.fixture
def abroad(root: Path) -> Environment:
    """An environment whose hub asks a provider elsewhere."""
    settings = ["auth.provider=external", "auth.oidc_server=https://idp.example.org"]
    return read_environment(root, "dev_realauth", settings=settings)


def authority() -> str:
    key, name = Ed25519PrivateKey.generate(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    return made.sign(key, None).public_bytes(Encoding.PEM).decode()


def test_a_sites_authorities_are_given_to_the_hub(abroad: Environment) -> None:
    """They need not be there; a Secret has no empty value, so it says that there are none."""
    assert site.read_site_files(abroad) == {"ca_certificates": site.NO_CERTIFICATES}
    made = authority() + authority()
    abroad.site_files["ca_certificates"].write_text(made)
    assert site.read_site_files(abroad) == {"ca_certificates": made}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "ca.pem: not certificates in PEM format: `openssl x509 -inform der"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "ca.pem: not certificates in PEM format",
        ),
        (ssh_key_pair("x")[0], "ca.pem: contains a private key"),
    ],
)
def test_what_are_no_authorities_is_refused(abroad: Environment, content: str, told: str) -> None:
    """One line names the file and what to do."""
    abroad.site_files["ca_certificates"].write_text(content)
    with pytest.raises(DefinitionError, match=told) as caught:
        site.read_site_files(abroad)
    assert "\n" not in str(caught.value)


def test_a_link_that_leads_nowhere_is_no_site_without_authorities(abroad: Environment) -> None:
    """The hub would not trust the provider, and nobody would know why."""
    abroad.site_files["ca_certificates"].symlink_to("absent")
    with pytest.raises(DefinitionError, match=r"ca\.pem: can't be read"):
        site.read_site_files(abroad)


def test_nobody_elses_provider_needs_no_authorities(root: Path) -> None:
    """The bundled provider is asked without TLS, and a password by nobody."""
    for name in ("dev_realauth", "dev_dummyauth"):
        assert "ca_certificates" not in read_environment(root, name).secret_keys
