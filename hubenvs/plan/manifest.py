"""The manifest: Kubernetes documents rendered from an Environment, and the fingerprint of its pod."""

from __future__ import annotations

import base64
import copy
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import yaml

from ..definition.container_settings import container_settings
from ..definition.containers import TUNNEL, Container
from ..definition.environment import Environment
from ..definition.names import LABEL_FINGERPRINT, SCRATCH, scratch_volume
from ..errors import DefinitionError
from ..files import Tree, digest

Document = dict[str, Any]
Documents = tuple[Document, ...]

# libyaml is ten times as fast as PyYAML's own code; PyYAML's wheels contain it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SAFE_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
# In this order: a document comes after those that it refers to.
TEMPLATES = ("configmap.yaml.j2", "secrets.yaml.j2", "volumes.yaml.j2", "pod.yaml.j2")
REDACTED = base64.b64encode(b"redacted").decode()
# The form of a Kubernetes object's name (DNS-1123 subdomain) and its greatest length.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
NAME_LENGTH = 253


class _Dumper(_SAFE_DUMPER):  # type: ignore[misc]
    """Quotes texts that PyYAML doesn't take for numbers, but the engines' YAML reader (Go's yaml.v2) does.

    A digest such as 2767562826e8 would become 2.767562826e+17 (resolve.go).
    """


for _kind, _pattern, _first in (
    ("float", r"[-+]?(\.[0-9_]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?\Z", "-+.0123456789"),
    ("int", r"[-+]?0o[0-7_]+\Z", "-+0"),
):
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), list(_first))


class Fingerprint(NamedTuple):
    """Digests of everything that a pod is made of.

    ``content`` covers working copies and seed files, which `reload` updates in a running pod. ``base`` covers
    everything else: a pod with another base has to be replaced.
    """

    base: str
    content: str

    @property
    def label(self) -> str:
        """Return the value of the pod's label."""
        return f"{self.base}-{self.content}"


def compiled_templates(files: Tree) -> jinja2.Environment:
    """Return the templates whose files are ``files``, the content of the folder manifests/."""
    return _compiled(frozenset(files.items()))


