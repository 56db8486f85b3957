"""The tasks: `invoke --list` shows them, `invoke --help TASK` explains one.

A task is a call into the hubenvs package, imported when it runs so that listing the tasks stays fast.
"""

from __future__ import annotations

from pathlib import Path

from invoke import Collection, Context, Exit

from hubenvs import variables
from hubenvs.cli import BASE, ROOT, Settings, confirm, open_engine, open_suite, task, whole, words
from hubenvs.errors import DefinitionError


@task()
def envs(ctx: Context, json: bool = False) -> None:
    """List the environments, and say of each whether it can run here."""
    from hubenvs import load

    _, console = open_engine(ctx, quiet=json)
    rows = load.describe(ROOT)
    if json:
        console.result(rows)
        return
    console.table(
        ("environment", "stage", "auth", "description"),
        [
            (row["env"], f"{row['stage'] or '-'}", f"{row['auth'] or '-'}", f"{row['description'] or '-'}")
            for row in rows
        ],
    )
    for row in rows:
        if not row["can_run"]:
            console.say("", f"{row['env']} can't be brought up yet: {row['why_not']}")


@task()
def doctor(ctx: Context, json: bool = False) -> None:
    """Check this host: engine, cgroups, limits, ports, disk, certificates, registries; with remedies."""
    from hubenvs import doctor as examine

    engine, console = open_engine(ctx, quiet=json)
    rows = examine.examine(ROOT, engine)
    if json:
        console.result(rows)
    else:
        console.table(
            ("", "check", "found", "remedy"),
            [("ok" if row["ok"] else "FAIL", row["check"], row["found"], row["remedy"] or "") for row in rows],
        )
    if not all(row["ok"] for row in rows):
        raise Exit(code=1)


@task()
def clone(ctx: Context, env: str | None = None, instance: str | None = None, set_: Settings = None) -> None:
    """Make the development repositories' working copies; one that exists is never overwritten."""
    open_suite(ctx, env, instance, set_).clone()


@task()
def build(ctx: Context, env: str | None = None, instance: str | None = None, set_: Settings = None) -> None:
    """Build the images whose content has changed, both containers' at the same time."""
    suite = open_suite(ctx, env, instance, set_)
    suite.clone()
    with suite.locked():
        suite.build()


@task()
def volumes(ctx: Context, env: str | None = None, instance: str | None = None, set_: Settings = None) -> None:
    """Make the volumes and bring changed seed files into them; what was edited in a volume is kept."""
    suite = open_suite(ctx, env, instance, set_)
    with suite.locked():
        suite.volumes(suite.look())


@task(
    help={
        "rotate": "replace the existing keys and passwords, and restart the pod with the new ones if it is up",
        "init": "only make the SSH key pair for a Slurm elsewhere, and print the line for its administrator",
    }
)
def secrets(
    ctx: Context,
    env: str | None = None,
    instance: str | None = None,
    rotate: bool = False,
    init: bool = False,
    set_: Settings = None,
) -> None:
    """Make the deployment's keys and passwords, in its deploy folder (for its owner alone)."""
    suite = open_suite(ctx, env, instance, set_, as_deployed=rotate)
    if init:
        suite.init_secrets()
        return
    with suite.locked():
        restart = rotate and suite.is_up()
        if restart:
            suite.build()  # before the secrets change: the pod is replaced by one of the working copies as they are
        suite.secrets(rotate)
        if restart:
            suite.play()
            suite.wait()


