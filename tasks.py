"""The tasks: `invoke --list` shows them, `invoke --help TASK` explains one.

Each is a call into a module of the package hubenvs, which is imported then: `invoke --list` stays fast.
"""

from __future__ import annotations

from pathlib import Path

from invoke import Context

from hubenvs import __version__, cli, stages, tools
from hubenvs.cli import ROOT, Option, Settings, open_session, task


@task()
def envs(ctx: Context, json: bool = False) -> None:
    """List the environments, and whether each can run here."""
    _, console = cli.open_engine(ctx, quiet=json)
    tools.envs.envs(ROOT, console, json)


@task()
def version(ctx: Context) -> None:
    """Print the version of this suite."""
    print(f"hubenvs {__version__}")


@task()
def doctor(ctx: Context, json: bool = False) -> None:
    """Check this host: engine, cgroups, limits, ports, disk, certificates, package mirrors; with remedies."""
    engine, console = cli.open_engine(ctx, quiet=json)
    cli.end_with(0 if tools.doctor.doctor(ROOT, engine, console, json) else 1)


@task()
def clone(ctx: Context, env: Option = None, instance: Option = None, set_: Settings = None) -> None:
    """Create the working copies of the development repositories; an existing one is never overwritten."""
    stages.clone.clone(open_session(ctx, env, instance, set_))


@task(changes=True)
def build(
    ctx: Context,
    env: Option = None,
    instance: Option = None,
    set_: Settings = None,
    sbom: Option = None,
    refresh: bool = False,
) -> None:
    """Build the images whose content has changed."""
    stages.build.build(open_session(ctx, env, instance, set_), Path(sbom) if sbom else None, refresh)


@task(changes=True)
def volumes(ctx: Context, env: Option = None, instance: Option = None, set_: Settings = None) -> None:
    """Create the volumes and update their seed files; a file edited in a volume is kept."""
    stages.volumes.volumes(open_session(ctx, env, instance, set_))


@task(
    changes=True,
    help={
        "rotate": "replace existing keys and passwords, and restart the pod with the new ones if it is up",
        "init": "only generate the SSH key pair for a Slurm elsewhere; prints the line for its administrator",
    },
)
def secrets(
    ctx: Context,
    env: Option = None,
    instance: Option = None,
    rotate: bool = False,
    init: bool = False,
    set_: Settings = None,
) -> None:
    """Generate the deployment's keys and passwords, in its deploy folder (for its owner alone)."""
    stages.secrets.secrets(open_session(ctx, env, instance, set_, as_deployed=rotate), rotate, init)


@task(
    help={
        "output": "write to this file instead of standard output (a folder with --target kubernetes)",
        "target": "podman, or kubernetes for a folder that `kubectl apply -k` takes (needs --output)",
        "with-secrets": "include the real Secrets instead of redacted ones (needs --output)",
    }
)
def render(
    ctx: Context,
    env: Option = None,
    instance: Option = None,
    output: Option = None,
    target: Option = None,
    with_secrets: bool = False,
    set_: Settings = None,
) -> None:
    """Print the manifest that `up` would play, Secrets redacted; or write a folder for `kubectl apply -k`."""
    session = open_session(ctx, env, instance, set_, quiet=True)
    tools.render.render(session, output, target or session.engine.name, with_secrets)


@task(help={"file": "the file to write"})
def bundle(ctx: Context, file: str, env: Option = None, set_: Settings = None) -> None:
    """Write images, working copies and manifest to one file, for `load` on a machine without a network."""
    tools.bundle.bundle(open_session(ctx, env, None, set_), Path(file))


@task(changes=True, help={"file": "the file that `invoke bundle` wrote"})
def load(ctx: Context, file: str, set_: Settings = None) -> None:
    """Load a file that `bundle` wrote, so that `up` needs no network; a damaged file is refused at once."""
    index = tools.bundle.read_index(Path(file))
    tools.load.load(open_session(ctx, index.env, None, set_), index, Path(file))


@task(help={"registry": "where to, like registry.example.org/site, after `podman login`"})
def push(ctx: Context, registry: str, env: Option = None, set_: Settings = None) -> None:
    """Push the images to a site's registry, and print the lines of local.yaml that run them by digest."""
    tools.push.push(open_session(ctx, env, None, set_), registry)


@task(changes=True)
def play(ctx: Context, env: Option = None, instance: Option = None, set_: Settings = None) -> None:
    """Play the manifest: start the pod, or replace it if the manifest, an image or a secret has changed."""
    stages.play.play(open_session(ctx, env, instance, set_))


