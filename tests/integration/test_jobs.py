"""What a job and the hub tell each other, and what a job withstands, in a real pod."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator

import httpx
import pytest
from websockets.sync.client import connect

from .helpers import (
    HOME,
    ROOT,
    START,
    STOP,
    Deployment,
    HubUser,
    StateError,
    execute,
    inside,
    invoke,
    once,
    spawned,
    wait_until,
)

pytestmark = [once, inside]

# Seconds in which a job that nobody knows has ended.
ORPHAN = 60
ACTIVATE = "/opt/jupyter/bin/activate"
ENVIRONMENT_FOLDER = "/opt/jupyter/envs/jupyter-user-env"


@pytest.fixture
def user(deployment: Deployment) -> Iterator[HubUser]:
    """A user who has logged in; jobs of hers that are left are cancelled."""
    with deployment.user() as user:
        yield user
        with contextlib.suppress(StateError):
            user.stop(STOP)
    for job in deployment.jobs():
        deployment.run_in("slurm", "scancel", job)
    wait_until(lambda: not deployment.jobs(), STOP, "jobs are left")


def spawn(user: HubUser) -> None:
    """Ask for a server, without waiting for it."""
    _, options = user.spawn_form()
    user.spawn({"brics_project": options["brics_project"][0]})


def failed(user: HubUser) -> str:
    """Return what the page of a start says that fails."""
    spawn(user)
    with pytest.raises(StateError) as error:
        user.wait_ready(START)
    return f"{error.value} {error.value.details}"


@contextlib.contextmanager
def replaced(deployment: Deployment, path: str, script: str) -> Iterator[str]:
    """Have ``script`` in the place of a program of Slurm's container; give where the program is meanwhile."""
    away = f"{path}.away"
    deployment.run_in("slurm", "mv", path, away)
    try:
        text = script.replace("AWAY", away)
        deployment.run_in("slurm", "sh", "-c", f"cat >{path} <<'END'\n{text}\nEND\nchmod 755 {path}")
        yield away
    finally:
        deployment.run_in("slurm", "mv", away, path)


def running(deployment: Deployment) -> set[str]:
    """Return the jobs that haven't ended."""
    return {job for job, state in deployment.jobs().items() if state != "COMPLETING"}


def test_a_job_whose_number_got_lost_ends(deployment: Deployment, user: HubUser) -> None:
    """Where sbatch has submitted a job and fails, the job ends by itself, as the hub doesn't know its start."""
    with replaced(deployment, "/usr/bin/sbatch", '#!/bin/sh\nAWAY "$@" >/dev/null\nexit 1'):
        spawn_fails = failed(user)
    assert "The Slurm job was not submitted" in spawn_fails
    wait_until(lambda: not running(deployment), ORPHAN, "the orphan is still there")
    spawned(deployment, user)
    assert len(running(deployment)) == 1


def test_a_hub_that_is_away_is_waited_for(deployment: Deployment, user: HubUser) -> None:
    """A job that starts while the hub is away for 15 s has a server nonetheless."""
    deployment.run_in("slurm", "scontrol", "update", "NodeName=node1", "State=DRAIN", "Reason=test")
    try:
        spawn(user)
        wait_until(deployment.jobs, START, "no job was submitted")
        deployment.run_in("jupyterhub", "s6-svc", "-wD", "-d", "/run/service/jupyterhub")
    finally:
        deployment.run_in("slurm", "scontrol", "update", "NodeName=node1", "State=RESUME")
    wait_until(lambda: "RUNNING" in deployment.jobs().values(), START, "the job doesn't run")
    deployment.run_in("slurm", "sleep", "15")
    assert list(deployment.jobs().values()) == ["RUNNING"]
    deployment.run_in("jupyterhub", "s6-svc", "-u", "/run/service/jupyterhub")
    wait_until(lambda: deployment.health == 200, START, "the hub is not back")
    user.wait_ready(START)
    user.notebook_api("GET", "/kernels")


def reachable(user: HubUser) -> bool:
    """Return whether the user's server answers behind the proxy."""
    try:
        user.notebook_api("GET", "/kernels")
    except StateError:
        return False
    return True


