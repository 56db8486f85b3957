"""Working copies of the layout of hubenvs<0.2, which real Git repositories are taken up from. No pod is started."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hubenvs.console import Console
from hubenvs.definition.read import read_environment
from hubenvs.session import Session, open_engine
from hubenvs.stages.clone import clone

from .helpers import ROOT, Engine, once

pytestmark = once
NAME = "bricsauthenticator"
IDENTITY = ("-c", "user.name=x", "-c", "user.email=x@localhost")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of its own, without working copies."""
    ignored = shutil.ignore_patterns("__pycache__", "_dev_build_data", "local.yaml")
    for name in ("containers", "envs"):
        shutil.copytree(ROOT / name, tmp_path / "checkout" / name, ignore=ignored)
    return tmp_path / "checkout"


@pytest.fixture
def upstream(tmp_path: Path, engine: Engine) -> Path:
    """A repository that a site clones the package from."""
    folder = tmp_path / "upstream"
    shutil.copytree(ROOT / "containers/jupyterhub" / NAME, folder)
    for command in (("init", "--quiet"), ("add", "--all"), (*IDENTITY, "commit", "--quiet", "--message=x")):
        engine.programs.run(("git", "-C", str(folder), *command))
    return folder


def cloned(checkout: Path, capsys: pytest.CaptureFixture[str], url: str = "bundled") -> tuple[Path, str]:
    """Run the stage for the source ``url``; return the working copy and what is printed about it."""
    settings = ["containers=[jupyterhub, slurm]", f"repositories.{NAME}.url={url}"]
    env = read_environment(checkout, "dev_dummyauth", settings=settings)
    clone(Session(env, open_engine(checkout, Console()), Console()))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if NAME in line)
    return env.working_copy(NAME), line


def test_copies_of_the_older_layout_are_taken_up(
    checkout: Path, upstream: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`<name>` was the copy in use, from a URL here; the bundled one stood aside. Both are kept, edits and all."""
    url = f"file://{upstream}"
    of_url, _ = cloned(checkout, capsys, url)
    bundled, _ = cloned(checkout, capsys)
    (of_url / "edited").write_text("of the URL")
    (bundled / "edited").write_text("of the bundled source")
    # As the version before left them: the digest is that of the word `bundled`.
    bundled.rename(aside := bundled.with_name(f"{NAME}.d08f27f667ef"))
    of_url.rename(bundled)

    for source, text in ((url, "of the URL"), ("bundled", "of the bundled source")):
        copy, line = cloned(checkout, capsys, source)
        assert f"kept {copy.relative_to(checkout)}" in line
        assert (copy / "edited").read_text() == text
    assert not aside.exists()
    assert {path.name for path in bundled.parent.iterdir()} == {of_url.name, bundled.name}


def test_a_copy_in_use_of_the_older_layout_alone_makes_room(
    checkout: Path, upstream: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy from a URL in the bundled one's place gets its own name, and the bundled source is copied anew."""
    url = f"file://{upstream}"
    of_url, _ = cloned(checkout, capsys, url)
    (of_url / "edited").write_text("mine")
    place = of_url.with_name(NAME)
    of_url.rename(place)
    copy, line = cloned(checkout, capsys)
    assert copy == place
    assert f"made {copy.relative_to(checkout)} from bundled" in line
    assert not (copy / "edited").exists()
    assert (of_url / "edited").read_text() == "mine"
