"""Helpers of the integration tests: running tasks, a deployment that is up, and its traces on this host.

The tests take what they need of the package from here as well, so that its layout is known in one file.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hubenvs.console import Console as Console
from hubenvs.definition.configmap import KEYS as KEYS
from hubenvs.definition.containers import CONTAINERS as CONTAINERS
from hubenvs.definition.containers import Container as Container
from hubenvs.engines.engine import Engine as Engine
from hubenvs.engines.git import working_files as working_files
from hubenvs.engines.host import ca_bundle as ca_bundle
from hubenvs.engines.host import index_files as index_files
from hubenvs.engines.host import rootless as rootless
from hubenvs.engines.host import unenforced_limits as unenforced_limits
from hubenvs.errors import CommandError as CommandError
from hubenvs.errors import StateError as StateError
from hubenvs.files import write as write_private  # noqa: F401
from hubenvs.plan.keys import signing_keys as signing_keys
from hubenvs.plan.keys import ssh_key_pair as ssh_key_pair
from hubenvs.plan.tokens import sign as sign
from hubenvs.session import open_engine as open_engine
from hubenvs.session import open_session as open_session
from hubenvs.stages.clone import copy_files as copy_files
from hubenvs.stages.volumes import fill_volumes as fill_volumes
from hubenvs.tools.client import HubUser as HubUser
from hubenvs.tools.client import execute as execute
from hubenvs.web import http_status as http_status

# Alice's account for her first project, and its home.
ACCOUNT, HOME = "alice.project1", "/home/project1/alice.project1"
ROOT = Path(__file__).parents[2]
# Seconds, on a busy machine too, for a server's start, and for things that should take a moment.
START, STOP = 180, 120
# For a shell in the hub's container: the Python that runs the hub.
HUB_PYTHON = '$(sed -n "1s/^#! *//p" "$(command -v jupyterhub)")'
# Tests that don't depend on the kind of log-in run with the simplest one.
once = pytest.mark.environments("dev_dummyauth")
# Tests of programs in the containers alone: `rootless` skips them, because the engine's user doesn't matter.
inside = pytest.mark.inside
# The programs that a pod keeps running.
ENGINE_PROGRAMS = ("conmon", "catatonit", "s6-svscan", "slirp4netns", "pasta", "rootlessport")
# Added to the text of a process that can only belong to this user's pods.
ALONE = "(a pod's, by its name)"


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of ``host`` that nobody listens on.

    It is below those that the kernel gives to connections (32768 and up).
    """
    while True:
        port = random.randrange(20000, 32768)
        with socket.socket() as probe:
            if probe.connect_ex((host, port)):
                return port


def settings(**values: str) -> tuple[str, ...]:
    """Return the options that set each key to its value; ``__`` in a key stands for the dot."""
    return tuple(
        part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")
    )


# The hub looks at running servers often, so that a test sees what comes of it; and nodes have GPUs to ask for.
SETTINGS = settings(
    hub__poll_interval="2", hub__warn_minutes="10", hub__idle_timeout="86400", slurm__gpus_per_node="4"
)
# Ports that stay the same when a test takes the pod down and brings it up; and settings that each user chooses.
PUBLISHED = settings(publish__jupyterhub=f"127.0.0.1:{free_port()}")
PERSONAL = {
    "dev_realauth": settings(
        dev_users="[alice.project1, alice.project2, bob.project1]",
        publish__gateway=f"127.0.0.1:{free_port()}",
        **{"publish__oidc-provider": f"127.0.0.1:{free_port()}"},
    )
}


# A domain whose subdomains browsers resolve to this host: for `hub.subdomain_host`.
DOMAIN = "hub.localhost"
FURTHER: list[str] = []  # of the command line: `pytest --set slurm.release=26.05`


def options(env: str) -> tuple[str, ...]:
    """Return the options that an environment is brought up with for its tests."""
    further = (part for setting in FURTHER for part in ("--set", setting))
    return (*SETTINGS, *PUBLISHED, *PERSONAL.get(env, ()), *further)


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


