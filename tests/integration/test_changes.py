"""What a deployment takes while it runs: new secrets, an existing site's settings and files, signals."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from .helpers import (
    FURTHER,
    HUB_PYTHON,
    ROOT,
    START,
    STOP,
    Deployment,
    Engine,
    HubUser,
    entry,
    inside,
    invoke,
    rootless,
    settings,
    wait_until,
)

pytestmark = pytest.mark.environments("dev_dummyauth")

CONFIG_MAP = """\
kind: ConfigMap
apiVersion: v1
metadata: {name: deploy-config}
data:
  logLevel: DEBUG
  baseUrl: /elsewhere
  dummyAuthPassword: correct-horse
  devUsers: |
    carol.project7
    dave.project7
"""
# Run in the hub's container, with its crypt keys: alice's auth_state as the database has it.
DECRYPT = (
    "import sqlite3; from jupyterhub.crypto import CryptKeeper; "
    "query = 'select encrypted_auth_state from users where name = ?'; "
    "row = sqlite3.connect('/var/lib/jupyterhub/jupyterhub.sqlite').execute(query, ['alice']).fetchone(); "
    "print(CryptKeeper.instance()._decrypt(row[0]))"
)


def auth_state(deployment: Deployment) -> str:
    command = f's6-envdir /run/jupyterhub/env {HUB_PYTHON} -c "$0"'
    return deployment.run_in("jupyterhub", "sh", "-c", command, DECRYPT)


@inside
def test_who_asks_the_hub_nothing_leaves_it_running(deployment: Deployment) -> None:
    """The service that restarts the hub takes a connection that says nothing, or ends too early, for no request."""
    ask = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('/run/jupyterhub/hub.socket'); "
    running = ("s6-svstat", "-o", "pid", "/run/service/jupyterhub")
    before = deployment.run_in("jupyterhub", *running)
    for said in ("pass", "s.sendall(b'check')"):
        deployment.run_in("jupyterhub", "python3", "-c", f"{ask}{said}")
    assert "nothing has been edited" in invoke("reload", *deployment.options).stdout
    assert deployment.run_in("jupyterhub", *running) == before


def test_rotated_secrets_replace_all_but_the_old_crypt_key(deployment: Deployment) -> None:
    """`secrets --rotate` restarts the pod with new keys, and what the database holds can still be read."""
    with deployment.user():
        before = auth_state(deployment)
    folder = Path(deployment.status["password_file"]).parent
    old = {path.name: path.read_text() for path in folder.iterdir()}
    invoke("secrets", *deployment.options, "--rotate")
    new = {path.name: path.read_text() for path in folder.iterdir()}
    assert new["crypt_keys"].split(";")[1:] == old["crypt_keys"].split(";")
    assert not [name for name in old if new[name] == old[name]]
    assert "project1" in before
    assert auth_state(deployment) == before
    assert "FAIL" not in invoke("check", *deployment.options).stdout
    deployment.user().close()


def test_who_is_no_administrator_any_more(deployment: Deployment) -> None:
    """A list in `hub.admin_users` decides at each `up`; without one administrators stay what they are."""
    for names, admin in (("[alice]", True), ("null", True), ("[]", False)):
        invoke("up", *deployment.options, *deployment.settings, *settings(hub__admin_users=names))
        with deployment.user() as user:
            assert user.api("GET", "/user").json()["admin"] is admin


def test_an_exported_volume_is_a_tar_for_its_owner(deployment: Deployment, tmp_path: Path) -> None:
    """`export-volume` writes what the volume holds, readable by nobody else."""
    output = tmp_path / "data.tar"
    invoke("export-volume", *deployment.options, "--volume", "jupyterhub-data", "--output", str(output))
    assert output.stat().st_mode & 0o777 == 0o600
    with tarfile.open(output) as tar:
        assert any(name.endswith("jupyterhub.sqlite") for name in tar.getnames())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a bricsauthenticator that can be told from the bundled one, and wants other versions than ours.

    It is another one at every run, so that its image is built.
    """
    folder = tmp_path / "bricsauthenticator"
    shutil.copytree(ROOT / "containers/jupyterhub/bricsauthenticator", folder)
    init = folder / "src/bricsauthenticator/__init__.py"
    init.write_text(
        init.read_text().replace('__version__ = "', '__version__ = "77.') + f"# {time.time_ns()}\n"
    )
    pyproject = folder / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("pyjwt[crypto]>=2.10", "pyjwt[crypto]==2.10.*"))
    return folder


