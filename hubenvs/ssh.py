"""The check of SSH from the hub container to Slurm: what must work does, and what must not is refused."""

from __future__ import annotations

from dataclasses import dataclass

from . import ready
from .console import Console
from .engine import Engine
from .errors import StateError
from .model import Environment


@dataclass(frozen=True)
class Row:
    """One thing that was proved, or not: what it is, whether it holds, and what was seen."""

    what: str
    ok: bool
    seen: str


def prepare() -> None:
    """Import what `check` needs; Fabric takes a third of a second."""
    from . import proofs  # noqa: F401


def check(env: Environment, engine: Engine, console: Console, brief: bool = False) -> None:
    """Check SSH from the hub to Slurm in ``env`` and print what was proved (one line if ``brief`` and all holds).

    Raises StateError with the first row that fails.
    """
    from .proofs import proofs  # here: Fabric takes a third of a second, and most tasks don't need it

    if "jupyterhub" not in env.containers:
        raise StateError(f"{env.name} has no hub container", "nothing to check SSH from")
    ready.require_running(env, engine)
    with console.busy("check", "SSH from the hub to Slurm"):
        rows = proofs(env, engine)
    failed = [row for row in rows if not row.ok]
    if failed or not brief:
        console.table(("", "check", "seen"), [("ok" if row.ok else "FAIL", row.what, row.seen) for row in rows])
    if failed:
        logs = f"`invoke logs {env.options} --container slurm` shows the server's side"
        if env.slurm_elsewhere:
            logs = f"the logs of sshd and sudo on {env.slurm.ssh_hostname} show why"
        raise StateError(f"check: {failed[0].what}: {failed[0].seen}", logs)
    if brief:
        console.say("check", f"SSH from the hub to Slurm: {len(rows)} proofs hold")
