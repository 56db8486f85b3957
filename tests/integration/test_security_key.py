"""What the hub's SSH key can do at Slurm: the hub's commands, and nothing else."""

from __future__ import annotations

import json

import pytest

from hubenvs.definition.containers import HUB_ID

from .helpers import ACCOUNT, HOME, Deployment, inside

pytestmark = pytest.mark.environments("dev_dummyauth")

WRAPPER = "/opt/slurmspawner_wrappers/bin/slurmspawner_squeue"


# Sends each of a list of commands, and prints exit statuses, outputs and errors. One program in the container for all
# of them costs a tenth.
SEND = """
import json, subprocess, sys

def answer(sent):
    done = subprocess.run(["ssh", "jupyterspawner@slurm", sent], input="", capture_output=True, text=True)
    return done.returncode, done.stdout.rstrip("\\n"), done.stderr

print(json.dumps([answer(sent) for sent in json.load(sys.stdin)]))
"""
Answer = tuple[int, str, str]


def as_service_account(deployment: Deployment, *commands: str) -> list[Answer]:
    """Send each of ``commands`` to Slurm's sshd with the hub's key; return exit status, output and errors of each."""
    hub = f"{deployment.status['pod']}-jupyterhub"
    run = ("podman", "exec", "--interactive", hub, "python3", "-c", SEND)
    done = deployment.engine.run(run, stdin=json.dumps(commands).encode())
    return [(status, output, errors) for status, output, errors in json.loads(done.text)]


REFUSED = (
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
    f"sudo -n -u {ACCOUNT} {'X=1 ' * 5000}{WRAPPER}",
)


@pytest.fixture(scope="module")
def answers(deployment: Deployment) -> dict[str, Answer]:
    """What is answered to each of the commands that must be refused."""
    return dict(zip(REFUSED, as_service_account(deployment, *REFUSED), strict=True))


@inside
@pytest.mark.parametrize("sent", REFUSED)
def test_the_hubs_key_runs_nothing_but_the_hubs_commands(answers: dict[str, Answer], sent: str) -> None:
    """Whoever has the hub's key has no shell: what isn't one of its commands is refused before anything is run."""
    status, output, errors = answers[sent]
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
    run, listed, who = as_service_account(deployment, sent, f"sudo -n -l -u {ACCOUNT} {WRAPPER}", "whoami")
    assert run == (1, "", "slurmspawner_squeue: SLURMSPAWNER_JOB_ID is not a job id\n")
    assert listed[:2] == (0, WRAPPER)
    assert who[:2] == (0, "jupyterspawner")


@inside
def test_no_job_number_wraps_to_another_job(deployment: Deployment) -> None:
    """Slurm would cut 2^32 + 1 to 32 bits, and so to job 1: the wrappers refuse it."""
    for wrapper in (WRAPPER, WRAPPER.replace("squeue", "scancel")):
        sent = f"sudo -n -u {ACCOUNT} SLURMSPAWNER_JOB_ID={2**32 + 1} {wrapper}"
        name = wrapper.rpartition("/")[2]
        expected = (1, "", f"{name}: SLURMSPAWNER_JOB_ID is not a job id\n")
        assert as_service_account(deployment, sent) == [expected]


def test_the_connection_to_slurm_is_the_hubs(deployment: Deployment) -> None:
    """Whoever opens it first: root's ssh takes part in the hub's connection, and leaves none that the hub can't use."""
    ssh = ("ssh", "jupyterspawner@slurm")
    deployment.run_in("jupyterhub", "ssh", "-O", "exit", *ssh[1:], check=False)
    find = ("find", "/run/jupyterhub", "-type", "s", "-name", "ssh-*", "-printf", "%U")
    assert deployment.run_in("jupyterhub", *ssh, "whoami") == "jupyterspawner"
    assert deployment.run_in("jupyterhub", *find) == ""
    deployment.engine.exec(f"{deployment.status['pod']}-jupyterhub", *ssh, "true")
    assert deployment.run_in("jupyterhub", *find) == str(HUB_ID)
