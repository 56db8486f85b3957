"""A hub among what a site has: its Slurm and its identity provider in a pod of their own, and a tunnel's far end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .helpers import (
    CONTAINERS,
    ROOT,
    START,
    CommandError,
    Engine,
    HubUser,
    StateError,
    assert_no_more_rights,
    entry,
    first_process,
    free_port,
    http_status,
    invoke,
    rootless,
)
from .site import (  # noqa: F401
    HOST,
    PORT,
    SITES,
    TUNNEL,
    USERS,
    FarEnd,
    Hub,
    Site,
    address,
    far_end_fixture,
    options,
    site_fixture,
    tunnel_fixture,
)

outside_slurm = pytest.mark.environments("dev_dummyauth_extslurm", "prod")
tunnelled = pytest.mark.environments("dev_realauth_zenithclient", "prod")
pytestmark = [
    pytest.mark.environments(*SITES),
    pytest.mark.skipif(
        rootless(), reason="without root, pods have no network in which they could find each other"
    ),
]
# The tunnel client's image.
CLIENT = "ghcr.io/azimuth-cloud/zenith-client:0.16.1"
# Prints a cookie's value as it was signed some hours ago; reads the secret of the signature.
AGED = """
import sys, time
from tornado.web import create_signed_value, decode_signed_value
secret, (_, name, value, hours) = bytes.fromhex(sys.stdin.read().strip()), sys.argv
content = decode_signed_value(secret, name, value.strip('"'))
aged = create_signed_value(secret, name, content, clock=lambda: time.time() - 3600 * float(hours))
print(aged.decode())
"""


@pytest.fixture(scope="module")
def client(engine: Engine, request: pytest.FixtureRequest) -> str:
    """The tunnel client's image: the real one, if it can be had."""
    image = CLIENT
    try:
        engine.run(("podman", "pull", "--quiet", CLIENT), timeout=60)
    except CommandError:
        image = TUNNEL
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        print(f"\nthe tunnel's client is {image}")
    return image


@pytest.fixture(scope="module")
def hub(
    env_name: str,
    instance: str,
    site: Site,
    here: str,
    engine: Engine,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Hub]:
    """The environment, defined but not up yet."""
    folder = tmp_path_factory.mktemp("site")
    settings = [f"site_folder={folder}", "hub.poll_interval=2", f"network={site.network}"]
    if "slurm" in SITES[env_name]:
        endpoint = f"{here}:{free_port(here)}"
        settings += [
            f"slurm.ssh_hostname={HOST}",
            f"slurm.ssh_port={PORT}",
            f"slurm.host_aliases=[{{ip: {address(engine, site.slurm)}, hostnames: [{HOST}, node1]}}]",
            f"slurm.hub_connect_url=http://{endpoint}",
            f"publish.hub-api={endpoint}",
            "slurm.wrappers_bin=/opt/slurmspawner_wrappers/bin",
            "slurm.env_prefix=/opt/jupyter",
            "slurm.jupyter_data_dir=/opt/jupyter/share/jupyter",
        ]
    if "oidc-provider" in SITES[env_name]:
        settings += [
            f"auth.oidc_server={site.issuer}",
            "auth.platform=dev.platform",
            "auth.audience=jupyterhub",
        ]
    if env_name == "dev_realauth":
        settings.append(f"publish.jupyterhub=127.0.0.1:{free_port()}")
    elif "oidc-provider" in SITES[env_name]:
        far_end, image = request.getfixturevalue("far_end"), request.getfixturevalue("client")
        settings += [f"zenith.server_address={address(engine, far_end.container)}", f"zenith.image={image}"]
    if env_name != "prod":
        settings.append(USERS)
    # Not the one that other tests bring up; there is no room for a longer name.
    named = ("--env", env_name, "--instance", instance.replace("it", "h"))
    try:
        yield Hub(named, tuple(settings), folder)
    finally:
        invoke("down", *named, "--yes")


def refusal(hub: Hub) -> str:
    """Return why the hub is not brought up, which must be said in two lines, with nothing made."""
    refused = invoke(*hub.up, check=False)
    assert refused.returncode == 1
    assert [line.partition(":")[0] for line in refused.stderr.splitlines()] == ["error", "hint"]
    assert entry(hub.named[-1]) is None
    return refused.stderr


