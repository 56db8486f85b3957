"""Stage `check`: SSH from the hub container to Slurm. What must work does, and what must not is refused."""

from __future__ import annotations

from ..errors import StateError
from ..session import Session
from .wait import require_running


def import_proofs() -> None:
    """Import what `check` needs. Fabric takes a third of a second."""
    from . import proofs  # noqa: F401


def check(session: Session, brief: bool = False) -> None:
    """Check SSH from the hub to Slurm and print each proof, or with ``brief`` one line if all hold.

    Raises StateError with the first proof that fails.
    """
    from .proofs import prove  # Fabric takes a third of a second, and most tasks don't need it

    env, console = session.env, session.console
    if "jupyterhub" not in env.containers:
        raise StateError(f"{env.name} has no hub container", "choose an environment with jupyterhub")
    require_running(session)
    with console.busy("check", "SSH from the hub to Slurm"):
        proofs = prove(session)
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