@task(
    help={
        "output": "write to this file instead of standard output (a folder with --target kubernetes)",
        "target": "podman, or kubernetes for a folder that `kubectl apply -k` takes (needs --output)",
        "with-secrets": "include the real Secrets instead of redacted ones (needs --output)",
    }
)
def render(
    ctx: Context,
    env: str | None = None,
    instance: str | None = None,
    output: str | None = None,
    target: str = "podman",
    with_secrets: bool = False,
    set_: Settings = None,
) -> None:
    """Print the manifest that `up` would play, with the Secrets redacted; or write what a Kubernetes cluster takes."""
    from hubenvs import render as documents
    from hubenvs import state

    if target == "kubernetes":
        if with_secrets or not output:
            raise DefinitionError("--target kubernetes", "give --output FOLDER; Secrets are never in it")
        files = open_suite(ctx, env, instance, set_, quiet=True).kubernetes()
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            state.write(folder / name, content)
        return
    if target != "podman":
        raise DefinitionError(f"--target {target}: there is no such target", "podman or kubernetes")

    if with_secrets and not output:
        raise DefinitionError("--with-secrets: Secrets are not printed", "give --output FILE; it is made for you alone")
    text = documents.dump(open_suite(ctx, env, instance, set_, quiet=True).manifest(with_secrets))
    if output:
        state.write(Path(output), text)
    else:
        print(text, end="")


@task(help={"file": "the file to write"})
def bundle(ctx: Context, file: str, env: str | None = None, set_: Settings = None) -> None:
    """Write images, working copies and manifest to one file, for `load` on a machine without a network."""
    suite = open_suite(ctx, env, None, set_)
    suite.clone()
    with suite.locked():
        suite.bundle(Path(file))


@task(help={"file": "what `invoke bundle` wrote"})
def load(ctx: Context, file: str, set_: Settings = None) -> None:
    """Take what `bundle` wrote, so that `up` needs no network; a damaged file is refused before anything is loaded."""
    from hubenvs import bundle

    index = bundle.read(Path(file))
    suite = open_suite(ctx, index.env, None, set_)
    with suite.locked():
        bundle.load(suite.env, index, Path(file), suite.engine, suite.console)


@task(help={"registry": "where to, like registry.example.org/site, after `podman login`"})
def push(ctx: Context, registry: str, env: str | None = None, set_: Settings = None) -> None:
    """Push the images to a site's registry, and print the lines of local.yaml that run them by their digests."""
    open_suite(ctx, env, None, set_).push(registry)


@task()
def play(ctx: Context, env: str | None = None, instance: str | None = None, set_: Settings = None) -> None:
    """Play the manifest: start the pod, or replace it if what it is made of has changed."""
    suite = open_suite(ctx, env, instance, set_)
    with suite.locked():
        suite.play()


@task(help={"timeout": "seconds to wait at most; 0: wait_timeout of the definition"})
def wait(
    ctx: Context, env: str | None = None, instance: str | None = None, timeout: str = "0", set_: Settings = None
) -> None:
    """Wait until the hub, its SSH connection and Slurm answer."""
    seconds = whole("--timeout", timeout)
    open_suite(ctx, env, instance, set_, as_deployed=True).wait(seconds or None)


@task()
def check(ctx: Context, env: str | None = None, instance: str | None = None, set_: Settings = None) -> None:
    """Check SSH from the hub container to Slurm: what must work does, and what must not is refused."""
    from hubenvs import ssh

    suite = open_suite(ctx, env, instance, set_, as_deployed=True)
    ssh.check(suite.env, suite.engine, suite.console)


@task(
    help={
        "url": "where people find the hub (with its base URL), if it isn't published on this host",
        "token-file": "log in with the ID token of an external provider in this file",
    }
)
def verify(
    ctx: Context,
    env: str | None = None,
    instance: str | None = None,
    url: str | None = None,
    token_file: str | None = None,
    set_: Settings = None,
) -> None:
    """Do what a user does (log in, spawn, compute, stop), and name the hop that breaks with its log lines."""
    from hubenvs import layers
    from hubenvs import verify as walk

    suite = open_suite(ctx, env, instance, set_, as_deployed=True)
    token = layers.read_text(Path(token_file), ROOT).strip() if token_file else None
    walk.verify(suite.env, suite.engine, suite.console, url, token)