@outside_slurm
def test_what_a_site_must_have_is_asked_for_one_after_the_other(hub: Hub, site: Site) -> None:
    """Keys, then host keys: each `up` names what is missing and how to get it, and makes nothing."""
    assert f"invoke secrets {' '.join(hub.named)} --init" in refusal(hub)
    line = invoke("secrets", *hub.named, *hub.settings, "--init").stdout.splitlines()[-1]
    assert line.startswith("restrict ssh-ed25519 ")
    site.let_in(f"{line}\n")
    assert f"`ssh-keyscan -p {PORT} {HOST}`" in refusal(hub)
    (hub.folder / "ssh_known_hosts").write_text(site.known_hosts)


@tunnelled
def test_the_tunnels_key_is_asked_for(hub: Hub) -> None:
    """It is known at the other end, so it is none that could be made here."""
    assert "zenith_client_key: not there\nhint: `zenith-client init`" in refusal(hub)


@pytest.mark.environments("prod")
def test_prod_is_not_brought_up_unasked(hub: Hub) -> None:
    """Where there is nobody to ask, only --yes does it."""
    refused = invoke("up", *hub.named, *hub.settings, check=False)
    assert "up --env prod: there is nobody to ask\nhint: give --yes" in refused.stderr


@pytest.mark.environments("dev_dummyauth_extslurm")
def test_a_user_works_at_the_site(hub: Hub) -> None:
    """Log-in, a job on the site's node, a kernel in it that the hub's proxy reaches, and the job gone after a stop."""
    held = re.search(r"SSH from the hub to Slurm: (\d+) proofs hold", invoke(*hub.moved()).stdout)
    # Log-in by both ways; three wrappers; another command, two variables, root's rights twice.
    assert held is not None
    assert int(held[1]) >= 10
    walked = invoke("verify", *hub.named).stdout
    assert "42 alice.project1" in walked
    assert "all well" in walked


@pytest.mark.environments("dev_realauth")
def test_a_user_works_with_a_provider_elsewhere(hub: Hub, site: Site, tmp_path: Path) -> None:
    """A ConfigMap that names one leaves the bundled provider and the gateway out; its tokens log in at the hub."""
    invoke(*hub.moved())
    token = tmp_path / "token"
    token.write_text(invoke("token", *site.named, "--user", "alice").stdout)
    walked = invoke("verify", *hub.named, "--token-file", str(token)).stdout
    assert "42 alice.project1" in walked
    assert "all well" in walked


@tunnelled
@pytest.mark.usefixtures("tunnel")
def test_a_user_works_through_the_tunnel(
    hub: Hub, site: Site, far_end: FarEnd, engine: Engine, tmp_path: Path
) -> None:
    """The same by way of the tunnel alone, with a token of a provider elsewhere: no port of the hub is published.

    The tunnel's client has no capability.
    """
    invoke(*hub.moved())
    status = entry(hub.named[-1])
    assert status is not None
    assert status["url"] is None
    client = first_process(engine, f"{status['pod']}-zenith-client")
    assert_no_more_rights(client, CONTAINERS["zenith-client"])
    token = tmp_path / "token"
    token.write_text(invoke("token", *site.named, "--user", "alice").stdout)
    walked = invoke(
        "verify", *hub.named, "--url", f"{far_end.url()}/jupyter", "--token-file", str(token)
    ).stdout
    assert "42 alice.project1" in walked
    assert "all well" in walked


def test_the_next_up_has_the_settings_of_the_config_map(hub: Hub) -> None:
    """They aren't lost without the option, and none of them falls back to a default."""
    kept = (
        "network",
        "publish.",
        "slurm.host_aliases",
        "slurm.ssh_port",
        "zenith.image",
        "hub.poll_interval",
    )
    rest = [value for value in hub.values if value.startswith(kept)]
    assert "is up and unchanged" in invoke("up", *hub.named, *options(*rest), "--yes").stdout


