"""What `up` refuses, or gets around, and what it leaves behind then."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .helpers import (
    ROOT,
    Console,
    Deployment,
    Engine,
    StateError,
    entry,
    fill_volumes,
    invoke,
    open_session,
    settings,
)

pytestmark = pytest.mark.environments("dev_dummyauth")


def test_a_second_up_at_once_says_who_is_at_work(deployment: Deployment) -> None:
    """Two tasks don't change one deployment at the same time."""
    argv = (sys.executable, "-u", "-m", "invoke", "up", *deployment.options, *deployment.settings)
    with subprocess.Popen(
        argv, cwd=ROOT, text=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as first:
        assert first.stdout is not None
        first.stdout.readline()
        first.send_signal(signal.SIGSTOP)  # however long the second takes to come to the same point
        try:
            second = invoke("up", *deployment.options, *deployment.settings, check=False)
        finally:
            first.send_signal(signal.SIGCONT)
        first.communicate()
    assert first.returncode == 0
    assert second.returncode == 1
    assert f"is being changed by process {first.pid} (" in second.stderr


PODMAN = {
    "old": "echo podman version 3.4.4",
    "wrong": "echo hello",
    "failing": '[ "$1" = --version ] && echo podman version 4.3.1 || { echo "cannot connect" >&2; exit 125; }',
}


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("old", "podman 3.4.4 is too old"),
        ("wrong", "is this podman?"),
        ("failing", "failed (exit status 125)"),
    ],
)
def test_an_engine_that_is_no_use_is_named(tmp_path: Path, env_name: str, kind: str, error: str) -> None:
    """One line, and no deploy folder."""
    stand_in = tmp_path / "podman"
    stand_in.write_text(f"#!/bin/sh\n{PODMAN[kind]}\n")
    stand_in.chmod(0o755)
    done = invoke("up", "--env", env_name, "--instance", "no-engine", check=False, path=tmp_path)
    assert done.returncode == 1
    assert error in " ".join(done.stderr.splitlines()[-2:])
    assert "Traceback" not in done.stderr
    assert not (ROOT / ".deploy" / f"{env_name}-no-engine").exists()


def test_a_pod_that_cannot_be_played_leaves_no_network(tmp_path: Path, env_name: str, engine: Engine) -> None:
    """What `up` created is removed; only volumes and secrets wait for the next `up`, or for `down`."""
    stand_in, named = tmp_path / "podman", ("--env", env_name, "--instance", f"unplayed{os.getpid()}")
    stand_in.write_text(f'#!/bin/sh\n[ "$1" != kube ] || exit 125\nexec {shutil.which("podman")} "$@"\n')
    stand_in.chmod(0o755)
    try:
        assert "kube play" in invoke("up", *named, check=False, path=tmp_path).stderr
        assert named[-1] not in " ".join(engine.listing().network_names)
    finally:
        invoke("down", *named)


# Takes the port that `up` has chosen, between its choice and its use.
FASTER = """\
#!/usr/bin/python3
import os, socket, sys, time
task = os.getppid()
if sys.argv[1] == "--version" and os.fork() == 0:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in range(8000, 9000):
            try:
                taken.bind(("127.0.0.1", port))
                break
            except OSError:
                pass
        taken.listen()
        os.close(1)
        os.close(2)
        while os.path.exists(f"/proc/{{task}}"):
            time.sleep(0.1)
        os._exit(0)
time.sleep(0.5)
os.execv({podman!r}, ["podman", *sys.argv[1:]])
"""


def test_another_up_may_take_the_port_first(tmp_path: Path) -> None:
    """The next one is taken, where the user has named none; a site's keys are what this one fails at."""
    stand_in = tmp_path / "podman"
    stand_in.write_text(FASTER.format(podman=shutil.which("podman")))
    stand_in.chmod(0o755)
    named = ("--env", "dev_dummyauth_extslurm", "--instance", f"raced{os.getpid()}")
    site = settings(
        dev_users="[alice.project1]",
        slurm__ssh_hostname="login.example",
        slurm__hub_connect_url="http://192.0.2.1:9999",
        site_folder=str(tmp_path),
        **{"publish__hub-api": "127.0.0.1:9999"},
    )
    done = invoke("up", *named, *site, check=False, path=tmp_path)
    assert "publish.jupyterhub" not in done.stderr
    assert "--init" in done.stderr


