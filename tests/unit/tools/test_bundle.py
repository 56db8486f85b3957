"""Reading a bundle: everything in it is checked before anything of it is used."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from hubenvs.definition.environment import Environment
from hubenvs.definition.read import read_environment
from hubenvs.errors import HubEnvsError, StateError
from hubenvs.tools import bundle
from hubenvs.tools.load import load

from ..helpers import session

CONTENT = {"images.tar": b"layers" * 4000, "manifest.yaml": b"kind: Pod\n"}
RIGHT = {"format": bundle.FORMAT, "env": "dev", "checkout": None, "images": [], "repositories": {}}


def made(path: Path, index: object = None, content: dict[str, bytes] | None = None) -> Path:
    """Write a bundle with ``index`` (by default the right one) and ``content``."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
    right = RIGHT | {"files": digests}
    members = {bundle.INDEX: json.dumps(right if index is None else index).encode(), **(content or CONTENT)}
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_a_whole_bundle_is_read(tmp_path: Path) -> None:
    """What `bundle` wrote is taken."""
    assert bundle.read_index(made(tmp_path / "site.tar")).env == "dev"


@pytest.mark.parametrize("kept", [0, 100, 1500, 20_000])
def test_a_truncated_bundle_is_refused(tmp_path: Path, kept: int) -> None:
    """A download that broke off is named, wherever it did."""
    path = made(tmp_path / "site.tar")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(HubEnvsError, match=r"site\.tar"):
        bundle.read_index(path)


@pytest.mark.parametrize(
    "content",
    [
        CONTENT | {"images.tar": b"other" * 4000},
        CONTENT | {"more": b""},
        {"images.tar": CONTENT["images.tar"]},
    ],
    ids=["changed", "more", "less"],
)
def test_a_damaged_bundle_is_refused(tmp_path: Path, content: dict[str, bytes]) -> None:
    """A file that isn't what the index says, one too many, and one too few."""
    with pytest.raises(HubEnvsError, match="nothing was loaded"):
        bundle.read_index(made(tmp_path / "site.tar", content=content))


@pytest.mark.parametrize(
    ("index", "where"),
    [
        (RIGHT, "files"),
        (RIGHT | {"files": {}, "images": "all"}, "images"),
        (RIGHT | {"files": {}, "repositories": {"../else": "abc"}}, "repositories"),
    ],
)
def test_an_index_that_does_not_say_all_is_refused(tmp_path: Path, index: object, where: str) -> None:
    """Nothing of a bundle is used whose index names no files, or other working copies than there are."""
    with pytest.raises(HubEnvsError, match=f"bundle.json: {where}.*nothing was loaded"):
        bundle.read_index(made(tmp_path / "site.tar", index=index))


@pytest.mark.parametrize("index", [{}, [], {"format": "another"}, {"format": bundle.FORMAT}])
def test_a_foreign_file_is_refused(tmp_path: Path, index: object) -> None:
    """Another program's tar, and another version's bundle, are not taken for ours."""
    with pytest.raises(HubEnvsError, match="bundle"):
        bundle.read_index(made(tmp_path / "site.tar", index=index))
    (tmp_path / "text").write_text("no tar at all")
    with pytest.raises(HubEnvsError, match="is no bundle"):
        bundle.read_index(tmp_path / "text")


@pytest.mark.parametrize(
    "index",
    [
        RIGHT | {"files": {}},
        RIGHT | {"files": {"images.tar": "1"}, "repositories": {"bricsauthenticator": "abc"}},
        RIGHT | {"files": {"images.tar": "1", "\x1b]0;title\x07": "2", "\ud800": "3"}},
    ],
    ids=["no images", "no working copy", "control characters"],
)
def test_an_index_that_leads_nowhere_is_refused(tmp_path: Path, index: object) -> None:
    """Whatever an index names must be there, and a terminal isn't told what to do by a name."""
    with pytest.raises(HubEnvsError) as refused:
        bundle.read_index(made(tmp_path / "site.tar", index=index))
    assert refused.value.report.replace("\n", "").isprintable()


def test_an_index_without_a_bottom_is_refused(tmp_path: Path) -> None:
    """More brackets than Python counts."""
    path = tmp_path / "site.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(bundle.INDEX)
        info.size = 500_000
        tar.addfile(info, io.BytesIO(b"[" * info.size))
    with pytest.raises(HubEnvsError, match="damaged"):
        bundle.read_index(path)


def test_what_only_claims_to_be_large_is_refused(tmp_path: Path) -> None:
    """A sparse file of an exabyte is not read."""
    path = tmp_path / "site.tar"
    index = json.dumps(RIGHT | {"files": {"images.tar": "1"}}).encode()
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(bundle.INDEX)
        info.size = len(index)
        tar.addfile(info, io.BytesIO(index))
        sparse = tarfile.TarInfo("images.tar")
        sparse.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**60)}
        tar.addfile(sparse)
    with pytest.raises(HubEnvsError, match="not what the bundle was made with"):
        bundle.read_index(path)


def test_a_bundle_for_another_architecture_is_refused_by_name(root: Path, tmp_path: Path) -> None:
    """Before anything is created; one that doesn't say what it is for, of an earlier version, is read all the same."""
    env = read_environment(root, "dev_dummyauth", settings=["debian.architecture=amd64"])
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
    path = made(tmp_path / "site.tar", index=RIGHT | {"files": digests, "architecture": "arm64"})
    with pytest.raises(HubEnvsError, match="its images are for arm64, and those for amd64 are needed here"):
        load(session(env), bundle.read_index(path), path)
    assert not env.deploy_folder.exists()
    assert bundle.read_index(made(path)).architecture is None


def test_a_bundle_replaces_files_alone(env: Environment, tmp_path: Path) -> None:
    """Neither a folder nor /dev/null, which root could replace, and nothing is built before it is refused."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for target in (tmp_path, pipe):
        with pytest.raises(StateError, match="not a file"):
            bundle.bundle(session(env), target)


def archive(manifest: object, *more: str, tags: tuple[str, ...] = ("a:1",)) -> bytes:
    """Return an archive of images with ``tags``; ``manifest``, if any, is what it says instead."""
    said = manifest or [{"Config": "c.json", "RepoTags": list(tags), "Layers": []}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("manifest.json", *more):
            data = json.dumps(said).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "images",
    [
        archive(None, tags=("docker.io/library/debian:stable",)),
        archive(None, tags=("a:1", "b:1")),
        archive(None, tags=()),
        archive(None, "x/index.json"),
        archive(None, "manifest.json"),
        archive({"RepoTags": 1}),
        archive([[]]),
        b"no tar",
    ],
    ids=["another", "one more", "none", "OCI's index", "two", "a mapping", "a list", "no tar"],
)
def test_only_declared_images_are_loaded(root: Path, tmp_path: Path, images: bytes) -> None:
    """An image with another tag would replace this host's own of that name; nothing is created before."""
    env = read_environment(root, "dev_dummyauth", settings=["debian.architecture=amd64"])
    content = CONTENT | {"images.tar": images}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    index = RIGHT | {"files": digests, "images": ["a:1"]}
    path = made(tmp_path / "site.tar", index, content)
    with pytest.raises(StateError, match="nothing was loaded"):
        load(session(env), bundle.read_index(path), path)
    assert not env.deploy_folder.exists()
