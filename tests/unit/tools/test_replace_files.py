"""Replacing files in a container, and putting them back."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from hubenvs.files import pack
from hubenvs.tools import replace_files


@pytest.fixture(autouse=True)
def _as_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container it is root who gives files their owner back."""
    monkeypatch.setattr("os.chown", lambda *_: None)


def bring(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], *delete: str) -> int:
    """Run the program with ``files`` (by absolute path) and ``delete``, and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["replace_files", json.dumps({"delete": delete, "commands": []})])
    tar = pack({path.lstrip("/"): content for path, content in files.items()}, 0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(tar)))
    return replace_files.main()


def test_files_keep_their_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that is replaced can be run still, and so can a new program; what else is new can't."""
    script, new = tmp_path / "script", tmp_path / "new"
    script.write_text("old")
    script.chmod(0o755)
    program = tmp_path / "prolog"
    assert bring(monkeypatch, {str(script): b"new", str(new): b"x", str(program): b"#!/bin/sh\n"}) == 0
    assert program.stat().st_mode & 0o100
    assert (script.read_text(), script.stat().st_mode & 0o777, new.stat().st_mode & 0o111) == (
        "new",
        0o755,
        0,
    )


def test_what_cannot_be_written_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where a folder is needed (like a full disk): files that were replaced before it are put back."""
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").write_text("a file")
    gone = tmp_path / "0"
    gone.write_text("to be deleted")
    assert bring(monkeypatch, {f"{tmp_path}/a": b"new", f"{tmp_path}/b/c": b"x"}, str(gone)) == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "0": "to be deleted",
        "a": "old",
        "b": "a file",
    }


def test_python_that_does_not_compile_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the files that do."""
    (tmp_path / "a.py").write_text("old = 1")
    assert bring(monkeypatch, {f"{tmp_path}/a.py": b"new = 1", f"{tmp_path}/b.py": b"def"}) == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.py": "old = 1"}
