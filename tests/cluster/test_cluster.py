"""A deployment in a real cluster: `nox -s kubernetes`. The tests build on one another, in this order."""

from __future__ import annotations

import base64
import contextlib
import json
import shlex
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.helpers import ROOT, START, STOP, HubUser, free_port, http_status, invoke, wait_until

from .conftest import Deployed

pytestmark = pytest.mark.usefixtures("deployed")
# What is alike in both environments.
once = pytest.mark.environments("dev_dummyauth")
# Seconds that a pod may take to be replaced.
REPLACED = 180
# Seconds in which Kubernetes asks at least once whether a container is alive, and waits for the answer.
LIVENESS = 30


def setting(deployed: Deployed, name: str) -> str:
    """Return the value of a setting in the hub's container."""
    pod = f"{deployed.pod}-0"
    return deployed.cluster.kubectl("exec", pod, "--container=jupyterhub", "--", "printenv", name).strip()


def seed_files(deployed: Deployed) -> dict[str, tuple[str, int]]:
    """Return mode and size of each of the tests' seed files in the hub's container."""
    find = ("find", "/srv/jupyterhub", "-maxdepth", "1", "-name", "*.txt", "-printf", "%f %m %s\n")
    pod = f"{deployed.pod}-0"
    listed = deployed.cluster.kubectl("exec", pod, "--container=jupyterhub", "--", *find).splitlines()
    return {name: (mode, int(size)) for name, mode, size in map(str.split, listed)}


def wait_ready(deployed: Deployed) -> None:
    """Wait until the rollout is complete."""
    deployed.cluster.kubectl("rollout", "status", f"statefulset/{deployed.pod}", f"--timeout={REPLACED}s")


@contextlib.contextmanager
def another_checkout(deployed: Deployed) -> Iterator[None]:
    """Have no deploy folder during the block, as another operator."""
    folder = ROOT / ".deploy" / f"{deployed.env}-{deployed.instance}"
    ours = folder.rename(folder.with_name(f"{folder.name}.ours"))
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        ours.rename(folder)


def test_a_user_computes(deployed: Deployed) -> None:
    """All that `verify` and `check` prove of podman's pods holds here."""
    assert "all well" in invoke("verify", *deployed.named).stdout
    assert "FAIL" not in invoke("check", *deployed.named).stdout


@once
def test_another_checkout_changes_nothing(deployed: Deployed) -> None:
    """A second operator's `up` has no secrets of its own: those in the cluster stay, and so does the pod."""
    before = deployed.pod_uid(), deployed.secrets()
    with another_checkout(deployed):
        assert "load" not in deployed.up()
        assert (deployed.pod_uid(), deployed.secrets()) == before
    # Which has the values of a client-side apply in clear.
    annotations = [item["metadata"].get("annotations") for item in deployed.cluster.get("secrets")]
    assert "last-applied-configuration" not in str(annotations)


def test_tasks_find_it(deployed: Deployed, tmp_path: Path) -> None:
    """`status`, `logs`, `slurm`, `shell` and `export-volume` work as with podman."""
    listing = json.loads(invoke("status", *deployed.cluster.options, "--json").stdout)["environments"]
    (entry,) = (item for item in listing if item["instance"] == deployed.instance)
    assert (entry["env"], entry["state"]) == (deployed.env, "up")
    assert "idle" in invoke("slurm", *deployed.named).stdout
    shell = ("shell", *deployed.named, "--user", "alice.project1", "--command", "id -un")
    assert invoke(*shell).stdout.strip() == "alice.project1"
    home = tmp_path / "home.tar"
    invoke("export-volume", *deployed.named, "--volume", "home", "--output", str(home))
    with tarfile.open(home) as tar:
        assert "./project1/alice.project1" in tar.getnames()
    assert (
        "JupyterHub" in invoke("logs", *deployed.named, "--container", "jupyterhub", "--lines", "100").stdout
    )


