"""What a deployment takes while it runs: new secrets, an existing site's settings and files, signals; and refusals."""

from __future__ import annotations

import json
import os
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
# For a shell in the hub's container.
HUB_PYTHON = '$(sed -n "1s/^#! *//p" "$(command -v jupyterhub)")'
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


# Run in the hub's container: what any SlurmSpawner would run to ask for job 1, as its configuration says.
QUERY = (
    "from traitlets.config.loader import PyFileConfigLoader; "
    "c = PyFileConfigLoader('jupyterhub_config.py', '/srv/jupyterhub').load_config().BricsSlurmSpawner; "
    "print(f'{c.exec_prefix} {c.batch_query_cmd}'.format(username='alice.project1', job_id=999999))"
)


def test_a_spawner_of_another_source_can_use_the_configuration(deployment: Deployment) -> None:
    """The number of a job gets to the wrapper also if the spawner sets no variable, and so do USER, HOME and SHELL."""
    command = deployment.run_in("jupyterhub", "sh", "-c", f'PYTHONPATH=. {HUB_PYTHON} -c "$0"', QUERY)
    variables = "USER=alice.project1 HOME=/home/project1/alice.project1 SHELL=/bin/bash"
    for line in (command, command.replace("SLURMSPAWNER_JOB_ID", f"{variables} SLURMSPAWNER_JOB_ID")):
        assert deployment.run_in("jupyterhub", "sh", "-c", f"{line} 2>&1", check=False).endswith(
            "Invalid job id specified"
        )


# Run in the hub's container: the batch script of the configuration, with what its first argument sets.
SCRIPT = """
import json, sys
from batchspawner.batchspawner import format_template
from traitlets.config.loader import PyFileConfigLoader
c = PyFileConfigLoader('jupyterhub_config.py', '/srv/jupyterhub').load_config().BricsSlurmSpawner
given = dict(homedir='/home/p/a.p', runtime='01:00:00', keepvars='A,B', cmd='serve', site_environment='export A=1')
print(format_template(c.batch_script, **(given | json.loads(sys.argv[1]))))
"""


def batch_script(deployment: Deployment, settings: str = "", **variables: str) -> list[str]:
    """Return the lines of a job's script, where the deployment has ``settings`` besides, and a site's ``variables``."""
    command = f'{settings} PYTHONPATH=. {HUB_PYTHON} -c "$0" "$1"'
    return deployment.run_in("jupyterhub", "sh", "-c", command, SCRIPT, json.dumps(variables)).splitlines()


@inside
def test_a_job_has_what_a_site_wants_of_every_job(deployment: Deployment) -> None:
    """The batch script honours SlurmSpawner's own settings, each where batchspawner's script has it."""
    plain = batch_script(deployment)
    assert [line for line in plain if line.startswith("#SBATCH")][-1] == "#SBATCH --time=01:00:00"
    assert plain[-1].split() == ["exec", "serve"]
    own = {
        "partition": "main",
        "gres": "gpu:1",
        "memory": "4G",
        "nprocs": "2",
        "account": "acc",
        "qos": "long",
    }
    hooks = {"prologue": "echo before", "epilogue": "echo after", "srun": "srun", "options": "--exclusive"}
    lines = batch_script(deployment, **own, **hooks)
    added = [
        line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH") and line not in plain
    ]
    assert added == [
        *("--partition=main", "--gres=gpu:1", "--cpus-per-task=2", "--mem=4G", "--account=acc", "--qos=long"),
        "--exclusive",
    ]
    end = ["echo before", "trap 'echo SIGTERM received' TERM", "srun serve", "echo after"]
    assert [line for line in lines if line][-4:] == end


@inside
def test_variables_can_go_in_the_script_alone(deployment: Deployment) -> None:
    """With the key for it nothing of the submitting environment is exported; a foreign spawner is left as it was."""
    everywhere = "DEPLOY_CONFIG_ENVIRONMENT_IN_SCRIPT=true"
    lines = batch_script(deployment, everywhere, environment="export TOKEN=x")
    assert {"#SBATCH --export=NIL", "export TOKEN=x"} <= set(lines)
    assert "#SBATCH --export=ALL" in batch_script(deployment, everywhere)
    lines = batch_script(deployment, environment="export TOKEN=x")
    assert {"#SBATCH --export=ALL", "export A=1"} <= set(lines)
    assert "export TOKEN=x" not in lines


# Run in the hub's container: who may log in with a token, where a site names alice, and where it names nobody.
ALLOWED = """
from bricsauthenticator import BricsAuthenticator
from traitlets.config.loader import PyFileConfigLoader
for named in ({'alice'}, set()):
    c = PyFileConfigLoader('common.py', '/srv/jupyterhub').load_config()
    if named:
        c.Authenticator.allowed_users, c.Authenticator.allow_all = named, False
    print(*(bool(BricsAuthenticator(config=c).check_allowed(name, None)) for name in ('alice', 'bob')))
"""


@inside
def test_a_site_can_name_who_may_log_in(deployment: Deployment) -> None:
    """JupyterHub's own settings in a site's configuration hold for tokens; without them all with a project may."""
    command = f'PYTHONPATH=. {HUB_PYTHON} -c "$0"'
    allowed = deployment.run_in("jupyterhub", "sh", "-c", command, ALLOWED)
    assert allowed.splitlines() == ["True False", "True True"]


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


def test_status_names_the_state(deployment: Deployment) -> None:
    """`status --json` tells starting, degraded and stopped from up, in the same shape; other tasks name what isn't up.

    `up` makes a container anew that is gone or paused.
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
