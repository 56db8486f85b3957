"""Who reaches which port: jobs, other accounts of this host, pods of other deployments."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from .helpers import ACCOUNT, Deployment, invoke, restart, rootless, slowdown, wait_until

pytestmark = pytest.mark.environments("dev_dummyauth")


# Tries for as long as its input is open to listen on each port of the pod's services, and prints those that it got.
PORT_THIEF = """
import select, socket, sys
got = set()
while not select.select([sys.stdin], [], [], 0.001)[0]:
    for port in map(int, sys.argv[1:]):
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")):
            with socket.socket(family) as listener:
                for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):  # also while old connections end
                    listener.setsockopt(socket.SOL_SOCKET, option, 1)
                try:
                    listener.bind((address, port))
                    listener.listen()
                except OSError:
                    continue
                got.add(port)
print("got", *sorted(got), flush=True)
"""
OWN_PORT = 40123  # one that a job may have, so that the thief is known to work


@contextlib.contextmanager
def port_thief(deployment: Deployment, *ports: int) -> Iterator[Callable[[], list[int]]]:
    """Have a job try to get at ``ports`` while the block runs; the function given ends it and says which it got."""
    slurm = f"{deployment.status['pod']}-slurm"
    job = ("srun", "--quiet", "--chdir=/", "python3", "-c", PORT_THIEF, *map(str, (*ports, OWN_PORT)))
    command = deployment.engine.exec_command(slurm, *job, user=ACCOUNT, interactive=True)
    thief = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def got() -> list[int]:
        output = thief.communicate(b"\n", timeout=60)[0].decode()
        assert output.startswith("got ")
        return [int(port) for port in output.split()[1:]]

    with thief:
        wait_until(lambda: "RUNNING" in deployment.jobs().values(), 60, "the job doesn't start")
        yield got


def test_a_job_gets_no_port_of_the_pods_services(deployment: Deployment) -> None:
    """Not while hub, proxy, Slurm's daemons, sshd or the whole hub container restart; and the hub comes back."""
    hub = f"{deployment.status['pod']}-jupyterhub"
    with port_thief(deployment, 8000, 8001, 8080, 8081, 9000, 6817, 6819, 22) as got:
        for service in ("jupyterhub", "configurable-http-proxy"):
            restart(deployment, "jupyterhub", service)
            wait_until(lambda: deployment.health == 200, 60 * slowdown(), f"{service} did not come back")
        for service in ("slurmctld", "slurmd-node1", "sshd"):
            restart(deployment, "slurm", service)
        deployment.engine.run(("podman", "restart", hub))
        wait_until(lambda: deployment.health == 200, 60 * slowdown(), "the hub did not come back")
        assert got() == [OWN_PORT]


@pytest.mark.environments("dev_realauth")
def test_a_job_gets_no_port_of_provider_or_gateway(deployment: Deployment) -> None:
    """Not while their containers restart: at the provider's port it could sign tokens as anybody."""
    containers = [f"{deployment.status['pod']}-{name}" for name in ("oidc-provider", "gateway")]
    ports = published_ports(deployment)
    assert {8080} < ports  # the gateway's; the provider has the same in the pod as on this host
    with port_thief(deployment, *ports) as got:
        deployment.engine.run(("podman", "restart", *containers))
        wait_until(lambda: gateway_answers(deployment), 60 * slowdown(), "the log-in did not come back")
        assert got() == [OWN_PORT]


def published_ports(deployment: Deployment) -> set[int]:
    """Return the ports in the pod that its manifest publishes."""
    containers = [f"{deployment.status['pod']}-{name}" for name in ("jupyterhub", "gateway", "oidc-provider")]
    listed = {item.name: item.ports for item in deployment.engine.listing().containers}
    return {port.container_port for name in containers for port in listed.get(name, ())}


def gateway_answers(deployment: Deployment) -> bool:
    """Return whether the gateway leads to the provider's page."""
    with contextlib.suppress(httpx.HTTPError):
        page = httpx.get(deployment.status["gateway_url"], follow_redirects=True, trust_env=False)
        return "Choose a user" in page.text
    return False