def test_an_existing_site_moves_in(deployment: Deployment, tmp_path: Path, source: Path) -> None:
    """One `up` takes a site's ConfigMap, its jupyterhub_config.py and its package; a seed edited in its volume stays.

    The tasks after it look at what was brought up, and need not be told again.
    """
    if "slurm.release=26.05" in FURTHER:
        pytest.skip(
            "the site's batch script exports a list of names, and in a container slurmd 26.05 dies of that"
        )
    given = tmp_path / "deploy.yaml"
    given.write_text(CONFIG_MAP)
    deployment.run_in("slurm", "sh", "-c", "echo '# mine\nProlog=/etc/slurm/prolog' >>/etc/slurm/slurm.conf")
    # A volume of an earlier version has it, but not the mode. Slurm would drain the node.
    prolog = (ROOT / "tests/integration/foreign/slurm-config/prolog").read_text()
    deployment.run_in("slurm", "sh", "-c", f"umask 022; echo '{prolog.strip()}' >/etc/slurm/prolog")
    keys = (
        "overlays=[tests/integration/foreign]",
        f"repositories.bricsauthenticator.url={source}",
        "slurm.cpus_per_node=3",
    )
    # The GPUs stay declared: a kept slurm.conf with a gres.conf of other counts is a node that Slurm refuses.
    options = [*deployment.settings, *(part for key in keys for part in ("--set", key))]
    try:
        done = invoke("up", *deployment.options, "--configmap", str(given), *options)
        assert "bricsauthenticator asks for other versions" in done.stdout
        assert "slurm-config: kept slurm.conf, which was edited in the volume" in done.stdout
        assert "slurm-config: made prolog executable" in done.stdout
        assert "# mine" in deployment.run_in("slurm", "cat", "/etc/slurm/slurm.conf")
        assert "CPUs=3 " in deployment.run_in("slurm", "cat", "/etc/slurm/slurm.conf.new")
        status = entry(deployment.instance)
        assert status is not None
        assert (status["state"], status["user"]) == ("up", "carol")
        assert status["url"].endswith("/elsewhere")
        assert status["repositories"][0]["url"] == str(source)
        with HubUser(status["url"]) as user:
            assert "bricsauthenticator 77." in user.page("/hub/login").text
            user.log_in("correct-horse", "carol")
            user.spawn({})
            user.wait_ready(START)
            (source / "src/bricsauthenticator/__init__.py").open("a").write("# edited\n")
            assert "the hub has restarted" in invoke("reload", *deployment.options).stdout
            assert user.server(), "the server has gone with the hub"
            assert "carol." in deployment.run_in("slurm", "cat", "/run/prolog"), "no Prolog has run"
            user.stop(STOP)
        assert "all well" in invoke("verify", *deployment.options).stdout
    finally:
        deployment.run_in(
            "slurm", "sh", "-c", "cd /etc/slurm && rm slurm.conf slurm.conf.new prolog", check=False
        )
        # The ConfigMap's settings hold until somebody drops them.
        (ROOT / ".deploy" / f"{deployment.env}-{deployment.instance}" / "settings.yaml").unlink(
            missing_ok=True
        )
        invoke("up", *deployment.options, *deployment.settings, "--as", "bob")
    with deployment.user() as user:
        assert user.name == "bob"


@pytest.mark.parametrize(("stage", "number"), [("secrets", signal.SIGINT), ("play", signal.SIGTERM)])
def test_up_goes_on_where_a_signal_ended_it(
    deployment: Deployment, stage: str, number: signal.Signals
) -> None:
    """A task that is interrupted says so and ends its programs; the next `up` comes to its end."""
    argv = (
        sys.executable,
        "-u",
        "-m",
        "invoke",
        "up",
        *deployment.options,
        *deployment.settings,
        "--set",
        "wait_timeout=119",
    )
    with subprocess.Popen(
        argv, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith(stage) for line in process.stdout)
        time.sleep(0.2)
        process.send_signal(number)
        output = process.stdout.read()
        assert process.wait(STOP) == 128 + number, output
    assert "interrupted; `invoke up` continues" in output
    assert "Traceback" not in output
    invoke("up", *deployment.options, *deployment.settings)
    assert (entry(deployment.instance) or {})["state"] == "up"