def test_a_requeued_job_is_reachable_again(deployment: Deployment, user: HubUser) -> None:
    """A job that Slurm starts anew has a new address, which hub and proxy know as soon as its server is up."""
    job = spawned(deployment, user)
    deployment.run_in("slurm", "scontrol", "update", f"JobId={job}", "Requeue=1")
    deployment.run_in("slurm", "scontrol", "requeue", job)
    wait_until(lambda: deployment.jobs().get(job) == "PENDING", STOP, "the job is not requeued")
    deployment.run_in("slurm", "scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_until(lambda: deployment.jobs().get(job) == "RUNNING", START, "the job doesn't run again")
    wait_until(
        lambda: "was started anew" in deployment.log("jupyterhub") and reachable(user),
        30,
        "it isn't reachable",
    )
    server = user.server()
    assert server is not None
    assert server["ready"]


def test_activation_may_use_what_is_not_set(deployment: Deployment, user: HubUser) -> None:
    """Activation scripts as conda's compilers have them don't hold under `set -u`."""
    with replaced(deployment, ACTIVATE, ': "$ADDR2LINE"\nsource AWAY "$@"'):
        # The original finds the environments beside itself.
        spawned(deployment, user)


def test_the_log_of_a_dead_job_is_shown(deployment: Deployment, user: HubUser) -> None:
    """The page of a failed start has the last lines that the job has written."""
    with replaced(deployment, ACTIVATE, "echo the lines of the log; exit 3"):
        page = failed(user)
    assert "the lines of the log" in page
    assert "exit status 3" in page


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (("mv", "{home}", "{home}.away"), "No such file or directory"),
        (("chmod", "0500", "{home}"), "Permission denied"),
    ],
)
def test_a_home_that_cannot_be_used_is_named(
    deployment: Deployment, user: HubUser, spoil: tuple[str, ...], reason: str
) -> None:
    """Where the log file can't be written the page says so, and why."""
    deployment.run_in("slurm", *(part.format(home=HOME) for part in spoil))
    try:
        page = failed(user)
    finally:
        deployment.run_in(
            "slurm", "sh", "-c", f"[ ! -e {HOME}.away ] || mv {HOME}.away {HOME}; chmod 0700 {HOME}"
        )
    assert HOME in page
    assert reason in page


# Run by a kernel: makes a package of two modules, one of them with the name of what a server needs.
PACKAGE = """
import subprocess, zipfile
with zipfile.ZipFile("/tmp/own-1-py3-none-any.whl", "w") as wheel:
    for name, text in {
        "own.py": "", "tornado.py": "", "own-1.dist-info/RECORD": "",
        "own-1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: own\\nVersion: 1\\n",
        "own-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }.items():
        wheel.writestr(name, text)
"""


def test_shared_memory_and_pip(deployment: Deployment, user: HubUser) -> None:
    """A kernel can have 200 MB of shared memory, and %pip; so can a terminal, whose shell is a login shell."""
    spawned(deployment, user)
    with user.kernel() as run:
        run(PACKAGE)
        installed = run("%pip install --no-index /tmp/own-1-py3-none-any.whl")
        assert "Successfully installed own-1" in installed, installed
        program = "import own, tornado; print(own.__file__, tornado.__file__)"
        own, needed = run(f"print(subprocess.getoutput('python -c \"{program}\"'))").split()
        assert own.startswith("/home/project1/alice.project1/.local/")
        assert needed.startswith(ENVIRONMENT_FOLDER)
        shell = "print(subprocess.getoutput('bash -lc \"command -v pip; locale charmap\"'))"
        assert run(shell).split() == [f"{ENVIRONMENT_FOLDER}/bin/pip", "UTF-8"]
        run("%pip uninstall --yes own")
        code = (
            "from multiprocessing import shared_memory as m; s = m.SharedMemory(create=True, size=200 << 20);"
            " s.buf[:] = bytes(200 << 20); print(s.size); s.close(); s.unlink()"
        )
        assert int(run(code)) >= 200 << 20


def test_jupyterlab_warns_before_the_time_limit(deployment: Deployment, user: HubUser) -> None:
    """JupyterLab loads an extension that knows when the job ends; nothing of it is left after the job."""
    job = spawned(deployment, user)
    name = "jupyterhub-time-limit"
    folder = deployment.run_in("slurm", "sh", "-c", f"echo /tmp/jupyterhub-job-{job}-*")
    (script,) = deployment.run_in("slurm", "find", folder, "-name", "*.js").split()
    server = f"{user.url}/user/{user.name}"
    assert name in user.http.get(f"{server}/lab", follow_redirects=True).text
    text = user.http.get(f"{server}/lab/extensions/{name}/static/{script.rpartition('/')[2]}").text
    end = deployment.run_in("slurm", "squeue", "--noheader", f"--job={job}", "--format=%e")
    seconds = deployment.run_in("slurm", "date", f"--date={end}", "+%s")
    assert f"end = {seconds}000, minutes = 10;" in text
    user.stop(STOP)
    # Slurm forgets a job before the job's last process has cleaned up.
    listing = ("ls", "--directory", folder)
    wait_until(lambda: not deployment.run_in("slurm", *listing, check=False), STOP, f"{folder} is left")


