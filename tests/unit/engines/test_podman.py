"""The command lines, for each engine and system."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hubenvs.engines import host
from hubenvs.engines.podman import Podman, rootless_network
from hubenvs.engines.podman_images import LISTINGS
from hubenvs.engines.process import Completed, Programs
from hubenvs.errors import CommandError, StateError


@pytest.fixture
def podman() -> Podman:
    return Podman(None, Programs())


def test_a_build_gets_the_trust_store_and_leaves_it_out_of_the_image(
    podman: Podman, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's certificates are mounted for the build; nothing copies them."""
    monkeypatch.setattr(host, "build_caches", lambda: None)
    argv = podman.build_command(
        tag="t",
        context=Path("/c"),
        base="b",
        target="stage-dev",
        contexts={"repo": "/r"},
        ca_bundle="/x/ca.crt",
    )
    assert argv[:2] == ("podman", "build")
    assert "/x:/etc/ssl/certs:ro" in argv
    assert "SSL_CERT_FILE=/etc/ssl/certs/ca.crt" in argv
    assert argv[argv.index("--security-opt") + 1] == "label=disable"
    assert argv[argv.index("--build-context") + 1] == "repo=/r"
    assert argv[-1] == "/c"


def test_an_ordinary_users_build_has_caches_of_its_own(
    podman: Podman, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Podman 4.3 would look for them where another user has theirs."""
    monkeypatch.setattr(host, "build_caches", lambda: Path("/var/tmp/mine"))
    argv = podman.build_command(tag="t", context=Path("/c"), base="b")
    assert argv[:4] == ("env", "TMPDIR=/var/tmp/mine", "podman", "build")
    assert "--security-opt" not in argv


@pytest.mark.parametrize(
    ("version", "rootless", "network"),
    [
        pytest.param((4, 3, 1), False, "x-dev", id="Debian 12, root"),
        pytest.param((4, 3, 1), True, "slirp4netns", id="Debian 12"),
        pytest.param((4, 9, 3), False, "x-dev", id="Ubuntu 24.04, root"),
        pytest.param((4, 9, 3), True, "slirp4netns", id="Ubuntu 24.04"),
        pytest.param((5, 4, 2), False, "x-dev", id="Debian 13, root"),
        pytest.param((5, 4, 2), True, "pasta", id="Debian 13"),
        pytest.param((4, 9, 4), True, "slirp4netns", id="RHEL 9.4"),
        pytest.param((5, 6, 0), True, "pasta", id="RHEL 9.7, Fedora, macOS"),
    ],
)
def test_a_pod_goes_on_a_network_of_its_own(
    podman: Podman, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], rootless: bool, network: str
) -> None:
    """Left to itself `kube play` makes one for all pods and keeps it; an ordinary user's pods have none to share."""
    monkeypatch.setattr(podman, "version", lambda: version)
    monkeypatch.setattr(host, "rootless", lambda: rootless)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    create = podman.network_command("x-dev", {"a": "b"})
    assert (create is None) == rootless
    argv = podman.apply_command(create and create[-1])
    assert argv[argv.index("--network") + 1] == network
    assert "site" in podman.apply_command("site")


def test_without_pasta_an_ordinary_users_pod_has_the_network_from_before() -> None:
    """Podman 5 takes both; Debian's only recommends pasta. Podman 6 has pasta alone."""
    assert rootless_network((5, 4, 2), has_pasta=False) == "slirp4netns"
    assert rootless_network((6, 1, 0), has_pasta=False) == "pasta"


def test_volume_data_goes_through_the_machine_on_macos(
    podman: Podman, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the volumes are inside the podman machine, and only its own podman can import and export."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert podman.import_volume_command("v") == ("podman", "volume", "import", "v", "-")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert podman.export_volume_command("v") == (
        "podman",
        "machine",
        "ssh",
        "podman",
        "volume",
        "export",
        "v",
    )


class Racing(Programs):
    """Fails ``failures`` times to list volumes, as podman does while another deployment's are removed."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        """Return the answer: nothing, or that failure."""
        if "volume" in argv and self.failures:
            self.failures -= 1
            return Completed(125, b"", "Error: volume x does not exist in database: no such volume")
        return Completed(0, b"", "")


def test_what_others_remove_meanwhile_is_no_failure() -> None:
    """Podman is asked again; a list that never comes is an error, with podman's message."""
    assert Podman(None, Racing(LISTINGS - 1)).listing().volumes == ()
    with pytest.raises(CommandError) as error:
        Podman(None, Racing(LISTINGS)).listing()
    assert "no such volume" in error.value.details[0]


@pytest.mark.parametrize("name", ["CONTAINER_HOST", "CONTAINER_CONNECTION"])
def test_podman_on_another_host_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Ports, certificates and limits are looked at on this host; a pod elsewhere would be taken for one here."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setenv(name, "ssh://root@elsewhere/run/podman.sock")
    with pytest.raises(StateError, match=f"{name} is set.*: unset {name}"):
        Podman(None, Programs()).version()


def test_what_podman_unpacks_goes_with_the_scratch_folder() -> None:
    """Podman that is interrupted leaves whole layers in TMPDIR, which nobody would look for in /var/tmp."""
    started: list[Sequence[str]] = []

    class Records(Programs):
        def run(self, argv: Sequence[str], **options: Any) -> Completed:
            started.append(argv)
            return Completed(0, b"", "")

    podman = Podman(None, Records())
    podman.save_images(["tag"], Path("/scratch/images.tar"))
    podman.load_images(Path("/scratch/content"))
    assert [argv[:4] for argv in started] == [
        ("env", "TMPDIR=/scratch", "podman", "save"),
        ("env", "TMPDIR=/scratch", "podman", "load"),
    ]
