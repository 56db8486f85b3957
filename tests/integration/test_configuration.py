"""What the hub's configuration gives a spawner and an authenticator, of ours or of another source."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from .helpers import HUB_PYTHON, Deployment, inside

pytestmark = pytest.mark.environments("dev_dummyauth")


FOLDERS = {
    "JUPYTERHUB_CONFIG_DIR": "/etc/jupyterhub",
    "JUPYTERHUB_LOG_DIR": "/var/lib/jupyterhub/log",
    "JUPYTERHUB_SRV_DIR": "/srv/jupyterhub",
    "DEV_DATA_DIR": "/srv/jupyterhub",
}


@inside
def test_the_images_have_the_variables_of_before(deployment: Deployment) -> None:
    """Configurations of isambard-sc/brics_jupyterhub_envs find the stage and four folders that are there."""
    words = " ".join(f"${name}" for name in FOLDERS)
    shown = deployment.run_in("jupyterhub", "sh", "-euc", f"ls -d {words} >&2; printf '%s\n' {words}")
    assert shown.split() == list(FOLDERS.values())
    for folder in ("$JUPYTERHUB_SRV_DIR", "$JUPYTERHUB_CONFIG_DIR/"):
        assert "jupyterhub_config.py" in deployment.run_in("jupyterhub", "sh", "-c", f"ls {folder}")
    # The hub's user can write its log there.
    deployment.run_in(
        "jupyterhub", "sh", "-euc", 'touch "$JUPYTERHUB_LOG_DIR/x" && rm "$JUPYTERHUB_LOG_DIR/x"'
    )
    for container in ("jupyterhub", "slurm"):
        assert deployment.run_in(container, "printenv", "CONTAINER_ENV") == "dev"


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


@inside
def test_a_command_that_fails_in_an_activation_script_is_not_the_end(
    deployment: Deployment, tmp_path: Path
) -> None:
    """Conda's environments have such scripts. The job ends if the environment can't be activated."""
    lines = batch_script(deployment, f"DEPLOY_CONFIG_CONDA_PREFIX_DIR={tmp_path}", cmd="echo $ACTIVATED")
    (tmp_path / "bin").mkdir()
    for activate, expected in (("false\nACTIVATED=$1", (0, "jupyter-user-env\n")), ("return 3", (3, ""))):
        (tmp_path / "bin/activate").write_text(activate)
        done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == expected, done.stderr


# Run in the hub's container: values that the configuration gives to authenticator and spawner.
CONFIGURED = """
from bricsauthenticator import BricsAuthenticator
from traitlets.config.loader import PyFileConfigLoader
config = PyFileConfigLoader('common.py', '/srv/jupyterhub').load_config()
one = BricsAuthenticator(config=config)
print([one.jwt_azp, one.match_username, config.BricsSlurmSpawner.commands_at_once])
"""


@inside
def test_settings_reach_the_hub(deployment: Deployment) -> None:
    """The keys auth.azp, auth.match_username and hub.commands_at_once; a foreign deployment has none of them."""
    names = [f"DEPLOY_CONFIG_{name}" for name in ("JWT_AZP", "MATCH_USERNAME", "COMMANDS_AT_ONCE")]
    unset = ["env", *(word for name in names for word in ("-u", name))]
    given = [f"{name}={value}" for name, value in zip(names, ("portal", "false", "3"), strict=True)]
    for variables, expected in ((unset, "['', True, 8]"), (["env", *given], "['portal', False, 3]")):
        command = f'{" ".join(variables)} PYTHONPATH=. {HUB_PYTHON} -c "$0"'
        assert deployment.run_in("jupyterhub", "sh", "-c", command, CONFIGURED) == expected


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


# Run in the hub's container: what its log has of a message with the proof that a request came through the proxy.
LOGGED = """
from logging import makeLogRecord
from traitlets.config.loader import PyFileConfigLoader
c = PyFileConfigLoader('common.py', '/srv/jupyterhub').load_config()
tame = c.JupyterHub.logging_config['filters']['tame']['()']()
record = makeLogRecord({'msg': 'X-Jupyterhub-Proxied: %s', 'args': (tame.__globals__['PROXIED'],)})
tame(record)
print(record.getMessage())
"""


@inside
def test_what_opens_the_hubs_own_port_is_not_logged(deployment: Deployment) -> None:
    """JupyterHub logs the headers of a request that ends in a 500; the proxy's proof is among them."""
    command = f'PYTHONPATH=. {HUB_PYTHON} -c "$0"'
    assert deployment.run_in("jupyterhub", "sh", "-c", command, LOGGED) == "X-Jupyterhub-Proxied: [secret]"
