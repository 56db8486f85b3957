"""Stage `check`: SSH from the hub container to Slurm. What must work does, and what must not is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import StateError
from ..session import Session
from .wait import require_running

if TYPE_CHECKING:
    from .proofs import Proof


def check(session: Session) -> None:
    """Check SSH from the hub to Slurm and print each proof; StateError with the first one that fails."""
    if "jupyterhub" not in session.env.containers:
        hint = "choose an environment with jupyterhub"
        raise StateError(f"{session.env.name} has no hub container", hint)
    require_running(session)
    with session.console.busy("check", "SSH from the hub to Slurm"):
        proofs = prove(session)
    report(session, proofs)


def prove(session: Session) -> list[Proof]:
    """Return the proofs about SSH from the hub to Slurm, up to the first connection that fails."""
    from . import proofs  # Fabric takes a third of a second, and most tasks don't need it

    return proofs.prove(session)


def report(session: Session, proofs: Sequence[Proof], brief: bool = False) -> None:
    """Print ``proofs``, with ``brief`` in one line if all hold; StateError with the first one that fails."""
    env, console = session.env, session.console
    failed = [proof for proof in proofs if not proof.ok]
    if failed or not brief:
        rows = [("ok" if proof.ok else "FAIL", proof.what, proof.seen) for proof in proofs]
        console.table(("", "check", "seen"), rows)
    if failed:
        hint = f"`invoke logs {env.options} --container slurm` shows the server's side"
        if env.slurm_elsewhere:
            hint = f"the logs of sshd and sudo on {env.slurm.ssh_hostname} show why"
        raise StateError(f"check: {failed[0].what}: {failed[0].seen}", hint)
    if brief:
        console.say("check", f"SSH from the hub to Slurm: {len(proofs)} proofs hold")