def test_a_server_goes_with_its_job_though_its_account_is_removed(
    deployment: Deployment, user: HubUser
) -> None:
    """Only the job's own query may say that it has ended, and sudo runs none for an account that isn't there."""
    job = spawned(deployment, user)
    account = deployment.run_in("slurm", "squeue", "--noheader", f"--job={job}", "--format=%u")
    deployment.run_in("slurm", "cp", "--preserve", "/etc/passwd", "/etc/passwd.kept")
    try:
        deployment.run_in("slurm", "sed", "-i", f"/^{account}:/d", "/etc/passwd")
        seen = deployment.log("jupyterhub").count(f"state of job {job} unknown")
        wait_until(
            lambda: deployment.log("jupyterhub").count(f"state of job {job} unknown") > seen + 1,
            STOP,
            "sudo still knows the account",
        )
        assert (user.server() or {})["ready"]
        deployment.run_in("slurm", "scancel", job)
        wait_until(lambda: user.server() is None, STOP, "the hub has not noticed")
    finally:
        deployment.run_in("slurm", "mv", "/etc/passwd.kept", "/etc/passwd")


def restarted(deployment: Deployment, away: float = 0, **settings: str) -> None:
    """Restart the hub, which is away for so many seconds, with other settings; an empty one is the deployment's."""
    for name, value in settings.items():
        variable = f"/run/jupyterhub/env/DEPLOY_CONFIG_{name}"
        command = f"echo {value} >{variable}" if value else f"rm {variable}"
        deployment.run_in("jupyterhub", "sh", "-c", command)
    hub = "/run/service/jupyterhub"
    deployment.run_in("jupyterhub", "sh", "-c", f"s6-svc -wD -d {hub}; sleep {away}; s6-svc -u {hub}")
    wait_until(lambda: deployment.health == 200, START, "the hub is not back")


def test_a_suspended_job_survives_a_restart_of_the_hub(deployment: Deployment, user: HubUser) -> None:
    """A job that is suspended for longer than `hub.http_timeout` stays, and its server answers when it goes on."""
    job = spawned(deployment, user)
    deployment.run_in("slurm", "scontrol", "suspend", job)
    try:
        restarted(deployment, HTTP_TIMEOUT="10")
        wait_until(lambda: (user.server() or {}).get("ready"), START, "the hub has no such server")
        assert deployment.jobs() == {job: "SUSPENDED"}
        deployment.run_in("slurm", "scontrol", "resume", job)
        wait_until(lambda: reachable(user), STOP, "its server doesn't answer")
    finally:
        restarted(deployment, HTTP_TIMEOUT="")


