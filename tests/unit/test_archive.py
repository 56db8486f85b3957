"""Seeds and tars: what goes into a volume, and what is kept there."""

from __future__ import annotations

import io
import tarfile

from hubenvs.archive import RECORD, Seeding, pack, seeding, unpack


def volume_after(seed: dict[str, bytes], current: dict[str, bytes]) -> dict[str, bytes]:
    return {**current, **seeding(seed, current).files}


def test_a_tar_depends_on_nothing_but_its_content() -> None:
    """The same files give the same bytes, with the owner asked for."""
    files = {"b/c.conf": b"1", "a": b"2"}
    assert pack(files, 64030) == pack(dict(reversed(files.items())), 64030)
    with tarfile.open(fileobj=io.BytesIO(pack(files, 64030))) as tar:
        assert {(member.uid, member.gid, member.mtime) for member in tar} == {(64030, 64030, 0)}
        assert [member.name for member in tar] == [".", "a", "b", "b/c.conf"]
    assert unpack(pack(files, 0)) == files


def test_an_interrupted_import_is_made_up_for() -> None:
    """The record is written last: without it what has arrived counts as somebody's, and what hasn't is brought in."""
    files = seeding({"z": b"1"}, {}).files
    with tarfile.open(fileobj=io.BytesIO(pack(files, 0))) as tar:
        assert tar.getnames()[-1] == RECORD
    assert seeding({"y": b"1", "z": b"1"}, {"y": b"1"}).files["z"] == b"1"


def test_a_damaged_record_is_made_anew() -> None:
    """What differs from its seed is kept, since nobody knows any more whether it was edited."""
    for record in (b"{", b"[]"):
        result = seeding({"a": b"1", "b": b"2"}, {"a": b"mine", "b": b"2", RECORD: record})
        assert set(result.files) == {"a.new", RECORD}


def test_an_empty_volume_gets_every_seed_and_says_nothing() -> None:
    """The first seeding is no news."""
    result = seeding({"a": b"1"}, {})
    assert result.files["a"] == b"1"
    assert result.notes == ()


def test_a_second_seeding_writes_nothing() -> None:
    """What is there already is left alone."""
    volume = volume_after({"a": b"1"}, {})
    assert seeding({"a": b"1"}, volume).files == {}


def test_a_changed_seed_wins_over_an_unedited_copy() -> None:
    """A file nobody edited in the volume follows the repository, and the user is told."""
    volume = volume_after({"a": b"1"}, {})
    result = seeding({"a": b"2"}, volume)
    assert result.files["a"] == b"2"
    assert result.notes == ("brought in the changed a",)


def test_an_edited_copy_is_kept_and_the_new_seed_laid_beside_it() -> None:
    """What somebody wrote in the volume isn't lost, nor is the new version; it is said once."""
    volume = {**volume_after({"a": b"1"}, {}), "a": b"mine"}
    first = seeding({"a": b"2"}, volume)
    assert "a" not in first.files
    assert first.files["a.new"] == b"2"
    assert "a.new" in first.notes[0]
    assert seeding({"a": b"2"}, {**volume, **first.files}).notes == ()


def test_an_edited_copy_of_an_unchanged_seed_is_no_news() -> None:
    """Editing in the volume is allowed; nothing is written or said about it."""
    volume = {**volume_after({"a": b"1"}, {}), "a": b"mine"}
    assert seeding({"a": b"1"}, volume) == Seeding({}, ())


def test_a_volume_without_a_record_is_not_overwritten() -> None:
    """A file that was there before any seeding counts as somebody's own."""
    result = seeding({"a": b"1"}, {"a": b"theirs"})
    assert set(result.files) == {"a.new", RECORD}
