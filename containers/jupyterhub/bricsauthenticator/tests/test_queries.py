"""One query for many jobs: shell commands play Slurm, and write down that they were run."""

import asyncio
import logging
from pathlib import Path

import pytest
from batchspawner.batchspawner import JobStatus
from test_spawner import BareSpawner

ALONE, MANY = "alone", "many"


class Site:
    """A folder whose `calls` has a line for each command run: what asks about many jobs, and about one alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.many = "exit 1"
        self.alone = "exit 1"

    def spawner(self, job_id: str, user: str = "alice.p1") -> BareSpawner:
        """Return a spawner whose job has that number."""
        calls = self.folder / "calls"
        spawner = BareSpawner(
            exec_prefix="",
            batch_query_many_cmd=f"echo {MANY} >>{calls}; {self.many}",
            batch_query_cmd=f"echo {ALONE} >>{calls}; {self.alone}",
        )
        spawner.job_id, spawner.req_username = job_id, user
        return spawner

    def calls(self, kind: str) -> int:
        """Return how many commands of that kind have been run."""
        return (self.folder / "calls").read_text().split().count(kind)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site where nothing works yet."""
    return Site(tmp_path)


EVERY = 'while read -r job || [ -n "$job" ]; do echo "$job|alice.p1|RUNNING|node$job|None"; done'


async def statuses(spawners: list[BareSpawner]) -> list[JobStatus]:
    """Ask for all at the same time."""
    return await asyncio.gather(*(spawner.query_job_status() for spawner in spawners))


def test_one_command_for_all(site: Site) -> None:
    """Thirty servers that are asked for three times cost a command each time, and none for one of them alone."""
    site.many = EVERY

    async def poll() -> None:
        for _ in range(3):
            assert set(await statuses(spawners)) == {JobStatus.RUNNING}

    spawners = [site.spawner(str(number)) for number in range(1, 31)]
    asyncio.run(poll())
    assert [spawner.state_gethost() for spawner in spawners] == [f"node{number}" for number in range(1, 31)]
    # The first question can't know yet who else will ask.
    assert (site.calls(MANY), site.calls(ALONE)) == (4, 0)


def test_polls_at_different_times(site: Site) -> None:
    """Polls with the same interval but not at the same moment share an answer; who asks again gets a new one."""
    site.many = EVERY

    async def poll() -> None:
        await statuses(spawners)
        before = site.calls(MANY)
        for spawner in spawners:
            await spawner.query_job_status()
        assert site.calls(MANY) == before + 1
        await spawners[-1].query_job_status()
        assert site.calls(MANY) == before + 2

    spawners = [site.spawner(str(number)) for number in range(1, 7)]
    asyncio.run(poll())


def test_one_command_at_a_time(site: Site) -> None:
    """A job submitted while a question is under way is in the next one, together with others that came late."""
    go = site.folder / "go"
    site.many = f"until [ -e {go} ]; do sleep 0.01; done; {EVERY}"

    async def poll() -> None:
        questions = [asyncio.ensure_future(site.spawner("1").query_job_status())]
        await asyncio.sleep(0.02)
        questions += [asyncio.ensure_future(site.spawner(job).query_job_status()) for job in ("2", "3", "4")]
        await asyncio.sleep(0.02)
        go.touch()
        assert set(await asyncio.gather(*questions)) == {JobStatus.RUNNING}

    asyncio.run(poll())
    assert site.calls(MANY) == 2


def test_given_up(site: Site) -> None:
    """A poll that is cancelled doesn't take the answer from the others that wait for it."""
    go = site.folder / "go"
    go.touch()
    site.many = f"until [ -e {go} ]; do sleep 0.01; done; {EVERY}"

    async def poll() -> None:
        await statuses([one, other])
        go.unlink()
        first, second = (asyncio.ensure_future(spawner.query_job_status()) for spawner in (one, other))
        await asyncio.sleep(0.02)
        first.cancel()
        go.touch()
        assert await second == JobStatus.RUNNING

    one, other = site.spawner("1"), site.spawner("2")
    asyncio.run(poll())


