"""Files: tars, digests, writing."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from hubenvs.errors import StateError
from hubenvs.files import digest, file_system, not_executable, pack, paths, read_tree, unpack, write


def test_a_tar_depends_on_nothing_but_its_content() -> None:
    """The same files give the same bytes, with the owner asked for."""
    files = {"b/c.conf": b"1", "a": b"2"}
    assert pack(files, 64030) == pack(dict(reversed(files.items())), 64030)
    with tarfile.open(fileobj=io.BytesIO(pack(files, 64030))) as tar:
        assert {(member.uid, member.gid, member.mtime) for member in tar} == {(64030, 64030, 0)}
        assert [member.name for member in tar] == [".", "a", "b", "b/c.conf"]
    assert unpack(pack(files, 0)) == files


def test_scripts_stay_executable() -> None:
    """Slurm drains a node whose Prolog it can't run; what isn't a program is data."""
    files = {"prolog": b"#!/bin/sh\n", "program": b"\x7fELF\x02", "slurm.conf": b"# a comment"}
    with tarfile.open(fileobj=io.BytesIO(pack(files, 0))) as tar:
        modes = {member.name: member.mode for member in tar if member.isfile()}
    assert modes == {"prolog": 0o755, "program": 0o755, "slurm.conf": 0o644}
    assert not_executable(pack(files, 0)) == {"slurm.conf"}


def test_a_digest_tells_where_one_part_ends() -> None:
    """Moving a byte from one part to the next changes the digest."""
    assert digest("ab", "c") != digest("a", "bc")
    assert digest({"a": b"1", "b": b"2"}) == digest({"b": b"2", "a": b"1"})


def test_nothing_but_a_file_is_written_over(tmp_path: Path) -> None:
    """A pipe (as a device would) stays what it is when it is named as a file to write."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(StateError, match="not a file"):
        write(pipe, "x")
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_no_link_leads_out_of_a_tree(tmp_path: Path) -> None:
    """A link to a file beside it is read, one to this host's files is not, whatever way it takes there."""
    tree = tmp_path / "overlay"
    (tree / "config").mkdir(parents=True)
    (tree / "config/file").write_bytes(b"1")
    (tree / "config/link").symlink_to("file")
    assert read_tree(tree / "config", within=tree) == {"file": b"1", "link": b"1"}
    (tmp_path / "secret").write_bytes(b"2")
    (tree / "config/out").symlink_to("../../secret")
    with pytest.raises(StateError, match="config/out: leads out of"):
        read_tree(tree / "config", within=tree)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret").write_bytes(b"3")
    (tree / "folder").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="folder/secret: leads out of"):
        read_tree(tree / "folder", within=tree)


def test_the_file_system_of_a_folder() -> None:
    """It is that of the longest mount point, and of several at one the last."""
    points = (("/", "ext4"), ("/home", "autofs"), ("/home", "nfs4"), ("/homestead", "xfs"))
    mounts = "".join(f"x {point} {kind} rw 0 0\n" for point, kind in points)
    assert file_system("/home/me/.local/share", mounts) == "nfs4"
    assert file_system("/homestead/me", mounts) == "xfs"
    assert file_system("/srv", mounts) == "ext4"


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Neither an image's digest nor a volume's tar has a place for it."""
    (tmp_path / os.fsdecode(b"a\xff")).touch()
    with pytest.raises(StateError, match="its name is not UTF-8") as refused:
        paths(tmp_path)
    assert refused.value.report.isascii()
