"""What a checkout is like for who takes it: its line ends, its commands, and the completion of the shell."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*argv: str, cwd: Path = ROOT, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=check)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of this checkout as it is now, by a Git that makes Windows' line ends where it may."""
    copy, clone = tmp_path / "copy", tmp_path / "clone"
    listing = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    identity = ("-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "core.autocrlf=false")
    for command in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message=x")):
        run("git", *identity, *command, cwd=copy)
    run("git", "clone", "--quiet", "--config", "core.autocrlf=true", str(copy), str(clone))
    return clone


def test_scripts_run_in_a_clone_with_windows_line_ends(clone: Path) -> None:
    """Every file has the line ends that it was committed with, and pictures are what they were."""
    done = run("scripts/bootstrap", cwd=clone, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "bootstrap: usage: scripts/bootstrap COMMAND [ARGUMENT...]\n",
    )
    ends = {line.split()[1] for line in run("git", "ls-files", "--eol", cwd=clone).stdout.splitlines()}
    assert ends == {"w/lf", "w/none", "w/-text"}
    for picture in ROOT.glob("docs/*.png"):
        assert (clone / "docs" / picture.name).read_bytes() == picture.read_bytes()


def test_pips_settings_are_kept(clone: Path) -> None:
    """Where pip has an index of its own, there is often no other, so uv doesn't ask one.

    Many clusters have `user = true` in pip's configuration, which pip refuses in a virtual environment.
    """
    index = ("PIP_INDEX_URL=http://127.0.0.1:1/", "PIP_RETRIES=0", "PIP_FIND_LINKS=", "PIP_EXTRA_INDEX_URL=")
    done = run("env", *index, "PIP_USER=1", "scripts/bootstrap", "true", cwd=clone, check=False)
    assert "No matching distribution" in done.stderr
    assert "--user" not in done.stderr
    assert "uv" not in done.stderr


def test_two_at_once_share_the_environment(clone: Path) -> None:
    """Two terminals, or a person and an editor: the second waits for what the first makes.

    The clone's path may have letters of any language, also where the locale knows only ASCII.
    """
    clone = clone.rename(clone.with_name("é x%s"))
    (clone / "requirements/tools.txt").write_text("# nothing, which takes less time\n")
    ascii_locale = ("LC_ALL=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0")
    command = ("env", *ascii_locale, "scripts/bootstrap", "python", "-c", "")
    both = [subprocess.Popen(command, cwd=clone, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "".join(said).count("making") == 1


@pytest.mark.parametrize(("version", "wanted"), [("5.4.2", True), ("6.1.1", True), ("4.3.1", False)])
def test_podman_5_needs_pasta(clone: Path, tmp_path: Path, version: str, wanted: bool) -> None:
    """Without it an ordinary user's pods have no network; it is named among the packages to install."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("cut", "dirname", "sh", "tr", "uname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    for name, answer in (("podman", f"podman version {version}"), ("id", "1000")):
        (programs / name).write_text(f"#!/bin/sh\necho {answer}\n")
        (programs / name).chmod(0o755)
    done = run("env", f"PATH={programs}", "scripts/bootstrap", "true", cwd=clone, check=False)
    assert done.returncode == 1
    (missing,) = re.findall("missing on this machine: (.*)", done.stderr)
    assert ("passt" in missing.split()) is wanted
    assert "podman" not in missing.split()


@pytest.mark.parametrize("name", ["a:b", "a\nb"])
def test_a_path_that_an_environment_cannot_have_is_refused(clone: Path, name: str) -> None:
    """Python splits PATH at a colon, and a script's first line ends with the line."""
    clone = clone.rename(clone.with_name(name))
    done = run("scripts/bootstrap", "true", cwd=clone, check=False)
    assert done.returncode == 1
    assert done.stderr == "bootstrap: the clone's path has a colon or a line's end in it: rename it\n"
    assert not (clone / ".venv").exists()


def test_ci_runs_the_readmes_two_commands() -> None:
    """The README's are the ones; GitHub's workflow and `.ci/run` have no others."""
    section = (ROOT / "README.md").read_text().partition("## Two commands")[2].partition("\n## ")[0]
    commands = re.findall(r"^    (scripts/bootstrap .*?) *(?:#.*)?$", section, re.MULTILINE)
    assert len(commands) == 2
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert re.findall(r"- run: (.*)", workflow) == commands
    assert f"exec {commands[1]}\n" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (("verif",), {"verify"}),
        (("up", "--inst"), {"--instance"}),
        (("up", "--env", "dev_dummy"), {"dev_dummyauth", "dev_dummyauth_extslurm"}),
        (("down", "-e", "pr"), {"prod"}),
    ],
)
def test_bash_completes(words: tuple[str, ...], completed: set[str]) -> None:
    """Tasks, their options, and environments after `--env`."""
    script = """
    . scripts/completion.bash
    COMP_WORDS=("$@")
    _complete_hubenvs invoke "${*: -1}" "${*: -2:1}"
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    assert set(run("bash", "-euc", script, "bash", "invoke", *words).stdout.split()) == completed


def test_every_version_of_jupyterhub_is_locked_with_the_same_packages() -> None:
    """The locks of further packages for `stage: dev` hold to those of one version, and are used with the other too."""

    def pins(lock: Path) -> dict[str, str]:
        lines = re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE)
        return {name: version for name, version in lines if name != "jupyterhub"}

    locks = sorted(ROOT.glob("containers/*/jupyterhub-*/*.txt"))
    assert [lock.name for lock in locks] == ["requirements.txt", "requirements.txt", "user-env.txt"]
    for lock in locks:
        ours, others = pins(lock), pins(lock.parents[1] / lock.name)
        assert {name: ours[name] for name in others if name in ours} == {
            name: others[name] for name in others if name in ours
        }, lock
