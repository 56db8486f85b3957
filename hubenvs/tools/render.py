"""Task `render`: the manifest, or a folder for `kubectl apply -k`."""

from __future__ import annotations

from pathlib import Path

from ..deployment import folder
from ..deployment.desired import desired_builds, desired_in_cluster, desired_pod
from ..errors import DefinitionError
from ..files import write
from ..plan.cluster_manifest import NEWEST, kustomize_folder
from ..plan.images import container_builds
from ..plan.manifest import Documents, dump, redacted
from ..session import Session


def render(session: Session, output: str | None, target: str, with_secrets: bool) -> None:
    """Print the manifest, or write it to the file ``output``; for ``target`` kubernetes write a folder.

    Secrets are redacted unless ``with_secrets``. Raises DefinitionError if the options contradict each other.
    """
    _check_options(target, sorted({session.engine.name, "kubernetes"}), output, with_secrets)
    if target == "kubernetes":
        path = Path(output or "")
        path.mkdir(parents=True, exist_ok=True)
        for name, content in kubernetes_folder(session).items():
            write(path / name, content)
        return
    text = dump(render_manifest(session, with_secrets))
    if output:
        write(Path(output), text)
    else:
        print(text, end="")


def _check_options(target: str, targets: list[str], output: str | None, with_secrets: bool) -> None:
    if target not in targets:
        hint = f"--target {' or '.join(targets)}"
        raise DefinitionError(f"--target {target}: not for this environment", hint)
    if target == "kubernetes" and with_secrets:
        raise DefinitionError(
            "--with-secrets: the folder for Kubernetes never contains Secrets",
            "leave it out, and fill in secrets.template.yaml",
        )
    if target == "kubernetes" and not output:
        raise DefinitionError("--target kubernetes: writes a folder", "give --output FOLDER")
    if with_secrets and not output:
        hint = "give --output FILE; it is made for you alone"
        raise DefinitionError("--with-secrets: Secrets are not printed", hint)


def render_manifest(session: Session, with_secrets: bool = False) -> Documents:
    """Return the manifest that `up` would play, with redacted Secrets unless ``with_secrets``."""
    env = session.env
    if with_secrets:
        values = session.secrets()
    else:  # before the first `up` there are none
        values = dict.fromkeys(env.secret_keys, "") | folder.read_secrets(env.deploy_folder)
    documents = desired_pod(env, desired_builds(env, session.engine), values).documents
    return documents if with_secrets else redacted(documents)


def kubernetes_folder(session: Session) -> dict[str, str]:
    """Return the files of the folder for `kubectl apply -k`, by name."""
    env = session.env
    builds = container_builds(env, desired_builds(env, session.engine))
    images = {name: build.tag for name, build in builds.items()}
    return kustomize_folder(desired_in_cluster(env, images, env.kubernetes.server or NEWEST))
