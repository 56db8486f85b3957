"""Fixtures of the integration tests: a real deployment, under a name and on a port of its own."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from .helpers import (
    DOMAIN,
    FURTHER,
    ROOT,
    STOP,
    Console,
    Deployment,
    Engine,
    entry,
    invoke,
    left_behind,
    marks,
    open_engine,
    options,
    settings,
    traces,
)
from .tokens import Tokens

# Only the session `browser` installs a browser's driver.
collect_ignore = [] if importlib.util.find_spec("playwright") else ["test_browser.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --env and --set."""
    parser.addoption("--env", required=False, default="dev_dummyauth", help="the environment to bring up")
    parser.addoption("--set", action="append", default=[], help="a setting of it, as for `invoke up`")


def pytest_configure(config: pytest.Config) -> None:
    """Know the marker `environments`, and let the tasks that are started heed Ctrl-C."""
    # What a shell starts in the background ignores it, and so would all that is started from there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    FURTHER.extend(config.getoption("--set"))
    config.addinivalue_line("markers", "environments(name, ...): the only ones that the test is about")
    config.addinivalue_line("markers", "inside: goes on in the containers alone, whoever runs them")
    config.addinivalue_line("markers", "faults: takes minutes; only with `-m faults`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of other environments; of several marks the nearest counts."""
    env = config.getoption("--env")
    left_out = []
    for item in items:
        marker = item.get_closest_marker("environments")
        unasked = item.get_closest_marker("faults") and not config.getoption("markexpr")
        if unasked or (marker and env not in marker.args):
            left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine as the tasks use it."""
    return open_engine(ROOT, Console())


@pytest.fixture(scope="session")
def instance() -> str:
    """A name that no other deployment has, so that the tests run beside a user's."""
    return f"it{os.getpid()}"


@pytest.fixture(scope="session")
def env_name(request: pytest.FixtureRequest) -> str:
    """The environment under test."""
    return str(request.config.getoption("--env"))


@pytest.fixture(scope="session")
def here() -> str:
    """This host's address as others see it, which pods can reach as well."""
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # says which way it would go; nothing is sent
        return str(probe.getsockname()[0])


@pytest.fixture(scope="session")
def deployment(env_name: str, instance: str, engine: Engine) -> Iterator[Deployment]:
    """The environment, up; taken down after the last test, when nothing may be left of it."""
    # A first image build leaves nothing but images, so the picture is taken after it.
    invoke("build", "--env", env_name, *options(env_name))
    before = traces(engine)
    known: set[str] = set()
    try:
        invoke("up", "--env", env_name, "--instance", instance, *options(env_name))
        status = entry(instance)
        assert status is not None
        known |= marks(engine, status["pod"])
        yield Deployment(env_name, instance, status, engine)
        known |= marks(engine, status["pod"])  # some tests have replaced the pod
    finally:
        invoke("down", "--env", env_name, "--instance", instance)
    # conmon may outlive its container by a moment: it still has the exit status to write.
    deadline = time.monotonic() + STOP
    while (left := left_behind(before, traces(engine), known)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == set()
    assert not (ROOT / ".deploy" / f"{env_name}-{instance}").exists()


@pytest.fixture(scope="module")
def tokens(deployment: Deployment) -> Tokens:
    """A maker of ID tokens for a hub that accepts them."""
    return Tokens(deployment)


@pytest.fixture(scope="module")
def origin(deployment: Deployment) -> Iterator[str]:
    """Scheme, name and port of a hub whose users have domains, and which looks at servers twice a minute."""
    origin = f"http://{DOMAIN}:{urlsplit(deployment.status['url']).port}"
    further = settings(hub__subdomain_host=origin, hub__poll_interval="30")
    try:
        assert f"{origin}/jupyter" in invoke("up", *deployment.options, *deployment.settings, *further).stdout
        yield origin
    finally:
        invoke("up", *deployment.options, *deployment.settings)