def image_of(container: str) -> str:
    """Return the image that a container of dev_dummyauth has, built: a host may have others of that name."""
    invoke("build", "--env", "dev_dummyauth")
    rendered = invoke("render", "--env", "dev_dummyauth").stdout
    pods = [part["spec"]["containers"] for part in yaml.safe_load_all(rendered) if part["kind"] == "Pod"]
    return next(str(one["image"]) for one in pods[0] if one["name"] == container)


def wait_until(condition: Callable[[], object], seconds: float, otherwise: str) -> None:
    """Wait until ``condition`` holds; fail saying ``otherwise`` after ``seconds``.

    Twice as much time passes between two looks as the last one took: on a busy machine looking is work too.
    """
    deadline = time.monotonic() + seconds
    while True:
        started = time.monotonic()
        if condition():
            return
        looked = time.monotonic()
        assert looked < deadline, otherwise
        time.sleep(max(0.2, 2 * (looked - started)))


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
        return {
            path.name: path
            for path in (ROOT / ".deploy" / f"{self.env}-{self.instance}" / "secrets").iterdir()
        }

    @property
    def password(self) -> str:
        """Return the password that people log in with."""
        return Path(self.status["password_file"]).read_text()

    @property
    def health(self) -> int | None:
        """Return the HTTP status of the hub's health page."""
        return http_status(f"{self.status['url']}/hub/health")

    def run_in(self, container: str, *command: str, check: bool = True) -> str:
        """Run ``command`` in ``container`` and return its output."""
        return self.engine.run(
            ("podman", "exec", f"{self.status['pod']}-{container}", *command), check=check
        ).text

    def log(self, container: str) -> str:
        """Return the whole log of ``container``."""
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
            user.log_in_at_provider(name, self.password)
        else:
            user.log_in(self.password)
        return user


def entry(instance: str) -> dict[str, Any] | None:
    """Return the entry of ``instance`` in `status --json`, or None."""
    environments = json.loads(invoke("status", "--json").stdout)["environments"]
    return next((item for item in environments if item["instance"] == instance), None)


def spawned(deployment: Deployment, user: HubUser) -> str:
    """Start the user's server and return its job's number."""
    if user.server():  # left by a test that failed
        user.stop(STOP)
    before = set(deployment.jobs())
    _, options = user.spawn_form()
    user.spawn({"brics_project": options["brics_project"][0]})
    user.wait_ready(START)
    (job,) = set(deployment.jobs()) - before
    return job


def service(deployment: Deployment, container: str, name: str) -> str:
    """Return the process number of a service, -1 while it is down, empty once its container has ended."""
    return deployment.run_in(container, "s6-svstat", "-o", "pid", f"/run/service/{name}", check=False)


def restart(deployment: Deployment, container: str, name: str) -> None:
    """Restart a service and return as soon as the old process has ended."""
    before = service(deployment, container, name)
    deployment.run_in(container, "s6-svc", "-r", f"/run/service/{name}")
    wait_until(lambda: service(deployment, container, name) != before, STOP, f"{name} did not go away")


def restart_hub(deployment: Deployment) -> None:
    """Restart the hub and return as soon as the old process has ended."""
    restart(deployment, "jupyterhub", "jupyterhub")


# The capabilities by number: linux/capability.h
CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
]
NUMBERS = {name: number for number, name in enumerate(CAPABILITIES)} | {
    "NET_BIND_SERVICE": 10,
    "SYS_CHROOT": 18,
}