@task(help={"timeout": "seconds to wait at most; 0: wait_timeout of the definition"})
def wait(
    ctx: Context, env: Option = None, instance: Option = None, timeout: str = "0", set_: Settings = None
) -> None:
    """Wait until the hub, its SSH connection and Slurm answer."""
    seconds = cli.whole_number("--timeout", timeout)
    stages.wait.wait(open_session(ctx, env, instance, set_, as_deployed=True), seconds or None)


@task()
def check(ctx: Context, env: Option = None, instance: Option = None, set_: Settings = None) -> None:
    """Check SSH from the hub container to Slurm: what must work does, and what must not is refused."""
    stages.check.check(open_session(ctx, env, instance, set_, as_deployed=True))


@task(
    help={
        "url": "where people find the hub (with its base URL), if it isn't published on this host",
        "token-file": "log in with the ID token of an external provider in this file",
    }
)
def verify(
    ctx: Context,
    env: Option = None,
    instance: Option = None,
    url: Option = None,
    token_file: Option = None,
    set_: Settings = None,
) -> None:
    """Do what a user does (log in, spawn, compute, stop), and name the step that fails with its log lines."""
    session = open_session(ctx, env, instance, set_, as_deployed=True)
    tools.verify.verify(session, url, token_file)


@task(
    changes=True,
    help={
        "dry-run": "print what would be done, and touch nothing",
        "as": "the user who logs in with dummy authentication (sets auth.user)",
        "save": "write the settings of the ConfigMap to the environment's local.yaml",
        "users": "write these accounts to the environment's dev_users file, like alice.project1,bob.project1",
    },
)
def up(
    ctx: Context,
    env: Option = None,
    instance: Option = None,
    dry_run: bool = False,
    as_: Option = None,
    configmap: Option = None,
    users: Option = None,
    yes: bool = False,
    engine: Option = None,
    context: Option = None,
    namespace: Option = None,
    set_: Settings = None,
    save: bool = False,
) -> None:
    """Bring an environment up: clone, build, volumes, secrets, play, wait, check; here or in a cluster."""
    place = cli.cluster_settings(engine, context, namespace)
    settings = [*place, *(set_ or ()), *cli.user_settings(as_, users)]
    session = open_session(ctx, env, instance, settings, config_map=configmap, dry=dry_run)
    if dry_run:
        stages.dry_run.dry_run(session)
    else:
        cli.confirm("up", session.env.name, session.env.stage == "prod", yes)
        if configmap and not save:
            save = cli.ask(f"write the ConfigMap's settings to envs/{env}/local.yaml?")
        stages.up.up(session, configmap, save, users)


@task(
    changes=True,
    help={
        "from": "folder, volume or tar with jupyterhub.sqlite and jupyterhub_crypt_key; can be repeated",
        "dry-run": "print what would be taken, and touch nothing",
    },
)
def adopt(
    ctx: Context,
    from_: Settings,
    env: Option = None,
    instance: Option = None,
    configmap: Option = None,
    dry_run: bool = False,
    yes: bool = False,
    set_: Settings = None,
) -> None:
    """Bring an environment up with the users, tokens and running servers of an older hub: docs/moving.md."""
    session = open_session(ctx, env, instance, set_, config_map=configmap, dry=dry_run)
    if not dry_run:
        cli.confirm("adopt", session.env.name, session.env.stage == "prod", yes)
    tools.adopt.adopt(session, from_ or (), configmap, dry_run)


@task(help={"watch": "stay, and reload at every save until Ctrl-C"})
def reload(
    ctx: Context, env: Option = None, instance: Option = None, watch: bool = False, set_: Settings = None
) -> None:
    """Bring edited packages, configuration and templates into the running pod; restart what they affect."""
    tools.reload.reload(open_session(ctx, env, instance, set_, as_deployed=True), watch)


@task(
    help={
        "user": "one of dev_users",
        "expired": "print a token that is no longer valid",
        "audience": "the token's audience (`aud`), instead of the hub's",
        "platform": "the platform of the token's projects, instead of auth.platform",
        "lifetime": "seconds that the token is valid; 0: auth.token_lifetime",
    }
)
def token(
    ctx: Context,
    user: str,
    env: Option = None,
    instance: Option = None,
    expired: bool = False,
    audience: Option = None,
    platform: Option = None,
    lifetime: str = "0",
    set_: Settings = None,
) -> None:
    """Print an ID token of a user, as the bundled provider signs it, for the header X-Auth-Id-Token."""
    seconds = cli.whole_number("--lifetime", lifetime) or None
    session = open_session(ctx, env, instance, set_, quiet=True, as_deployed=True)
    tools.token.token(session, user, audience=audience, platform=platform, lifetime=seconds, expired=expired)


