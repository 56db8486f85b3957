"""Nox sessions: `nox` runs lint, the unit tests and the integration tests; `nox --list` shows all."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import nox

ROOT = Path(__file__).parent
ENVIRONMENTS = sorted(path.parent.name for path in ROOT.glob("envs/*/env.yaml"))
# Environments whose pod has everything that a browser needs.
BROWSED = ["dev_dummyauth", "dev_realauth"]
# Releases of Slurm that the images can have, and the tests of `slurm_quick`.
SLURM = ["24.11", "26.05"]
# Debian releases whose podman `podman` tries: 4.3, 5.4, 5.8, 6.1. The last one is sid with podman from experimental.
MACHINES = ["bookworm", "trixie", "sid", "experimental"]
# There podman's packages come from experimental. Debian's podman 6 doesn't say which network program it needs.
PINNED = "Package: podman netavark\nPin: release a=experimental\nPin-Priority: 900\n"
# Podman 6 refuses cgroup version 1. `tests/enter` shows it a version 2 in which this host's controllers are missing.
CONTAINERS_CONF = '[containers]\ncgroups = "disabled"\npids_limit = 0\n'
# Sessions that can run side by side, and the options that choose their tests. Each lane has a checkout, and so working
# copies, of its own.
LANES: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "engine": (["integration(dev_dummyauth)"], ("-m", "not inside and not faults")),
    "inside": (["integration(dev_dummyauth)"], ("-m", "inside and not faults")),
    "others": (
        [
            *(f"integration({env})" for env in ENVIRONMENTS if env != "dev_dummyauth"),
            "browser(dev_dummyauth)",
        ],
        ("-m", "not faults"),
    ),
    "cluster": (["kubernetes", "faults"], ()),
    "packages": (["packages", "rootless", "slurm_quick"], ()),
}
# The test modules whose results may differ with an ordinary user's podman.
ROOTLESS = "not prod and (changes or check or programs or refusals or reload or servers or tasks or volumes)"
QUICK = "submitting_environment or survives_a_restart or requeued_job"


def has_python(version: str) -> bool:
    """Return whether this Python starts. Version managers have programs for versions that aren't installed."""
    path = shutil.which(f"python{version}")
    if path is None:
        return False
    return subprocess.run((path, "--version"), capture_output=True, check=False).returncode == 0


PYTHONS = [version for version in ("3.10", "3.11", "3.12", "3.13", "3.14") if has_python(version)]
# Input file -> Python version (in the images Debian 13's). A lock that constrains others comes before them.
LOCKS = {
    "requirements/tools.in": "3.10",
    "requirements/tests.in": "3.10",
    "requirements/lint.in": "3.10",
    "requirements/browser.in": "3.10",
    "requirements/audit.in": "3.10",
    "containers/tools/tools.in": "3.13",
    "containers/tools/build.in": "3.10",
}
# Locked once for each version of JupyterHub, each lock constrained by those above it.
HUBS = ["5.5", "6.1"]
HUB_LOCKS = (
    "containers/jupyterhub-base/requirements",
    "containers/jupyterhub/requirements",
    "containers/slurm/user-env",
)
# Constrained by the locks of the first version.
DEV_LOCKS = ("containers/jupyterhub/dev.in", "containers/slurm/dev.in")
# Folder with JupyterHub's pins (requirements) and overrides.
HUB_BASE = "containers/jupyterhub-base"
# The user whom `rootless` makes.
USER = "hubenvs-ci"
# In the home of another user or machine: the integration tests of the copy of this checkout there.
RUN_THERE = """cd ~/checkout && exec scripts/bootstrap nox --session "integration(dev_dummyauth)" "$@" """
INTEGRATION_THERE = ("sh", "-c", RUN_THERE, "sh")
# Variables that are passed on to another machine: certificates, package index, web proxy.
NETWORK = {"SSL_CERT_FILE", "PIP_INDEX_URL", "UV_DEFAULT_INDEX", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
PACKAGES = ("containers/jupyterhub/bricsauthenticator", "containers/slurm/slurmspawner_wrappers")
# Compiled files are kept, out of the sources: without them a hub takes three times as long to start, and a task twice.
COMPILED = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(ROOT / ".nox/bytecode")}
# Pinned build tools of the two packages; the images use the same.
BUILT_BY = {"UV_BUILD_CONSTRAINT": "containers/tools/build.txt"}

nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "tests", "pods"]


def install(session: nox.Session, *locks: str) -> None:
    """Install the packages of ``locks`` with their hashes checked; Python keeps compiled files (COMPILED)."""
    session.env.update(COMPILED)
    session.install("--require-hashes", *(f"-rrequirements/{lock}.txt" for lock in locks))


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, mypy, shellcheck, yamllint, and the rendered manifests against the Kubernetes schemas."""
    install(session, "tools", "tests", "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    scripts = [str(file) for file in _tracked(session) if _is_shell(ROOT / file)]
    session.run("shellcheck", *scripts)
    session.run("yamllint", "--strict", "envs", ".github", ".pre-commit-config.yaml", ".yamllint.yaml")
    session.run("pytest", "tests/lint")


def _tracked(session: nox.Session) -> list[Path]:
    """Return the files of this checkout that Git tracks or doesn't ignore, relative to it."""
    command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listing = session.run(*command, silent=True, external=True)
    return [Path(name) for name in str(listing).split("\0") if (ROOT / name).is_file()]


def _is_shell(file: Path) -> bool:
    if file.suffix == ".bash":
        return True
    with file.open("rb") as stream:
        return stream.readline(32).rstrip() in (b"#!/bin/sh", b"#!/bin/bash", b"#!/usr/bin/env bash")


@nox.session(python=PYTHONS or None)
def tests(session: nox.Session) -> None:
    """The unit tests of the suite, on every Python from 3.10 on that this machine has."""
    install(session, "tools", "tests")
    session.run("pytest", "tests/unit", *session.posargs)


@nox.session
@nox.parametrize("package", [nox.param(folder, id=Path(folder).name) for folder in PACKAGES])
def packages(session: nox.Session, package: str) -> None:
    """The bundled packages' own tests, with the versions that the images install."""
    install(session, "tests")
    pins = ("-c", f"{HUB_BASE}/requirements.txt", "--overrides", f"{HUB_BASE}/overrides.txt")
    session.install(*pins, "-e", f"{package}[dev]", env=BUILT_BY)
    session.run("pytest", f"{package}/tests", "--rootdir", package, *session.posargs)


@nox.session
@nox.parametrize("release", ["5", "6"], ids=["5", "6"])
def newest(session: nox.Session, release: str) -> None:
    """The hub's package with the newest JupyterHub of a major release, not the pinned one."""
    install(session, "tests")
    package = PACKAGES[0]
    session.install("--upgrade", f"jupyterhub=={release}.*", "-e", f"{package}[dev]", env=BUILT_BY)
    session.run("pytest", f"{package}/tests", "--rootdir", package, *session.posargs)


@nox.session
def upgrade(session: nox.Session) -> None:
    """A database of JupyterHub 5.4 in hubs of 5.5 and 6.1, with a running server, and the way back from a backup."""
    install(session, "tools", "tests")
    package = PACKAGES[0]
    releases = {"5.4": ("jupyterhub==5.4.6",)} | {
        version: ("-c", hub_lock(HUB_LOCKS[0], version), "--overrides", f"{HUB_BASE}/overrides.txt")
        for version in HUBS
    }
    pythons = []
    for version, pins in releases.items():
        folder = Path(session.create_tmp()).resolve() / version
        session.run("uv", "venv", "--quiet", "--clear", "--python", "3", str(folder), external=True)
        pythons.append(str(folder / "bin/python"))
        install_pinned = ("uv", "pip", "install", "--quiet", "--python", pythons[-1], *pins, "-e", package)
        session.run(*install_pinned, env=BUILT_BY, external=True)
    session.install(*releases[HUBS[-1]], "-e", f"{package}[dev]", env=BUILT_BY)
    tests = f"{package}/tests/test_upgrade.py"
    session.run("pytest", tests, "--rootdir", package, *session.posargs, env={"TEST_HUBS": ":".join(pythons)})


