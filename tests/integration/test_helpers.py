"""What tells the traces of our pod from those of other people's."""

from __future__ import annotations

from .helpers import Deployment, Engine, left_behind, marks, once, rootless, traces

pytestmark = once


def test_what_is_left_of_our_pod_only_is_seen(deployment: Deployment, engine: Engine) -> None:
    """A pod that is up has traces of each kind; another's container, which comes meanwhile, has none."""
    stranger = f"stranger-{deployment.instance}"
    known = marks(engine, deployment.status["pod"])
    before = traces(engine)
    image = engine.run(
        ("podman", "inspect", "--format={{.ImageName}}", f"{deployment.status['pod']}-slurm")
    ).text
    run = ("podman", "run", "--detach", "--init", "--name", stranger, "--entrypoint=", image, "sleep", "600")
    engine.run(run)
    try:
        after = traces(engine)
        assert stranger in " ".join(after[name] for name in after.keys() - before.keys())
        foreign = left_behind(before, after, known)
        # Without root a process can't be told from those of the same user's other pods.
        assert {name for name in foreign if not (rootless() and name.startswith("process"))} == set()
    finally:
        engine.run(("podman", "rm", "--force", "--time=0", stranger))
    ours = left_behind({}, after, known)
    kinds = {"pod", "container", "volume", "secret", "process"} | (
        set() if rootless() else {"mount", "network"}
    )
    assert {name.split()[0] for name in ours} == kinds
    programs = {name.split()[2].rstrip(",") for name in ours if name.startswith("process")}
    assert {"conmon", "catatonit", "s6-svscan"} <= programs
