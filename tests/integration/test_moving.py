"""Moving in from isambard-sc/brics_jupyterhub_envs: its ConfigMap and the files beside it, as they are."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from .helpers import (
    ROOT,
    START,
    Deployment,
    Engine,
    HubUser,
    StateError,
    entry,
    free_port,
    image_of,
    inside,
    invoke,
    once,
    rootless,
    settings,
    ssh_key_pair,
    wait_until,
    write_private,
)

pytestmark = [once, inside]
PASSWORD = "a password of before"
CONFIG_MAP = f"""\
# Settings of the development environment
apiVersion: core/v1
kind: ConfigMap
metadata:
  name: deploy-config
immutable: true
data:
  logLevel: "DEBUG"  # DEBUG, INFO, ...
  baseUrl: "/before"
  devUsers: "dave.project1 dave.project2 erin.project1"
  dummyAuthPassword: "{PASSWORD}"
  sshHostname: "localhost"
  slurmSpawnerWrappersBin: "/opt/jupyter/slurmspawner_wrappers/bin"
  condaPrefixDir: "/opt/jupyter/miniforge3"
  jupyterDataDir: "/opt/jupyter/jupyter_data"
  hubConnectUrl: "http://127.0.0.1:8081"
  oidcServer: "https://idp.example.org/realms/before"
  bricsPlatform: "before.platform"
  jwtAudience: "before"
"""


@pytest.fixture(scope="module")
def config_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a ConfigMap of such a deployment."""
    path = tmp_path_factory.mktemp("deploy") / "deploy_config.yaml"
    path.write_text(CONFIG_MAP)
    return path


@pytest.fixture(scope="module")
def moved(instance: str, engine: Engine, config_map: Path) -> Iterator[Deployment]:
    """The environment, brought up with that ConfigMap and nothing else but a port."""
    name = f"{instance}-moved"
    named = ("--env", "dev_dummyauth", "--instance", name)
    try:
        port = settings(publish__jupyterhub=f"127.0.0.1:{free_port()}")
        invoke("up", *named, "--configmap", str(config_map), *port)
        status = entry(name)
        assert status is not None
        yield Deployment("dev_dummyauth", name, status, engine)
    finally:
        invoke("down", *named)


def test_a_config_map_as_it_is_ends_in_a_working_notebook(moved: Deployment) -> None:
    """Its password logs its first user in, and a server runs with the paths that it has."""
    assert moved.status["url"].endswith("/before")
    with HubUser(moved.status["url"]) as user:
        user.log_in(PASSWORD)
        assert user.name == "dave"
        _, options = user.spawn_form()
        assert sorted(options["brics_project"]) == ["project1.brics", "project2.brics"]
        user.spawn({"brics_project": "project2.brics"})
        user.wait_ready(START)
        code = "import os; print(os.environ['USER'], os.environ['JUPYTER_PATH'], os.environ['VIRTUAL_ENV'])"
        with user.kernel() as run:
            output = run(code)
        assert output.split() == [
            *("dave.project2", "/opt/jupyter/jupyter_data", "/opt/jupyter/envs/jupyter-user-env")
        ]
        # So a browser keeps them apart from those of a hub with another base_url.
        user.page("/user/dave/tree")
        cookies = {cookie.name: cookie.path for cookie in user.http.cookies.jar}
        assert {"_xsrf", "jupyterhub-session-id", "jupyterhub-user-dave"} <= set(cookies)
        assert [name for name, path in cookies.items() if not path.startswith("/before/")] == []
        user.stop(START)


def test_the_next_up_has_the_same_settings_and_offers_to_write_them(moved: Deployment) -> None:
    """Without the option they are not lost; `--save` is what writes them to local.yaml."""
    again = invoke("up", *moved.options).stdout
    assert "is up and unchanged" in again
    assert f"invoke up {' '.join(moved.options)} --save" in again
    assert not (ROOT / "envs/dev_dummyauth/local.yaml").exists()


def test_saved_settings_outlive_the_deployment(moved: Deployment) -> None:
    """`--save` moves them to local.yaml, where any `up` finds them; the password is not among them."""
    local = ROOT / "envs/dev_dummyauth/local.yaml"
    try:
        assert "is up and unchanged" in invoke("up", *moved.options, "--save").stdout
        assert PASSWORD not in local.read_text()
        assert not (moved.secrets["ssh_key"].parents[1] / "settings.yaml").exists()
        assert "is up and unchanged" in invoke("up", *moved.options).stdout
    finally:
        local.unlink(missing_ok=True)


