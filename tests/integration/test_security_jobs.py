"""What a user's job can learn of others, take from them and do to them."""

from __future__ import annotations

import base64
import itertools
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from .helpers import ACCOUNT, HOME, START, STOP, Deployment, inside, spawned, unenforced_limits, wait_until

pytestmark = pytest.mark.environments("dev_dummyauth")


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
    if not unenforced_limits():
        read = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
        limits = [int(deployment.run_in(name, "sh", "-c", read)) for name in ("slurm", "jupyterhub")]
        assert limits == [20 * 2**30, 2 * 2**30]


@inside
def test_nothing_of_a_job_is_left(deployment: Deployment) -> None:
    """What a job has started ends with it, also what Slurm doesn't follow; its account's other jobs go on."""

    def run_as(account: str, *command: str) -> str:
        return deployment.run_in("slurm", "runuser", "-u", account, "--", *command)

    def submit(script: str, account: str = ACCOUNT) -> str:
        return run_as(account, "sbatch", "--parsable", "--chdir=/", "--output=/dev/null", "--wrap", script)

    def sleeping(*numbers: str) -> set[str]:
        """Return which of ``numbers`` are in the command lines of processes."""
        listing = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'"
        return {*numbers} & {*deployment.run_in("slurm", "sh", "-c", listing, check=False).splitlines()}

    other = submit("setsid -f sleep 54321; sleep 54322")
    # A process can name itself in no text, or with a line's end; and a variable can name another user's job.
    names = ((r"\377", 54319), (r"a\rb", 54320))
    named = (f"sh -c 'printf \"{name}\" >/proc/self/comm; sleep {seconds}; :' &" for name, seconds in names)
    strangers = submit(" ".join((*named, "wait")), OTHER)
    wait_until(lambda: len(sleeping("54319", "54320")) == 2, START, "the other user's job doesn't start")
    escapes = (
        "trap '' TERM; setsid -f",
        "env -i setsid -f",
        "env SLURM_JOB_ID=999999 setsid -f",
        f"env SLURM_JOB_ID={strangers} setsid -f",
        "",
    )
    sleeps = (f"{escape} sleep {54323 + number}" for number, escape in enumerate(escapes))
    # As a launcher that was killed leaves it.
    job = submit("; ".join(("mkdir -p /tmp/jupyterhub-job-$SLURM_JOB_ID-x/y", *sleeps)))
    others, own = ("54319", "54320", "54321", "54322"), ("54323", "54324", "54325", "54326", "54327")
    wait_until(lambda: len(sleeping(*others, *own)) == 9, START, "the jobs don't start")
    run_as(ACCOUNT, "scancel", job)
    wait_until(lambda: not sleeping(*own), STOP, "processes are left")
    listing = ("ls", "--directory", f"/tmp/jupyterhub-job-{job}-x")
    wait_until(lambda: not deployment.run_in("slurm", *listing, check=False), STOP, "its folder is left")
    assert sleeping(*others) == {*others}
    run_as(ACCOUNT, "scancel", other)
    run_as(OTHER, "scancel", strangers)
    wait_until(lambda: not sleeping(*others), STOP, "processes are left")
    wait_until(lambda: not deployment.jobs(), STOP, "jobs are left")
    assert "drain" not in deployment.run_in("slurm", "sinfo", "--noheader", "--format=%t")


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


def test_a_job_finds_nothing_to_climb_on(deployment: Deployment) -> None:
    """In Slurm's container sudo alone is setuid, what is installed is root's to write to, and logs aren't shown."""
    setuid = deployment.run_in("slurm", "find", "/", "-xdev", "-type", "f", "-perm", "/6000")
    assert setuid == "/usr/bin/sudo"
    installed = ("/bin", "/etc", "/lib", "/opt", "/sbin", "/srv", "/usr", "/var/lib")
    search = ("find", *installed, "-xdev", "!", "-type", "l", "-perm", "-0002")
    assert deployment.run_in("slurm", *search) == ""
    as_alice = ("runuser", "-u", ACCOUNT, "--", "sh", "-c")
    for service in ("sshd", "slurmctld", "slurmd-node1", "munged"):
        log = f"/var/lib/slurm/log/{service}/current"
        deployment.run_in("slurm", "test", "-f", log)
        read = f"cat {log} >/dev/null 2>&1 && echo read"
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
# Requests to the hub's API that a server's token must not be enough for.
BEYOND_A_SERVER = (
    ("GET", "/users/bob"),
    ("GET", "/users"),
    ("POST", "/users/alice/tokens"),
    ("POST", "/users/alice/servers/x"),
    ("DELETE", "/users/alice/server"),
    ("POST", "/users/bob/server"),
    ("GET", "/proxy"),
)


@inside
def test_a_job_learns_nothing_of_anothers_and_leaves_it_alone(deployment: Deployment) -> None:
    """Neither its script, its variables nor its token; Slurm refuses to end, change or enter it, and its own reins.

    With its own token it does nothing in the hub but tell of itself.
    """
    slurm = f"{deployment.status['pod']}-slurm"
    spy = deployment.engine.exec_command(slurm, "python3", "-c", SPY_ON_START, user=OTHER, interactive=True)
    with deployment.user() as user:
        with subprocess.Popen(spy, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as spying:
            assert spying.stdout is not None
            assert spying.stdout.readline() == b"ready\n"
            job = spawned(deployment, user)
            seen = spying.communicate(b"\n", timeout=60)[0]
        assert b"jupyterhub-singleuser" in seen
        as_alice = ("runuser", "-u", ACCOUNT, "--", "sh", "-c")
        variables = deployment.run_in(
            "slurm", *as_alice, "cat /proc/[0-9]*/environ | tr '\\0' '\\n'", check=False
        )
        token = re.search(r"(?m)^JUPYTERHUB_API_TOKEN=(\w+)$", variables)
        assert token
        # Sent to the proxy's own port, each of the user's requests would go round in it.
        bearer, service = {"Authorization": f"token {token[1]}"}, {"port": 8000}
        assert httpx.post(f"{user.url}/hub/api/batchspawner", json=service, headers=bearer).status_code == 400
        assert httpx.get(f"{user.url}/hub/api/user", headers=bearer).json()["name"] == "alice"
        for method, path in BEYOND_A_SERVER:
            answer = httpx.request(method, f"{user.url}/hub/api{path}", headers=bearer)
            assert answer.status_code in (403, 404), (method, path)
        assert not [
            name for name in (b"JPY_API_TOKEN=", b"JUPYTERHUB_API_TOKEN=", b"launch() {") if name in seen
        ]
        for command in MEDDLING:
            as_other = ("runuser", "-u", OTHER, "--", "sh", "-c", f"cd /; {command.format(job=job)} 2>&1")
            answer = deployment.run_in("slurm", *as_other, check=False)
            assert re.search(r"(?i)denied|invalid user id|only permitted", answer), (command, answer)
        assert deployment.jobs()[job] == "RUNNING"
        user.stop(STOP)
