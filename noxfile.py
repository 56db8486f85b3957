"""Nox sessions: `nox` runs lint, the unit tests and the integration tests; `nox --list` shows all."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nox

ROOT = Path(__file__).parent
ENVIRONMENTS = sorted(path.parent.name for path in ROOT.glob("envs/*/env.yaml"))


def has_python(version: str) -> bool:
    """Return whether this machine has that Python; a version manager's stand-in for one it hasn't doesn't run."""
    path = shutil.which(f"python{version}")
    return path is not None and subprocess.run((path, "--version"), capture_output=True, check=False).returncode == 0


PYTHONS = [version for version in ("3.10", "3.11", "3.12", "3.13", "3.14") if has_python(version)]
# Each lock, what it is made from, and the Python it is for; in the images that is Debian 13's.
LOCKS = {
    "requirements/tools.txt": "3.10",
    "requirements/tests.txt": "3.10",
    "requirements/lint.txt": "3.10",
}
PACKAGES = ("containers/jupyterhub/bricsauthenticator", "containers/slurm/slurmspawner_wrappers")

nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "tests", "packages", "integration"]


def install(session: nox.Session, *locks: str) -> None:
    """Install the locked packages of ``locks``, every one of them hash-checked."""
    session.install("--require-hashes", *(part for lock in locks for part in ("-r", f"requirements/{lock}.txt")))


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, mypy, shellcheck, yamllint, and the rendered manifests against the Kubernetes schemas."""
    install(session, "tools", "tests", "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    tracked = session.run("git", "ls-files", "--cached", "--others", "--exclude-standard", silent=True, external=True)
    files = [ROOT / name for name in str(tracked).splitlines() if (ROOT / name).is_file()]
    scripts = [str(file.relative_to(ROOT)) for file in files if _is_shell(file)]
    session.run("shellcheck", *scripts)
    session.run("yamllint", "--strict", "envs", ".yamllint.yaml")
    session.run("pytest", "tests/lint")


def _is_shell(file: Path) -> bool:
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
    """The bundled packages' own tests, with what the images install."""
    install(session, "tests")
    session.install("-c", "containers/jupyterhub-base/requirements.txt", "-e", f"{package}[dev]")
    session.run("pytest", f"{package}/tests", "--rootdir", package, *session.posargs)


@nox.session
@nox.parametrize("env", ENVIRONMENTS, ids=ENVIRONMENTS)
def integration(session: nox.Session, env: str) -> None:
    """A real pod of each environment: up, log in, spawn, compute, restart the hub, stop, down, nothing left."""
    install(session, "tools", "tests")
    session.run("pytest", "tests/integration", "--env", env, *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Refresh every lock file from what it is made of."""
    install(session, "tools")
    for target, python in LOCKS.items():
        _compile(session, Path(target).with_suffix(".in"), "--universal", "--python-version", python)
    for source in sorted(ROOT.glob("containers/*/*.in")):
        overrides = source.with_name("overrides.txt")
        options = ("--override", str(overrides.relative_to(ROOT))) if overrides.exists() else ()
        _compile(session, source.relative_to(ROOT), "--python-version", "3.13", *options)
    for package in sorted(ROOT.glob("containers/*/package.json")):
        with session.chdir(package.parent):
            session.run("npm", "install", "--package-lock-only", "--ignore-scripts", external=True)


def _compile(session: nox.Session, source: Path, *options: str) -> None:
    session.run(
        "uv", "pip", "compile", "--quiet", "--upgrade", "--generate-hashes", "--no-header",
        *options, str(source), "--output-file", str(source.with_suffix(".txt")),
    )  # fmt: skip
