"""Attacks on a real pod, as whoever could try them; docs/security.md has the table of them."""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from hubenvs.definition.containers import CONTAINERS, HUB_ID, WEB_ID

from .helpers import (
    STOP,
    Deployment,
    StateError,
    inside,
    invoke,
    rootless,
    slowdown,
    spawned,
    unenforced,
    wait_until,
)

pytestmark = pytest.mark.environments("dev_dummyauth")

WRAPPER = "/opt/slurmspawner_wrappers/bin/slurmspawner_squeue"
USERS = {"jupyterhub": HUB_ID, "oidc-provider": WEB_ID, "gateway": WEB_ID}
ACCOUNT, HOME = "alice.project1", "/home/project1/alice.project1"


def as_service_account(deployment: Deployment, sent: str) -> tuple[int, str, str]:
    """Send ``sent`` to Slurm's sshd with the hub's key; return exit status, output and errors."""
    hub = f"{deployment.status['pod']}-jupyterhub"
    done = deployment.engine.run(("podman", "exec", hub, "ssh", "jupyterspawner@slurm", sent), check=False)
    return done.returncode, done.text, done.stderr


@inside
@pytest.mark.parametrize(
    "sent",
    [
        "",  # a log-in shell
        "id",
        "true; id",
        "true\nid",
        "true && id",
        "true | id",
        "$(id)",
        'whoami "$(id)"',
        "whoami `id`",
        "env id",
        "sh -c id",
        "/usr/lib/openssh/sftp-server",
        "scp -f /etc/passwd",
        "sudo -n id",
        f"sudo -n -u {ACCOUNT} id",
        f"sudo -n -u {ACCOUNT} -s",
        f"sudo -n -u {ACCOUNT} -i {WRAPPER}",
        f"sudo -n -u {ACCOUNT} -- {WRAPPER}",
        f"sudo -n -u {ACCOUNT} {WRAPPER} more",
        f"sudo -n -u {ACCOUNT} {WRAPPER}; id",
        f"sudo -n -u {ACCOUNT} {WRAPPER}/../../../../usr/bin/id",
        f"sudo -n -u {ACCOUNT} X=1 -i {WRAPPER}",
        f"sudo -n -u -s {WRAPPER}",
        f"sudo -n -g root -u {ACCOUNT} {WRAPPER}",
        f"sudo -n -u '#0' {WRAPPER}",
        f"sudo -n -e -u {ACCOUNT} {WRAPPER}",
        "sudo -n -l",
        f"sudo -n -u {ACCOUNT} HOME=/home/../tmp/h {WRAPPER}",
        f"sudo -n -u {ACCOUNT} HOME=/home/project1/bob.project1 {WRAPPER}",
        f"sudo -n -u {ACCOUNT} 'HOME=/tmp,HOME={HOME}' {WRAPPER}",
        f"sudo -n -u {ACCOUNT} SHELL=/bin/../tmp/sh {WRAPPER}",
        f"sudo -n -u {ACCOUNT} USER=root {WRAPPER}",
    ],
)
def test_the_hubs_key_runs_nothing_but_the_hubs_commands(deployment: Deployment, sent: str) -> None:
    """Whoever has the hub's key has no shell: what isn't one of its commands is refused before anything is run."""
    status, output, errors = as_service_account(deployment, sent)
    assert (status, output) == (126, "")
    assert "service-command: refused: " in errors


@inside
@pytest.mark.parametrize(
    "variables",
    [
        "",
        f"HOME={HOME} SHELL=/bin/bash USER={ACCOUNT} ",
        f"HOME='{HOME}' SHELL='/bin/bash' USER='{ACCOUNT}' PATH='/a:/b' LANG='' ",
        """JUPYTERHUB_OAUTH_SCOPES='["access:servers!server=alice/"]' """,
        """JUPYTERHUB_SERVER_NAME='it'"'"'s; $(id) `id` \\ *\nanother line' """,
    ],
)
def test_the_hubs_key_runs_the_hubs_commands(deployment: Deployment, variables: str) -> None:
    """A wrapper runs with the variables of any configuration, in quotes as a shell has them, and nothing else does."""
    sent = f"sudo -u {ACCOUNT} {variables}SLURMSPAWNER_JOB_ID=none {WRAPPER}"
    assert as_service_account(deployment, sent) == (
        *(1, ""),
        "slurmspawner_squeue: SLURMSPAWNER_JOB_ID is not a job id\n",
    )
    assert as_service_account(deployment, f"sudo -n -l -u {ACCOUNT} {WRAPPER}")[:2] == (0, WRAPPER)
    assert as_service_account(deployment, "whoami")[:2] == (0, "jupyterspawner")