@task(
    help={
        "dry-run": "print what would be done, and touch nothing",
        "as": "the user who logs in with dummy authentication (sets auth.user)",
        "configmap": "take settings from this file's ConfigMap, one of an existing deployment",
        "users": "write these accounts to the environment's dev_users file, like alice.project1,bob.project1",
        "yes": "don't ask before bringing prod up",
    }
)
def up(
    ctx: Context,
    env: str | None = None,
    instance: str | None = None,
    dry_run: bool = False,
    as_: str | None = None,
    configmap: str | None = None,
    users: str | None = None,
    yes: bool = False,
    set_: Settings = None,
) -> None:
    """Bring an environment up: clone, build, volumes, secrets, play, wait, check."""
    settings = [*(set_ or ()), *([f"auth.user={as_}"] if as_ else ())]
    if users and dry_run:
        settings.append(f"dev_users=[{users}]")
    elif users and env:
        from hubenvs import load

        load.write_dev_users(ROOT, env, users)
    suite = open_suite(ctx, env, instance, settings, config_map=configmap, dry=dry_run)
    if dry_run:
        suite.dry_run()
    else:
        confirm("up", env, yes)
        suite.up()


@task(help={"watch": "stay, and reload at every save until Ctrl-C"})
def reload(
    ctx: Context, env: str | None = None, instance: str | None = None, watch: bool = False, set_: Settings = None
) -> None:
    """Bring edited working copies, hub configuration and templates into the running pod; restart what they touch."""
    suite = open_suite(ctx, env, instance, set_, as_deployed=True)
    if watch:
        suite.watch()
    else:
        suite.reload()


@task(
    help={
        "user": "one of dev_users",
        "expired": "make a token that is no longer valid",
        "audience": "the token's audience (`aud`), instead of the hub's",
        "platform": "the platform of the token's projects, instead of auth.platform",
        "lifetime": "seconds that the token is valid; 0: auth.token_lifetime",
    }
)
def token(
    ctx: Context,
    user: str,
    env: str | None = None,
    instance: str | None = None,
    expired: bool = False,
    audience: str | None = None,
    platform: str | None = None,
    lifetime: str = "0",
    set_: Settings = None,
) -> None:
    """Print an ID token of a user, as the bundled provider signs it, for the header X-Auth-Id-Token."""
    from hubenvs import state, tokens

    seconds = whole("--lifetime", lifetime)
    suite = open_suite(ctx, env, instance, set_, quiet=True, as_deployed=True)
    given = {"audience": audience, "platform": platform}
    auth = suite.env.auth.model_copy(update={key: value for key, value in given.items() if value})
    key_set = state.read_secrets(suite.env.deploy_folder).get("jwks", "")
    print(tokens.token(suite.env.model_copy(update={"auth": auth}), key_set, user, seconds or None, expired))


@task(
    help={
        "all": "take down every environment of this checkout",
        "keep-volumes": "keep the volumes, and the key that their database is encrypted with",
        "yes": "don't ask before taking prod down",
    }
)
def down(
    ctx: Context,
    env: str | None = None,
    instance: str | None = None,
    all_: bool = False,
    keep_volumes: bool = False,
    yes: bool = False,
) -> None:
    """Take an environment down: pod, Secrets, volumes and deploy folder; without --env the one that is up."""
    from hubenvs import deployed

    engine, console = open_engine(ctx)
    deployed.down(
        ROOT,
        engine,
        console,
        env=env,
        instance=instance,
        every=all_,
        keep_volumes=keep_volumes,
        confirm=lambda name: confirm("down", name, yes),
    )


@task()
def status(ctx: Context, json: bool = False) -> None:
    """Show what is up: state, URL, user, containers, volumes, working copies."""
    from hubenvs import status as deployments

    engine, console = open_engine(ctx, quiet=json)
    rows = deployments.status(ROOT, engine)
    if json:
        console.result({"environments": rows})
        return
    if not rows:
        console.say("status", "nothing is up")
    for row in rows:
        console.say(row["state"], f"{row['pod'] or row['env']}  {row['gateway_url'] or row['url'] or ''}")
        console.say("", ", ".join(f"{item['name']} {item['state']}" for item in row["containers"]))
        console.say("", f"volumes: {', '.join(row['volumes']) or 'none'}")
        if row["password_file"]:
            console.say("", f"log in as {row['user']} with the password in {row['password_file']}")
        for item in row["repositories"]:
            edited = " (edited)" if item["edited"] else ""
            console.say("", f"{item['name']} {item['commit'] or 'no commit'}{edited} from {item['url']}")