@pytest.mark.parametrize(
    ("many", "alone", "status"),
    [
        ("echo '7|alice.p1|PENDING||Resources'", "exit 1", JobStatus.PENDING),
        ("echo Welcome; echo '7|alice.p1|RUNNING|node1|None'", "exit 1", JobStatus.RUNNING),
        ("echo '7|alice.p1|FAILED|node1|NonZeroExitCode'", "exit 1", JobStatus.NOTFOUND),
        # Absent, or not to be seen: its own query decides.
        ("true", "echo RUNNING node1", JobStatus.RUNNING),
        ("echo '77|alice.p1|RUNNING|node1|None'", "true", JobStatus.NOTFOUND),
        ("true", "exit 255", JobStatus.UNKNOWN),
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", "true", JobStatus.NOTFOUND),
        # Somebody else's job: neither running nor gone.
        ("echo '7|mallory.p1|RUNNING|node1|None'", "echo RUNNING node1", JobStatus.UNKNOWN),
        ("echo '7|mallory.p1|FAILED|node1|None'", "echo FAILED node1", JobStatus.UNKNOWN),
        ("echo '7|alice|RUNNING|node1|None'", "true", JobStatus.NOTFOUND),
        # Nothing can be known.
        ("exit 255", "exit 255", JobStatus.UNKNOWN),
        ("sleep 9", "exit 255", JobStatus.UNKNOWN),
    ],
)
def test_answers(site: Site, many: str, alone: str, status: JobStatus) -> None:
    """What an answer about many jobs says of one."""
    site.many, site.alone = many, alone
    spawner = site.spawner("7")
    spawner.command_timeout = 0.1 if "sleep" in many else 10
    assert asyncio.run(spawner.query_job_status()) == status


def test_reason(site: Site) -> None:
    """A job's own query tells no reason: that of an earlier answer isn't shown with its state."""
    site.many = "echo '7|alice.p1|PENDING||Priority'"
    spawner = site.spawner("7")

    async def poll() -> None:
        assert await spawner.query_job_status() == JobStatus.PENDING
        assert spawner.job_reason == "Priority"
        spawner.batch_query_many_cmd, spawner.batch_query_cmd = "", "echo FAILED node1"
        assert await spawner.query_job_status() == JobStatus.NOTFOUND
        assert spawner.job_reason == ""

    asyncio.run(poll())


def test_site_without_it(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Where only the query for one job works, it is used from then on, and that is said once."""
    site.many, site.alone = "echo 'sudo: slurmspawner_squeue_many: command not found' >&2; exit 1", "echo RUNNING node1"
    spawners = [site.spawner(str(number)) for number in range(1, 7)]

    async def poll() -> None:
        for _ in range(3):
            assert set(await statuses(spawners)) == {JobStatus.RUNNING}

    with caplog.at_level(logging.WARNING):
        asyncio.run(poll())
    assert site.calls(MANY) == 2  # the second time to be sure
    assert [record.getMessage() for record in caplog.records if "command not found" in record.getMessage()] == [
        f"Slurm is asked about each job by itself, for {spawners[0].batch_query_many_cmd}: "
        "sudo: slurmspawner_squeue_many: command not found"
    ]


def test_slurm_back(site: Site) -> None:
    """Slurm that comes back between a query for many and the one for a job alone: the former isn't at fault."""
    back = site.folder / "back"
    site.many, site.alone = f"test -e {back} && {{ {EVERY}; }}", f"touch {back}; echo RUNNING node1"
    assert asyncio.run(site.spawner("7").query_job_status()) == JobStatus.RUNNING
    assert (site.calls(MANY), site.calls(ALONE)) == (2, 1)


def test_slurm_away(site: Site) -> None:
    """While nothing answers, servers are unknown without each asking by itself, and the command is tried again."""
    spawners = [site.spawner(str(number)) for number in range(1, 7)]

    async def poll() -> None:
        for _ in range(3):
            assert set(await statuses(spawners)) == {JobStatus.UNKNOWN}

    asyncio.run(poll())
    assert site.calls(MANY) == site.calls(ALONE) == 4
