"""The images of `stage: prod`: what is in them, and that they do what those of `stage: dev` do."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from .helpers import ROOT, STOP, Deployment, Engine, HubUser, entry, free_port, invoke, settings, spawned
from .registry import PASSWORD, fetched, serving

pytestmark = pytest.mark.environments("dev_dummyauth")

# In each container: the Python that has the package, and the package.
INSTALLED = {
    "jupyterhub": ("/opt/jupyterhub/bin/python", "bricsauthenticator"),
    "slurm": ("/opt/slurmspawner_wrappers/bin/python", "slurmspawner_wrappers"),
}


LISTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
# Where people find the hub: a front end ends TLS.
OUTSIDE = "https://hub.example.org"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that asks for a password; this engine has it, and may use it without TLS."""
    folder, address = tmp_path_factory.mktemp("registry"), f"127.0.0.1:{free_port()}"
    assert fetched(folder)
    with serving(folder, address):
        yield f"{address}/site"
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def prod(env_name: str, instance: str, engine: Engine, registry: str) -> Iterator[Deployment]:
    """The environment with its packages installed, beside the one that has working copies; the hub by its digest."""
    name = f"{instance}-prod"
    printed = invoke("push", "--env", env_name, registry, *settings(stage="prod")).stdout
    hub = yaml.safe_load(printed[printed.index("images:") :])["images"]["jupyterhub"]["image"]
    assert hub.startswith(f"{registry}/jupyterhub@sha256:")
    further = settings(stage="prod", images__jupyterhub__image=hub, hub__external_url=OUTSIDE)
    up = ("up", "--env", env_name, "--instance", name, *further)
    try:
        # Whatever the environment's name, it is the stage that counts.
        refused = invoke(*up, check=False)
        assert refused.returncode == 1
        assert f"up --env {env_name}: there is nobody to ask\nhint: give --yes" in refused.stderr
        assert entry(name) is None
        invoke(*up, "--yes")
        status = entry(name)
        assert status is not None
        yield Deployment(env_name, name, status, engine)
    finally:
        invoke("down", "--env", env_name, "--instance", name, "--yes")
        engine.run(("podman", "rmi", hub), check=False)


def test_everything_works_as_in_development(prod: Deployment) -> None:
    """`up` has checked SSH; a user's whole way works too."""
    assert "12 steps, all well" in invoke("verify", *prod.options, "--url", prod.status["url"]).stdout


def test_prods_beside_each_other_share_no_volume(prod: Deployment, engine: Engine) -> None:
    """Podman gives an emptyDir volume the name that it has in the manifest, and two pods of one name the same."""
    name = prod.instance.removesuffix("prod") + "pro2"

    def volumes(instance: str) -> set[str]:
        hub = f"jupyterhub-slurm-dev-dummyauth-{instance}-jupyterhub"
        mounted = engine.run(("podman", "inspect", "--format={{range .Mounts}}{{.Name}} {{end}}", hub)).text
        return set(mounted.split())

    try:
        invoke("up", "--env", prod.env, "--instance", name, *settings(stage="prod"), "--yes")
        assert len(volumes(name)) == len(volumes(prod.instance)) == 5
        assert volumes(name).isdisjoint(volumes(prod.instance))
        invoke("check", *prod.options)
    finally:
        invoke("down", "--env", prod.env, "--instance", name, "--yes")
    assert f"-{name}-" not in engine.run(("podman", "volume", "ls", "--quiet")).text


def test_it_is_not_taken_down_unasked(prod: Deployment) -> None:
    """Its resources say what stage they are of, also where the record in the deploy folder is lost."""
    record = ROOT / ".deploy" / f"{prod.env}-{prod.instance}" / "record.json"
    away = record.with_name("away")
    for lost in (False, True):
        if lost:
            record.rename(away)
        try:
            refused = invoke("down", *prod.options, check=False)
        finally:
            if lost:
                away.rename(record)
        assert refused.returncode == 1
        assert f"down --env {prod.env}: there is nobody to ask\nhint: give --yes" in refused.stderr
        assert prod.health == 200


def test_its_containers_know_their_stage(prod: Deployment) -> None:
    """Configurations of isambard-sc/brics_jupyterhub_envs look at this variable."""
    for container in ("jupyterhub", "slurm"):
        assert prod.run_in(container, "printenv", "CONTAINER_ENV") == "prod"


def test_where_tls_ends_in_front_of_the_hub(prod: Deployment) -> None:
    """Its cookies are Secure, whatever the front end says in its headers, and nothing shows another name."""
    strange = {
        "Host": "elsewhere.example",
        "X-Forwarded-Host": "elsewhere.example",
        "X-Forwarded-Proto": "http",
    }
    with HubUser(prod.status["url"]) as user:
        user.http.headers.update(strange)
        cookies: list[str] = []
        received = user.http.event_hooks["response"]
        received.append(lambda answer: cookies.extend(answer.headers.get_list("Set-Cookie")))
        user.log_in(prod.password)
        assert any(cookie.startswith("jupyterhub-hub-login") for cookie in cookies)
        spawned(prod, user)
        inside = prod.status["url"].removesuffix(urlsplit(user.url).path)
        answer = user.http.get(f"{user.url}/user/alice/lab", follow_redirects=False)
        while answer.is_redirect:  # to the log-in and back, by the name that no machine has
            path = answer.headers["Location"].removeprefix(OUTSIDE)
            answer = user.http.get(f"{inside}{path}", follow_redirects=False)
        assert answer.status_code == 200
        assert any("/user/alice/" in cookie for cookie in cookies if cookie.startswith("_xsrf"))
        user.stop(STOP)
        kept = [cookie for cookie in cookies if '=""; expires=' not in cookie]
        assert [cookie for cookie in kept if "; secure" not in cookie.lower()] == []
        for path in ("/hub/home", "/hub/spawn", "/hub/logout", "/hub/"):
            answer = user.http.get(f"{user.url}{path}", follow_redirects=False)
            assert "elsewhere.example" not in f"{answer.headers.get('Location')} {answer.text}"