def first_process(engine: Engine, container: str) -> dict[str, str]:
    """Return the lines of /proc/1/status in ``container``, by name."""
    command = engine.exec_command(container, "cat", "/proc/1/status")
    lines = engine.run(command).text.splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def assert_no_more_rights(status: dict[str, str], row: Container) -> None:
    """Fail unless the first program of container ``row``, by its ``status``, may get what the table says at most."""
    limits = ["NET_BIND_SERVICE"] if row.uid else row.capabilities
    assert int(status["CapBnd"], 16) == sum(1 << NUMBERS[name] for name in limits), status["CapBnd"]
    assert status["NoNewPrivs"] == str(int(not row.privilege_escalation))
    assert status["Seccomp"] == "2"  # a filter


def login_host_answers(deployment: Deployment) -> bool:
    """Return whether the hub gets at the wrappers' host."""
    hub = f"{deployment.status['pod']}-jupyterhub"
    ssh = deployment.engine.run(("podman", "exec", hub, "ssh", "jupyterspawner@slurm", "true"), check=False)
    return ssh.returncode == 0


def slowdown() -> float:
    """Return how many times longer a computation takes now than on an idle machine: the factor for time limits."""
    wall, cpu = time.monotonic(), time.process_time()
    while time.process_time() - cpu < 0.2:
        pass
    return max(1.0, (time.monotonic() - wall) / (time.process_time() - cpu))


def traces(engine: Engine) -> dict[str, str]:
    """Return all that the engine has but images, with its mounts and processes: by identifier, the text that it has.

    By that text it can be told whose it is.
    """
    listings = {
        "pod": ("pod", "ps", "--no-trunc", "--format={{.ID}} {{.Name}}"),
        "container": ("ps", "--all", "--no-trunc", "--format={{.ID}} {{.Names}} {{.PodName}}"),
        "volume": ("volume", "ls", "--format={{.Name}}"),
        "secret": ("secret", "ls", "--format={{.Name}}"),
        "network": ("network", "ls", "--format={{.Name}}"),
    }
    found = {
        f"{kind} {line.split()[0]}": line
        for kind, argv in listings.items()
        for line in engine.listed(("podman", *argv)).text.splitlines()
    }
    # Without root podman mounts in a namespace that ends with its processes; here are root's mounts.
    for line in [] if rootless() else Path("/proc/self/mounts").read_text().splitlines():
        found[f"mount {line.split()[1]}"] = line.split()[1]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            started = (folder / "stat").read_text().rpartition(")")[2].split()[19]
            program = (folder / "comm").read_text().strip()
            text = f"{(folder / 'cmdline').read_text()} {(folder / 'cgroup').read_text()}"
            # Without root a process's control group needn't say whose it is, but the engine is one user's.
            alone = rootless() and program in ENGINE_PROGRAMS and folder.stat().st_uid == os.geteuid()
        except (OSError, UnicodeDecodeError):
            continue  # it has ended, or isn't the engine's
        found[f"process {folder.name} {program}, started at {started}"] = f"{text} {ALONE if alone else ''}"
    return found


def marks(engine: Engine, pod: str) -> set[str]:
    """Return the marks that tell the traces of ``pod`` from other people's: its name and identifiers."""
    listed = ("podman", "ps", "--all", "--no-trunc", f"--filter=pod={pod}", "--format={{.Pod}} {{.ID}}")
    identifiers = set(engine.listed(listed).text.split())
    inspect = (
        "{{.GraphDriver.Data.MergedDir}} {{.NetworkSettings.SandboxKey}} {{range .Mounts}}{{.Name}} {{end}}"
    )
    containers = sorted({line.split()[1] for line in engine.listed(listed).text.splitlines()})
    used = engine.run(("podman", "inspect", f"--format={inspect}", *containers)).text.split()
    return {pod, ALONE} | {word for word in identifiers.union(used) if len(word) > 10}


def left_behind(before: dict[str, str], after: dict[str, str], marks: set[str]) -> set[str]:
    """Return the identifiers of added things that contain one of ``marks``."""
    pattern = re.compile("|".join(rf"{re.escape(mark)}(?![0-9])" for mark in marks))
    return {name for name in after.keys() - before.keys() if pattern.search(after[name])}
