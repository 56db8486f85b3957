"""From an Environment to Kubernetes documents, and from seed templates to files; text in, data out."""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from .errors import DefinitionError
from .model import Environment
from .names import LABEL_DIGEST, digest

Document = dict[str, Any]

# PyYAML's own are ten times slower than libyaml, which its wheels have.
_LOADER, _DUMPER = getattr(yaml, "CSafeLoader", yaml.SafeLoader), getattr(yaml, "CSafeDumper", yaml.SafeDumper)
# In the order in which they are played: what a document names comes before it.
TEMPLATES = ("configmap.yaml.j2", "secrets.yaml.j2", "volumes.yaml.j2", "pod.yaml.j2")
REDACTED = base64.b64encode(b"redacted").decode()
# DNS-1123 subdomain, the form of a Kubernetes object's name, and its length.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
NAME_LENGTH = 253


@functools.cache
def _templates(folder: Path) -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    templates.filters["b64encode"] = lambda text: base64.b64encode(text.encode()).decode()
    return templates


def manifest(
    env: Environment,
    images: Mapping[str, str],
    values: Mapping[str, str],
    seeds: Mapping[str, bytes],
    labels: Mapping[str, str] | None = None,
) -> tuple[Document, ...]:
    """Return the documents that ``podman kube play`` takes for ``env``.

    ``images`` has each container's image reference, ``values`` the content of each secret's key. The pod carries a
    digest of all that it is made of, ``seeds`` (the seed files) included, so that an unchanged pod can be left alone,
    and ``labels`` of its own.
    Raises DefinitionError if a template can't be rendered or its result isn't what Kubernetes takes.
    """

    def every(pod_digest: str) -> tuple[Document, ...]:
        pod_labels = {**env.labels, **(labels or {}), LABEL_DIGEST: pod_digest}
        context = {"env": env, "images": images, "values": values, "pod_labels": pod_labels}
        return tuple(document for name in TEMPLATES for document in documents(env, name, context))

    result = every(digest(dump(every("")), seeds))
    check(result)
    return result


def documents(env: Environment, name: str, context: Mapping[str, Any]) -> list[Document]:
    """Return the documents that manifests/``name`` makes of ``context``; raise DefinitionError if it can't."""
    try:
        text = _templates(env.root / "manifests").get_template(name).render(context)
        return [document for document in yaml.load_all(text, _LOADER) if document]
    except (jinja2.TemplateError, yaml.YAMLError, KeyError) as error:
        raise DefinitionError(f"manifests/{name}: {error}", "correct the template") from error


def check(documents: Sequence[Document]) -> None:
    """Raise DefinitionError unless names are valid in Kubernetes and all that the pod names is there."""
    there = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for kind, name in there:
        if not _NAME.match(name) or len(name) > NAME_LENGTH:
            raise DefinitionError(
                f"{kind} {name!r}: not a Kubernetes name", "choose another environment or instance name"
            )
    for spec in (document["spec"] for document in documents if document["kind"] == "Pod"):
        named = {
            ("ConfigMap", source["configMapRef"]["name"]) for item in spec["containers"] for source in item["envFrom"]
        }
        for volume in spec["volumes"]:
            if "secret" in volume:
                named.add(("Secret", volume["secret"]["secretName"]))
            else:
                named.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        for kind, name in sorted(named - there):
            raise DefinitionError(
                f"manifests/pod.yaml.j2: names {kind} {name!r}, which nothing makes", "add its document"
            )


def pod_digest(documents: Sequence[Document], label: str = LABEL_DIGEST) -> str:
    """Return the digest that the pod among ``documents`` carries as ``label``."""
    pod = next(document for document in documents if document["kind"] == "Pod")
    value: str = pod["metadata"]["labels"][label]
    return value


def redacted(documents: Sequence[Document]) -> tuple[Document, ...]:
    """Return ``documents`` with the values of all Secrets hidden."""
    return tuple(
        {**document, "data": dict.fromkeys(document["data"], REDACTED)} if document["kind"] == "Secret" else document
        for document in documents
    )


def dump(documents: Sequence[Document]) -> str:
    """Return ``documents`` as one YAML stream."""
    return yaml.dump_all(documents, Dumper=_DUMPER, sort_keys=False, explicit_start=True, width=120)


def seed_files(env: Environment, tree: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the seed files of ``tree``; those ending in ``.j2`` are rendered with ``env``, and lose that ending.

    Raises DefinitionError if one can't be rendered.
    """
    templates = _templates(env.root)
    result: dict[str, bytes] = {}
    for name, content in tree.items():
        if not name.endswith(".j2"):
            result[name] = content
            continue
        try:
            rendered = templates.from_string(content.decode()).render(env=env, slurm=env.slurm)
        except (jinja2.TemplateError, UnicodeDecodeError) as error:
            raise DefinitionError(f"seed file {name}: {error}", "correct the template") from error
        result[name.removesuffix(".j2")] = rendered.encode()
    return result