@task(
    help={
        "container": "show only this container (jupyterhub, slurm, ...)",
        "follow": "keep printing new lines until Ctrl-C",
        "lines": "how many of each container's last lines to show",
    }
)
def logs(
    ctx: Context,
    env: str | None = None,
    instance: str | None = None,
    container: str | None = None,
    follow: bool = False,
    lines: str = "100",
) -> None:
    """Show what the containers log."""
    from hubenvs import inside

    count = whole("--lines", lines)
    suite = open_suite(ctx, env, instance, None, as_deployed=True)
    inside.logs(suite.env, suite.engine, container, follow, count)


@task(
    help={
        "container": "jupyterhub or slurm",
        "user": "as this account (a user of the container)",
        "command": "run this instead of a shell",
    }
)
def shell(
    ctx: Context,
    env: str | None = None,
    instance: str | None = None,
    container: str = "slurm",
    user: str | None = None,
    command: str | None = None,
) -> None:
    """Open a shell in a container, or run a command there; ends with its exit status."""
    from hubenvs import inside

    suite = open_suite(ctx, env, instance, None, as_deployed=True)
    code = inside.shell(suite.env, suite.engine, container, user, words(command))
    if code:
        raise Exit(code=code)


@task(
    help={"command": "what to run, like squeue or 'scontrol show job'; or write it after --", "user": "as this account"}
)
def slurm(
    ctx: Context,
    env: str | None = None,
    instance: str | None = None,
    user: str | None = None,
    command: str | None = None,
) -> None:
    """Run a command of Slurm's in its container: `invoke slurm --env … -- squeue --all`; ends with its status."""
    from hubenvs import inside

    suite = open_suite(ctx, env, instance, None, as_deployed=True)
    code = inside.shell(suite.env, suite.engine, "slurm", user, words(command) or ("sinfo",))
    if code:
        raise Exit(code=code)


@task(
    name="test-repo",
    positional=["repository"],
    help={
        "repository": "bricsauthenticator or slurmspawner_wrappers",
        "arguments": "for pytest; or write them after --",
    },
)
def own_tests(
    ctx: Context,
    repository: str,
    env: str | None = None,
    arguments: str | None = None,
    set_: Settings = None,
) -> None:
    """Run a working copy's own tests in the image that is built from it; ends with their exit status."""
    from hubenvs import develop
    from hubenvs.names import environment_names

    suite = open_suite(ctx, env or environment_names(ROOT)[0], None, set_)
    suite.clone()
    with suite.locked():
        code = develop.test_repository(suite.env, repository, words(arguments), suite.engine, suite.console)
    if code:
        raise Exit(code=code)


@task(help={"port": "of this host's loopback, for the debugger to attach to"})
def debug(ctx: Context, env: str | None = None, instance: str | None = None, port: str = "5678") -> None:
    """Run the hub under debugpy until Ctrl-C; servers and log-ins stay."""
    from hubenvs import develop

    number = whole("--port", port, range(1, 65536))
    suite = open_suite(ctx, env, instance, None, as_deployed=True)
    develop.debug(suite.env, number, suite.engine, suite.console)


@task(help={"volume": "which one, like jupyterhub-data", "output": "the tar to write (for you alone)"})
def export_volume(ctx: Context, volume: str, output: str, env: str | None = None, instance: str | None = None) -> None:
    """Write a volume's content to a tar file."""
    from hubenvs import inside

    suite = open_suite(ctx, env, instance, None, as_deployed=True)
    inside.export_volume(suite.env, suite.engine, suite.console, volume, Path(output))


namespace = Collection(
    envs,
    doctor,
    clone,
    build,
    volumes,
    secrets,
    render,
    bundle,
    load,
    push,
    play,
    wait,
    check,
    verify,
    up,
    reload,
    token,
    down,
    status,
    logs,
    shell,
    slurm,
    own_tests,
    debug,
    export_volume,
)
namespace.configure({"hubenvs": variables.unset(BASE)})
