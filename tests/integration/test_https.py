"""A provider elsewhere that is asked by HTTPS, with a certificate of an authority that only the site knows."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .helpers import START, Engine, entry, free_port, invoke, settings, sign, signing_keys

pytestmark = pytest.mark.environments("dev_realauth")

CLAIMS = {
    "project1.brics": {"name": "One", "resources": [{"name": "dev.platform", "username": "alice.project1"}]}
}


def name(text: str) -> x509.Name:
    """Return the X.509 name of what is called ``text``."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    *extensions: x509.ExtensionType,
) -> bytes:
    """Return the certificate that ``issuer`` gives ``subject`` for a day."""
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder(name(issuer), name(subject), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    for extension in extensions:
        builder = builder.add_extension(
            extension, critical=isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
        )
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)


def made_certificates(address: str) -> tuple[bytes, bytes]:
    """Return an authority's certificate, and a server's at ``address`` that it vouches for, with the server's key."""
    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"),
        False,
    )
    signs = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, decipher_only=False, **usage
    )
    ours = certificate(
        "site", authority, "site", authority, x509.BasicConstraints(ca=True, path_length=0), signs
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    theirs = certificate(address, server, "site", authority, names, purpose)
    return ours, theirs + server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True)
class Provider:
    """A provider with nothing but its documents: its URL, its signing keys, and its authority's certificate."""

    issuer: str
    key_set: str
    authority: bytes

    def token(self) -> str:
        """Return a token of alice's."""
        now = int(time.time())
        identity = {"iss": self.issuer, "aud": "jupyterhub", "sub": "alice", "iat": now, "exp": now + 300}
        return sign({**identity, "short_name": "alice", "projects": CLAIMS}, self.key_set)


@pytest.fixture(scope="module")
def provider(here: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """The provider, listening."""
    key_set = signing_keys()
    private = json.loads(key_set)["keys"][0]
    public = {key: private[key] for key in ("kty", "n", "e", "kid", "alg", "use")}
    documents: dict[str, object] = {"/jwks": {"keys": [public]}}

    class Documents(http.server.BaseHTTPRequestHandler):
        """Answers with the document at the request's path."""

        def do_GET(self) -> None:
            """Send the document."""
            body = json.dumps(documents[self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    authority, server = made_certificates(here)
    own = tmp_path_factory.mktemp("provider") / "server.pem"
    own.write_bytes(server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    with http.server.ThreadingHTTPServer((here, 0), Documents) as listening:
        issuer = f"https://{here}:{listening.server_port}"
        documents["/.well-known/openid-configuration"] = {"issuer": issuer, "jwks_uri": f"{issuer}/jwks"}
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield Provider(issuer, key_set, authority)
        listening.shutdown()


def test_the_sites_authority_is_trusted_where_it_is_given(
    instance: str, provider: Provider, engine: Engine, tmp_path: Path
) -> None:
    """Without it a log-in ends in 503 and one line in the log; with it beside env.yaml the same log-in works."""
    named = ("--env", "dev_realauth", "--instance", f"{instance}-https")
    definition = settings(
        dev_users="[alice.project1]",
        site_folder=str(tmp_path),
        auth__provider="external",
        auth__oidc_server=provider.issuer,
        publish__jupyterhub=f"127.0.0.1:{free_port()}",
    )

    def up() -> httpx.Response:
        invoke("up", *named, *definition)
        status = entry(named[-1])
        assert status is not None
        headers = {"X-Auth-Id-Token": provider.token()}
        return httpx.get(f"{status['url']}/hub/login", headers=headers, trust_env=False, timeout=START)

    try:
        assert up().status_code == 503
        logged = engine.logs(f"jupyterhub-slurm-dev-realauth-{named[-1]}-jupyterhub", 200)
        (told,) = [line for line in logged if "OpenID Connect provider unavailable" in line]
        assert "certificate verify failed" in told
        assert "Traceback" not in "".join(logged)
        (tmp_path / "ca.pem").write_bytes(provider.authority)
        assert up().status_code == 302
    finally:
        invoke("down", *named)