# -- adopt ---------------------------------------------------------------------------------------------

HOST = "login.moving.example"
# In the hub's image: a database as a hub leaves it, with a user, a token and a server that runs as a job.
OLD_HUB = """
import base64, json, secrets, sys
from cryptography.fernet import Fernet
from jupyterhub import orm, roles

job, port, projects = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
key = secrets.token_hex(32)
fernet = Fernet(base64.urlsafe_b64encode(bytes.fromhex(key)))
db = orm.new_session_factory("sqlite:////old/srv/jupyterhub.sqlite")()
for role in roles.get_default_roles():
    roles.create_role(db, role)
user = orm.User(name="alice", encrypted_auth_state=fernet.encrypt(json.dumps(projects).encode()))
db.add_all([user, orm.OAuthClient(identifier="jupyterhub")])
db.commit()
roles.assign_default_roles(db, entity=user)
token = user.new_api_token(note="of before")
server = orm.Server(proto="http", ip="node1", port=port, base_url="/jupyter/user/alice/", cookie_name="alice")
options = {"brics_project": "project1.brics", "runtime": "01:00:00", "ngpus": "0", "partition": "", "reservation": ""}
state = {"job_id": job, "job_status": "RUNNING node1", "brics_projects": projects}
db.add(orm.Spawner(name="", user=user, server=server, state=state, user_options=options))
db.commit()
open("/old/srv/jupyterhub_crypt_key", "w").write(key)
open("/old/srv/jupyterhub_cookie_secret", "w").write(secrets.token_hex(32))
print(token)
"""
PROJECTS = {"project1.brics": {"name": "Project 1", "username": "alice.project1"}}


@dataclass(frozen=True)
class Before:
    """What there is before the move: a site's Slurm with a running job, and the old hub's two volumes."""

    slurm: str
    address: str
    job: str
    volume: str
    token: str
    ssh_volume: str
    engine: Engine

    def content(self) -> bytes:
        """Return the volume's content."""
        return self.engine.run(("podman", "volume", "export", self.volume)).stdout

    @property
    def cookie_secret(self) -> str:
        """Return what the old hub signed its cookies with."""
        with tarfile.open(fileobj=io.BytesIO(self.content())) as tar:
            (member,) = (one for one in tar if one.name.endswith("srv/jupyterhub_cookie_secret"))
            content = tar.extractfile(member)
            assert content is not None
            return content.read().decode()