@functools.cache  # compiling them takes longer than rendering them, and a task renders more than once
def _compiled(files: frozenset[tuple[str, bytes]]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({name: content.decode() for name, content in files}),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters["b64encode"] = lambda text: base64.b64encode(text.encode()).decode()
    return environment


def manifest(
    env: Environment,
    templates: jinja2.Environment,
    images: Mapping[str, str],
    values: Mapping[str, str],
    restricted: bool = False,
) -> Documents:
    """Return the documents of ``env``.

    ``images`` has the image reference of each container, ``values`` the value of each Secret key.
    ``restricted``: containers start as their own users, not as root. Raises DefinitionError if a template
    can't be rendered or the result isn't valid in Kubernetes.
    """
    context = {
        "env": env,
        "images": images,
        "values": values,
        "settings": container_settings(env),
        "security": {row.name: security_context(env, row, restricted) for row in env.rows},
        "secret_modes": {row.name: secret_mode(row, restricted) for row in env.rows},
        "scratch": {row.name: scratch_mounts(env, row, restricted) for row in env.rows},
    }
    result = tuple(document for name in TEMPLATES for document in render_template(templates, name, context))
    check_references(result)
    return result


def can_be_restricted(env: Environment) -> bool:
    """Return whether no container of ``env`` has to be started as root; Slurm's must."""
    return all(row.uid or not row.capabilities for row in env.rows)


def scratch_mounts(env: Environment, row: Container, restricted: bool) -> list[tuple[str, str]]:
    """Return path and name of each emptyDir volume of a container; ``restricted`` as in `manifest`."""
    if not row.uid or not (restricted or env.stage == "prod"):
        return []  # it can write to its root file system
    return [(f"/{folder}", scratch_volume(env.pod, folder, row.name)) for folder in SCRATCH]


def secret_mode(row: Container, restricted: bool) -> int:
    """Return the mode of the files of a container's Secret; ``restricted`` as in `manifest`."""
    if row.name == TUNNEL:
        return 0o444  # the Zenith client's image doesn't run as root, and nothing else runs in its container
    return 0o440 if restricted else 0o400  # 0440: without root, a container reads them as the pod's group


def security_context(env: Environment, row: Container, restricted: bool) -> dict[str, Any]:
    """Return the securityContext of the container ``row``; ``restricted`` as in `manifest`."""
    context: dict[str, Any] = {
        "allowPrivilegeEscalation": row.privilege_escalation,
        "capabilities": {"drop": ["ALL"]},
    }
    if restricted:
        context["runAsNonRoot"] = True
        context |= {"runAsUser": row.uid, "runAsGroup": row.uid} if row.uid else {}
    elif row.capabilities:
        context["capabilities"]["add"] = list(row.capabilities)
    if row.uid and env.stage == "prod":  # `reload` replaces files in development
        context["readOnlyRootFilesystem"] = True
    return context


def render_template(templates: jinja2.Environment, name: str, context: Mapping[str, Any]) -> list[Document]:
    """Return the documents of the template manifests/``name``; DefinitionError if it can't be rendered."""
    try:
        text = templates.get_template(name).render(context)
        return [document for document in yaml.load_all(text, _LOADER) if document]
    except (jinja2.TemplateError, yaml.YAMLError, KeyError) as error:
        raise DefinitionError(f"manifests/{name}: {error}", "correct the template") from error


def fingerprint(
    documents: Documents, recipes: Mapping[str, str], seeds: Tree, network: str | None
) -> Fingerprint:
    """Return the fingerprint of the pod in ``documents``, in ``network``.

    ``recipes`` has the digest of each container's image without its working copy, ``seeds`` all seed files.
    """
    images = [container["image"] for container in find_pod(documents)["spec"]["containers"]]
    base = copy.deepcopy(documents)
    for container in find_pod(base)["spec"]["containers"]:
        container["image"] = recipes[container["name"]]
    return Fingerprint(digest(dump(base), f"network {network}"), digest(*images, seeds))


def find_pod(documents: Sequence[Document]) -> Document:
    """Return the pod among ``documents``."""
    return next(document for document in documents if document["kind"] == "Pod")


def labelled(documents: Documents, value: Fingerprint) -> Documents:
    """Return ``documents`` with the fingerprint ``value`` as a label of the pod."""
    result = copy.deepcopy(documents)
    find_pod(result)["metadata"]["labels"][LABEL_FINGERPRINT] = value.label
    return result


def check_references(documents: Sequence[Document]) -> None:
    """Raise DefinitionError unless all names are valid in Kubernetes and every reference has its document."""
    existing = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for kind, name in existing:
        if not _NAME.match(name) or len(name) > NAME_LENGTH:
            hint = "choose another environment or instance name"
            raise DefinitionError(f"{kind} {name!r}: not a Kubernetes name", hint)
    for spec in (document["spec"] for document in documents if document["kind"] == "Pod"):
        for kind, name in sorted(_references(spec) - existing):
            problem = f"refers to {kind} {name!r}, which doesn't exist"
            raise DefinitionError(f"manifests/pod.yaml.j2: {problem}", "add its document")


def _references(spec: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return kind and name of every document that a pod's ``spec`` refers to."""
    sources = [source for item in spec["containers"] for source in item["envFrom"]]
    references = {("ConfigMap", source["configMapRef"]["name"]) for source in sources}
    for volume in spec["volumes"]:
        if "secret" in volume:
            references.add(("Secret", volume["secret"]["secretName"]))
        elif "persistentVolumeClaim" in volume:
            references.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
    return references


def without_limits(documents: Sequence[Document]) -> list[Document]:
    """Return ``documents`` without the limits of the pod's containers."""
    result = copy.deepcopy(list(documents))
    for container in find_pod(result)["spec"]["containers"]:
        container.pop("resources", None)
    return result


def redacted(documents: Sequence[Document]) -> Documents:
    """Return ``documents`` with the values of all Secrets hidden."""
    return tuple(
        {**item, "data": dict.fromkeys(item["data"], REDACTED)} if item["kind"] == "Secret" else item
        for item in documents
    )


def dump(documents: Sequence[Document]) -> str:
    """Return ``documents`` as one YAML stream."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=120)