@task(
    help={
        "all": "take down every environment of this checkout",
        "keep-volumes": "keep the volumes, and the key that their database is encrypted with",
        "volumes": "remove a cluster's volumes too, which are kept otherwise",
        "yes": "don't ask before taking an environment of stage prod down",
    }
)
def down(
    ctx: Context,
    env: Option = None,
    instance: Option = None,
    all_: bool = False,
    keep_volumes: bool = False,
    volumes: bool = False,
    yes: bool = False,
    engine: Option = None,
    context: Option = None,
    namespace: Option = None,
) -> None:
    """Take an environment down: pod, Secrets, volumes and deploy folder; without --env the one that is up."""
    cluster = cli.chosen_cluster(engine, context, namespace, env, instance)
    opened, console = cli.open_engine(ctx, cluster=cluster)
    tools.down.down(
        ROOT,
        opened,
        console,
        env=env,
        instance=instance,
        all_=all_,
        keep_volumes=keep_volumes or (cluster is not None and not volumes),
        confirm=lambda existing: cli.confirm("down", existing.environment, existing.is_prod, yes),
    )


@task()
def status(
    ctx: Context, engine: Option = None, context: Option = None, namespace: Option = None, json: bool = False
) -> None:
    """Show what is up: state, URL, user, containers, volumes, working copies; here or in a cluster."""
    opened, console = cli.open_engine(ctx, json, cli.chosen_cluster(engine, context, namespace))
    tools.status.status(ROOT, opened, console, json)


@task(
    help={
        "container": "show only this container (jupyterhub, slurm, ...)",
        "follow": "keep printing new lines until Ctrl-C",
        "lines": "last lines to show of each container (100)",
    }
)
def logs(
    ctx: Context,
    env: Option = None,
    instance: Option = None,
    container: Option = None,
    follow: bool = False,
    lines: str = "100",
) -> None:
    """Show the containers' logs."""
    count = cli.whole_number("--lines", lines)
    tools.logs.logs(open_session(ctx, env, instance, as_deployed=True), container, follow, count)


@task(
    help={
        "container": "jupyterhub, slurm (the default), ...",
        "user": "as this account of the container",
        "command": "run this instead of a shell",
    }
)
def shell(
    ctx: Context,
    env: Option = None,
    instance: Option = None,
    container: str = "slurm",
    user: Option = None,
    command: Option = None,
) -> None:
    """Open a shell in a container, or run a command there; ends with its exit status."""
    session = open_session(ctx, env, instance, as_deployed=True)
    cli.end_with(tools.shell.shell(session, container, user, cli.words(command)))


@task(
    help={
        "command": "what to run, like squeue or 'scontrol show job'; or write it after --",
        "user": "as this account",
    }
)
def slurm(
    ctx: Context, env: Option = None, instance: Option = None, user: Option = None, command: Option = None
) -> None:
    """Run a Slurm command in its container: `invoke slurm --env … -- squeue --all`; ends with its status."""
    session = open_session(ctx, env, instance, as_deployed=True)
    cli.end_with(tools.shell.shell(session, "slurm", user, cli.words(command) or ("sinfo",)))


@task(
    name="test-repo",
    positional=["repository"],
    help={
        "repository": "bricsauthenticator or slurmspawner_wrappers",
        "arguments": "for pytest; or write them after --",
    },
)
def test_repo(
    ctx: Context, repository: str, env: Option = None, arguments: Option = None, set_: Settings = None
) -> None:
    """Run a working copy's own tests in the image that is built from it; ends with their exit status."""
    session = open_session(ctx, env or "dev_dummyauth", None, set_)
    cli.end_with(tools.test_repo.test_repo(session, repository, cli.words(arguments)))


@task(help={"port": "port of this host's loopback for the debugger to attach to (5678)"})
def debug(ctx: Context, env: Option = None, instance: Option = None, port: str = "5678") -> None:
    """Run the hub under debugpy until Ctrl-C; servers and log-ins stay."""
    session = open_session(ctx, env, instance, as_deployed=True)
    tools.debug.debug(session, cli.whole_number("--port", port, range(1, 65536)))


@task(help={"volume": "which one, like jupyterhub-data", "output": "tar to write, readable for you alone"})
def export_volume(
    ctx: Context, volume: str, output: str, env: Option = None, instance: Option = None
) -> None:
    """Write a volume's content to a tar file."""
    session = open_session(ctx, env, instance, as_deployed=True)
    tools.export_volume.export_volume(session, volume, Path(output))
