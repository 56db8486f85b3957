"""Attacks on a real pod, as whoever could try them; docs/security.md has the table of them."""

from __future__ import annotations

import pytest

from .conftest import Deployment

pytestmark = pytest.mark.environments("dev_dummyauth")

WRAPPER = "/opt/slurmspawner_wrappers/bin/slurmspawner_squeue"
ACCOUNT, HOME = "alice.project1", "/home/project1/alice.project1"


def as_service_account(deployment: Deployment, sent: str) -> tuple[int, str, str]:
    """Send ``sent`` to Slurm's sshd with the hub's key; return exit status, output and errors."""
    hub = f"{deployment.status['pod']}-jupyterhub"
    done = deployment.engine.run(("podman", "exec", hub, "ssh", "jupyterspawner@slurm", sent), check=False)
    return done.returncode, done.text, done.stderr


@pytest.mark.parametrize(
    "sent",
    [
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
    ],
)
def test_the_hubs_key_runs_nothing_but_the_hubs_commands(deployment: Deployment, sent: str) -> None:
    """Whoever has the hub's key has no shell: what isn't one of its commands is refused before anything is run."""
    status, output, errors = as_service_account(deployment, sent)
    assert (status, output) == (126, "")
    assert "service-command: refused: " in errors


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
    assert as_service_account(deployment, sent) == (
        *(1, ""),
        "slurmspawner_squeue: SLURMSPAWNER_JOB_ID is not a job id\n",
    )
    assert as_service_account(deployment, f"sudo -n -l -u {ACCOUNT} {WRAPPER}")[:2] == (0, WRAPPER)
    assert as_service_account(deployment, "whoami")[:2] == (0, "jupyterspawner")