def test_another_checkout_may_create_the_volumes_first(deployment: Deployment) -> None:
    """It creates the first one while we build: we create none of the others, and say whose it is."""
    session = open_session(ROOT, deployment.env, instance=f"{deployment.instance}-vol", console=Console(True))
    names = [volume.name for volume in session.env.volumes]
    theirs = {**session.env.labels, "jupyterhub-slurm/checkout": "other"}
    session.engine.run(session.engine.create_volume_command(names[0], theirs))
    try:
        with pytest.raises(StateError, match="brought up from another checkout"):
            fill_volumes(session, ())
        assert session.existing().volumes == (names[0],)
    finally:
        session.engine.run(("podman", "volume", "rm", names[0]))


@pytest.mark.parametrize("address", ["127.0.0.2", "192.0.2.1"])
def test_a_pod_stays_whose_port_cannot_move_to_an_address(deployment: Deployment, address: str) -> None:
    """The port that the pod has is taken at that address, or this host lacks the address."""
    port = int(deployment.status["url"].rpartition(":")[2].partition("/")[0])
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))
        other.listen()
        moved = settings(publish__jupyterhub=f"{address}:{port}")
        done = invoke("up", *deployment.options, *deployment.settings, *moved, check=False)
    assert f"error: publish.jupyterhub: port {port}" in done.stderr
    assert "replacing" not in done.stdout
    assert deployment.health == 200


def test_a_git_url_that_cannot_be_reached_offers_bundled(env_name: str, tmp_path: Path) -> None:
    """Nothing is made, and the way out is named."""
    absent = f"file://{tmp_path}/absent.git"
    for options in (
        ("--set", f"repositories.bricsauthenticator.url={tmp_path}/absent"),
        ("--configmap", "/absent"),
    ):
        done = invoke("up", "--env", env_name, "--instance", "refused", *options, check=False)
        assert done.returncode == 1
        assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    swap = ("--set", f"repositories.bricsauthenticator.url={absent}")
    done = invoke("up", "--env", env_name, "--instance", "refused", *swap, check=False)
    assert done.returncode == 1
    assert "can't be cloned" in done.stderr
    assert "repositories.bricsauthenticator.url=bundled" in done.stderr
    assert entry("refused") is None
    assert not (ROOT / ".deploy" / f"{env_name}-refused").exists()


@pytest.mark.parametrize(
    ("made", "removed"),
    [
        (("pod", "create", "--infra=false", "--name", "{}"), ("pod", "rm", "{}")),
        (("volume", "create", "{}-home"), ("volume", "rm", "{}-home")),
    ],
)
def test_what_somebody_else_made_is_left_alone(
    deployment: Deployment, made: tuple[str, ...], removed: tuple[str, ...]
) -> None:
    """A pod or volume that has a name of ours and no label stops `up`, and `down` doesn't touch it."""
    name = f"{deployment.instance}-theirs"
    pod = deployment.status["pod"].removesuffix(deployment.instance) + name
    named = ("--env", deployment.env, "--instance", name)
    deployment.engine.run(("podman", *(part.format(pod) for part in made)))
    try:
        done = invoke("up", *named, check=False)
        assert "without this suite's labels" in done.stderr
        invoke("down", *named)
    finally:
        deployment.engine.run(("podman", *(part.format(pod) for part in removed)))  # fails if it is gone
    assert entry(name) is None


def test_a_deploy_folder_that_is_not_ours_is_refused(env_name: str, tmp_path: Path) -> None:
    """A link or another user's folder gets no secrets."""
    folder = ROOT / ".deploy" / f"{env_name}-foreign"
    folder.symlink_to(tmp_path)
    try:
        done = invoke("up", "--env", env_name, "--instance", "foreign", check=False)
    finally:
        folder.unlink()
    assert done.returncode == 1
    assert "the deploy folder is a link" in done.stderr
    assert not list(tmp_path.iterdir())