@pytest.mark.parametrize("container", INSTALLED)
def test_no_working_copy_and_no_tools_are_in_it(prod: Deployment, container: str) -> None:
    """The package is a plain one, built of sources that no layer has; nothing builds, tests or fetches there."""
    python, package = INSTALLED[container]
    where = prod.run_in(container, python, "-c", f"import {package}; print({package}.__file__)")
    assert "/site-packages/" in where
    for program in ("git", "gcc", "uv", "pip", "npm", "pytest", "mypy"):
        assert prod.run_in(container, "sh", "-c", f"command -v {program} || echo none") == "none"
    for module in ("pytest", "debugpy") if container == "jupyterhub" else ("pytest",):
        probe = f"import importlib.util; print(importlib.util.find_spec({module!r}))"
        assert prod.run_in(container, python, "-c", probe) == "None"
    image = prod.engine.run(
        ("podman", "inspect", "--format={{.ImageName}}", f"{prod.status['pod']}-{container}")
    ).text
    assert f"{container}:prod-" in image or f"{container}@sha256:" in image
    assert f"/usr/src/{package}" not in prod.engine.run(("podman", "history", "--no-trunc", image)).text


def test_push_adds_to_a_list_of_architectures(
    engine: Engine, registry: str, instance: str, tmp_path: Path
) -> None:
    """What each architecture's push has put there stays; the digest is that of the list, with one image of each."""
    target, tags = f"{registry}/listed:1", []
    try:
        for content, architecture in (("1", "amd64"), ("2", "arm64"), ("3", "amd64")):
            (tmp_path / "content").write_text(content)
            subprocess.run(("tar", "-cf", tmp_path / "tar", "-C", tmp_path, "content"), check=True)
            tags.append(f"localhost/jupyterhub-slurm-tests/{instance}:{content}")
            engine.run(engine.import_image_command(str(tmp_path / "tar"), tags[-1], architecture))
            digest = engine.push(tags[-1], target, architecture)
        host, _, path = registry.partition("/")  # podman<5: 4.3 would not log in for this
        url, headers = f"http://{host}/v2/{path}/listed/manifests/{digest}", {"Accept": ", ".join(LISTS)}
        shown = httpx.get(url, auth=("site", PASSWORD), headers=headers, trust_env=False).json()
        images = {row["platform"]["architecture"]: row["digest"] for row in shown["manifests"]}
        assert images.keys() == {"amd64", "arm64"}
        assert len(shown["manifests"]) == 2
        for architecture, content in (("amd64", "3"), ("arm64", "2")):
            engine.run(engine.pull_command(f"{registry}/listed@{digest}", architecture))
            image = engine.run(("podman", "inspect", "--format={{.Id}}", f"{registry}/listed@{digest}")).text
            assert image == engine.run(("podman", "inspect", "--format={{.Id}}", tags[int(content) - 1])).text
    finally:
        engine.run(("podman", "rmi", "--force", *tags), check=False)
        engine.run(("podman", "rmi", "--force", f"{registry}/listed@{digest}"), check=False)


def test_nothing_of_the_image_can_be_changed(prod: Deployment) -> None:
    """The hub's root file system is read-only, for root too. Slurm's isn't: it makes the users' accounts there."""
    write = ("sh", "-c", "touch /usr/local/x /etc/x 2>&1")
    assert prod.run_in("jupyterhub", *write, check=False).count("Read-only file system") == 2
    assert prod.run_in("slurm", *write, check=False) == ""


def test_the_hub_runs_without_what_reloads_it(prod: Deployment) -> None:
    """It is JupyterHub's own program; what is for development says what it wants."""
    commands = prod.run_in("jupyterhub", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "/opt/jupyterhub/bin/jupyterhub --config" in commands
    assert "warm.py" not in commands
    assert prod.run_in("jupyterhub", "find", "/usr/local", "-name", "warm.py") == ""
    for task in ("reload", "debug"):
        refused = invoke(task, *prod.options, check=False)
        assert refused.returncode == 1
        assert "stage: prod" in refused.stderr


def test_no_dev_user_is_in_an_image(prod: Deployment) -> None:
    """Accounts and homes are a deployment's."""
    image = prod.engine.run(
        ("podman", "inspect", "--format={{.ImageName}}", f"{prod.status['pod']}-slurm")
    ).text
    look = (
        "podman",
        "run",
        "--rm",
        "--entrypoint=",
        image,
        "sh",
        "-c",
        "ls /home; getent passwd | cut -d : -f 1",
    )
    names = prod.engine.run(look).text.split()
    assert "jupyterspawner" in names
    assert not [name for name in names if "." in name or "alice" in name]
