"""A real pod: what a user does in it, what it withstands, and that nothing is left of it."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hubenvs.client import HubUser
from hubenvs.errors import StateError
from hubenvs.keys import ssh_key_pair

from .conftest import ROOT, Deployment, entry, free_port, invoke

pytestmark = pytest.mark.environments("dev_dummyauth", "dev_realauth")

START, STOP = 90, 30
# What is the same whoever logs in, and is tried with the simplest way to do so.
once = pytest.mark.environments("dev_dummyauth")


def wait_until(condition: object, seconds: float, otherwise: str) -> None:
    """Wait until ``condition`` holds; fail saying ``otherwise`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.2)


def spawned(deployment: Deployment, user: HubUser) -> str:
    """Start the user's server and return its job's number."""
    before = set(deployment.jobs())
    _, options = user.spawn_form()
    user.spawn({"brics_project": options["brics_project"][0]})
    user.wait_ready(START)
    (job,) = set(deployment.jobs()) - before
    return job


def test_doctor_finds_nothing_amiss_where_a_pod_runs(deployment: Deployment) -> None:
    """Neither environments that wait for a person's data nor our own pods' ports are something to mend."""
    rows = json.loads(invoke("doctor", "--json", check=False).stdout)
    assert {row["check"] for row in rows if not row["ok"]} <= {"Debian mirror", "PyPI"}


def test_status_tells_what_is_up(deployment: Deployment) -> None:
    """`status --json` has the URL, the user, the containers and the working copies, for scripts."""
    status = deployment.status
    assert status["state"] == "up"
    assert {item["state"] for item in status["containers"]} == {"running"}
    assert len(status["volumes"]) == 5
    assert len(status["secrets"]) == len(status["containers"])
    assert all(item["commit"] for item in status["repositories"])
    assert deployment.health == 200


def test_check_proves_every_row(deployment: Deployment) -> None:
    """SSH from the hub does what it must, and everything else is refused."""
    done = invoke("check", *deployment.options)
    rows = [line for line in done.stdout.splitlines() if line.startswith("ok")]
    assert len(rows) == 16
    assert any("slurmspawner_squeue_many" in row and "|alice.project1|" in row for row in rows)
    assert "FAIL" not in done.stdout


@once
def test_check_notices_a_wrong_host_key(deployment: Deployment) -> None:
    """A server that shows another key than the pinned one is not talked to."""
    pinned = deployment.secrets["known_hosts"]
    right = pinned.read_text()
    try:
        pinned.write_text(f"slurm {ssh_key_pair('stranger')[1]}\n")
        done = invoke("check", *deployment.options, check=False)
    finally:
        pinned.write_text(right)
    assert done.returncode == 1
    assert "BadHostKey" in done.stdout + done.stderr


@once
def test_check_notices_that_sudo_lets_variables_through(deployment: Deployment) -> None:
    """With SETENV a wrapper would run whatever code PYTHONPATH or LD_PRELOAD names."""
    rules = "/etc/sudoers.d/jupyterspawner"
    deployment.run_in("slurm", "sed", "-i", "s/NOPASSWD: SLURMSPAWNER/NOPASSWD: SETENV: SLURMSPAWNER/", rules)
    try:
        done = invoke("check", *deployment.options, check=False)
    finally:
        deployment.run_in("slurm", "sed", "-i", "s/ SETENV://", rules)
    assert done.returncode == 1
    assert "no LD_PRELOAD for a wrapper as alice.project1" in done.stderr
    assert "FAIL  no PYTHONPATH for a wrapper" in done.stdout


def test_verify_walks_every_hop(deployment: Deployment) -> None:
    """A user's whole way, from the page to a cell that computes in the job, and back."""
    done = invoke("verify", *deployment.options)
    for hop in (
        "page",
        "login",
        "form",
        "ssh",
        "sudo",
        "sbatch",
        "node",
        "callback",
        "proxy",
        "kernel",
        "stop",
        "gone",
    ):
        assert f"\n{hop} " in done.stdout


@once
def test_an_interrupted_verify_leaves_no_server(deployment: Deployment) -> None:
    """The server that it has started is stopped when it is up, since the hub doesn't do that before."""
    command = (sys.executable, "-m", "invoke", "verify", *deployment.options)
    with deployment.user() as user, subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        wait_until(lambda: user.server() is not None, START, "no server has been started")
        running.send_signal(signal.SIGINT)
        assert "Traceback" not in running.communicate(timeout=START)[1]
        assert running.returncode == 128 + signal.SIGINT
        wait_until(lambda: user.server() is None and not deployment.jobs(), STOP, "the server is still there")


@once
def test_a_wrong_password_is_refused_politely(deployment: Deployment) -> None:
    """403 and the form again, not an error page."""
    with HubUser(deployment.status["url"]) as user, pytest.raises(StateError, match="answered 403"):
        user.log_in("wrong")


def test_a_server_survives_a_restart_of_the_hub(deployment: Deployment) -> None:
    """The kernel goes on while the hub is away; the hub finds the server again, and stopping it ends the job.

    `verify` leaves it alone: it starts one with a name beside it.
    """
    with deployment.user() as user:
        job = spawned(deployment, user)
        assert "12 hops, all well" in invoke("verify", *deployment.options).stdout
        with user.kernel() as execute:
            assert execute("kept = 6 * 7") == ""
            # On sockets: of many kernels in one network some would choose the same ports.
            assert execute("print(get_ipython().kernel.parent.transport)") == "ipc\n"
            deployment.run_in("jupyterhub", "s6-svc", "-r", "/run/service/jupyterhub")
            assert execute("print(kept)") == "42\n"
            wait_until(lambda: deployment.health != 200, 5, "the hub did not go away")
            wait_until(lambda: deployment.health == 200, 30, "the hub did not come back")
            assert execute("print(kept)") == "42\n"
        server = user.server()
        assert server is not None
        assert server["ready"]
        assert deployment.jobs()[job] == "RUNNING"
        user.stop(STOP)
        wait_until(lambda: job not in deployment.jobs(), STOP, f"job {job} is still there")


@contextlib.contextmanager
def waiting_job(deployment: Deployment, user: HubUser, **choices: str) -> Iterator[str]:
    """Have ``user`` ask for a server with ``choices``; give its job's number, and let it wait while the block runs."""
    drain = ("scontrol", "update", "NodeName=node1", "Reason=test")
    _, options = user.spawn_form()
    before = set(deployment.jobs())
    deployment.run_in("slurm", *drain, "State=DRAIN")
    try:
        user.spawn({"brics_project": options["brics_project"][0], **choices})
        wait_until(lambda: set(deployment.jobs()) - before, START, "no job was submitted")
        (job,) = set(deployment.jobs()) - before
        assert deployment.jobs()[job] == "PENDING"
        yield job
    finally:
        deployment.run_in("slurm", *drain, "State=RESUME")


@once
def test_a_start_goes_on_after_a_restart_of_the_hub(deployment: Deployment) -> None:
    """A job that waits in the queue while the hub restarts is kept: the server is ready soon after it runs."""
    with deployment.user() as user:
        with waiting_job(deployment, user) as job:
            deployment.run_in("jupyterhub", "s6-svc", "-r", "/run/service/jupyterhub")
            wait_until(lambda: deployment.health != 200, 5, "the hub did not go away")
            wait_until(lambda: deployment.health == 200, 30, "the hub did not come back")
            server = user.server()
            assert server is not None
            assert server["pending"] == "spawn"
        user.wait_ready(START)
        assert deployment.jobs()[job] == "RUNNING"
        user.notebook_api("GET", "/kernels")
        user.stop(STOP)


@once
def test_a_server_is_not_forgotten_while_slurm_cannot_be_asked(deployment: Deployment) -> None:
    """With sshd away the hub doesn't know the job's state; unknown is not gone."""
    with deployment.user() as user:
        job = spawned(deployment, user)
        deployment.run_in("slurm", "s6-svc", "-d", "/run/service/sshd")
        deployment.run_in("jupyterhub", "ssh", "-O", "exit", "jupyterspawner@slurm", check=False)
        deployment.run_in("slurm", "pkill", "-f", "sshd-session", check=False)
        try:
            told = f"state of job {job} unknown: "
            wait_until(lambda: told in deployment.log("jupyterhub"), 30, "the hub has not asked")
            server = user.server()
            assert server is not None
            assert server["ready"]
        finally:
            deployment.run_in("slurm", "s6-svc", "-u", "/run/service/sshd")
        assert deployment.jobs()[job] == "RUNNING"
        user.stop(STOP)
        wait_until(lambda: job not in deployment.jobs(), STOP, f"job {job} is still there")


def test_a_bad_form_is_refused_and_submits_nothing(deployment: Deployment) -> None:
    """Injection, a project of somebody else's, a missing field: a message, and no job."""
    before = deployment.jobs()
    with deployment.user() as user:
        for choices in (
            {"brics_project": "project9.brics"},
            {"brics_project": "project1.brics; id"},
            {"runtime": "1:00:00; id"},
            {"partition": "$(id)"},
            {"reservation": "a b"},
            {"ngpus": "12"},
            {"unknown": "x"},
        ):
            with pytest.raises(StateError, match="answered 400"):
                user.spawn({"brics_project": "project1.brics", **choices})
    assert deployment.jobs() == before


@once
def test_a_drained_node_keeps_a_job_with_gpus_waiting(deployment: Deployment) -> None:
    """A job asks Slurm for the form's number of GPUs; while its node is drained the hub says that it waits, and why."""
    with deployment.user() as user:
        with waiting_job(deployment, user, ngpus="2") as job:
            progress = f"{user.url}/hub/api/users/{user.name}/server/progress"
            with user.http.stream("GET", progress) as events:
                waiting = f"Slurm job {job} is waiting in the queue ("
                assert any(waiting in event for event in events.iter_lines())
        user.wait_ready(START)
        assert "gres/gpu:2" in deployment.run_in("slurm", "scontrol", "show", "job", job)
        with user.kernel() as run:
            assert run("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])").strip() == "0,1"
        user.stop(STOP)


@once
def test_slurm_is_asked_once_for_many_servers(deployment: Deployment) -> None:
    """Three servers cost one query of all their jobs at each poll, and none of one job; the hub sees one that ends."""
    names, polls, interval = ("one", "two", "three"), 5, 2  # as in SETTINGS
    with deployment.user() as user:
        _, options = user.spawn_form()
        for name in names:
            user.spawn({"brics_project": options["brics_project"][0]}, name)
        for name in names:
            user.wait_ready(START, name)
        deployment.run_in("slurm", "sdiag", "--reset")
        time.sleep(polls * interval)
        lines = deployment.run_in("slurm", "sdiag").splitlines()
        counts = {line.split()[0]: int(line.partition("count:")[2].split()[0]) for line in lines if "count:" in line}
        assert polls - 1 <= counts["REQUEST_JOB_INFO"] <= polls + 1
        assert "REQUEST_JOB_INFO_SINGLE" not in counts
        deployment.run_in("slurm", "scancel", min(deployment.jobs(), key=int))
        wait_until(lambda: sum(user.server(name) is None for name in names) == 1, STOP, "the hub did not notice")
        for name in names:
            if user.server(name):
                user.stop(STOP, name)


def test_a_job_that_dies_is_shown_to_its_user(deployment: Deployment) -> None:
    """The page of a start that failed says in Slurm's words what became of the job."""
    activate = "/opt/jupyter/bin/activate"
    with deployment.user() as user:
        _, options = user.spawn_form()
        deployment.run_in("slurm", "mv", activate, f"{activate}.away")
        try:
            user.spawn({"brics_project": options["brics_project"][0]})
            with pytest.raises(StateError) as failed:
                user.wait_ready(START)
        finally:
            deployment.run_in("slurm", "mv", f"{activate}.away", activate)
    assert "ended before its server was up: FAILED (NonZeroExitCode)" in str(failed.value.details)


@once
def test_a_users_next_job_removes_what_the_last_one_left(deployment: Deployment) -> None:
    """A job's runtime folder has its process in its name; it stays while that runs."""
    activate = 'export SLURM_JOB_ID=1; source /opt/jupyter/bin/activate jupyter-user-env; echo "$JUPYTER_RUNTIME_DIR"'

    def folders(command: str) -> list[str]:
        as_user = ("runuser", "--user", "alice.project1", "--", "bash", "-euc", command)
        return deployment.run_in("slurm", *as_user).splitlines()

    (ended,) = folders(activate)
    meanwhile = f"env --unset=JUPYTER_RUNTIME_DIR bash -euc '{activate}'"
    running, other, *there = folders(f"{activate}; {meanwhile}; ls -d /tmp/jupyter-*")
    assert ended.startswith("/tmp/jupyter-")
    assert ended not in there
    assert {running, other} <= set(there)


def test_containers_see_their_secrets_and_nobody_else_does(deployment: Deployment) -> None:
    """The daemons have the very bytes of the deploy folder; a user's job can read none of them."""
    secrets = deployment.secrets
    munge = deployment.run_in("slurm", "base64", "--wrap=0", "/etc/munge/munge.key")
    assert base64.b64decode(munge).decode() == secrets["munge_key"].read_text()
    assert deployment.run_in("jupyterhub", "cat", "/srv/jupyterhub/ssh_key") == secrets["ssh_key"].read_text().rstrip(
        "\n"
    )
    for path in (
        "/run/credentials/slurm/munge_key",
        "/etc/munge/munge.key",
        "/run/credentials/slurm/ssh_host_ed25519_key",
    ):
        command = ("podman", "exec", "--user", "alice.project1", f"{deployment.status['pod']}-slurm", "cat", path)
        assert deployment.engine.run(command, check=False).returncode != 0
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in secrets.values())
    assert secrets["ssh_key"].parent.stat().st_mode & 0o777 == 0o700


# Prints the files that have a private key or one of the deployment's secrets in them: the image's, and those of
# /canary, where the secrets are, so that they are seen to be found.
SEARCH = r"""
files() { find / /canary -xdev -type f -print0; }
files | xargs -0 grep --text --files-with-matches --fixed-strings --file=/search/patterns
files | xargs -0 grep --text --files-with-matches --null-data --perl-regexp \
    -e '-----BEGIN ([A-Z]+ )*PRIVATE KEY-----\r?\n[A-Za-z0-9+/]{32}'
true
"""
# Where packages have keys for tests of their own.
PUBLISHED_KEYS = ("/tornado/test/test.key", "/libgnutls.so.")


def telltale(secret: Path) -> str:
    """Return the line of ``secret`` by which it can be told wherever it is."""
    return max(secret.read_text().splitlines(), key=len)


def test_images_hold_no_secret(deployment: Deployment, tmp_path: Path) -> None:
    """Neither an image's history nor any of its files has a key; those of a deployment come by Secrets."""
    telltales = [telltale(path) for path in deployment.secrets.values()]
    (tmp_path / "patterns").write_text("\n".join(telltales))
    folders = {"/canary": deployment.secrets["crypt_keys"].parent, "/search": tmp_path}
    volumes = [part for path, folder in folders.items() for part in ("--volume", f"{folder}:{path}:ro")]
    options = ("--rm", "--network=none", "--security-opt=label=disable", "--user=0", "--entrypoint=", *volumes)
    for container in deployment.status["containers"]:
        image = deployment.engine.run(("podman", "inspect", "--format", "{{.ImageName}}", container["name"])).text
        history = deployment.engine.run(("podman", "history", "--no-trunc", image)).text
        assert not [line for line in telltales if line in history]
        found = set(deployment.engine.run(("podman", "run", *options, image, "sh", "-c", SEARCH)).text.split("\n"))
        assert {path for path in found if not any(known in path for known in PUBLISHED_KEYS)} == {
            f"/canary/{key}" for key in deployment.secrets
        }


def test_a_second_up_changes_nothing(deployment: Deployment) -> None:
    """What is up and unchanged is left alone, and each stage says so."""
    before = deployment.engine.run(("podman", "pod", "inspect", "--format", "{{.ID}}", deployment.status["pod"])).text
    done = invoke("up", *deployment.options, *deployment.settings)
    assert "images are up to date" in done.stdout
    assert "is up and unchanged" in done.stdout
    after = deployment.engine.run(("podman", "pod", "inspect", "--format", "{{.ID}}", deployment.status["pod"])).text
    assert before == after


@contextlib.contextmanager
def edited(path: Path, added: str) -> Iterator[None]:
    """Have ``added`` at the end of the file ``path`` for the block."""
    before = path.read_bytes()
    try:
        path.write_bytes(before + added.encode())
        yield
    finally:
        path.write_bytes(before)


COPIES = (
    ROOT / "containers/jupyterhub/_dev_build_data/bricsauthenticator",
    ROOT / ("containers/slurm/_dev_build_data/slurmspawner_wrappers"),
)
CONFIG = ROOT / "volumes/auth-dummy/jupyterhub-config"
# Seconds from calling `reload` to the new code's page; 2.5 on a machine that does nothing else.
RELOADED = 5


@once
def test_reload_brings_an_edit_in_and_keeps_who_is_there(deployment: Deployment) -> None:
    """The new code runs within seconds, the kernel goes on, the log-in holds, and `up` finds nothing to do."""
    user_code = COPIES[0] / "src/bricsauthenticator/__init__.py"
    marker = "/var/lib/jupyterhub/reloaded"
    inspect = ("podman", "pod", "inspect", "--format", "{{.ID}}", deployment.status["pod"])
    pod = deployment.engine.run(inspect).text
    with deployment.user() as user, edited(user_code, f"\nopen({marker!r}, 'w').close()\n"):
        spawned(deployment, user)
        with user.kernel() as execute:
            assert execute("kept = 6 * 7") == ""
            started = time.monotonic()
            done = invoke("reload", *deployment.options)
            assert deployment.health == 200
            assert time.monotonic() - started < RELOADED
            assert "bricsauthenticator: src/bricsauthenticator/__init__.py" in done.stdout
            deployment.run_in("jupyterhub", "test", "-e", marker)
            assert execute("print(kept)") == "42\n"
        server = user.server()
        assert server is not None
        assert server["ready"]
        assert "is up and unchanged" in invoke("up", *deployment.options, *deployment.settings).stdout
        user.stop(STOP)
    assert "the hub has restarted" in invoke("reload", *deployment.options).stdout
    assert "nothing has been edited" in invoke("reload", *deployment.options).stdout
    assert deployment.engine.run(inspect).text == pod


@once
@pytest.mark.parametrize(
    ("file", "added", "told"),
    [
        (COPIES[0] / "src/bricsauthenticator/auth.py", "def f(:\n", "auth.py:{line}: SyntaxError"),
        (COPIES[0] / "src/bricsauthenticator/auth.py", "import nonesuch\n", "auth.py:{line}: ModuleNotFoundError"),
        (COPIES[1] / "src/slurmspawner_wrappers/__init__.py", "def f(:\n", "__init__.py:{line}: SyntaxError"),
        (CONFIG / "jupyterhub_config.py", "1 / 0\n", "jupyterhub_config.py:{line}: ZeroDivisionError"),
        (CONFIG / "jupyterhub_config.py", "c.JupyterHub.hub_port = 'x'\n", "expected an int"),
        (CONFIG / "jupyterhub_config.py", "c.JupyterHub.hub_bind_url = 'http://192.0.2.1:1'\n", "Cannot assign"),
        (ROOT / "volumes/common/slurm-config/slurm.conf.j2", "Nonsense=1\n", "Unable to process configuration"),
    ],
)
def test_reload_puts_back_what_does_not_work(deployment: Deployment, file: Path, added: str, told: str) -> None:
    """The error names the person's own file and line, and what ran before answers still."""
    line = len(file.read_text().splitlines()) + 1
    with edited(file, added):
        done = invoke("reload", *deployment.options, check=False)
    assert done.returncode == 1
    if "{line}" in told:
        assert str(file.relative_to(ROOT).parent) in done.stderr
    assert told.format(line=line) in done.stderr
    assert deployment.health == 200
    assert "nothing has been edited" in invoke("reload", *deployment.options).stdout


@once
def test_what_half_a_reload_brought_in_is_not_taken_for_whole(deployment: Deployment) -> None:
    """One container has its edit, the other's didn't work: when both edits are gone, `up` replaces the pod."""
    wrappers = COPIES[1] / "src/slurmspawner_wrappers/__init__.py"
    with edited(wrappers, "# brought in\n"), edited(COPIES[0] / "src/bricsauthenticator/auth.py", "def f(:\n"):
        done = invoke("reload", *deployment.options, check=False)
    assert done.returncode == 1
    assert "slurmspawner_wrappers: src/slurmspawner_wrappers/__init__.py" in done.stdout
    assert "replacing pod" in invoke("up", *deployment.options, *deployment.settings).stdout


def test_reload_has_nothing_to_do_where_nothing_is_edited(deployment: Deployment) -> None:
    """Containers that carry neither working copies nor seed files (gateway, provider) are left alone."""
    assert "nothing has been edited" in invoke("reload", *deployment.options).stdout


@once
def test_a_template_is_shown_without_a_restart(deployment: Deployment) -> None:
    """JupyterHub looks at a template's file each time."""
    mark = "{% block login_terms %}edited-just-now{% endblock %}\n"
    with edited(CONFIG / "templates/login.html", mark):
        assert "nothing had to restart" in invoke("reload", *deployment.options).stdout
        page = httpx.get(f"{deployment.status['url']}/hub/login").text
        assert "edited-just-now" in page
    invoke("reload", *deployment.options)


def converse(port: int, *requests: tuple[str, dict[str, object], str]) -> dict[str, object]:
    """Send debug adapter ``requests`` (command, arguments, what comes back), one after the other; return the last."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        stream = connection.makefile("rwb")
        for number, (command, arguments, awaited) in enumerate(requests, start=1):
            message = {"seq": number, "type": "request", "command": command, "arguments": arguments}
            body = json.dumps(message).encode()
            stream.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            stream.flush()
            answer: dict[str, object] = {}
            while awaited not in (answer.get("command"), answer.get("event")):
                length = int(stream.readline().split(b":")[1])
                stream.readline()
                answer = json.loads(stream.read(length))
    return answer


@once
def test_the_hub_runs_under_a_debugger(deployment: Deployment) -> None:
    """A debugger attaches to the published port and sees the hub's threads; afterwards the hub runs without it."""
    port = free_port()
    command = (sys.executable, "-m", "invoke", "debug", *deployment.options, "--port", str(port))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        assert f"attach to 127.0.0.1:{port}" in running.stdout.readline()
        assert "pathMappings" in running.stdout.readline()
        threads = converse(
            port,
            ("initialize", {"adapterID": "test"}, "initialize"),
            ("attach", {"name": "test"}, "initialized"),
            ("configurationDone", {"name": "test"}, "attach"),
            ("threads", {"name": "test"}, "threads"),
        )
        running.send_signal(signal.SIGINT)
        assert "the hub runs without it again" in running.communicate(timeout=30)[0]
    assert running.returncode == 0
    assert "MainThread" in str(threads["body"])
    assert deployment.health == 200
    assert "debugpy" not in deployment.run_in("jupyterhub", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr -d '\\0'")


@once
def test_a_packages_own_tests_run_in_its_image(deployment: Deployment) -> None:
    """`test-repo` passes on what pytest says, a failure too."""
    assert " passed" in invoke("test-repo", "slurmspawner_wrappers", "--env", deployment.env).stdout
    options = ("--env", deployment.env, "--arguments", "--no-such-option")
    assert invoke("test-repo", "slurmspawner_wrappers", *options, check=False).returncode == 4


@once
def test_looking_inside(deployment: Deployment) -> None:
    """Commands run as who and where they are asked to, with their exit status; an unknown account is named.

    Also where there is nothing to read from or to write to.
    """
    options = (*deployment.options, "--user", "alice.project1")
    assert invoke("shell", *options, "--command", "pwd").stdout == "/home/project1/alice.project1\n"
    assert invoke("slurm", *deployment.options, "--", "sinfo", "--noheader", "--format=%N").stdout == "node1\n"
    assert invoke("slurm", *deployment.options, "--command", "false", check=False).returncode == 1
    refused = invoke("shell", *deployment.options, "--user", "nobody.here", check=False)
    assert "no such account" in refused.stderr
    closed = ("sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-m", "invoke", "shell", *options)
    assert deployment.engine.run((*closed, "--command", "true")).stderr == ""


@once
def test_followed_logs_end_with_a_signal(deployment: Deployment) -> None:
    """Both containers' lines, without colours where there is no terminal, and no complaint at Ctrl-C."""
    command = (sys.executable, "-m", "invoke", "logs", *deployment.options, "--follow", "--lines", "5")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout
        names: set[str] = set()
        while {name.rpartition("-")[2] for name in names} != {"jupyterhub", "slurm"}:
            names.add(running.stdout.readline().split()[0])  # fails at the end
        running.send_signal(signal.SIGINT)
        printed, complaints = running.communicate(timeout=20)
    assert running.returncode == 0
    assert complaints == ""
    assert "\x1b[3" not in "".join(names.union(line.split()[0] for line in printed.splitlines()))


@once
def test_a_taken_port_is_named(deployment: Deployment) -> None:
    """Another deployment on the same port is refused before anything is made."""
    port = deployment.status["url"].rsplit(":", 1)[1].split("/")[0]
    done = invoke(
        "up",
        "--env",
        deployment.env,
        "--instance",
        "taken",
        "--set",
        f"publish.jupyterhub=127.0.0.1:{port}",
        check=False,
    )
    assert done.returncode == 1
    assert f"port {port} is taken by pod {deployment.status['pod']}:" in done.stderr
    assert "Traceback" not in done.stderr
    assert entry("taken") is None


@once
def test_a_pod_stays_where_its_new_port_is_taken(deployment: Deployment) -> None:
    """What runs is not taken away for what can't be brought up."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        # After those of the deployment itself: of several the last counts.
        done = invoke(
            *("up", *deployment.options, *deployment.settings, "--set", f"publish.jupyterhub=127.0.0.1:{port}"),
            check=False,
        )
    assert done.returncode == 1
    assert f"publish.jupyterhub: port {port} is taken" in done.stderr
    assert deployment.health == 200


@once
def test_render_shows_no_secret(deployment: Deployment) -> None:
    """The manifest that `render` prints can be pasted into a report."""
    printed = invoke("render", *deployment.options).stdout
    encoded = base64.b64encode(deployment.password.encode()).decode()
    assert "kind: Pod" in printed
    assert deployment.password not in printed
    assert encoded not in printed


def test_no_secret_is_in_a_log(deployment: Deployment) -> None:
    """What was typed at the log-in page and the keys are in no container's log."""
    printed = invoke("logs", *deployment.options, "--lines", "10000").stdout
    assert printed
    assert not [key for key, path in deployment.secrets.items() if telltale(path) in printed]


def test_kept_volumes_are_found_again(deployment: Deployment) -> None:
    """`down --keep-volumes`, then `up`: the hub's users and the key to their data are there still.

    A server that ran has failed with its job, and another can be started.
    """
    with deployment.user() as user:
        job = spawned(deployment, user)
    invoke("down", *deployment.options, "--keep-volumes")
    status = entry(deployment.instance)
    assert status is not None
    assert status["state"] == "partial"
    assert len(status["volumes"]) == 5
    kept = ROOT / ".deploy" / f"{deployment.env}-{deployment.instance}" / "secrets"
    assert [path.name for path in kept.iterdir()] == ["crypt_keys"]
    invoke("up", *deployment.options, *deployment.settings)
    query = "sqlite3.connect('/var/lib/jupyterhub/jupyterhub.sqlite').execute('select name from users').fetchall()"
    database = deployment.run_in("jupyterhub", "python3", "-c", f"import sqlite3; print({query})")
    assert "alice" in database
    assert "JobState=NODE_FAIL" in deployment.run_in("slurm", "scontrol", "show", "job", job)
    with deployment.user() as user:
        wait_until(lambda: user.server() is None, STOP, "the hub has not noticed")
        assert int(spawned(deployment, user)) > int(job)
        user.stop(STOP)
    wait_until(lambda: not deployment.jobs(), STOP, "its job is still there")


@once
def test_a_second_down_says_there_is_nothing(deployment: Deployment) -> None:
    """Taking down what isn't up is no error."""
    done = invoke("down", "--env", deployment.env, "--instance", "never-up")
    assert "nothing to take down" in done.stdout
