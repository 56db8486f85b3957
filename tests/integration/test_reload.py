"""Edits that `reload` brings into a running pod, those that it rolls back, and the debugger."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .helpers import ROOT, START, STOP, Deployment, free_port, invoke, once, slowdown, spawned

pytestmark = pytest.mark.environments("dev_dummyauth", "dev_realauth")


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
# Seconds from calling `reload` to the new code's page, which takes 2.5 on a machine that does nothing else. Beside
# other pods the many programs that it starts are slowed more than one computation, which `slowdown` measures.
RELOADED = 10


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
            slow, started = slowdown(), time.monotonic()
            done = invoke("reload", *deployment.options)
            assert deployment.health == 200
            elapsed = time.monotonic() - started
            assert elapsed < RELOADED * max(slow, slowdown())
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
        (
            COPIES[0] / "src/bricsauthenticator/auth.py",
            "import nonesuch\n",
            "auth.py:{line}: ModuleNotFoundError",
        ),
        (COPIES[1] / "src/slurmspawner_wrappers/__init__.py", "def f(:\n", "__init__.py:{line}: SyntaxError"),
        (CONFIG / "jupyterhub_config.py", "1 / 0\n", "jupyterhub_config.py:{line}: ZeroDivisionError"),
        (CONFIG / "jupyterhub_config.py", "c.JupyterHub.hub_port = 'x'\n", "expected an int"),
        (
            CONFIG / "jupyterhub_config.py",
            "c.JupyterHub.hub_bind_url = 'http://192.0.2.1:1'\n",
            "Cannot assign",
        ),
        (
            ROOT / "volumes/common/slurm-config/slurm.conf.j2",
            "Nonsense=1\n",
            "Unable to process configuration",
        ),
    ],
)
def test_reload_puts_back_what_does_not_work(
    deployment: Deployment, file: Path, added: str, told: str
) -> None:
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
    with (
        edited(wrappers, "# brought in\n"),
        edited(COPIES[0] / "src/bricsauthenticator/auth.py", "def f(:\n"),
    ):
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
        page = httpx.get(f"{deployment.status['url']}/hub/login", timeout=START).text
        assert "edited-just-now" in page
    invoke("reload", *deployment.options)


def converse(port: int, *requests: tuple[str, dict[str, object], str]) -> dict[str, object]:
    """Send debug adapter ``requests`` (command, arguments, what comes back), one after the other; return the last."""
    with socket.create_connection(("127.0.0.1", port), START) as connection:
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


# Says to each port in turn what a debugger says, and prints which has answered that something was done.
ATTACKER = """
import json, socket, sys

def answers(port):
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.settimeout(2)
        for number, (command, arguments) in enumerate([
            ("initialize", {"adapterID": "test"}),
            ("pydevdAuthorize", {"debugServerAccessToken": "guessed"}),
            ("attach", {"name": "test"}),
            ("configurationDone", {}),
            ("evaluate", {"expression": "1 + 1", "context": "repl"}),
        ], 1):
            body = json.dumps({"seq": number, "type": "request", "command": command, "arguments": arguments})
            connection.sendall(f"Content-Length: {len(body)}\\r\\n\\r\\n{body}".encode())
        while data := connection.recv(65536):
            yield data

for port in map(int, sys.argv[1:]):
    answer = b""
    try:
        for data in answers(port):
            answer += data
    except OSError:
        pass
    if b'"success": true' in answer or b'"success":true' in answer:
        print(port, answer)
"""


def listening(deployment: Deployment) -> list[str]:
    """Return the ports that somebody listens on in the pod."""
    rows = deployment.run_in("slurm", "cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()
    fields = [row.split() for row in rows if "local_address" not in row]
    return sorted({str(int(row[1].rpartition(":")[2], 16)) for row in fields if row[3] == "0A"})


@once
def test_the_hub_runs_under_a_debugger(deployment: Deployment) -> None:
    """A debugger attaches to the published port and sees the hub's threads; afterwards the hub runs without it.

    Meanwhile neither a job nor another account of this host can attach.
    """
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
        ports = listening(deployment)
        assert "8081" in ports
        attack = ("runuser", "-u", "alice.project1", "--", "python3", "-c", ATTACKER)
        assert deployment.run_in("slurm", *attack, "5678", *ports) == ""
        if os.geteuid() == 0:
            as_nobody = ("setpriv", "--reuid=nobody", "--clear-groups", "/usr/bin/python3", "-c", ATTACKER)
            assert subprocess.run((*as_nobody, str(port)), capture_output=True, check=True).stdout == b""
        running.send_signal(signal.SIGINT)
        assert "the hub runs without it again" in running.communicate(timeout=START)[0]
    assert running.returncode == 0
    assert "MainThread" in str(threads["body"])
    assert deployment.health == 200
    assert "debugpy" not in deployment.run_in(
        "jupyterhub", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr -d '\\0'"
    )