@contextlib.contextmanager
def in_use(deployment: Deployment, name: str) -> Iterator[None]:
    """Use the server ``name`` of alice once a second, also while the hub is away."""
    ended = threading.Event()

    def use(user: HubUser) -> None:
        while not ended.wait(1):
            with contextlib.suppress(StateError, httpx.TransportError):
                user.notebook_api("GET", "/status", name)

    with deployment.user() as user:
        user.notebook_api("GET", "/status", name)
        thread = threading.Thread(target=use, args=(user,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def compute(user: HubUser, name: str) -> None:
    """Let a kernel of the server compute for long, with nobody connected to it and without a word."""
    kernel = user.notebook_api("POST", "/kernels", name, {"name": "python3"}).json()["id"]
    address = f"{user.url}/user/{user.name}/{name}/api/kernels/{kernel}/channels".replace("http", "ws", 1)
    with connect(
        address, additional_headers=user.bearer, proxy=None, open_timeout=60, ping_timeout=None
    ) as socket:
        execute(socket, "compute", "import time", 60)
        with pytest.raises(TimeoutError):
            execute(socket, "compute", "time.sleep(3600)", 1)


def test_an_idle_server_is_stopped(deployment: Deployment, user: HubUser) -> None:
    """After `hub.idle_timeout` a server that nobody uses is stopped, its job too.

    One in use isn't, though the hub was away for longer and doesn't know that yet; nor is one that computes.
    """
    idle = spawned(deployment, user)
    for name in ("used", "computes"):
        user.spawn({"brics_project": user.spawn_form(name)[1]["brics_project"][0]}, name)
        user.wait_ready(START, name)
    compute(user, "computes")
    used = running(deployment) - {idle}
    try:
        with in_use(deployment, "used"):
            restarted(deployment, away=22, IDLE_TIMEOUT="20")
            wait_until(lambda: user.server() is None, STOP, "the idle server still runs")
            wait_until(lambda: running(deployment) == used, STOP, "its job still runs")
            stays = "computes: nobody uses the server, but a kernel computes"
            wait_until(lambda: stays in deployment.log("jupyterhub"), STOP, "it is in use")
        assert all((user.server(name) or {})["ready"] for name in ("used", "computes"))
    finally:
        restarted(deployment, IDLE_TIMEOUT="")
        user.stop(STOP, "used")
        user.stop(STOP, "computes")


def test_sudo_rs_reads_the_rules(deployment: Deployment) -> None:
    """The rules parse with the sudo of Ubuntu, which knows fewer options."""
    sudoers = ROOT / "containers/slurm/files/etc/sudoers.d/jupyterspawner"
    script = (
        "apt-get update -qq && apt-get install -qq -y sudo-rs >/dev/null 2>&1 || exit 77\n"
        "install -m 0440 /rules /tmp/rules && visudo-rs -c -f /tmp/rules"
    )
    container = f"{deployment.status['pod']}-slurm"
    image = deployment.engine.run(("podman", "inspect", "--format", "{{.ImageName}}", container)).text
    mounts = (f"--volume={sudoers}:/rules:ro", "--volume=/etc/ssl/certs:/etc/ssl/certs:ro")
    run = ("podman", "run", "--rm", "--network=host", *mounts, "--entrypoint=sh", image, "-c", script)
    done = deployment.engine.run(run, check=False, timeout=300)
    if done.returncode == 77:
        pytest.skip("Debian's mirror can't be reached")
    assert done.returncode == 0, done.stderr


# Names that Slurm, the spawner, the launcher and the activation of the user environment give to a server's variables.
EXPECTED = re.compile(
    r"(SLURM|JUPYTER|BATCHSPAWNER_)\w*|JPY_API_TOKEN|MEM_PER_\w+|CUDA_\w+|ROCR_\w+|GPU_\w+|ZE_\w+|TMPDIR|PATH|HOME|USER"
    r"|LOGNAME|SHELL|LANG|PWD|OLDPWD|SHLVL|_|VIRTUAL_ENV\w*|PS1|LC_CTYPE|CONDA_\w+|ENVIRONMENT|HOSTNAME|(HYDRA|I_MPI|OMPI|PRTE)_\w+"
)
SUBMIT = '#!/bin/sh\nexport LEAKED=1 SUDO_LEAKED=1 MAIL=/leaked\nexec AWAY "$@"'
# Prints the variables of the process of a server.
ENVIRONMENT = """
import contextlib
from pathlib import Path
for folder in Path("/proc").glob("[0-9]*"):
    with contextlib.suppress(OSError):  # it has ended meanwhile
        argv = (folder / "cmdline").read_text().split("\\0")
        if "python" in argv[0] and any(part.endswith("-singleuser") for part in argv[1:]):
            print((folder / "environ").read_text().replace("\\0", "\\n"))
"""


@pytest.mark.parametrize("in_script", [False, True])
def test_nothing_of_the_submitting_environment_gets_into_a_job(
    deployment: Deployment, in_script: bool
) -> None:
    """A server has the variables of Slurm and of its spawner, wherever those come from, and no others."""
    profile = "/etc/profile.d/site.sh"
    try:
        if in_script:  # as where Slurm is elsewhere
            setting = ("--set", "slurm.environment_in_script=true")
            invoke("up", *deployment.options, *deployment.settings, *setting)
        # Read where the variables come in the script. A command in it may fail, as in any login shell.
        deployment.run_in("slurm", "sh", "-c", f"echo false >{profile}")
        with deployment.user() as user, replaced(deployment, "/usr/bin/sbatch", SUBMIT):
            spawn(user)
            user.wait_ready(START)
            account = deployment.run_in("slurm", "squeue", "--noheader", "--format=%u").split()[0]
            # Root of a container may not read the variables of others.
            lines = deployment.run_in(
                "slurm", "runuser", "-u", account, "--", "python3", "-c", ENVIRONMENT
            ).splitlines()
            user.stop(STOP)
    finally:
        if in_script:
            invoke("up", *deployment.options, *deployment.settings)
        else:
            deployment.run_in("slurm", "rm", "-f", profile)
    variables = dict(line.partition("=")[::2] for line in lines)
    assert {"HOME", "USER", "PATH", "JUPYTERHUB_API_TOKEN"} <= variables.keys()
    assert {name for name in variables if not EXPECTED.fullmatch(name)} == set()
