"""Seed files: what goes into a volume, and what is kept there."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from hubenvs.definition.environment import Environment
from hubenvs.definition.read import read_environment
from hubenvs.files import pack
from hubenvs.plan.seeds import SEED_DIGESTS, SEED_NAMES, Seeding, merge_seeds, replace_seeds

from ..helpers import rendered


def volume_after(seed: dict[str, bytes], current: dict[str, bytes]) -> dict[str, bytes]:
    return {**current, **merge_seeds(seed, current).files}


def test_an_interrupted_import_is_made_up_for() -> None:
    """The record is written last: without it files that arrived count as edited, others are added."""
    files = merge_seeds({"z": b"1"}, {}).files
    with tarfile.open(fileobj=io.BytesIO(pack(files, 0, last=SEED_DIGESTS))) as tar:
        assert tar.getnames()[-1] == SEED_DIGESTS
    assert merge_seeds({"y": b"1", "z": b"1"}, {"y": b"1"}).files["z"] == b"1"


def test_a_damaged_record_is_made_anew() -> None:
    """What differs from its seed is kept, since nobody knows any more whether it was edited."""
    for record in (b"{", b"[]"):
        result = merge_seeds({"a": b"1", "b": b"2"}, {"a": b"mine", "b": b"2", SEED_DIGESTS: record})
        assert set(result.files) == {"a.new", SEED_DIGESTS}


def test_an_empty_volume_gets_every_seed_and_says_nothing() -> None:
    """The first seeding is no news."""
    result = merge_seeds({"a": b"1"}, {})
    assert result.files["a"] == b"1"
    assert result.notes == ()


def test_a_second_seeding_writes_nothing() -> None:
    """What is there already is left alone."""
    volume = volume_after({"a": b"1"}, {})
    assert merge_seeds({"a": b"1"}, volume).files == {}


def test_a_program_that_nobody_can_run_is_written_again() -> None:
    """A volume of an earlier version, or a copy, may have lost the mode alone."""
    volume = volume_after({"prolog": b"#!/bin/sh\n", "a": b"1"}, {})
    result = merge_seeds({"prolog": b"#!/bin/sh\n", "a": b"1"}, volume, {"prolog", "a"})
    assert set(result.files) == {"prolog", SEED_DIGESTS}
    assert result.notes == ("made prolog executable",)


def test_a_changed_seed_wins_over_an_unedited_copy() -> None:
    """A file nobody edited in the volume follows the repository, and the user is told."""
    volume = volume_after({"a": b"1"}, {})
    result = merge_seeds({"a": b"2"}, volume)
    assert result.files["a"] == b"2"
    assert result.notes == ("updated a",)


def test_an_edited_copy_is_kept_and_the_new_seed_laid_beside_it() -> None:
    """What somebody wrote in the volume isn't lost, nor is the new version; it is said once."""
    volume = {**volume_after({"a": b"1"}, {}), "a": b"mine"}
    first = merge_seeds({"a": b"2"}, volume)
    assert "a" not in first.files
    assert first.files["a.new"] == b"2"
    assert "a.new" in first.notes[0]
    assert merge_seeds({"a": b"2"}, {**volume, **first.files}).notes == ()


def test_an_edited_copy_of_an_unchanged_seed_is_no_news() -> None:
    """Editing in the volume is allowed; nothing is written or said about it."""
    volume = {**volume_after({"a": b"1"}, {}), "a": b"mine"}
    assert merge_seeds({"a": b"1"}, volume) == Seeding({}, ())


def test_a_volume_without_a_record_is_not_overwritten() -> None:
    """A file that was there before any seeding counts as somebody's own."""
    result = merge_seeds({"a": b"1"}, {"a": b"theirs"})
    assert set(result.files) == {"a.new", SEED_DIGESTS}


def test_seed_templates_are_rendered(env: Environment) -> None:
    """slurm.conf has the nodes that the environment asks for."""
    files = rendered(env, {"a.j2": b"{{ slurm.nodes }} {{ env.name }}", "b": b"{{ as it is }}"})
    assert files == {"a": b"1 dev_dummyauth", "b": b"{{ as it is }}"}


def test_reservations_are_arguments_of_scontrol(root: Path) -> None:
    """Those of the definition, with the start last, which one that is there keeps."""
    users = "[alice.project1, bob.project1]"
    course = f"{{name: course, nodes: 'node[1-2]', users: {users}, start: 2030-01-31T09:00:00}}"
    settings = ["slurm.nodes=2", f"slurm.reservations=[{course}, {{name: all-day, users: [bob.project1]}}]"]
    tree = {"reservations.j2": (root / "volumes/common/slurm-config/reservations.j2").read_bytes()}
    assert rendered(read_environment(root, "dev_dummyauth"), tree) == {"reservations": b""}
    assert rendered(read_environment(root, "dev_dummyauth", settings=settings), tree)[
        "reservations"
    ].splitlines() == [
        b"ReservationName=course Nodes=node[1-2] Users=alice.project1,bob.project1 Duration=UNLIMITED "
        b"StartTime=2030-01-31T09:00:00",
        b"ReservationName=all-day Nodes=ALL Users=bob.project1 Duration=UNLIMITED StartTime=now",
    ]


def test_a_file_that_is_no_seed_any_more_is_named_until_it_is_gone() -> None:
    """An overlay's template would otherwise go on being served without anybody knowing why."""
    volume = volume_after({"a": b"1", "b": b"1"}, {})
    volume = volume_after({"a": b"1"}, volume)
    note = "b is no seed file any more; it stays until it is removed by hand"
    assert merge_seeds({"a": b"1"}, volume).notes == (note,)
    del volume["b"]
    assert merge_seeds({"a": b"1"}, volume).notes == ()
    assert merge_seeds({"a": b"1"}, volume_after({"a": b"1"}, volume)).files == {}


def test_in_a_clusters_pod_a_removed_seed_goes() -> None:
    """Its volume has no edits to keep; what the pod itself has put there stays."""
    existing = {"a": b"1", "b": b"2", "linked": b"", SEED_NAMES: b"a\nb\n"}
    seeding = replace_seeds({"a": b"3"}, existing)
    assert seeding == Seeding({"a": b"3", SEED_NAMES: b"a\n"}, ("updated a", "removed b"), ("b",))
    assert replace_seeds({"a": b"3"}, {"a": b"3", "linked": b"", SEED_NAMES: b"a\n"}) == Seeding({}, ())