@nox.session
@nox.parametrize("env", ENVIRONMENTS, ids=ENVIRONMENTS)
def integration(session: nox.Session, env: str) -> None:
    """A real pod of each environment: up, log in, spawn, compute, restart the hub, stop, down, nothing left."""
    install(session, "tools", "tests")
    session.run("pytest", "tests/integration", "--env", env, *session.posargs)


@nox.session(venv_backend="none")
def pods(session: nox.Session) -> None:
    """All sessions with pods, a cluster's and `packages`, side by side; their output comes at the end."""
    folder = ROOT / ".nox/pods"
    running: dict[str, subprocess.Popen[bytes]] = {}

    def start(lane: str) -> None:
        sessions, options = LANES[lane]
        copy_checkout(session, folder / lane)
        nox_of_lane = (sys.executable, "-m", "nox", "--noxfile", str(folder / lane / "noxfile.py"))
        argv = (*nox_of_lane, "--session", *sessions, "--", "--durations=10", *options)
        with (folder / f"{lane}.log").open("wb") as log:
            running[lane] = subprocess.Popen(argv, stdout=log, stderr=log)

    try:
        start("packages")  # begins with tests that need no image
        # Once, before two lanes would build the same.
        build = ("invoke", "build", "--env", "dev_realauth", "--set", "dev_users=[alice.project1]")
        session.run("scripts/bootstrap", *build, external=True)
        for lane in LANES.keys() - running.keys():
            start(lane)
        session.log(f"{', '.join(LANES)}: follow them in {folder}/*.log")
        failed = [lane for lane, process in running.items() if process.wait()]
    finally:
        for process in running.values():
            process.terminate()
            process.wait()
    for lane in LANES:
        print((folder / f"{lane}.log").read_text(errors="replace"), flush=True)
    if failed:
        session.error(f"failed: {', '.join(failed)}")


@nox.session
@nox.parametrize("release", SLURM, ids=SLURM)
def slurm(session: nox.Session, release: str) -> None:
    """The integration tests of dev_dummyauth on a release of Slurm."""
    install(session, "tools", "tests")
    session.run("pytest", "tests/integration", "--set", f"slurm.release={release}", *session.posargs)


@nox.session
@nox.parametrize("version", HUBS, ids=HUBS)
def hub(session: nox.Session, version: str) -> None:
    """The integration tests of dev_dummyauth on a version of JupyterHub, with its locks."""
    install(session, "tools", "tests")
    session.run("pytest", "tests/integration", "--set", f"hub.version={version}", *session.posargs)


@nox.session
def slurm_quick(session: nox.Session) -> None:
    """The tests of `slurm(26.05)` that a release of Slurm can break first: starting servers, a job's environment."""
    install(session, "tools", "tests")
    session.run("pytest", "tests/integration", "--set", f"slurm.release={SLURM[-1]}", "-k", QUICK)


