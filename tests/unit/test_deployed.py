"""What there is of a deployment, from what podman describes."""

from __future__ import annotations

import pytest

from hubenvs import deployed
from hubenvs.engine import Holdings
from hubenvs.errors import StateError
from hubenvs.model import Environment
from hubenvs.names import LABEL_CHECKOUT, LABEL_ENVIRONMENT, LABEL_INSTANCE, LABEL_PART_OF, PART_OF


def holdings(env: Environment, **other_labels: str) -> Holdings:
    """Return an engine's holdings with the pod of ``env``, on port 8000, but for ``other_labels``."""
    labels = {**env.labels, **other_labels}
    pod = {"Id": "1", "Name": env.pod, "Status": "Running", "Labels": labels}
    container = {
        "Names": [env.container("slurm")],
        "State": "running",
        "Labels": labels,
        "Ports": [{"host_port": 8000, "host_ip": "127.0.0.1"}],
    }
    return Holdings([pod], [container], [], frozenset())


def test_another_environments_pod_of_the_same_name_is_not_taken_over(env: Environment) -> None:
    """dev_dummyauth's instance `extslurm` would have the name of dev_dummyauth_extslurm's pod."""
    there = holdings(env, **{LABEL_ENVIRONMENT: "another_one"})
    found = deployed.look(there, env.root, env.name, env.instance)
    with pytest.raises(StateError, match=r"is up already, brought up from environment another_one: .*--instance"):
        deployed.refuse_foreign(env, found)


def test_another_checkouts_pod_is_not_taken_over(env: Environment) -> None:
    """Two clones on one host have the same names."""
    found = deployed.look(holdings(env, **{LABEL_CHECKOUT: "other"}), env.root, env.name, env.instance)
    with pytest.raises(StateError, match=r"is up already, brought up from another checkout: .*--instance"):
        deployed.refuse_foreign(env, found)


def test_a_pod_without_labels_is_somebody_elses(env: Environment) -> None:
    """Its name alone doesn't make it ours."""
    found = deployed.look(holdings(env, **{LABEL_PART_OF: "else"}), env.root, env.name, env.instance)
    assert found.pod is None
    with pytest.raises(StateError, match="without this suite's labels"):
        deployed.refuse_foreign(env, found)


def test_a_pod_holds_its_ports_while_it_runs(env: Environment) -> None:
    """`up` needs no free port for what its own pod has; one that has stopped may have lost it."""
    there = holdings(env)
    assert deployed.look(there, env.root, env.name, env.instance).held_ports == {8000}
    stopped = Holdings([{**there.pods[0], "Status": "Exited"}], there.containers, [], frozenset())
    assert deployed.look(stopped, env.root, env.name, env.instance).held_ports == set()


def test_secrets_are_found_by_name_when_nothing_labelled_is_left(env: Environment) -> None:
    """Podman 4.3 can't label them, and `down` removes them all the same."""
    there = Holdings([], [], [], frozenset({f"{env.pod}-slurm", f"{env.pod}-other-slurm", "else"}))
    assert deployed.look(there, env.root, env.name, env.instance).secrets == (f"{env.pod}-slurm",)


def test_labels_say_which_instance_it_is(env: Environment) -> None:
    """`down --instance` and `status` know it by the pod's name."""
    mine = {LABEL_PART_OF: PART_OF, LABEL_INSTANCE: f"{env.pod}-mine", LABEL_ENVIRONMENT: env.name}
    (found,) = deployed.find(Holdings([], [], [{"Name": "v", "Labels": mine}], frozenset())).values()
    assert (found.instance_name, found.state(None)) == ("mine", "partial")
