"""What `doctor`, `status`, `check` and `verify` say of a pod that is well, and of one that is not."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from .helpers import (
    ROOT,
    START,
    STOP,
    Deployment,
    entry,
    free_port,
    http_status,
    invoke,
    once,
    rootless,
    ssh_key_pair,
    wait_until,
)

pytestmark = pytest.mark.environments("dev_dummyauth", "dev_realauth")


def test_doctor_finds_nothing_amiss_where_a_pod_runs(deployment: Deployment) -> None:
    """Neither environments that wait for a person's data nor our own pods' ports are something to mend."""
    rows = json.loads(invoke("doctor", "--json", check=False).stdout)
    # Another user's pods may have the ports, such as those of root's tests beside this.
    may_fail = {"Debian mirror", "Python packages", *(["ports"] if rootless() else [])}
    assert {row["check"] for row in rows if not row["ok"]} <= may_fail


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


def test_the_log_in_has_a_cookie_of_this_hubs_own(deployment: Deployment) -> None:
    """Cookies know no ports: a log-in at another hub on this host doesn't end it."""
    with deployment.user() as user:
        names = {cookie.name for cookie in user.http.cookies.jar if "hub-login" in cookie.name}
    assert names == {f"jupyterhub-hub-login-{deployment.status['pod']}"}


def lines_of(*argv: str) -> list[str]:
    """Return the lines that a command prints; none where its program is missing."""
    if not shutil.which(argv[0]):
        return []
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()


def lose_rules(port: str) -> bool:
    """Remove the firewall rules by which ``port`` of this host leads to its pod; return whether there were any."""
    chain = ("inet", "netavark", "NETAVARK-HOSTPORT-DNAT")
    removals = [
        ("iptables", "-t", "nat", *shlex.split(rule.replace("-A", "-D", 1)))
        for rule in lines_of("iptables", "-t", "nat", "-S")
        if f"--dport {port} " in rule and "DNAT" in rule
    ]
    # Debian 13's podman has them in nftables.
    removals += [
        ("nft", "delete", "rule", *chain, "handle", rule.split()[-1])
        for rule in lines_of("nft", "--handle", "list", "chain", *chain)
        if f"dport {port} " in rule
    ]
    for argv in removals:
        subprocess.run(argv, check=True)
    return bool(removals)


@once
def test_lost_firewall_rules_are_named(deployment: Deployment) -> None:
    """A flushed firewall leaves a pod that is well and can't be reached: `wait` and `doctor` name the remedy."""
    port = deployment.status["url"].rpartition(":")[2].partition("/")[0]
    if not lose_rules(port):
        assert rootless(), "the rules are neither iptables' nor nftables'"
        pytest.skip("without root a pod's ports need no firewall rules")
    try:
        remedy = "podman network reload"
        assert remedy in invoke("wait", *deployment.options, "--timeout", "10", check=False).stderr
        assert remedy in invoke("doctor", check=False).stdout
    finally:
        pod = deployment.status["pod"]
        (infra,) = deployment.engine.run(
            ("podman", "pod", "inspect", "--format={{.InfraContainerID}}", pod)
        ).text.split()
        deployment.engine.run(("podman", "network", "reload", infra))
    wait_until(lambda: deployment.health == 200, START, "the remedy doesn't help")


@once
def test_a_hub_that_is_down_is_not_taken_for_lost_rules(deployment: Deployment) -> None:
    """Its proxy answers at the host's port, though not with the hub's page."""
    hub = "/run/service/jupyterhub"
    deployment.run_in("jupyterhub", "s6-svc", "-wD", "-d", hub)
    try:
        said = invoke("wait", *deployment.options, "--timeout", "5", check=False).stderr
    finally:
        deployment.run_in("jupyterhub", "s6-svc", "-u", hub)
    assert "error: hub page did not answer within 5 s" in said
    wait_until(lambda: deployment.health == 200, START, "the hub isn't back")