@nox.session
@nox.parametrize("env", BROWSED, ids=BROWSED)
def browser(session: nox.Session, env: str) -> None:
    """A person's whole way in headless Chromium (Debian's); its pictures are in artifacts/ENVIRONMENT."""
    if not shutil.which("chromium"):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            session.skip(
                "there is no `chromium`: install it, as root on Debian by `apt-get install chromium`"
            )
        session.run("apt-get", "update", "--quiet=2", external=True)
        session.run("apt-get", "install", "--yes", "--no-install-recommends", "chromium", external=True)
    install(session, "tools", "tests", "browser")
    session.run("pytest", "tests/integration/test_browser.py", "--env", env, *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """The sixteen faults of docs/faults.md on a running pod (`-- -k sshd`)."""
    install(session, "tools", "tests")
    nodes = ("--set", "slurm.nodes=2", "--set", "slurm.cpus_per_node=2")  # for one of the three jobs on node2
    session.run(
        "pytest", "tests/integration", "--env", "dev_realauth", "-m", "faults", *nodes, *session.posargs
    )


@nox.session
def kubernetes(session: nox.Session) -> None:
    """In a cluster: the kubeconfig's context $HUBENVS_CONTEXT, or a node that root on Debian builds and starts."""
    script = str(ROOT / "scripts/kubernetes")
    context = os.environ.get("HUBENVS_CONTEXT")
    if not context and (os.geteuid() != 0 or not shutil.which("apt-get")):
        needs = "name a cluster by HUBENVS_CONTEXT, or run this as root on Debian, where one is built"
        (session.error if os.environ.get("HUBENVS_MUST_RUN") else session.skip)(needs)
    install(session, "tools", "tests")
    tests = ("pytest", "tests/cluster", *session.posargs)
    if context:
        session.run(*tests)
        return
    try:
        kubeconfig = str(session.run(script, "up", silent=True, external=True)).split()[-1]
        programs = str(Path(kubeconfig).parents[1] / "bin")
        place = {"KUBECONFIG": kubeconfig, "HUBENVS_CONTEXT": "hubenvs", "HUBENVS_LOAD": f"{script} load"}
        place["HUBENVS_REGISTRY"] = "10.97.43.1:5000"  # of this host, from which that node pulls without TLS
        session.run(*tests, env={**place, "PATH": f"{programs}:{os.environ['PATH']}"})
    finally:
        session.run(script, "down", external=True)


@nox.session
def load(session: nox.Session) -> None:
    """100 users at once, each with a server: losses, latencies, CPU and memory (`-- --users 30 --keep 60`)."""
    install(session, "tools")
    session.run("python", "-m", "bench.load", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure steps, images, memory and the load curve, and print tables (`-- --runs 3 --users 1,10,30,100`)."""
    install(session, "tools")
    session.run("python", "-m", "bench.run", *session.posargs)


@nox.session(venv_backend="none")
def rootless(session: nox.Session) -> None:
    """Integration tests with rootless podman, as the user hubenvs-ci. Needs root."""
    if os.geteuid() != 0:
        session.skip("`integration` is run by an ordinary user already")
    if USER not in {entry.pw_name for entry in pwd.getpwall()}:
        session.run("useradd", "--create-home", USER, external=True)
    user = pwd.getpwnam(USER)
    home = Path(user.pw_dir)
    copy_checkout(session, home / "checkout")
    storage = home / ".config/containers/storage.conf"
    storage.parent.mkdir(parents=True, exist_ok=True)
    storage.write_text('[storage]\ndriver = "overlay"\n')
    runtime = home / ".runtime"
    shutil.rmtree(runtime, ignore_errors=True)
    runtime.mkdir(mode=0o700)
    owned = [str(home / name) for name in ("checkout", ".config", ".runtime")]
    session.run("chown", "-R", f"{USER}:", *owned, external=True)
    isolate = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "tests/devices")
    as_user = ("setpriv", f"--reuid={USER}", f"--regid={user.pw_gid}", "--init-groups")
    chosen = ("-m", "not inside and not faults")  # of several the last one counts
    which = ("--", "-k", ROOTLESS, *session.posargs, *chosen)
    # pytest's own folder in /tmp may belong to an earlier user of this name.
    environment = machine_environment(
        HOME=str(home), USER=USER, XDG_RUNTIME_DIR=str(runtime), PYTEST_DEBUG_TEMPROOT=str(runtime)
    )
    command = (*isolate, "catatonit", "--", *as_user, *INTEGRATION_THERE, *which)
    session.run(*command, env=environment, include_outer_env=False, external=True)


@nox.session(venv_backend="none")
@nox.parametrize("release", MACHINES, ids=MACHINES)
def podman(session: nox.Session, release: str) -> None:
    """The integration tests on a Debian release with its podman, not this machine's. Root only; not in CI."""
    machine = ROOT / f".nox/debian-{release}"
    if not machine.exists():
        half = machine.with_suffix(".half")
        half.parent.mkdir(exist_ok=True)  # in a fresh clone this session is the first that needs it
        shutil.rmtree(half, ignore_errors=True)
        # `tests/enter` needs catatonit, and the tests need ss, ip and pgrep; bootstrap installs the rest.
        options = ["--variant=minbase", "--quiet", "--include=ca-certificates,catatonit,iproute2,procps"]
        suite = "sid" if release == "experimental" else release
        if suite == "sid":  # a mirror that isn't updated is refused after a week
            options.append('--aptopt=Acquire::Check-Valid-Until "false"')
        if release == "experimental":
            options.append("--include=crun")  # runc can't go without cgroups
        session.run("mmdebstrap", *options, suite, str(half), external=True)
        if release == "experimental":
            apt = half / "etc/apt"
            lines = (apt / "sources.list").read_text()
            (apt / "sources.list.d/experimental.list").write_text(lines.replace(" sid ", " experimental "))
            (apt / "preferences.d/podman").write_text(PINNED)
        half.rename(machine)
    old_cgroups = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
    environment = machine_environment(HOME="/root", PODMAN_IGNORE_CGROUPSV1_WARNING="1")
    if release == "experimental" and old_cgroups:
        (machine / "etc/containers").mkdir(exist_ok=True)
        (machine / "etc/containers/containers.conf").write_text(CONTAINERS_CONF)
        environment = {**environment, "CGROUP_VERSION": "2"}
    copy_checkout(session, machine / "root/checkout")
    command = ("tests/enter", str(machine), *INTEGRATION_THERE, "--", *session.posargs)
    session.run(*command, env=environment, include_outer_env=False, external=True)


def copy_checkout(session: nox.Session, target: Path) -> None:
    """Make ``target`` a copy of this checkout as it is; its virtual environments and the images it made stay."""
    for old in target.iterdir() if target.exists() else ():
        if old.name not in (".venv", ".nox"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for file in _tracked(session):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, target / file, follow_symlinks=False)
    # `_tracked` needs a repository to apply .gitignore.
    session.run("git", "init", "--quiet", str(target), external=True)


def machine_environment(**variables: str) -> Mapping[str, str]:
    """Return the environment variables of a log-in on another machine, with ``variables``."""
    network = {name: value for name, value in os.environ.items() if name.upper() in NETWORK}
    return (
        {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        | network
        | variables
    )


@nox.session
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of all locked packages; `-- unanswered-ok` ends well even if no feed answers."""
    install(session, "audit")
    session.run("python", "scripts/audit.py", *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Refresh every lock file from its source."""
    install(session, "tools")
    for source, python in LOCKS.items():
        _compile(session, source, str(Path(source).with_suffix(".txt")), python)
    for version in HUBS:
        locks = [hub_lock(lock, version) for lock in HUB_LOCKS]
        for number, (name, lock) in enumerate(zip(HUB_LOCKS, locks, strict=True)):
            (ROOT / lock).parent.mkdir(exist_ok=True)
            further = Path(lock).with_suffix(".in")
            source = str(further) if (ROOT / further).exists() else f"{name}.in"
            _compile(session, source, lock, "3.13", *locks[:number])
    for source in DEV_LOCKS:
        _compile(session, source, str(Path(source).with_suffix(".txt")), "3.13")
    for package in sorted(ROOT.glob("containers/*/package.json")):
        with session.chdir(package.parent):
            session.run("npm", "update", "--package-lock-only", "--ignore-scripts", external=True)


def hub_lock(name: str, version: str) -> str:
    """Return the lock ``name`` for a version of JupyterHub: beside its source for the first, else in a folder there."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file}.txt" if version == HUBS[0] else f"{folder}/jupyterhub-{version}/{file}.txt"


def _compile(session: nox.Session, source: str, lock: str, python: str, *constraints: str) -> None:
    command = ["uv", "pip", "compile", "--quiet", "--upgrade"]
    command += ["--generate-hashes", "--no-header", "--universal"]
    command += ["--python-version", python, "--overrides", f"{HUB_BASE}/overrides.txt"]
    command += [f"--constraints={constraint}" for constraint in constraints]
    session.run(*command, source, "--output-file", lock)