@once
def test_an_edit_is_live_in_the_same_pod(deployed: Deployed) -> None:
    """`reload` replaces the file, removes another and restarts the hub."""
    before = deployed.pod_uid()
    assert deployed.seeds is not None
    (deployed.seeds / "jupyterhub-config/site.txt").write_text("after\n")
    (deployed.seeds / "jupyterhub-config/large.txt").unlink()
    assert "the hub has restarted" in invoke("reload", *deployed.named).stdout
    assert seed_files(deployed).keys() == {"site.txt", "tool.txt"}
    shell = ("shell", *deployed.named, "--container", "jupyterhub", "--command")
    assert invoke(*shell, "cat /srv/jupyterhub/site.txt").stdout == "after\n"
    assert "nothing has been edited" in invoke("reload", *deployed.named).stdout
    assert deployed.pod_uid() == before


def page_commands(deployed: Deployed, tmp_path: Path, bullet: str) -> list[str]:
    """Return the commands below ``bullet`` of docs/kubernetes.md, about this deployment and files in ``tmp_path``."""
    page = (ROOT / "docs/kubernetes.md").read_text().partition(f"\n- **{bullet}**")[2].partition("\n- **")[0]
    for before, after in {
        "\\\n": "",
        "--env dev_dummyauth": " ".join(deployed.named),
        "jupyterhub-slurm-dev-dummyauth": deployed.pod,
        "CONTEXT --namespace hub": f"{deployed.cluster.context} --namespace {deployed.cluster.namespace}",
        "jupyterhub-data.tar": f"{tmp_path}/data.tar",
    }.items():
        page = page.replace(before, after)
    return [line.strip() for line in page.splitlines() if line.startswith("      ")]


def run(command: str) -> None:
    """Run a command of the page."""
    if command.startswith("invoke "):
        invoke(*shlex.split(command)[1:])
    else:
        subprocess.run(("bash", "-euc", command), check=True)


@once
def test_the_database_comes_back_from_a_backup(deployed: Deployed, tmp_path: Path) -> None:
    """By the page's commands; nothing restarts the container while the hub is stopped."""
    before, database = deployed.pod_uid(), "/var/lib/jupyterhub/jupyterhub.sqlite"
    stop, export, start, restore, *_ = page_commands(deployed, tmp_path, "Backup")
    shell = ("shell", *deployed.named, "--container", "jupyterhub", "--command")
    run(stop)
    digest = invoke(*shell, f"sha256sum {database}").stdout
    run(export)
    invoke(*shell, f"rm {database}")
    run(restore)
    assert invoke(*shell, f"sha256sum {database}").stdout == digest
    run(start)
    invoke("wait", *deployed.named)
    (pod,) = deployed.cluster.get("pods", deployed.selector)
    restarts = [item["restartCount"] for item in pod["status"]["containerStatuses"]]
    assert (pod["metadata"]["uid"], set(restarts)) == (before, {0})


@pytest.fixture
def user(deployed: Deployed) -> Iterator[HubUser]:
    """A user with a server, who comes by a port-forward."""
    port = free_port()
    forward = deployed.cluster.command("port-forward", f"pod/{deployed.pod}-0", f"{port}:8000")
    url = f"http://127.0.0.1:{port}/jupyter"
    with subprocess.Popen(forward, stdout=subprocess.DEVNULL) as process, HubUser(url) as user:
        try:
            wait_until(lambda: http_status(f"{url}/hub/health") == 200, START, "the hub does not answer")
            folder = ROOT / ".deploy" / f"{deployed.env}-{deployed.instance}"
            user.log_in((folder / "secrets/dummyauth_password").read_text())
            user.spawn({})
            user.wait_ready(START)
            yield user
            user.stop(STOP)
        finally:
            process.terminate()


