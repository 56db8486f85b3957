"""The progress messages on the page of a starting server."""

from datetime import datetime, timezone

from bricsauthenticator.submission import SubmittedJob


def progress_of(job: SubmittedJob) -> tuple[int, str]:
    """Return the progress of the start of `job` in percent, and a line about it."""
    if not job.job_id:
        trouble = f": {job.submit_trouble}; trying again" if job.submit_trouble else ""
        return 10, f"Submitting the Slurm job{trouble}"
    if job.server and job.server.port:
        return 90, f"Slurm job {job.job_id} has started its server, waiting for an answer"
    if job.state_isrunning():
        return 70, f"Slurm job {job.job_id} is running, waiting for its server"
    if job.state_ispending():
        details = ", ".join(filter(None, [job.job_reason, expected_start(job.job_start)]))
        return 40, f"Slurm job {job.job_id} is waiting in the queue{f' ({details})' if details else ''}"
    return 25, f"Slurm job {job.job_id} is submitted"


def expected_start(time: str) -> str:
    """Return the time until Slurm expects the job to start, as text; empty if it doesn't say."""
    try:
        start = datetime.fromisoformat(time).replace(tzinfo=timezone.utc)
    except ValueError:
        return ""
    minutes = round((start - datetime.now(timezone.utc)).total_seconds() / 60)
    if minutes < 1:
        return "expected to start soon"
    return f"expected to start in {f'{minutes} min' if minutes < 120 else f'{round(minutes / 60)} h'}"
