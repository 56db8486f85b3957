"""Fixtures of the integration tests: a real deployment, under a name and on a port of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hubenvs.client import HubUser
from hubenvs.engine import Engine
from hubenvs.host import rootless
from hubenvs.ready import http_status

ROOT = Path(__file__).parents[2]
# A session of its own has what drives a browser.
collect_ignore = [] if importlib.util.find_spec("playwright") else ["test_browser.py"]
# Programs that a pod keeps running; one left behind after `down` would be a leak.
ENGINE_PROGRAMS = ("conmon", "catatonit", "s6-svscan", "slirp4netns", "pasta", "rootlessport")


# Seconds after `down` until the last of its processes has ended.
SETTLED = 5


def free_port() -> int:
    """Return a port that nobody listens on, below those that the kernel gives to connections (32768 and up)."""
    while True:
        port = random.randrange(20000, 32768)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def settings(**values: str) -> tuple[str, ...]:
    """Return the options that set each key to its value; ``__`` in a key stands for the dot."""
    return tuple(part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}"))


# The hub looks at running servers often, so that a test sees what comes of it; and nodes have GPUs to ask for.
SETTINGS = settings(hub__poll_interval="2", hub__warn_minutes="10", slurm__gpus_per_node="4")
# Ports that stay the same when a test takes the pod down and brings it up; and what is personal.
PUBLISHED = settings(publish__jupyterhub=f"127.0.0.1:{free_port()}")
PERSONAL = {
    "dev_realauth": settings(
        dev_users="[alice.project1, alice.project2, bob.project1]",
        publish__gateway=f"127.0.0.1:{free_port()}",
        **{"publish__oidc-provider": f"127.0.0.1:{free_port()}"},
    ),
}


def options(env: str) -> tuple[str, ...]:
    """Return the options that an environment is brought up with for its tests."""
    return (*SETTINGS, *PUBLISHED, *PERSONAL.get(env, ()))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --env."""
    parser.addoption("--env", required=False, default="dev_dummyauth", help="the environment to bring up")