@pytest.mark.environments("prod")
def test_prod_is_strict(hub: Hub, site: Site, far_end: FarEnd, engine: Engine) -> None:
    """A log-in lasts 12 h and its end is the tunnel's; no named servers; a job has one node."""
    container, sign_out = (
        f"jupyterhub-slurm-prod-{hub.named[-1]}-jupyterhub",
        "/jupyter/_oidc/sign_out?rd=%2Fjupyter",
    )
    secret = ROOT / ".deploy" / f"prod-{hub.named[-1]}" / "secrets/cookie_secret"
    url, token = f"{far_end.url()}/jupyter", invoke("token", *site.named, "--user", "alice").stdout.strip()
    with HubUser(url) as user:
        user.log_in_with(token)
        (session,) = (
            cookie for cookie in user.http.cookies.jar if cookie.name.startswith("jupyterhub-hub-login")
        )
        for hours, page in ((11, "/jupyter/hub/home"), (13, "/jupyter/hub/login")):
            aged = ("/opt/jupyterhub/bin/python", "-c", AGED, session.name, str(session.value), str(hours))
            value = engine.run(
                engine.exec_command(container, *aged, interactive=True), stdin=secret.read_bytes()
            ).text
            answer = httpx.get(
                f"{url}/hub/home", cookies={session.name: value}, trust_env=False, timeout=START
            )
            where = answer.headers.get("Location", "/jupyter/hub/home").partition("?")[0]
            assert where == page, f"after {hours} h"
        with pytest.raises(StateError, match="400"):
            user.api("POST", "/users/alice/servers/second")
        user.spawn({"brics_project": "project1.brics"})
        user.wait_ready(START)
        (job,) = engine.exec(site.slurm, "squeue", "--noheader", "--format=%i").text.split()
        script = engine.exec(site.slurm, "scontrol", "write", "batch_script", job, "-").text
        assert "#SBATCH --nodes=1\n" in script
        user.stop(START)
        left = user.http.get(f"{url}/hub/logout", follow_redirects=False)
        assert left.headers["Location"] == sign_out
    headers = {"X-Auth-Id-Token": f"{token}x"}
    refused = httpx.get(f"{url}/hub/login", headers=headers, trust_env=False, timeout=START)
    assert (refused.status_code, refused.headers["Location"]) == (302, "/jupyter/hub/logout")


@pytest.mark.environments("prod")
def test_prod_has_nothing_of_a_developers(hub: Hub, engine: Engine) -> None:
    """Its image is that of stage-prod, and it knows no dev users."""
    pod = f"jupyterhub-slurm-prod-{hub.named[-1]}"
    image = engine.run(("podman", "inspect", "--format={{.ImageName}}", f"{pod}-jupyterhub")).text
    assert image.partition(":")[2].startswith("prod-")
    assert (
        engine.run(
            engine.exec_command(f"{pod}-jupyterhub", "printenv", "DEPLOY_CONFIG_DEV_USERS"), check=False
        ).text
        == ""
    )


@pytest.mark.environments("prod")
def test_prod_is_not_taken_down_unasked(hub: Hub) -> None:
    """Not by its name, and not as the one that is up either."""
    for named in (hub.named, hub.named[2:]):
        refused = invoke("down", *named, check=False)
        assert "down --env prod: there is nobody to ask\nhint: give --yes" in refused.stderr
    assert (entry(hub.named[-1]) or {})["state"] == "up"


@outside_slurm
def test_check_notices_that_the_site_has_shut_the_key_out(hub: Hub, site: Site) -> None:
    """What the site decides is told as that, with where to look."""
    public = (hub.folder / "ssh_client_key.pub").read_text()
    site.let_in("")
    try:
        refused = invoke("check", *hub.named, check=False)
    finally:
        site.let_in(f"restrict {public}")
    assert refused.returncode == 1
    assert "AuthenticationException" in refused.stderr
    assert f"the logs of sshd and sudo on {HOST} show why" in refused.stderr


@pytest.mark.environments("dev_realauth_zenithclient")
def test_a_tunnel_that_was_cut_is_there_again(far_end: FarEnd, engine: Engine) -> None:
    """The client tries again by itself, and the hub is found where the far end says."""
    before = far_end.url()
    engine.run(engine.exec_command(far_end.container, "pkill", "-u", "zenith"))
    assert http_status(f"{far_end.url(before)}/jupyter/hub/health") == 200
