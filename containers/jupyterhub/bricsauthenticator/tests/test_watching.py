"""Jobs that wait in Slurm's queue, looked at on a clock that doesn't wait."""

import asyncio
import itertools

import pytest
from test_commands import most_in_a_second, run_virtually
from test_spawner import BareSpawner

import bricsauthenticator.job
from bricsauthenticator.commands import STARTS_A_SECOND

USERS = 200


@pytest.mark.parametrize("many", [False, True], ids=["three wrappers", "four wrappers"])
def test_users_in_a_queue(monkeypatch: pytest.MonkeyPatch, many: bool) -> None:
    """200 waiting jobs cost 8 commands a second at most, 400 a minute after ten minutes; one that runs is seen soon."""
    calls: list[float] = []
    started: list[float] = []
    state = "PENDING"

    async def run(cmd: str, input: str, env: dict[str, str], timeout: float) -> str:
        calls.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.05)
        if cmd == "many":
            return "\n".join(f"{job}|u.p|{state}|n1|None" for job in input.split())
        return f"{state} n1"

    async def main() -> None:
        nonlocal state
        loop = asyncio.get_running_loop()
        spawners = [
            BareSpawner(exec_prefix="", batch_query_many_cmd="many" if many else "", startup_poll_interval=0.3)
            for _ in range(USERS)
        ]

        async def start(spawner: BareSpawner) -> None:
            await spawner._wait_for_server()
            started.append(loop.time())

        for number, spawner in enumerate(spawners):
            spawner.job_id, spawner.req_username = str(number + 1), "u.p"
        waiting = [asyncio.ensure_future(start(spawner)) for spawner in spawners]
        await asyncio.sleep(1200)
        state, ran = "RUNNING", loop.time()
        for spawner in spawners:
            spawner.port = 1234  # which the server tells
        await asyncio.gather(*waiting)
        # Each asks once more, for its host.
        assert max(started) - ran <= (2 if many else USERS / STARTS_A_SECOND + 1)

    monkeypatch.setattr(bricsauthenticator.job, "run", run)
    run_virtually(main)
    assert most_in_a_second(calls) <= STARTS_A_SECOND
    for minute in range(10, 20):
        count = sum(minute * 60 <= call < minute * 60 + 60 for call in calls)
        assert count <= (USERS * 2 if not many else 130)
        assert count > 0


def test_one_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh job is looked at often, one that waits every 2 s and then ever more seldom, up to 30 s."""
    calls: list[float] = []

    async def run(cmd: str, input: str, env: dict[str, str], timeout: float) -> str:
        calls.append(asyncio.get_running_loop().time())
        return "PENDING n/a"

    async def main() -> None:
        spawner = BareSpawner(exec_prefix="", startup_poll_interval=0.3)
        spawner.job_id = "7"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(spawner._wait_for_server(), 1000)

    monkeypatch.setattr(bricsauthenticator.job, "run", run)
    run_virtually(main)
    pauses = [later - earlier for earlier, later in itertools.pairwise(calls)]
    assert pauses[0] == pytest.approx(0.3)
    assert min(pause for call, pause in zip(calls, pauses, strict=False) if call > 3) == pytest.approx(2)
    assert pauses[-1] == pytest.approx(30)
    assert sorted(pauses) == pytest.approx(pauses)


def test_a_job_that_says_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that runs after a long wait, and says so, is asked for at once, and then as often as a fresh one."""
    calls: list[float] = []
    state = "PENDING n/a"

    async def run(cmd: str, input: str, env: dict[str, str], timeout: float) -> str:
        calls.append(asyncio.get_running_loop().time())
        return state

    async def main() -> None:
        nonlocal state
        spawner = BareSpawner(exec_prefix="", startup_poll_interval=0.3)
        spawner.job_id = "7"
        waiting = asyncio.ensure_future(spawner._wait_for_server())
        await asyncio.sleep(1000)
        state = "RUNNING n1"
        spawner.take_running()
        await asyncio.sleep(2)
        waiting.cancel()

    monkeypatch.setattr(bricsauthenticator.job, "run", run)
    run_virtually(main)
    after = [call - 1000 for call in calls if call >= 1000]
    assert after[0] <= 1
    pauses = [later - earlier for earlier, later in itertools.pairwise(after)]
    assert pauses == pytest.approx([0.3] * len(pauses))
    assert len(pauses) >= 3


class User:
    """A user without a hub: knows servers by name, as JupyterHub does, and notes what is stopped."""

    def __init__(self) -> None:
        self.spawners: dict[str, BareSpawner] = {}
        self.stopped: list[object] = []
        self.routes_taken = 0
        self.settings = {"proxy": self}

    async def delete_user(self, user: object, name: str) -> None:
        """Take a route."""
        self.routes_taken += 1

    async def stop(self, name: str) -> None:
        """Stop the server that the user has now."""
        self.stopped.append(self.spawners.pop(name))


class UpSpawner(BareSpawner):
    """One whose server is up."""

    name = ""
    server = True


@pytest.mark.parametrize("way", ["poll_and_notify", "_end"])
@pytest.mark.parametrize("next_one", ["none", "another spawner", "stopped", "same spawner"])
def test_the_next_server(monkeypatch: pytest.MonkeyPatch, way: str, next_one: str) -> None:
    """A server whose job has ended is stopped; one that its user has started before Slurm answers isn't."""

    async def run(cmd: str, input: str, env: dict[str, str], timeout: float) -> str:
        await asyncio.sleep(10)
        return ""

    async def main() -> None:
        user = User()
        one = UpSpawner(exec_prefix="", user=user)
        told: list[int] = []
        one.job_id, user.spawners[""] = "7", one
        one.add_poll_callback(told.append, 1)
        ending = asyncio.ensure_future(getattr(one, way)())
        await asyncio.sleep(5)
        if next_one == "another spawner":
            user.spawners[""] = UpSpawner(exec_prefix="", user=user)
        elif next_one == "stopped":
            one._stop_pending = True
        elif next_one == "same spawner":
            one.job_id = "8"
            monkeypatch.setattr(bricsauthenticator.job, "run", runs)
        await ending
        assert user.stopped == ([one] if next_one == "none" else [])
        assert told == []
        assert one.job_id == ("8" if next_one == "same spawner" else "")

    async def runs(cmd: str, input: str, env: dict[str, str], timeout: float) -> str:
        return "RUNNING n1"

    monkeypatch.setattr(bricsauthenticator.job, "run", run)
    run_virtually(main)
