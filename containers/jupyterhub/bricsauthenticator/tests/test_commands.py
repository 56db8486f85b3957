"""Commands that hang, and many at once; they are real ones."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import bricsauthenticator.job
from bricsauthenticator import BricsSlurmSpawner
from bricsauthenticator.commands import STARTS_A_SECOND, CommandError, Queue, run
from bricsauthenticator.submission import SubmitError


def ended(pid: int) -> bool:
    """Whether a process has ended, whoever has still to be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("cancelled", [False, True])
def test_streams_kept_open(tmp_path: Path, cancelled: bool) -> None:
    """A command is killed in time though another process, like ssh's master, goes on with its streams."""
    other, own = tmp_path / "other", tmp_path / "own"
    command = f"setsid sleep 60 & echo $! >{other}; echo $$ >{own}; sleep 60"

    async def give_up() -> None:
        await asyncio.wait_for(run(command, "", None, 60), 0.5)

    start = time.monotonic()
    try:
        if cancelled:
            with pytest.raises(asyncio.TimeoutError):
                asyncio.run(give_up())
        else:
            with pytest.raises(CommandError, match=r"no answer in 0\.5 s"):
                asyncio.run(run(command, "", None, 0.5))
        assert time.monotonic() - start < 10
        assert ended(int(own.read_text()))
    finally:
        os.kill(int(other.read_text()), 9)


def test_failed_with_status_0() -> None:
    """An empty answer isn't one if Slurm says that it failed: a job would count as gone. Other words mean nothing."""
    with pytest.raises(CommandError, match="Unable to contact slurm controller"):
        asyncio.run(run("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2", "", None, 60))
    assert asyncio.run(run("echo 'error: module not found' >&2", "", None, 60)) == ""


def test_streams() -> None:
    """Input, output and environment are the command's; its standard error is the message when it fails."""
    assert asyncio.run(run('cat; echo "$X"', "é" * 100_000, {"X": "y"}, 10)) == "é" * 100_000 + "y"
    with pytest.raises(CommandError, match=r"^why$"):
        asyncio.run(run("echo out; echo why >&2; exit 3", "", None, 10))
    with pytest.raises(CommandError, match=r"^exit status 3$"):
        asyncio.run(run("exit 3", "", None, 10))


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer when there is nothing to do; minutes take no time."""

    _now = 0.0

    def time(self) -> float:
        """Return the time so far, in seconds."""
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0]._when)
        super()._run_once()


def run_virtually(main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` on a clock that doesn't wait."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def most_in_a_second(starts: list[float]) -> int:
    """Return how many of `starts` lie in any one second at most."""
    return max(sum(start <= other < start + 1 - 1e-9 for other in starts) for start in starts)


@pytest.mark.parametrize(("at_once", "duration"), [(3, 1.0), (8, 0.0), (100, 0.3)])
def test_queue(at_once: int, duration: float) -> None:
    """No more run at the same time than allowed, no more start in a second, and all have their turn."""
    starts: list[float] = []
    running = [0]

    async def main() -> None:
        queue = Queue()
        queue.at_once = at_once

        async def command() -> None:
            async with queue.turn(0):
                running.append(running[-1] + 1)
                starts.append(asyncio.get_running_loop().time())
                await asyncio.sleep(duration)
                running.append(running[-1] - 1)

        await asyncio.gather(*(command() for _ in range(50)))

    run_virtually(main)
    assert len(starts) == 50
    assert max(running) <= at_once
    assert most_in_a_second(starts) <= STARTS_A_SECOND


def test_commands_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more commands of a spawner's run at the same time than its `commands_at_once`."""
    running = [0]

    async def run(cmd: str, input: str, env: dict[str, str], timeout: float) -> str:
        running.append(running[-1] + 1)
        await asyncio.sleep(1)
        running.append(running[-1] - 1)
        return cmd

    async def main() -> None:
        spawner = BricsSlurmSpawner(commands_at_once=2)
        await asyncio.gather(*(spawner.run_command("x") for _ in range(20)))

    monkeypatch.setattr(bricsauthenticator.job, "run", run)
    run_virtually(main)
    assert len(running) == 41
    assert max(running) == 2


def test_queue_order() -> None:
    """What a person waits for goes before queries; who has given up takes no turn, and gives back what it had."""
    done: list[str] = []

    async def main() -> None:
        queue = Queue()
        queue.at_once = 1

        async def command(name: str, delay: float = 0) -> None:
            async with queue.turn(delay):
                await asyncio.sleep(5)
                done.append(name)

        tasks = [asyncio.ensure_future(command("first"))]
        await asyncio.sleep(1)
        tasks.append(asyncio.ensure_future(command("query", 30)))
        gone = asyncio.ensure_future(command("gone"))
        await asyncio.sleep(1)
        tasks.append(asyncio.ensure_future(command("submission")))
        await asyncio.sleep(1)
        gone.cancel()
        await asyncio.gather(*tasks)
        running = asyncio.ensure_future(command("cancelled"))
        await asyncio.sleep(1)
        running.cancel()
        await command("last")

    run_virtually(main)
    assert done == ["first", "submission", "query", "last"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("ssh: connect to host login1 port 22: Connection refused", True),
        ("ssh: Could not resolve hostname login1: Temporary failure in name resolution", True),
        ("kex_exchange_identification: Connection closed by remote host\nConnection closed by 192.0.2.1 port 22", True),
        ("kex_exchange_identification: read: Connection reset by peer", True),
        (
            "mux_client_request_session: session request failed: Session open refused by peer\n"
            "Connection reset by 192.0.2.1 port 22",
            True,
        ),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        (
            "sbatch: error: slurm_buffers_pack_msg: auth_g_create: REQUEST_SUBMIT_BATCH_JOB has authentication error\n"
            "sbatch: error: Batch job submission failed: Protocol authentication error",
            True,
        ),
        # Slurm may have the job.
        (
            "sbatch: error: slurm_unpack_received_msg: [slurm:6817] auth_g_verify: RESPONSE_SUBMIT_BATCH_JOB has"
            " authentication error: Unspecified error\n"
            "sbatch: error: Batch job submission failed: Protocol authentication error",
            False,
        ),
        ("Connection to login1 closed by remote host.", False),
        ("client_loop: send disconnect: Broken pipe", False),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", False),
        ("sbatch: error: invalid partition specified: x", False),
        ("exit status 1", False),
    ],
)
def test_never_arrived(message: str, expected: bool) -> None:
    """Which failures say that Slurm can't have the job."""
    assert CommandError(message).never_arrived == expected


def test_a_changed_host_key_alarms_no_user() -> None:
    """ssh's banner is for operators; any other message is shown as it is."""
    banner = (
        "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nIT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!"
    )
    error = CommandError(f"{banner}\nHost key for slurm has changed.\nHost key verification failed.")
    assert SubmitError(error).jupyterhub_message == (
        "The Slurm job was not submitted: the Slurm server has another SSH host key than this hub knows."
        " Tell the people who run the hub."
    )
    assert SubmitError(CommandError("no such QOS")).jupyterhub_message == "The Slurm job was not submitted: no such QOS"