def reached_by_nobody(address: str, port: int) -> bool:
    """Return whether another account of this host can connect to ``port`` of a pod's ``address``."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    connect = ("timeout", "3", "bash", "-c", f">/dev/tcp/{address}/{port}")
    return subprocess.run((*nobody, *connect), stderr=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.environments("dev_dummyauth", "dev_realauth")
def test_other_accounts_and_pods_reach_only_what_is_published(deployment: Deployment) -> None:
    """A rootful pod has an address: there only the ports answer that its manifest publishes."""
    rows = deployment.run_in("slurm", "cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()
    ends = [row.split()[1].split(":") for row in rows if row.split()[3] == "0A"]
    everywhere = {int(port, 16) for address, port in ends if not address.endswith("0100007F")}
    published = published_ports(deployment)
    assert published
    assert everywhere == published
    if not rootless():
        address = deployment.run_in("slurm", "hostname", "-I").split()[0]
        tried = {*published, 8001, 8081, 22, 6817}
        assert {port for port in tried if reached_by_nobody(address, port)} == published


connected_alone = pytest.mark.skipif(
    rootless(), reason="without root each pod is connected by itself: there is no network to share"
)
# Listen as a job may, until the input ends; and connect, as whoever can.
LISTEN = "import socket, sys; s = socket.create_server(('', int(sys.argv[1]))); print(flush=True); sys.stdin.read()"
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"


@connected_alone
def test_another_pod_reaches_no_port_of_a_job(deployment: Deployment) -> None:
    """What a job listens on answers to this host at the pod's address, and not to a pod of another deployment."""
    podman, pod = deployment.engine.run, deployment.status["pod"]
    address = deployment.run_in("slurm", "hostname", "-I").split()[0]
    image = podman(("podman", "inspect", "--format={{.ImageName}}", f"{pod}-slurm")).text
    other = deployment.engine.network_command(f"{pod}-other", {})
    assert other is not None
    job = ("srun", "--quiet", "--chdir=/", "python3", "-c", LISTEN, str(OWN_PORT))
    command = deployment.engine.exec_command(f"{pod}-slurm", *job, user=ACCOUNT, interactive=True)
    podman(other)
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listener:
            assert listener.stdout is not None
            listener.stdout.readline()
            connect = ("--entrypoint=python3", image, "-c", CONNECT, address, str(OWN_PORT))
            ends = [
                podman(("podman", "run", "--rm", f"--network={network}", *connect), check=False)
                for network in (pod, f"{pod}-other")
            ]
            listener.communicate(timeout=60)
    finally:
        podman(("podman", "network", "rm", f"{pod}-other"))
    assert ends[0].returncode == 0, ends[0].stderr
    assert "TimeoutError" in ends[1].stderr


@connected_alone
def test_a_pod_of_the_last_version_gets_a_network_of_its_own(deployment: Deployment, tmp_path: Path) -> None:
    """It was on podman's default network; `up` plays it again."""
    podman, pod = deployment.engine.run, deployment.status["pod"]
    networks = (
        "podman",
        "inspect",
        "--format={{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}",
    )
    played = tmp_path / "manifest.yaml"
    invoke("render", *deployment.options, "--with-secrets", "--output", str(played))
    documents = [
        item for item in yaml.safe_load_all(played.read_text()) if item["kind"] != "PersistentVolumeClaim"
    ]
    documents[-1]["metadata"]["labels"]["jupyterhub-slurm/fingerprint"] = "of-before"
    for container in documents[-1]["spec"]["containers"]:
        container.pop("resources")
    podman(("podman", "pod", "rm", "--force", pod))
    podman(("podman", "network", "rm", pod))
    podman(("podman", "secret", "rm", f"{pod}-jupyterhub", f"{pod}-slurm"))
    podman(("podman", "volume", "rm", f"{pod}-jupyterhub", f"{pod}-slurm"))
    play = ("podman", "kube", "play", "--quiet", "--network=bridge", "-")
    podman(play, stdin=yaml.safe_dump_all(documents).encode())
    assert podman((*networks, f"{pod}-slurm")).text == "podman"
    invoke("up", *deployment.options, *deployment.settings)
    assert podman((*networks, f"{pod}-slurm")).text == pod