# Tries for as long as its input is open to listen on each port of the pod's services, and prints those that it got.
PORT_THIEF = """
import select, socket, sys
got = set()
while not select.select([sys.stdin], [], [], 0.001)[0]:
    for port in map(int, sys.argv[1:]):
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")):
            with socket.socket(family) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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
    """Not while the hub, its proxy, slurmctld or the whole hub container restarts; and the hub comes back."""
    hub = f"{deployment.status['pod']}-jupyterhub"
    with port_thief(deployment, 8000, 8001, 8080, 8081, 9000, 6817) as got:
        for container, service in (("jupyterhub", "jupyterhub"), ("jupyterhub", "configurable-http-proxy")):
            deployment.run_in(container, "s6-svc", "-r", f"/run/service/{service}")
            wait_until(lambda: deployment.health != 200, 10, f"{service} did not go away")
            wait_until(lambda: deployment.health == 200, 60 * slowdown(), f"{service} did not come back")
        deployment.run_in("slurm", "s6-svc", "-r", "/run/service/slurmctld")
        deployment.engine.run(("podman", "restart", hub))
        wait_until(lambda: deployment.health == 200, 60 * slowdown(), "the hub did not come back")
        assert got() == [OWN_PORT]


@pytest.mark.environments("dev_dummyauth", "dev_realauth")
def test_other_accounts_and_pods_reach_only_what_is_published(deployment: Deployment) -> None:
    """A rootful pod has an address: there only the ports answer that its manifest publishes."""
    rows = deployment.run_in("slurm", "cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()
    ends = [row.split()[1].split(":") for row in rows if row.split()[3] == "0A"]
    everywhere = {int(port, 16) for address, port in ends if not address.endswith("0100007F")}
    containers = [f"{deployment.status['pod']}-{name}" for name in ("jupyterhub", "gateway", "oidc-provider")]
    listed = {item.name: item.ports for item in deployment.engine.listing().containers}
    published = {port.container_port for name in containers for port in listed.get(name, ())}
    assert published
    assert everywhere == published


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


# Starts processes until that is refused, and prints how many it got.
FORKS = """
import os, signal
children = []
try:
    while len(children) < 4096:
        children.append(os.fork())
        if not children[-1]:
            signal.pause()
except OSError:
    pass
finally:
    if all(children):
        print(len(children), flush=True)
        for child in children:
            os.kill(child, signal.SIGKILL)
"""


def test_a_job_takes_no_more_than_its_share(deployment: Deployment) -> None:
    """The containers' memory has a limit, where the host enforces one, and an account's processes have theirs."""
    job = ("srun", "--quiet", "--chdir=/", "python3", "-c", FORKS)
    assert 1500 < int(deployment.run_in("slurm", "runuser", "-u", ACCOUNT, "--", *job)) < 2048
    if not unenforced():
        read = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
        limits = [int(deployment.run_in(name, "sh", "-c", read)) for name in ("slurm", "jupyterhub")]
        assert limits == [20 * 2**30, 2 * 2**30]


# In a user's own configuration of the Jupyter server: write down the headers of each request.
SPY = f"""
from tornado.web import Application

def find_handler(app, request, find=Application.find_handler, **more):
    with open("{HOME}/spied", "a") as spied:
        spied.write(f"{{request.path}} {{sorted(request.headers.get_all())}}\\n")
    return find(app, request, **more)

Application.find_handler = find_handler
"""


@pytest.fixture
def spied(deployment: Deployment) -> Iterator[Callable[[], str]]:
    """Have alice's server write down what it is sent; the function given returns that."""
    as_alice = ("runuser", "-u", ACCOUNT, "--", "sh", "-euc")
    spy = base64.b64encode(SPY.encode()).decode()
    config = f"{HOME}/.jupyter/jupyter_server_config.py"
    deployment.run_in("slurm", *as_alice, f"mkdir -p {HOME}/.jupyter; echo {spy} | base64 -d >{config}")
    yield lambda: deployment.run_in("slurm", "cat", f"{HOME}/spied")
    deployment.run_in("slurm", "rm", "-f", config, f"{HOME}/spied")