@once
def test_servers_are_reachable_while_the_hub_hangs(deployed: Deployed, user: HubUser) -> None:
    """And while it restarts, or slurmctld is down: the pod isn't ready then, but its Service leads there.

    Nothing is restarted by Kubernetes, whose probes leave nothing in sshd's log.
    """

    def shell(container: str, command: str) -> str:
        return invoke("shell", *deployed.named, "--container", container, "--command", command).stdout

    def signal(name: str) -> None:
        """Send it to the hub. Where it starts fast it is a child of the service's process."""
        pid = shell("jupyterhub", "s6-svstat -o pid /run/service/jupyterhub").strip()
        shell("jupyterhub", f"sh -c 'kill -{name} {pid} $(cat /proc/{pid}/task/{pid}/children)'")

    def ready() -> dict[str, bool]:
        return {name: item["ready"] for name, item in statuses(deployed).items()}

    with user.kernel() as execute:
        assert execute("kept = 6 * 7") == ""
        shell("jupyterhub", "s6-svc -wR -r /run/service/jupyterhub")
        assert execute("print(kept)") == "42\n"
        wait_until(lambda: http_status(f"{user.url}/hub/health") == 200, START, "the hub isn't back")

        signal("STOP")
        shell("slurm", "s6-svc -wD -d /run/service/slurmctld")
        hangs_since = time.monotonic()
        try:
            wait_until(lambda: not any(ready().values()), STOP, "the pod is ready")
            log = shell("slurm", "sh -c 'wc -l /var/lib/slurm/log/sshd/*'")
            (endpoints,) = deployed.cluster.get("endpoints", deployed.pod)
            assert [subset.keys() for subset in endpoints["subsets"]] == [{"addresses", "ports"}]
            time.sleep(max(0, LIVENESS + hangs_since - time.monotonic()))
            assert execute("print(kept)") == "42\n"
            assert shell("slurm", "sh -c 'wc -l /var/lib/slurm/log/sshd/*'") == log
        finally:
            signal("CONT")
            shell("slurm", "s6-svc -u /run/service/slurmctld")
    wait_until(lambda: all(ready().values()), START, "the pod isn't ready again")
    warnings = deployed.cluster.get("events", "--field-selector=reason=Unhealthy")
    assert not [item["message"] for item in warnings if item["message"].startswith("Liveness")]
    assert {item["restartCount"] for item in statuses(deployed).values()} == {0}


def statuses(deployed: Deployed) -> dict[str, dict[str, Any]]:
    """Return the state of each of the pod's containers."""
    (pod,) = deployed.cluster.get("pods", deployed.selector)
    return {item["name"]: item for item in pod["status"]["containerStatuses"]}


def test_killed_containers_come_back(deployed: Deployed) -> None:
    """In the same pod, whichever they are."""
    before, names = deployed.pod_uid(), [*statuses(deployed)]
    for name in names:
        kill = ("shell", *deployed.named, "--container", name, "--command", "sh -c 'kill 1'")
        invoke(*kill, check=False)  # it may end before it can say so

    def restarts() -> dict[str, int]:
        return {name: item["restartCount"] for name, item in statuses(deployed).items()}

    wait_until(lambda: restarts() == dict.fromkeys(names, 1), REPLACED, "they aren't started again")
    invoke("wait", *deployed.named)
    assert deployed.pod_uid() == before


@once
def test_a_deleted_pod_comes_back(deployed: Deployed) -> None:
    """Never two at a time, and with the same database."""
    before = deployed.pod_uid()
    deployed.cluster.kubectl("delete", "pod", f"{deployed.pod}-0", "--wait=false")

    def is_replaced() -> bool:
        pods = deployed.cluster.get("pods", deployed.selector)
        assert len(pods) < 2
        return [pod["metadata"]["uid"] for pod in pods] not in ([before], [])

    wait_until(is_replaced, REPLACED, "there is no new pod")
    wait_ready(deployed)
    invoke("wait", *deployed.named)