def pytest_configure(config: pytest.Config) -> None:
    """Know the marker `environments`, and let the tasks that are started heed Ctrl-C."""
    # What a shell starts in the background ignores it, and so would all that is started from there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "environments(name, ...): the only ones that the test is about")
    config.addinivalue_line("markers", "faults: takes minutes; only with `-m faults`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about other environments; of several marks the nearest counts."""
    env = config.getoption("--env")
    left_out = []
    for item in items:
        marker = item.get_closest_marker("environments")
        unasked = item.get_closest_marker("faults") and not config.getoption("markexpr")
        if unasked or (marker and env not in marker.args):
            left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def invoke(
    *arguments: str, check: bool = True, timeout: float = 900, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a task as a user does and return what came of it; a failure shows what the task printed.

    ``path`` is a folder to look for programs in first.
    """
    done = subprocess.run(
        (sys.executable, "-m", "invoke", *arguments),
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env=os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {}),
        check=False,
    )
    assert not check or done.returncode == 0, f"invoke {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done


def snapshot(engine: Engine) -> dict[str, set[str]]:
    """Return all that the engine has but images: pods, containers, volumes, secrets, networks, mounts, processes."""

    def listing(*argv: str) -> set[str]:
        return set(engine.run(("podman", *argv)).text.split())

    processes = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = status.read_text().partition(" (")
        except OSError:
            continue  # it ended while we looked
        if rest.partition(")")[0] in ENGINE_PROGRAMS:
            processes.add(f"{rest.partition(')')[0]} {number}")
    # Without root podman mounts in a namespace that ends with its processes; what is to be seen here is root's.
    lines = [] if rootless() else Path("/proc/self/mounts").read_text().splitlines()
    mounts = {line.split()[1] for line in lines}
    return {
        "pods": listing("pod", "ps", "--quiet"),
        "containers": listing("ps", "--all", "--quiet"),
        "volumes": listing("volume", "ls", "--quiet"),
        "secrets": listing("secret", "ls", "--quiet"),
        "networks": listing("network", "ls", "--quiet"),
        # Not /run/netns itself: podman mounts that when it first needs a network, and keeps it.
        "mounts": {mount for mount in mounts if "containers" in mount or "netns/" in mount},
        "processes": processes,
    }


@dataclass(frozen=True)
class Deployment:
    """A deployment that is up: how to name it to a task, what `status --json` said of it, and the engine."""

    env: str
    instance: str
    status: dict[str, Any]
    engine: Engine

    @property
    def options(self) -> tuple[str, ...]:
        """Return the options that name it."""
        return ("--env", self.env, "--instance", self.instance)

    @property
    def settings(self) -> tuple[str, ...]:
        """Return the options that it was brought up with, besides those that name it."""
        return options(self.env)

    @property
    def secrets(self) -> dict[str, Path]:
        """Return the files with the secrets made for it, by key."""
        return {path.name: path for path in (ROOT / ".deploy" / f"{self.env}-{self.instance}" / "secrets").iterdir()}

    @property
    def password(self) -> str:
        """Return the dummy authenticator's password."""
        return Path(self.status["password_file"]).read_text()

    @property
    def health(self) -> int | None:
        """Return the HTTP status of the hub's own word that it is well."""
        return http_status(f"{self.status['url']}/hub/health")

    def run_in(self, container: str, *command: str, check: bool = True) -> str:
        """Run ``command`` in ``container`` and return what it prints."""
        return self.engine.run(("podman", "exec", f"{self.status['pod']}-{container}", *command), check=check).text

    def log(self, container: str) -> str:
        """Return all that ``container`` has printed."""
        printed = self.engine.run(("podman", "logs", f"{self.status['pod']}-{container}"))
        return printed.text + printed.stderr

    def jobs(self) -> dict[str, str]:
        """Return the state of each of Slurm's jobs."""
        listing = self.run_in("slurm", "squeue", "--noheader", "--format=%i %T")
        return dict(line.split() for line in listing.splitlines())

    def user(self, name: str = "alice") -> HubUser:
        """Return a user who has logged in: ``name``, where there is a choice."""
        gateway = self.status["gateway_url"]
        user = HubUser(gateway or self.status["url"])
        if gateway:
            user.log_in_at_provider(name)
        else:
            user.log_in(self.password)
        return user


def entry(instance: str) -> dict[str, Any] | None:
    """Return what `status --json` says of ``instance``, or None."""
    environments = json.loads(invoke("status", "--json").stdout)["environments"]
    return next((item for item in environments if item["instance"] == instance), None)


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine as the tasks use it."""
    return Engine(ROOT / ".deploy")


@pytest.fixture(scope="session")
def instance() -> str:
    """A name that no other deployment has, so that the tests run beside a user's."""
    return f"it{os.getpid()}"


@pytest.fixture(scope="session")
def env_name(request: pytest.FixtureRequest) -> str:
    """The environment under test."""
    return str(request.config.getoption("--env"))


@pytest.fixture(scope="session")
def here() -> str:
    """This host's address as others see it, which pods can come to as well."""
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # says which way it would go; nothing is sent
        return str(probe.getsockname()[0])


@pytest.fixture(scope="session")
def deployment(env_name: str, instance: str, engine: Engine) -> Iterator[Deployment]:
    """The environment, up; taken down after the last test, when nothing may be left of it."""
    # A first image build leaves nothing but images, so the picture is taken after it.
    invoke("build", "--env", env_name, *options(env_name))
    before = snapshot(engine)
    try:
        invoke("up", "--env", env_name, "--instance", instance, *options(env_name))
        status = entry(instance)
        assert status is not None
        yield Deployment(env_name, instance, status, engine)
    finally:
        invoke("down", "--env", env_name, "--instance", instance)
    # conmon may outlive its container by a moment: it still has the exit status to write.
    deadline = time.monotonic() + SETTLED
    while (after := snapshot(engine)) != before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert after == before
    assert not (ROOT / ".deploy" / f"{env_name}-{instance}").exists()