@inside
def test_a_users_server_gets_no_id_token(deployment: Deployment, spied: Callable[[], str]) -> None:
    """A front end puts it into every request, those to other people's servers too; only the hub gets it."""
    names = (
        "X-Auth-Id-Token",
        "x-auth-id-token",
        "X-AUTH-ID-TOKEN",
        "X_Auth_Id_Token",
        "X-JupyterHub-Proxied",
    )
    with deployment.user() as user:
        spawned(deployment, user)
        path = urlsplit(f"{user.url}/user/alice/api/status").path
        headers = "".join(f"{name}: secret{number}\r\n" for number, name in enumerate(names))
        spellings = (path, path.replace("/user/", "//user/"), path.replace("alice", "%61lice"))
        for upgrade, spelled in itertools.product(
            ("", "Connection: Upgrade\r\nUpgrade: websocket\r\n"), spellings
        ):
            with socket.create_connection(("127.0.0.1", urlsplit(user.url).port), timeout=30) as connection:
                connection.sendall(f"GET {spelled} HTTP/1.1\r\nHost: x\r\n{headers}{upgrade}\r\n".encode())
                assert connection.recv(12).startswith(b"HTTP/1.1 ")
        user.stop(STOP)
    seen = spied()
    assert path in seen
    assert "('Upgrade', 'websocket')" in seen
    assert "secret" not in seen


@inside
def test_the_hubs_port_has_an_api_and_no_pages(deployment: Deployment) -> None:
    """Whoever gets at the port past the proxy can't log in there; servers find the API."""
    ask = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).status)"
    as_alice = ("runuser", "-u", ACCOUNT, "--", "sh", "-c", 'python3 "$@" 2>&1', "sh", "-c", ask)
    base = f"http://127.0.0.1:8081{urlsplit(deployment.status['url']).path}"

    def asked(path: str) -> str:
        return deployment.run_in("slurm", *as_alice, f"{base}{path}", check=False)

    for path in ("/hub/health", "/hub/api", "/hub/api/"):
        assert asked(path) == "200"
    # The proxy's own API, by which all requests could be led elsewhere, wants a token.
    routes = deployment.run_in("slurm", *as_alice, "http://127.0.0.1:8001/api/routes", check=False)
    assert routes.endswith("HTTP Error 403: Forbidden")
    for path in (
        "/hub/login",
        "/hub/home",
        "/hub/",
        "/",
        "/hub/%61pi/",
        "/hub/logout",
        "/hub/spawn",
        "/hub/error/503",
    ):
        assert asked(path).endswith("HTTP Error 404: Not Found")
        assert httpx.get(f"{deployment.status['url']}{path.removesuffix('%61pi/')}").status_code != 404


@inside
def test_no_request_forges_what_is_logged(deployment: Deployment) -> None:
    """A path that isn't UTF-8, or has control characters, is a 400; a client's own word for its address is none."""
    url = deployment.status["url"]
    for path in (
        "/hub/spawn/alice/%ff",
        "/hub/api/users/alice/servers/a%0aforged",
        "/hub/spawn/alice/a%0Dforged",
    ):
        assert httpx.get(f"{url}{path}").status_code == 400
    names = ("X-Real-IP", "X_Real_IP", "X-Forwarded-For", "X_Forwarded_For", "Forwarded")
    httpx.get(f"{url}/hub/login?forged", headers=dict.fromkeys(names, "192.0.2.66"))
    wait_until(lambda: "/hub/login?forged" in deployment.log("jupyterhub"), 10, "the request isn't logged")
    log = deployment.log("jupyterhub")
    assert "192.0.2.66" not in log
    assert not any(line.startswith("jupyterhub:  forged") for line in log.splitlines())


@inside
def test_no_page_of_the_hub_is_sniffed(deployment: Deployment) -> None:
    """A browser takes an answer for what the hub says that it is."""
    assert httpx.get(f"{deployment.status['url']}/hub/login").headers["X-Content-Type-Options"] == "nosniff"


def test_a_job_finds_nothing_to_climb_on(deployment: Deployment) -> None:
    """In Slurm's container sudo alone is setuid, what is installed is root's to write to, and logs aren't shown."""
    setuid = deployment.run_in("slurm", "find", "/", "-xdev", "-type", "f", "-perm", "/6000")
    assert setuid == "/usr/bin/sudo"
    installed = ("/bin", "/etc", "/lib", "/opt", "/sbin", "/srv", "/usr", "/var/lib")
    search = ("find", *installed, "-xdev", "!", "-type", "l", "-perm", "-0002")
    assert deployment.run_in("slurm", *search) == ""
    as_alice = ("runuser", "-u", ACCOUNT, "--", "sh", "-c")
    for service in ("sshd", "slurmctld", "slurmd-node1", "munged"):
        read = f"cat /var/lib/slurm/log/{service}/current >/dev/null 2>&1 && echo read"
        assert deployment.run_in("slurm", *as_alice, read, check=False) == ""