def test_status_names_the_state(deployment: Deployment) -> None:
    """`status --json` tells starting, degraded and stopped from up, in the same shape; other tasks name what isn't up.

    `up` makes a container anew that is gone, paused or renamed, and a pod whose own container was killed.
    """
    pod, shape = deployment.status["pod"], deployment.status.keys()
    podman = deployment.engine.run

    def state() -> str:
        status = entry(deployment.instance)
        assert status is not None
        assert status.keys() == shape
        return str(status["state"])

    try:
        deployment.run_in("jupyterhub", "s6-svc", "-wD", "-d", "/run/service/jupyterhub")
        assert state() == "starting"
        podman(("podman", "stop", "--time=2", f"{pod}-jupyterhub"))
        assert state() == "degraded"
        if not rootless():  # who on cgroup version 1 can't pause anything
            podman(("podman", "pause", f"{pod}-slurm"))
            assert state() == "stopped"
        invoke("up", *deployment.options, *deployment.settings)
        podman(("podman", "rename", f"{pod}-slurm", f"{pod}-renamed"))
        assert state() == "degraded"
        invoke("up", *deployment.options, *deployment.settings)
        infra = podman(("podman", "pod", "inspect", "--format={{.InfraContainerID}}", pod)).text
        podman(("podman", "kill", infra))
        wait_until(lambda: state() == "degraded", STOP, "the pod without its network counts as up")
        invoke("up", *deployment.options, *deployment.settings)
        podman(("podman", "rm", "--force", f"{pod}-jupyterhub"))
        assert state() == "degraded"
        for task in ("verify", "check"):
            told = invoke(task, *deployment.options, check=False).stderr
            assert told.startswith(f"error: container {pod}-jupyterhub is not there\nhint: invoke up")
        podman(("podman", "stop", "--time=2", f"{pod}-slurm"))
        told = invoke("shell", *deployment.options, check=False).stderr
        assert told.startswith(f"error: {pod} is not up: container {pod}-slurm is exited\nhint: invoke up")
    finally:
        invoke("up", *deployment.options, *deployment.settings)
    assert state() == "up"


def test_working_copies_of_two_sources_are_both_kept(env_name: str, source: Path, engine: Engine) -> None:
    """Another Git URL gets a copy of its own, at its ref; set back, the first one is there, edits and all.

    Another ref of the same URL is checked out, unless something has been edited.
    """
    git = ("git", "-C", str(source), "-c", "user.name=x", "-c", "user.email=x@localhost")
    for argv in (
        ("init", "--quiet"),
        ("add", "--all"),
        ("commit", "--quiet", "--message=x"),
        ("branch", "wanted"),
        ("tag", "v0"),
    ):
        engine.run((*git, *argv))
    copies = ROOT / "containers/jupyterhub/_dev_build_data"
    copy = copies / "bricsauthenticator"
    edited = copy / "edited"
    edited.touch()
    before = set(copies.iterdir())
    key = "repositories.bricsauthenticator"

    def clone(ref: str) -> str:
        settings = ("--set", f"{key}.url=file://{source}", "--set", f"{key}.ref={ref}")
        return invoke("clone", "--env", env_name, *settings).stdout

    try:
        clone("wanted")
        (other,) = set(copies.iterdir()) - before
        init = other / "src/bricsauthenticator/__init__.py"
        assert "77." in init.read_text()
        (source / "README.md").write_text("")
        engine.run((*git, "commit", "--quiet", "--all", "--message=y"))
        engine.run((*git, "tag", "v1"))
        assert "v1 checked out" in clone("v1")
        init.write_text("")
        assert "it is not at v0" in clone("v0")
        assert (init.read_text(), (other / "README.md").read_text()) == ("", "")
        invoke("clone", "--env", env_name)
        assert edited.exists()
        shutil.rmtree(other)
    finally:
        edited.unlink()
