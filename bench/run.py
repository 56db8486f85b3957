"""Bench: how long a developer's steps take, what a pod needs, how it bears users. Prints Markdown tables."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from hubenvs.console import Console
from hubenvs.deployment.desired import desired_builds
from hubenvs.deployment.existing import remove_pod
from hubenvs.engines.engine import Engine
from hubenvs.engines.host import rootless
from hubenvs.errors import HubEnvsError, StateError
from hubenvs.plan.images import container_builds
from hubenvs.plan.manifest import dump
from hubenvs.session import open_engine, open_session
from hubenvs.stages.play import play
from hubenvs.tools.render import render_manifest

from . import figures, load

ENVIRONMENT = "dev_dummyauth"
# What the hub's log-in page shows once it has the edited configuration.
EDIT = "c.JupyterHub.template_vars = {{'announcement_login': '{}'}}\n"
CONFIGURATION = "jupyterhub-config/jupyterhub_config.py"
# Seconds between two looks at a page, until it is given up, and until a pod that has come up is idle.
LOOK, LONGEST, IDLE = 0.02, 600.0, 10.0


def timed(act: Callable[[], object], url: str, mark: str = "") -> tuple[float, float]:
    """Run ``act``; return the seconds until ``url`` answers 200 with ``mark`` in its page, and until it ends.

    Raises what ``act`` raises, StateError if the page doesn't come.
    """
    since = time.monotonic()
    client = httpx.Client(trust_env=False, timeout=LONGEST, follow_redirects=True)
    with ThreadPoolExecutor(1) as pool, client as web:
        doing = pool.submit(lambda: (act(), time.monotonic() - since)[1])
        while True:
            if doing.done():
                doing.result()
            try:
                answer = web.get(url)
                if answer.status_code == 200 and mark in answer.text:
                    return time.monotonic() - since, doing.result()
            except httpx.TransportError:
                pass
            if time.monotonic() - since > LONGEST:
                raise StateError(f"{url} doesn't answer as it should after {LONGEST:g} s")
            time.sleep(LOOK)


def seconds(act: Callable[[], object]) -> float:
    """Run ``act`` and return the seconds that it took."""
    since = time.monotonic()
    act()
    return time.monotonic() - since


@contextmanager
def empty_store(engine: Engine) -> Iterator[tuple[str, ...]]:
    """Give environment variables with which podman has neither images nor caches, until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp"))  # on a disk, where podman's own store is
    store = f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
    (folder / "storage.conf").write_text(store)
    variables = (f"CONTAINERS_STORAGE_CONF={folder}/storage.conf", f"TMPDIR={folder}")
    try:
        yield variables
    finally:
        engine.run(("env", *variables, "podman", "rmi", "--all", "--force"), check=False)
        engine.run((*(("podman", "unshare") if rootless() else ()), "rm", "-rf", str(folder)))


class Bench:
    """A deployment of dev_dummyauth that is brought up and taken down again and again."""

    def __init__(self, engine: Engine, instance: str, overlay: Path) -> None:
        self.engine = engine
        self.edited = overlay / CONFIGURATION
        self.options = ("--env", ENVIRONMENT, "--instance", instance)
        # A port that no other deployment would get as the next free one.
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.settings = (f"overlays=[{overlay}]", f"publish.jupyterhub=127.0.0.1:{port}")
        self.session = open_session(
            load.ROOT, ENVIRONMENT, instance=instance, settings=self.settings, console=Console(quiet=True)
        )
        self.page = f"{self.session.env.url}/hub/login"
        self.original = (load.ROOT / "volumes/auth-dummy" / CONFIGURATION).read_text()

    def invoke(self, task: str, *variables: str, as_defined: bool = False) -> str:
        """Run a task as a person does and return what it prints.

        ``variables`` (NAME=VALUE) are added to its environment. ``as_defined``: with the bench's settings.
        """
        settings = [part for setting in self.settings for part in ("--set", setting)] if as_defined else []
        command = (sys.executable, "-m", "invoke", task, *self.options, *settings)
        return self.engine.programs.run(("env", *variables, *command)).text

    def edit(self, text: str = "") -> None:
        """Write the hub's configuration as it is in this checkout, and ``text`` after it."""
        self.edited.parent.mkdir(exist_ok=True)
        self.edited.write_text(self.original + text)

    def run(self) -> dict[str, float]:
        """Take every step once and return their seconds, and the idle pod's bytes, by name."""
        self.edit()
        measured: dict[str, float] = {}
        try:
            measured["up, until the login page"], measured["up, to its end"] = timed(self.up, self.page)
            time.sleep(IDLE)
            measured["memory"] = load.Pod(self.session).memory()
            mark = f"edit-{time.time_ns()}"
            self.edit(EDIT.format(mark))
            measured["edit to live"], _ = timed(lambda: self.invoke("reload"), self.page, mark)
            walk = figures.steps(self.invoke("verify"))
            measured["log-in to notebook"] = figures.to_notebook(walk)
            measured |= {f"step {name}": seconds for name, seconds in walk.items()}
            # Both have volumes and images. podman<5: 4.3 refuses a claim for an existing volume.
            documents = render_manifest(self.session, with_secrets=True)
            manifest = [item for item in documents if item["kind"] != "PersistentVolumeClaim"]
            remove_pod(self.engine, self.session.existing())
            _, measured["play"] = timed(lambda: self.invoke("play", as_defined=True), self.page)
            remove_pod(self.engine, self.session.existing())
            _, measured["play, without its start"] = timed(lambda: play(self.session), self.page)
            remove_pod(self.engine, self.session.existing())
            argv, text = self.engine.apply_command(), dump(manifest).encode()
            _, measured["plain play"] = timed(lambda: self.engine.run(argv, stdin=text), self.page)
            time.sleep(IDLE)
        finally:
            measured["down"] = seconds(lambda: self.invoke("down"))
        measured["play's overhead"] = measured["play"] - measured["plain play"]
        measured["invoke --list"] = seconds(
            lambda: self.engine.programs.run((sys.executable, "-m", "invoke", "--list"))
        )
        return measured

    def up(self, *variables: str) -> None:
        """Bring it up."""
        self.invoke("up", *variables, as_defined=True)

    def cold(self) -> float:
        """Return the seconds of an `up` until the login page for which everything is downloaded and built."""
        self.edit()
        with empty_store(self.engine) as variables:
            try:
                return timed(lambda: self.up(*variables), self.page)[0]
            finally:
                self.invoke("down", *variables)

    def sizes(self) -> dict[str, float]:
        """Return the bytes of each container's image, and of all together with shared layers counted once."""
        env = self.session.env
        builds = container_builds(env, desired_builds(env, self.engine))
        trees = {
            f"image {name}": self.engine.run(("podman", "image", "tree", build.tag)).text
            for name, build in builds.items()
        }
        each = {name: figures.layers_size([tree]) for name, tree in trees.items()}
        return {**each, "images together": figures.layers_size(trees.values())}