# As another user while a server starts: print every command line, and the job's files that this user can read.
SPY_ON_START = """
import os, pathlib, select, sys
seen = set()
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    for process in os.listdir("/proc"):
        try:
            seen.add(pathlib.Path("/proc", process, "cmdline").read_bytes())
            seen.add(pathlib.Path("/proc", process, "environ").read_bytes())
        except OSError:
            pass
    for folder in ("/tmp", "/dev/shm", "/var/lib/slurm"):
        for path in pathlib.Path(folder).rglob("*"):
            try:
                seen.add(path.read_bytes() if path.is_file() else b"")
            except OSError:
                pass
sys.stdout.buffer.write(b"\\n".join(seen))
"""
OTHER = "bob.project1"
MEDDLING = (
    "scancel {job}",
    "scontrol update JobId={job} TimeLimit=1",
    "scontrol suspend {job}",
    "scontrol write batch_script {job} -",
    "srun --overlap --jobid={job} id",
    "sbatch --uid=alice.project1 --wrap=id",
    "scontrol update NodeName=node1 State=DRAIN Reason=none",
    "scontrol reconfigure",
    "scontrol shutdown",
)


@inside
def test_a_job_learns_nothing_of_anothers_and_leaves_it_alone(deployment: Deployment) -> None:
    """Neither its script, its variables nor its token; Slurm refuses to end, change or enter it, and its own reins."""
    slurm = f"{deployment.status['pod']}-slurm"
    spy = deployment.engine.exec_command(slurm, "python3", "-c", SPY_ON_START, user=OTHER, interactive=True)
    with deployment.user() as user:
        with subprocess.Popen(spy, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as spying:
            assert spying.stdout is not None
            assert spying.stdout.readline() == b"ready\n"
            job = spawned(deployment, user)
            seen = spying.communicate(b"\n", timeout=60)[0]
        assert b"jupyterhub-singleuser" in seen
        assert not [
            name for name in (b"JPY_API_TOKEN=", b"JUPYTERHUB_API_TOKEN=", b"launch() {") if name in seen
        ]
        for command in MEDDLING:
            as_other = ("runuser", "-u", OTHER, "--", "sh", "-c", f"cd /; {command.format(job=job)} 2>&1")
            answer = deployment.run_in("slurm", *as_other, check=False)
            assert re.search(r"(?i)denied|invalid user id|only permitted", answer), (command, answer)
        assert deployment.jobs()[job] == "RUNNING"
        user.stop(STOP)


@inside
def test_a_users_requests_take_no_room(deployment: Deployment) -> None:
    """What a user sends can't fill the hub's database: JupyterHub keeps a server's options before they are checked."""
    size = ("du", "-sk", "/var/lib/jupyterhub/jupyterhub.sqlite")
    with deployment.user() as user:
        before = int(deployment.run_in("jupyterhub", *size).split()[0])
        for path in ("servers/big", "server", "tokens"):
            with pytest.raises(StateError, match="413"):
                user.api("POST", f"/users/alice/{path}", {"note": "x" * 2_000_000})
        with contextlib.suppress(httpx.HTTPError):  # the hub may hang up
            token = user.api("POST", "/users/alice/tokens", {"expires_in": 600}).json()["token"]
            pieces, bearer = (b"x" * 100_000 for _ in range(20)), {"Authorization": f"token {token}"}
            url = f"{user.url}/hub/api/users/alice/tokens"
            answer = httpx.post(url, content=pieces, headers=bearer, trust_env=False, timeout=5)
            assert answer.status_code >= 400
        assert int(deployment.run_in("jupyterhub", *size).split()[0]) - before < 1000


@inside
def test_a_page_of_another_site_opens_no_websocket(deployment: Deployment) -> None:
    """The browser sends the cookies along, and the user's server refuses the stranger's Origin."""
    with deployment.user() as user:
        spawned(deployment, user)
        user.page("/user/alice/tree")
        url = f"{user.url}/user/alice/api/events/subscribe"
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        }
        assert user.http.get(url, headers=upgrade | {"Origin": "http://elsewhere.example"}).status_code == 403
        user.stop(STOP)


def owners(deployment: Deployment, container: str) -> set[str]:
    """Return the users, by number, whose programs run in ``container``, asked as the one that it belongs to."""
    name = f"{deployment.status['pod']}-{container}"
    command = ("sh", "-c", "cat /proc/[0-9]*/status 2>/dev/null")
    lines = deployment.engine.exec(name, *command, check=False).text.splitlines()
    return {user for line in lines if line.startswith("Uid:") for user in line.split()[1:]}