@pytest.fixture(scope="module")
def before(instance: str, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    """A Slurm of a site's with a job that answers by HTTP, and what a hub has left that had started it."""
    if rootless():
        pytest.skip("without root, pods have no network in which they could find each other")
    named = ("--env", "dev_dummyauth", "--instance", f"{instance}-site")
    slurm, volume = f"jupyterhub-slurm-dev-dummyauth-{instance}-site-slurm", f"jupyterhub_root_{instance}"
    ssh_volume = f"slurm_root_{instance}"
    folder = tmp_path_factory.mktemp("ssh")
    try:
        invoke("up", *named, *settings(containers="[slurm]", slurm__ssh_hostname=HOST))
        private, public = ssh_key_pair("before")
        write_private(folder / "ssh_client_key", private)
        keys = ("tee", "/etc/ssh/authorized_keys/jupyterspawner")
        engine.exec(slurm, *keys, stdin=f"restrict {public}\n".encode())
        host_key = engine.exec(slurm, "ssh-keygen", "-y", "-f", "/etc/ssh/ssh_host_ed25519_key").text
        (folder / "ssh_known_hosts").write_text(f"{HOST} {host_key}\n")
        port = 45678  # in that pod alone; lower ones are not for jobs
        script = f"#!/bin/sh\nexec python3 -m http.server {port}\n".encode()
        submit = (
            "runuser",
            "-u",
            "alice.project1",
            "--",
            "sbatch",
            "--parsable",
            "--chdir=/tmp",
            "--output=/dev/null",
        )
        job = engine.exec(slurm, *submit, stdin=script).text
        address = engine.exec(slurm, "hostname", "-I").text.split()[0]
        run = ("podman", "run", "--rm", "--interactive", "--entrypoint=python3", f"--volume={volume}:/old")
        for name in (volume, ssh_volume):
            engine.run(("podman", "volume", "create", name))
        with tarfile.open(folder / "tar", "w") as tar:
            for name in ("ssh_client_key", "ssh_known_hosts"):
                tar.add(folder / name, f"etc/{name}")
        engine.run(("podman", "volume", "import", ssh_volume, str(folder / "tar")))
        argv = (
            "-c",
            f"import os; os.makedirs('/old/srv', exist_ok=True)\n{OLD_HUB}",
            job,
            str(port),
            json.dumps(PROJECTS),
        )
        token = engine.run((*run, image_of("jupyterhub"), *argv)).text.split()[-1]
        yield Before(slurm, address, job, volume, token, ssh_volume, engine)
    finally:
        engine.run(("podman", "volume", "rm", "--force", volume, ssh_volume), check=False)
        invoke("down", *named)


def test_a_hub_is_adopted_with_its_running_servers(
    before: Before, instance: str, here: str, tmp_path: Path
) -> None:
    """Users, tokens, log-ins and the server of a job at the site are there; the old volume is as it was."""
    engine, old = before.engine, before.content()
    export, site = tmp_path / "export.tar", tmp_path / "site"
    export.write_bytes(old)
    site.mkdir()
    named = ("--env", "dev_dummyauth_extslurm", "--instance", f"{instance}-a")
    api = f"{here}:{free_port(here)}"
    options = settings(
        dev_users="[alice.project1]",
        site_folder=str(site),
        slurm__ssh_hostname=HOST,
        slurm__host_aliases=f"[{{ip: {before.address}, hostnames: [{HOST}, node1]}}]",
        slurm__hub_connect_url=f"http://{api}",
        network=before.slurm.removesuffix("-slurm"),
        publish__jupyterhub=f"127.0.0.1:{free_port()}",
        **{"publish__hub-api": api},
    )
    rest = ("--from", before.ssh_volume, *options)
    adopt = ("adopt", *named, "--from", before.volume, *rest)
    try:
        for source in (before.volume, str(export)):
            told = invoke("adopt", *named, "--from", source, *rest, "--dry-run").stdout
            assert "1 users: alice; 1 tokens" in told
            assert f"server alice/ in job {before.job}: kept" in told
            assert "taken: cookie_secret, crypt_keys, jupyterhub.sqlite, known_hosts, ssh_key" in told
        assert entry(named[-1]) is None
        assert not list(site.iterdir())

        user = engine.listed(("podman", "ps", "--quiet", f"--filter=volume={before.volume}")).text
        assert not user
        holder = ("podman", "run", "--detach", "--rm", f"--volume={before.volume}:/old", "--entrypoint=sleep")
        image = engine.run(("podman", "inspect", "--format={{.ImageName}}", before.slurm)).text
        container = engine.run((*holder, image, "300")).text
        refused = invoke(*adopt, check=False)
        engine.run(("podman", "rm", "--force", "--time=0", container))
        assert f"volume {before.volume} is in use by" in refused.stderr

        invoke(*adopt)
        status = entry(named[-1])
        assert status is not None
        adopted = Deployment(named[1], named[-1], status, engine)
        assert adopted.secrets["cookie_secret"].read_text() == before.cookie_secret
        with httpx.Client(headers={"Authorization": f"token {before.token}"}, trust_env=False) as http:

            def server() -> dict[str, object]:
                answer = http.get(f"{status['url']}/hub/api/users/alice")
                assert answer.status_code == 200, answer.text
                return dict(answer.json()["servers"].get("") or {})

            def answers() -> bool:
                return "SimpleHTTP" in http.get(f"{status['url']}/user/alice/").headers.get("Server", "")

            wait_until(lambda: server().get("ready"), START, "the server is not there")
            # Through the proxy, whose routes may come a moment later, from what the job runs.
            wait_until(answers, START, "the proxy has no way to the server")
            job = engine.exec(before.slurm, "squeue", "--noheader", "--format=%i %T").text
            assert job.split() == [before.job, "RUNNING"]

            again = invoke(*adopt).stdout
            assert "it is adopted already" in again
            assert server().get("ready")
        assert before.content() == old
    finally:
        invoke("down", *named)


# -- the form, GPUs, and a user environment like conda's -------------------------------------------------

# A stand-in: PyPI has no conda that runs today. As conda's own script does: a function, and variables that need not
# be set.
ACTIVATE = """
_CONDA_ROOT=/opt/conda
conda() {
    PS1="($2) $PS1"
    \\builtin export CONDA_DEFAULT_ENV="$2" CONDA_PREFIX="$_CONDA_ROOT/envs/$2" CONDA_SHLVL=$((${CONDA_SHLVL:-0} + 1))
    PATH="$CONDA_PREFIX/bin:$PATH"
    [ -n "$_CE_CONDA" ] && echo never
    \\builtin hash -r
}
conda activate "$@"
# Of our own environment, whose kernels listen on sockets: their paths must not be long.
export JUPYTER_RUNTIME_DIR=$(mktemp --directory)
"""
FORM = {
    "durations": ["00:30:00", "08:00:00"],
    "gpus": [{"count": 0, "label": "none"}, {"count": 2, "label": "2 GH200"}],
    "free_text": False,
}


@pytest.fixture(scope="module")
def chosen(instance: str, engine: Engine, deployment: Deployment) -> Iterator[Deployment]:
    """The environment with a form of choices, jobs that say --gpus, and a conda-like user environment."""
    beside, name = deployment, f"{instance}-f"
    named = ("--env", "dev_dummyauth", "--instance", name)
    options = settings(
        publish__jupyterhub=f"127.0.0.1:{free_port()}",
        hub__form=json.dumps(FORM),
        hub__gpu_option="gpus",
        slurm__gpus_per_node="4",
        slurm__env_prefix="/opt/conda",
    )
    try:
        done = invoke("up", *named, *options)
        assert f"cookies with those of {beside.status['pod']}, at the same host and path" in done.stdout
        status = entry(name)
        assert status is not None
        deployment = Deployment("dev_dummyauth", name, status, engine)
        deployment.run_in("slurm", "install", "-d", "/opt/conda/bin")
        deployment.run_in("slurm", "ln", "-s", "/opt/jupyter/envs", "/opt/conda/envs")
        slurm = f"{status['pod']}-slurm"
        engine.exec(slurm, "tee", "/opt/conda/bin/activate", stdin=ACTIVATE.encode())
        yield deployment
    finally:
        invoke("down", *named)


def test_the_form_is_data_and_jobs_say_gpus(chosen: Deployment) -> None:
    """What is listed can be chosen, declared partitions too; the job has the GPUs, one node, and conda's variables."""
    with chosen.user() as user:
        _, options = user.spawn_form()
        assert options["runtime"] == FORM["durations"]
        assert options["ngpus"] == ["0", "2"]
        assert options["partition"] == ["", "main"]
        with pytest.raises(StateError, match="400"):
            user.spawn({"brics_project": "project1.brics", "ngpus": "1"})
        user.spawn(
            {"brics_project": "project1.brics", "ngpus": "2", "runtime": "08:00:00", "partition": "main"}
        )
        user.wait_ready(START)
        ((job, _),) = chosen.jobs().items()
        shown = chosen.run_in("slurm", "scontrol", "show", "job", job)
        assert "TresPerJob=gres/gpu:2" in shown
        assert "NumNodes=1 " in shown
        assert "TimeLimit=08:00:00" in shown
        script = chosen.run_in("slurm", "scontrol", "write", "batch_script", job, "-")
        assert "#SBATCH --gpus=2" in script
        assert "--gres" not in script
        with user.kernel() as run:
            printed = run("import os; print(os.environ['CONDA_DEFAULT_ENV'], os.environ['CONDA_PREFIX'])")
        assert printed.split() == ["jupyter-user-env", "/opt/conda/envs/jupyter-user-env"]
        user.stop(START)
        user.spawn({"brics_project": "project1.brics"})
        user.wait_ready(START)
        ((job, _),) = chosen.jobs().items()
        script = chosen.run_in("slurm", "scontrol", "write", "batch_script", job, "-")
        assert "gpu" not in script.partition("\nset ")[0]
        user.stop(START)