@once
def test_an_address_that_leads_nowhere_is_refused(deployment: Deployment) -> None:
    """Before anything is created: as root podman takes an IPv6 address and forwards nothing. A user's forwards it."""
    address, instance = f"[::1]:{free_port()}", f"six{os.getpid()}"
    up = ("up", "--env", deployment.env, "--instance", instance, *deployment.settings)
    done = invoke(*up, "--set", f"publish.jupyterhub='{address}'", check=False)
    if rootless():
        try:
            assert done.returncode == 0, done.stderr
            assert http_status(f"http://{address}/jupyter/hub/login") == 200
        finally:
            invoke("down", "--env", deployment.env, "--instance", instance)
    else:
        assert f"error: publish.jupyterhub: {address} leads nowhere: " in done.stderr
    assert entry(instance) is None


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
def test_a_certified_host_key_is_trusted(deployment: Deployment) -> None:
    """By the hub's ssh and by Fabric: an authority and a wildcard do; a revoked key doesn't."""
    pinned, inside = deployment.secrets["known_hosts"], "/run/jupyterhub/known_hosts"
    right, key, options = pinned.read_text(), "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/sshd_config"
    ca = deployment.run_in("slurm", "sh", "-c", "ssh-keygen -q -t ed25519 -N '' -f /tmp/ca; cat /tmp/ca.pub")
    host_key = " ".join(right.split()[1:3])

    def check(known_hosts: str) -> subprocess.CompletedProcess[str]:
        """Run `check` with these lines in place of those that the deployment has."""
        pinned.write_text(known_hosts)
        tee = ("podman", "exec", "--interactive", f"{deployment.status['pod']}-jupyterhub", "tee", inside)
        deployment.engine.run(tee, stdin=known_hosts.encode())
        # Otherwise the hub's ssh goes on with the connection that it has.
        deployment.run_in("jupyterhub", "ssh", "-O", "exit", "jupyterspawner@slurm", check=False)
        return invoke("check", *deployment.options, check=False)

    try:
        assert check(f"slur? {host_key}").returncode == 0
        done = check(f"@revoked * {host_key}\n{right}")
        assert "revoked" in (done.stdout + done.stderr).lower()
        sign = f"ssh-keygen -y -f {key} >{key}.pub && ssh-keygen -q -s /tmp/ca -I x -h -n slurm {key}.pub"
        serve = (
            f"$aHostCertificate {key}-cert.pub\n/^HostKeyAlgorithms/s/$/,ssh-ed25519-cert-v01@openssh.com/"
        )
        deployment.run_in("slurm", "sh", "-c", sign)
        deployment.run_in("slurm", "sed", "-i", serve, options)
        deployment.run_in("slurm", "s6-svc", "-h", "/run/service/sshd")
        done = check(f"@cert-authority s* {ca}")
        assert done.returncode == 0, done.stdout
    finally:
        deployment.run_in("slurm", "sed", "-i", "/^HostCertificate/d; s/,ssh-ed25519-cert.*//", options)
        deployment.run_in("slurm", "s6-svc", "-h", "/run/service/sshd")
        assert check(right).returncode == 0


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


@once
def test_check_notices_that_sudo_allows_other_commands(deployment: Deployment) -> None:
    """With ALL in place of the three wrappers the service account would be every user."""
    rules, wrappers = "/etc/sudoers.d/jupyterspawner", "(%jupyterusers) NOPASSWD: "
    deployment.run_in("slurm", "sed", "-i", f"s/{wrappers}SLURMSPAWNER/{wrappers}ALL/", rules)
    try:
        done = invoke("check", *deployment.options, check=False)
    finally:
        deployment.run_in("slurm", "sed", "-i", f"s/{wrappers}ALL/{wrappers}SLURMSPAWNER/", rules)
    assert done.returncode == 1
    assert "FAIL  no other command as alice.project1" in done.stdout


@once
def test_check_takes_what_the_hub_takes(deployment: Deployment) -> None:
    """Login hosts greet, and sbatch may say more than a number, and the cluster's name beside that."""
    script = "#!/bin/sh\necho 'Welcome; have fun'\n/usr/bin/sbatch.real \"$@\" | sed 's/$/;cluster/'\n"
    place = 'cd /usr/bin && mv sbatch sbatch.real && printf %s "$0" >sbatch && chmod 755 sbatch'
    deployment.run_in("slurm", "sh", "-c", place, script)
    deployment.run_in("slurm", "sh", "-c", "echo 'echo Welcome to this host' >/etc/ssh/sshrc")
    try:
        done = invoke("check", *deployment.options)
    finally:
        deployment.run_in("slurm", "mv", "/usr/bin/sbatch.real", "/usr/bin/sbatch")
        deployment.run_in("slurm", "rm", "/etc/ssh/sshrc")
    assert "FAIL" not in done.stdout


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
    with (
        deployment.user() as user,
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running,
    ):
        wait_until(lambda: user.server() is not None, START, "no server has been started")
        running.send_signal(signal.SIGINT)
        assert "Traceback" not in running.communicate(timeout=START)[1]
        assert running.returncode == 128 + signal.SIGINT
        wait_until(lambda: user.server() is None and not deployment.jobs(), STOP, "the server is still there")


@once
def test_an_interrupted_check_ends_at_once(deployment: Deployment) -> None:
    """Also while it waits for a server that takes connections and says nothing; the hub's own one stays open."""
    invoke("check", *deployment.options)
    command = (sys.executable, "-m", "invoke", "check", *deployment.options)
    deployment.run_in("slurm", "pkill", "-STOP", "--oldest", "--exact", "sshd")
    try:
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
            relay = ("pgrep", "--parent", str(running.pid), "--full", "nc -N")
            wait_until(lambda: lines_of(*relay), START, "it has not begun")
            started = time.monotonic()
            running.send_signal(signal.SIGINT)
            assert "Traceback" not in running.communicate(timeout=STOP)[1]
            assert running.returncode == 128 + signal.SIGINT
            assert time.monotonic() - started < 20  # Paramiko alone would wait for 30 s
    finally:
        deployment.run_in("slurm", "pkill", "-CONT", "--oldest", "--exact", "sshd")