@pytest.mark.environments("dev_dummyauth", "dev_realauth")
def test_only_slurm_needs_root(deployment: Deployment) -> None:
    """Every program of hub, proxy, provider and gateway is an ordinary user's, who alone reads their secrets."""
    present = {
        item["name"].removeprefix(f"{deployment.status['pod']}-") for item in deployment.status["containers"]
    }
    for container in present & USERS.keys():
        assert owners(deployment, container) == {str(USERS[container])}
        secrets = (f"/run/credentials/{container}", f"/run/{container}")
        as_user = ("podman", "exec", "--user", "nobody", f"{deployment.status['pod']}-{container}")
        assert deployment.engine.run((*as_user, "find", *secrets, "-type", "f"), check=False).text == ""
        # What the gateway's Apache writes itself is in the folder that is closed to others.
        written = ("!", "-name", "pid", "!", "-path", "*/sessions/*")
        find = ("find", f"/run/{container}", "-type", "f", "-perm", "/077", *written)
        assert deployment.run_in(container, *find) in ("", "/run/jupyterhub/ssh_config")


# The capabilities by number: linux/capability.h
NAMES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
]
NUMBERS = {name: number for number, name in enumerate(NAMES)} | {"NET_BIND_SERVICE": 10, "SYS_CHROOT": 18}


@pytest.mark.environments("dev_dummyauth", "dev_realauth")
def test_no_container_has_rights_that_it_does_not_need(deployment: Deployment) -> None:
    """What the first program of each may get at most; sudo alone, in Slurm's, may give more than the caller has."""
    for item in deployment.status["containers"]:
        row = CONTAINERS[item["name"].removeprefix(f"{deployment.status['pod']}-")]
        lines = deployment.run_in(row.name, "cat", "/proc/1/status").splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        limits = ["NET_BIND_SERVICE"] if row.uid else row.capabilities
        assert int(status["CapBnd"], 16) == sum(1 << NUMBERS[name] for name in limits)
        assert set(status["Uid"].split()) == {str(row.uid)}
        assert status["NoNewPrivs"] == str(int(not row.privilege_escalation))
        assert status["Seccomp"] == "2"  # a filter


def test_the_connection_to_slurm_is_the_hubs(deployment: Deployment) -> None:
    """Whoever opens it first: root's ssh takes part in the hub's connection, and leaves none that the hub can't use."""
    ssh = ("ssh", "jupyterspawner@slurm")
    deployment.run_in("jupyterhub", "ssh", "-O", "exit", *ssh[1:], check=False)
    find = ("find", "/run/jupyterhub", "-type", "s", "-name", "ssh-*", "-printf", "%U")
    assert deployment.run_in("jupyterhub", *ssh, "whoami") == "jupyterspawner"
    assert deployment.run_in("jupyterhub", *find) == ""
    deployment.engine.exec(f"{deployment.status['pod']}-jupyterhub", *ssh, "true")
    assert deployment.run_in("jupyterhub", *find) == str(HUB_ID)


def test_volumes_of_an_earlier_version_change_owner(deployment: Deployment) -> None:
    """What was root's is the hub's once its container has started; and the hub comes back."""
    volumes = ("/srv/jupyterhub", "/var/lib/jupyterhub")
    deployment.run_in("jupyterhub", "chown", "-R", "0:0", *volumes)
    deployment.engine.run(("podman", "restart", f"{deployment.status['pod']}-jupyterhub"))
    wait_until(lambda: deployment.health == 200, 60 * slowdown(), "the hub did not come back")
    assert deployment.run_in("jupyterhub", "find", *volumes, "!", "-user", "jupyterhub") == ""


@inside
def test_a_log_out_ends_the_log_in(deployment: Deployment) -> None:
    """Cookies from before it are worth nothing: to the hub at once, to the user's server within half a minute."""
    with deployment.user() as user:
        spawned(deployment, user)
        server = f"{user.url}/user/alice/api/contents"
        # The page takes the browser through the log-in to the server, whose cookie is then among the others.
        user.page("/user/alice/tree")
        assert user.http.get(server, follow_redirects=False).status_code == 200
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in user.http.cookies.jar)

        def status(url: str) -> int:
            return httpx.get(url, headers={"Cookie": cookies}).status_code

        assert (status(f"{user.url}/hub/home"), status(server)) == (200, 200)
        user.http.get(f"{user.url}/hub/logout")
        assert status(f"{user.url}/hub/home") == 302
        wait_until(lambda: status(server) == 403, 30, "the server still takes the cookie")
    with deployment.user() as user:
        user.stop(STOP)
