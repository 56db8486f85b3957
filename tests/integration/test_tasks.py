"""Other tasks on a pod that is up, a second `up`, and ports that are taken."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from .helpers import ROOT, START, Deployment, entry, inside, invoke, once

pytestmark = pytest.mark.environments("dev_dummyauth", "dev_realauth")


def test_a_second_up_changes_nothing(deployment: Deployment) -> None:
    """What is up and unchanged is left alone, and each stage says so."""
    before = deployment.engine.run(
        ("podman", "pod", "inspect", "--format", "{{.ID}}", deployment.status["pod"])
    ).text
    done = invoke("up", *deployment.options, *deployment.settings)
    assert "images are up to date" in done.stdout
    assert "is up and unchanged" in done.stdout
    after = deployment.engine.run(
        ("podman", "pod", "inspect", "--format", "{{.ID}}", deployment.status["pod"])
    ).text
    assert before == after


@once
def test_a_packages_own_tests_run_in_its_image(deployment: Deployment) -> None:
    """`test-repo` passes on what pytest says, a failure too."""
    assert " passed" in invoke("test-repo", "slurmspawner_wrappers", "--env", deployment.env).stdout
    options = ("--env", deployment.env, "--arguments", "--no-such-option")
    assert invoke("test-repo", "slurmspawner_wrappers", *options, check=False).returncode == 4


@once
@inside
def test_an_image_has_a_bill_of_materials(deployment: Deployment, tmp_path: Path) -> None:
    """It names what Debian, PyPI and npm have given, in the versions that are in the image."""
    invoke("build", "--env", deployment.env, *deployment.settings, "--sbom", str(tmp_path))
    bills = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert bills.keys() == {"jupyterhub.cdx.json", "slurm.cdx.json"}
    purls = {item["purl"] for bill in bills.values() for item in bill["components"]}
    query = ("dpkg-query", "--show", "--showformat=pkg:deb/debian/${Package}@${Version}?arch=${Architecture}")
    assert {
        deployment.run_in("slurm", *query, "slurmd"),
        deployment.run_in("jupyterhub", *query, "nodejs"),
    } <= {unquote(purl) for purl in purls}
    hub = deployment.run_in("jupyterhub", "/opt/jupyterhub/bin/jupyterhub", "--version")
    proxy = deployment.run_in("jupyterhub", "configurable-http-proxy", "--version")
    assert {f"pkg:pypi/jupyterhub@{hub}", f"pkg:npm/configurable-http-proxy@{proxy}"} <= purls


@once
def test_looking_inside(deployment: Deployment) -> None:
    """Commands run as who and where they are asked to, with their exit status; an unknown account is named.

    Also where there is nothing to read from or to write to.
    """
    options = (*deployment.options, "--user", "alice.project1")
    assert invoke("shell", *options, "--command", "pwd").stdout == "/home/project1/alice.project1\n"
    assert (
        invoke("slurm", *deployment.options, "--", "sinfo", "--noheader", "--format=%N").stdout == "node1\n"
    )
    assert invoke("slurm", *deployment.options, "--command", "false", check=False).returncode == 1
    refused = invoke("shell", *deployment.options, "--user", "nobody.here", check=False)
    assert "no such account" in refused.stderr
    closed = ("sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-m", "invoke", "shell", *options)
    assert deployment.engine.run((*closed, "--command", "true")).stderr == ""


@once
def test_followed_logs_end_with_a_signal(deployment: Deployment) -> None:
    """Both containers' lines, without colours where there is no terminal, and no complaint at Ctrl-C."""
    command = (sys.executable, "-m", "invoke", "logs", *deployment.options, "--follow", "--lines", "5")
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout
        names: set[str] = set()
        while {name.rpartition("-")[2] for name in names} != {"jupyterhub", "slurm"}:
            names.add(running.stdout.readline().split()[0])  # fails at the end
        running.send_signal(signal.SIGINT)
        printed, complaints = running.communicate(timeout=START)
    assert running.returncode == 0
    assert complaints == ""
    assert "\x1b[3" not in "".join(names.union(line.split()[0] for line in printed.splitlines()))


@once
def test_a_taken_port_is_named(deployment: Deployment) -> None:
    """Another deployment on the same port is refused before anything is made."""
    port = deployment.status["url"].rsplit(":", 1)[1].split("/")[0]
    done = invoke(
        "up",
        "--env",
        deployment.env,
        "--instance",
        "taken",
        "--set",
        f"publish.jupyterhub=127.0.0.1:{port}",
        check=False,
    )
    assert done.returncode == 1
    assert f"port {port} is taken by pod {deployment.status['pod']}\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert entry("taken") is None


@once
def test_a_pod_stays_where_its_new_port_is_taken(deployment: Deployment) -> None:
    """What runs is not taken away for what can't be brought up."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        # After those of the deployment itself: of several the last counts.
        done = invoke(
            *(
                "up",
                *deployment.options,
                *deployment.settings,
                "--set",
                f"publish.jupyterhub=127.0.0.1:{port}",
            ),
            check=False,
        )
    assert done.returncode == 1
    assert f"publish.jupyterhub: port {port} is taken" in done.stderr
    assert deployment.health == 200


@once
def test_a_second_down_says_there_is_nothing(deployment: Deployment) -> None:
    """Taking down what isn't up is no error."""
    done = invoke("down", "--env", deployment.env, "--instance", "never-up")
    assert "nothing to take down" in done.stdout