def against(engine: Engine, up: Sequence[str], down: Sequence[str], url: str) -> dict[str, float]:
    """Return the seconds that another launcher takes ``up`` until ``url`` answers 200, and ``down``."""
    measured: dict[str, float] = {}
    try:
        measured["other: until its page"], measured["other: up, to its end"] = timed(
            lambda: engine.programs.run(up), url
        )
    finally:
        measured["other: down"] = seconds(lambda: engine.programs.run(down))
    return measured


def machine(engine: Engine) -> str:
    """Return one line on what this is measured on, with how busy that is now."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    version = ".".join(map(str, engine.version()))
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, podman {version}"
        f"{' without root' if rootless() else ''}, Python {platform.python_version()}; "
        f"load average {os.getloadavg()[0]:.1f} when it began"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of which medians are taken (3)")
    parser.add_argument(
        "--users", default="1,10,30,100", help="the load curve's points; none: no load (1,10,30,100)"
    )
    parser.add_argument("--keep", type=float, default=30, help="seconds that each load's servers run (30)")
    parser.add_argument(
        "--cold", action="store_true", help="begin once with no image and no cache (beside those there)"
    )
    parser.add_argument("--instance", default="bench", help="name of the deployments that are made (bench)")
    parser.add_argument(
        "--against-up", type=shlex.split, help="another launcher's command, run in turn with ours"
    )
    parser.add_argument(
        "--against-down", type=shlex.split, help="its command that takes down what that brings up"
    )
    parser.add_argument("--against-url", help="the page that it brings up")
    options = parser.parse_args(arguments)
    other = (options.against_up, options.against_down, options.against_url)
    if any(other) and not all(other):
        parser.error("--against-up, --against-down and --against-url belong together")
    try:
        counts = sorted({int(count) for count in options.users.split(",")} if options.users != "none" else ())
    except ValueError:
        parser.error(f"--users {options.users}: numbers with commas between them, or none")
    if options.runs < 1 or options.keep <= 0 or (counts and counts[0] < 1):
        parser.error("--runs, --users and --keep: 1 or more")
    os.chdir(load.ROOT)
    console, engine = Console(), open_engine(load.ROOT, Console())
    try:
        where = machine(engine)
        runs: list[dict[str, float]] = []
        with tempfile.TemporaryDirectory() as overlay:
            bench = Bench(engine, options.instance, Path(overlay))
            cold = {"cold up": bench.cold()} if options.cold else {}
            bench.invoke("build")
            for number in range(options.runs):
                runs.append(bench.run() | (against(engine, *other) if all(other) else {}))
                console.say("bench", f"run {number + 1} of {options.runs} is done")
            sizes = bench.sizes()
        loads: list[figures.Load] = []
        alone = None
        if counts:
            with load.up(counts[-1], options.instance, console) as session:
                loads.extend(load.run(session, count, options.keep, console) for count in counts)
            with load.up(counts[-1], options.instance, console, ("slurm.query_many_as=null",)) as session:
                alone = load.run(session, counts[-1], options.keep, console)
    except HubEnvsError as error:
        print(error.report, file=sys.stderr)
        return 1
    print(figures.report(where, cold, runs, sizes, loads, alone), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
