"""The existing resources of a deployment, from the engine's listing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hubenvs.definition.environment import Environment
from hubenvs.definition.names import LABEL_CHECKOUT, LABEL_ENVIRONMENT, LABEL_INSTANCE, LABEL_PART_OF, PART_OF
from hubenvs.deployment.existing import all_existing, find_existing, pod_name_of, refuse_foreign
from hubenvs.engines.engine import ListedContainer, Listing, Pod, PublishedPort, Resource
from hubenvs.errors import StateError


def listing(env: Environment, **other_labels: str) -> Listing:
    """Return an engine's listing with the pod of ``env``, on port 8000, but for ``other_labels``."""
    labels = {**env.labels, **other_labels}
    pod = Pod(env.pod, labels, "1", holds_ports=True, is_running=True)
    container = ListedContainer(
        env.container_name("slurm"), labels, "running", env.pod, (PublishedPort(8000, "127.0.0.1", 8000),)
    )
    return Listing((pod,), (container,))


def test_another_environments_pod_of_the_same_name_is_not_taken_over(env: Environment) -> None:
    """dev_dummyauth's instance `extslurm` would have the name of dev_dummyauth_extslurm's pod."""
    resources = listing(env, **{LABEL_ENVIRONMENT: "another_one"})
    found = find_existing(resources, env.root, env.name, env.instance)
    with pytest.raises(
        StateError, match=r"is up already, brought up from environment another_one: .*--instance"
    ):
        refuse_foreign(env, found)


def test_another_checkouts_pod_is_not_taken_over(env: Environment) -> None:
    """Two clones on one host have the same names."""
    found = find_existing(listing(env, **{LABEL_CHECKOUT: "other"}), env.root, env.name, env.instance)
    with pytest.raises(StateError, match=r"is up already, brought up from another checkout: .*--instance"):
        refuse_foreign(env, found)


def test_a_pod_without_labels_is_somebody_elses(env: Environment) -> None:
    """Its name alone doesn't make it ours."""
    found = find_existing(listing(env, **{LABEL_PART_OF: "else"}), env.root, env.name, env.instance)
    assert found.pod is None
    with pytest.raises(StateError, match="without this suite's labels"):
        refuse_foreign(env, found)


def test_an_instance_named_like_anothers_container_is_refused(env: Environment) -> None:
    """Podman's pods and containers can't have the same name: `x-slurm` isn't possible beside `x`, nor after it."""
    other = {**env.labels, LABEL_INSTANCE: "other"}
    for name, listed in (
        (env.pod, Listing(containers=(ListedContainer(env.pod, other),))),
        (env.container_name("slurm"), Listing(pods=(Pod(env.container_name("slurm"), other),))),
        (env.container_name("slurm"), Listing(containers=(ListedContainer(env.container_name("slurm")),))),
    ):
        with pytest.raises(StateError, match=rf"there is a pod or container {name} already: .*--instance"):
            refuse_foreign(env, find_existing(listed, env.root, env.name, env.instance))
    refuse_foreign(env, find_existing(listing(env), env.root, env.name, env.instance))


def test_the_network_is_the_deployments_own_or_exists(env: Environment) -> None:
    """One without labels that has the pod's name is somebody else's, and `up` creates none that others made."""
    of_pod = find_existing(Listing(networks=(Resource(env.pod, env.labels),)), env.root, env.name, None)
    assert of_pod.networks == (env.pod,)
    refuse_foreign(env, of_pod)
    foreign = find_existing(Listing(networks=(Resource(env.pod),)), env.root, env.name, None)
    with pytest.raises(StateError, match="without this suite's labels"):
        refuse_foreign(env, foreign)
    with pytest.raises(StateError, match="there is no network site on this host"):
        refuse_foreign(env.model_copy(update={"network": "site"}), of_pod)


def test_a_pod_holds_its_ports_while_it_runs(env: Environment) -> None:
    """`up` needs no free port for what its own pod has; one that has stopped may have lost it."""
    resources = listing(env)
    assert find_existing(resources, env.root, env.name, env.instance).held_ports == {("127.0.0.1", 8000)}
    stopped = Listing((replace(resources.pods[0], holds_ports=False),), resources.containers)
    assert find_existing(stopped, env.root, env.name, env.instance).held_ports == set()


def test_secrets_are_found_by_name_when_nothing_labelled_is_left(env: Environment) -> None:
    """podman<5: 4.3 can't label them, and `down` removes them all the same."""
    resources = Listing(secrets=frozenset({f"{env.pod}-slurm", f"{env.pod}-other-slurm", "else"}))
    assert find_existing(resources, env.root, env.name, env.instance).secrets == (f"{env.pod}-slurm",)


def test_labels_say_which_instance_it_is(env: Environment) -> None:
    """`down --instance` and `status` know it by the pod's name."""
    mine = {LABEL_PART_OF: PART_OF, LABEL_INSTANCE: f"{env.pod}-mine", LABEL_ENVIRONMENT: env.name}
    (found,) = all_existing(Listing(volumes=(Resource("v", mine),))).values()
    assert (found.instance, found.state(None)) == ("mine", "partial")


def test_only_labelled_things_are_ours() -> None:
    """Something without our label belongs to somebody else, whatever its name."""
    ours = {"app.kubernetes.io/part-of": "jupyterhub-slurm", "app.kubernetes.io/instance": "x"}
    assert list(all_existing(Listing(volumes=(Resource("v", ours),)))) == ["x"]
    assert pod_name_of(Resource("v", ours))
    for labels in ({"app.kubernetes.io/instance": "x"}, {}):
        assert not pod_name_of(Resource("v", labels))
        assert all_existing(Listing(volumes=(Resource("v", labels),))) == {}


def test_the_stage_is_known_without_a_definition(env: Environment) -> None:
    """By its label; where an older version put none, prod is what is called so."""
    campus = env.model_copy(update={"stage": "prod"})
    assert all_existing(listing(campus))[env.pod].is_prod
    assert not all_existing(listing(env))[env.pod].is_prod
    assert find_existing(Listing(), env.root, "prod", None).is_prod