@once
def test_a_setting_rolls_forth_and_back(
    deployed: Deployed, operator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback has the settings and seed files of before, since their ConfigMaps are still there.

    A removed seed file is gone from the pod. The Role in the docs is enough. A load command that reads nothing
    leaves no temporary files of podman's.
    """
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert deployed.seeds is not None
    before = deployed.pod_uid()
    (deployed.seeds / "jupyterhub-config/large.txt").unlink(missing_ok=True)
    # That may not see which images the node has.
    deployed.up("--set", "log_level=DEBUG", "--set", "kubernetes.load=/bin/true", path=operator)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("hubenvs-")] == []
    assert deployed.pod_uid() != before
    assert setting(deployed, "DEPLOY_CONFIG_LOG_LEVEL") == "DEBUG"
    assert seed_files(deployed).keys() == {"site.txt", "tool.txt"}
    deployed.cluster.kubectl("rollout", "undo", f"statefulset/{deployed.pod}")
    wait_ready(deployed)
    assert setting(deployed, "DEPLOY_CONFIG_LOG_LEVEL") == "INFO"
    files = {"site.txt": ("644", 7), "large.txt": ("644", 300_000), "tool.txt": ("755", 10)}
    assert seed_files(deployed) == files


def test_new_secrets_replace_the_pod(deployed: Deployed) -> None:
    """And a user computes with them. They are on no command line."""
    before = deployed.pod_uid()
    deployed.earlier[:] = deployed.cluster.get("secrets", deployed.selector)
    commands = invoke("--echo", "secrets", *deployed.named, "--rotate").stderr
    assert "apply --server-side" in commands
    values = {value for secret in deployed.secrets().values() for value in secret.values()}
    texts = {line for value in values for line in base64.b64decode(value).decode().splitlines()}
    assert not [text for text in values | texts if len(text) > 10 and text in commands]
    assert deployed.pod_uid() != before
    assert "all well" in invoke("verify", *deployed.named).stdout


@once
def test_a_broken_rollout_is_explained_and_mended(deployed: Deployed) -> None:
    """`up` over a pod that can't start replaces it; a StatefulSet would wait for it for ever.

    Secrets that somebody has put back count, in the next pod too.
    """

    def template() -> dict[str, Any]:
        (found,) = deployed.cluster.get("statefulset", deployed.pod)
        return dict(found["spec"]["template"])

    before, with_these = deployed.secrets(), template()
    metadata = ("name", "labels")
    back = [
        {**item, "metadata": {key: item["metadata"][key] for key in metadata}} for item in deployed.earlier
    ]
    apply = ("apply", "--server-side", "--force-conflicts", "--filename=-")
    deployed.cluster.kubectl(*apply, input=json.dumps({"apiVersion": "v1", "kind": "List", "items": back}))
    image = "localhost/not-there:1"
    deployed.cluster.kubectl("set", "image", f"statefulset/{deployed.pod}", f"jupyterhub={image}")

    def is_broken() -> bool:
        pods = deployed.cluster.get("pods", deployed.selector)
        return any(item["image"] == image for pod in pods for item in pod["spec"]["containers"])

    wait_until(is_broken, REPLACED, "the broken image isn't rolled out")
    deployed.up()
    assert template() != with_these
    now, name = deployed.secrets(), f"{deployed.pod}-slurm"
    assert now[name]["munge_key"] == deployed.earlier_value(name, "munge_key") != before[name]["munge_key"]
    assert "all well" in invoke("verify", *deployed.named).stdout


@once
def test_down_keeps_the_claims_and_the_key_to_the_database(deployed: Deployed, operator: Path) -> None:
    """Nothing else is left, and `up` goes on with them, but not without the key. The Role in the docs is enough."""
    secret = f"{deployed.pod}-jupyterhub"

    def crypt_key() -> str:
        (found,) = deployed.cluster.get("secret", secret)
        return str(found["data"]["crypt_keys"])

    before = crypt_key()
    assert f"Ingress/{deployed.pod}" in deployed.left()
    invoke("down", *deployed.named, path=operator)
    assert deployed.left() == set()
    assert deployed.cluster.get("persistentvolumeclaims", deployed.selector)
    with another_checkout(deployed):
        options = (*deployed.named, *deployed.cluster.options, *deployed.options)
        refused = invoke("up", *options, check=False).stderr
    assert f"claim {deployed.pod}-jupyterhub-data has a database, and its crypt key is neither" in refused
    assert deployed.left() == set()
    deployed.up()
    assert crypt_key() == before
    assert "all well" in invoke("verify", *deployed.named).stdout


@once
def test_a_claim_that_is_being_deleted_stops_up(deployed: Deployed) -> None:
    """Replacing the pod would end its data. The hint says how to save it."""
    claim, before = f"{deployed.pod}-home", deployed.pod_uid()
    deployed.cluster.kubectl("delete", "persistentvolumeclaim", claim, "--wait=false")
    options = (*deployed.named, *deployed.cluster.options, *deployed.options, "--set", "log_level=DEBUG")
    refused = invoke("up", *options, check=False)
    assert f"error: claim {claim} is being deleted" in refused.stderr
    assert f"invoke export-volume {' '.join(deployed.named)} --volume home" in refused.stderr
    assert deployed.pod_uid() == before
    assert deployed.cluster.get("persistentvolumeclaim", claim)
