"""What all tasks have in common: options and their help, errors and exit status, signals, questions."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from invoke import Context, Exit, config, env
from invoke import task as invoke_task

from .console import Console
from .errors import DefinitionError, HubEnvsError, StateError

if TYPE_CHECKING:
    from .engines.cluster import Cluster
    from .engines.engine import Engine
    from .session import Session

Option = str | None
# The values of --set. Invoke makes a list of them if the default is None.
Settings = Sequence[str] | None
ROOT = Path(__file__).resolve().parents[1]
# Taken from the environment before Invoke reads it. Invoke converts a variable to the type of the key's value
# in invoke.yaml, and crashes on lists.
VARIABLES = {name: os.environ.pop(name) for name in tuple(os.environ) if name.startswith("INVOKE_HUBENVS_")}
# Invoke keeps Python from writing compiled files. Compiling the package at each run takes 0.1 s.
sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
HELP = {
    "env": "name of the environment (a folder of envs/)",
    "instance": "name of a further deployment of the same environment, with ports of its own",
    "set": "set a key of the definition, like slurm.nodes=4; can be given several times",
    "json": "print JSON, for scripts",
    "engine": "kubernetes: a cluster instead of this host; the definition can say so too",
    "context": "the kubeconfig's context of the cluster",
    "namespace": "the namespace in the cluster",
    "configmap": "take settings from an existing ConfigMap in this file, and the files beside it",
    "yes": "don't ask before bringing an environment of stage prod up",
    "refresh": "look at Debian's mirrors, and build the images anew if there are updates",
    "sbom": "folder for a bill of materials (CycloneDX) of each image",
}

# Hints for errors of the operating system that any task can meet.
SYSTEM_HINTS = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: "make it writable for this user",
    errno.EACCES: "make it accessible for this user",
    errno.EMFILE: "raise the limit of open files: `ulimit -n 1024`",
    errno.EAGAIN: "end other programs, or raise the limit of processes: `ulimit -u`",
}


def task(changes: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return Invoke's task decorator with our help texts, signal handling and errors.

    ``changes``: if interrupted, the task may leave something half done. ``options``: Invoke's own.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            _reopen_closed_streams()
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                    signal.signal(number, _interrupt)
            with _errors_shown(changes, as_json=bool(kwargs.get("json"))):
                _require_values(kwargs)
                return function(*args, **kwargs)

        arguments = inspect.signature(function).parameters
        names = [name.strip("_") for name in arguments]
        texts = {name: text for name, text in HELP.items() if name in names} | options.pop("help", {})
        return invoke_task(
            run, help=texts, iterable=[name for name in ("set_", "from_") if name in arguments], **options
        )

    return decorate


def _require_values(arguments: Mapping[str, Any]) -> None:
    """Raise DefinitionError for an empty one, such as `--env "$ENV"` without that variable."""
    for name, value in arguments.items():
        if value == "":
            option = name.strip("_").replace("_", "-")
            raise DefinitionError(f"--{option}: is empty", "give a value, or leave the option out")


@contextlib.contextmanager
def _errors_shown(changes: bool, as_json: bool) -> Iterator[None]:
    """Turn an error or an interruption of the block into a message and an exit status of the task."""

    def ended_by(error: HubEnvsError) -> Exit:
        return Exit(error.json if as_json else error.report, code=1)

    try:
        yield
    except HubEnvsError as error:
        raise ended_by(error) from None
    except BrokenPipeError:  # the reader, such as `head`, has ended
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())  # Python flushes standard output at its end
        raise Exit(code=128 + signal.SIGPIPE) from None
    except OSError as error:
        raise ended_by(_system_error(error)) from None
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        text = "interrupted" + ("; `invoke up` continues, `invoke down` cleans up" if changes else "")
        raise Exit(text, code=128 + number) from None


def _system_error(error: OSError) -> StateError:
    """Return ``error`` with its path, or both paths of a copy, and a hint."""
    paths = " -> ".join(str(path) for path in (error.filename, error.filename2) if path)
    hint = SYSTEM_HINTS.get(error.errno or 0, "`invoke doctor` looks at the host")
    return StateError(f"{paths}: {error.strerror}" if paths else str(error.strerror or error), hint)


def _report_configuration(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an error in Invoke's configuration as two lines, any other error with its traceback."""
    files = {frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace)}
    if not files & {config.__file__, env.__file__} or not isinstance(error, Exception):
        sys.__excepthook__(kind, error, trace)
        return
    problem = " ".join(str(error).split())
    hint = "correct invoke.yaml, or the file that it names"
    print(DefinitionError(f"Invoke's configuration: {problem}", hint).report, file=sys.stderr)


# Invoke reads its configuration before a task starts, and catches none of the errors in it.
sys.excepthook = _report_configuration


def _reopen_closed_streams() -> None:
    """Reopen closed standard streams on /dev/null, so that a later open() doesn't get descriptor 0-2."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def _interrupt(number: int, frame: object) -> None:
    """Treat a signal that ends the task like Ctrl-C."""
    raise KeyboardInterrupt(number)


def open_session(
    ctx: Context,
    env: str | None,
    instance: str | None = None,
    set_: Settings = None,
    *,
    config_map: str | None = None,
    quiet: bool = False,
    dry: bool = False,
    as_deployed: bool = False,
) -> Session:
    """Return a session for ``env``, with Invoke's configuration and our variables.

    See `session.open_session`.
    """
    from . import session

    return session.open_session(
        ROOT,
        env,
        instance=instance,
        settings=set_ or (),
        configuration=_configuration(ctx),
        environ=VARIABLES,
        config_map=Path(config_map) if config_map else None,
        console=Console(quiet, bool(ctx.config.run.echo)),
        dry=dry,
        as_deployed=as_deployed,
    )


def _configuration(ctx: Context) -> dict[str, Any]:
    """Return the section `hubenvs` of Invoke's configuration; DefinitionError unless it is a mapping."""
    configuration = _plain(ctx.config.get("hubenvs")) or {}
    if not isinstance(configuration, dict):
        problem = "Invoke's configuration: hubenvs: not a mapping of keys to values"
        raise DefinitionError(problem, "write it as in envs/base.yaml, below `hubenvs:`")
    return configuration


def _plain(configuration: Any) -> Any:
    """Return the dictionaries behind Invoke's proxies."""
    if hasattr(configuration, "items"):
        return {key: _plain(value) for key, value in configuration.items()}
    return configuration


def open_engine(ctx: Context, quiet: bool = False, cluster: Cluster | None = None) -> tuple[Engine, Console]:
    """Return the engine and the console, for tasks that need no environment."""
    from .session import open_engine

    console = Console(quiet, bool(ctx.config.run.echo))
    return open_engine(ROOT, console, cluster=cluster), console


def cluster_settings(engine: Option, context: Option, namespace: Option) -> list[str]:
    """Return the settings of --engine, --context and --namespace; DefinitionError if one is missing."""
    if engine is None and not context and not namespace:
        return []
    if engine != "kubernetes":
        problem = f"--engine {engine}: unknown" if engine else "--context, --namespace: only for a cluster"
        hint = "give --engine kubernetes --context X --namespace Y, or none of them for this host"
        raise DefinitionError(problem, hint)
    if not context or not namespace:
        problem = "the cluster has to be named; the kubeconfig's current one is never taken"
        raise DefinitionError(f"--engine kubernetes: {problem}", "give --context X --namespace Y")
    return ["engine=kubernetes", f"kubernetes.context={context}", f"kubernetes.namespace={namespace}"]


def user_settings(user: Option, users: Option) -> list[str]:
    """Return the settings of `up`'s options --as and --users; DefinitionError for a malformed user."""
    from .definition.dev_users import parse_users

    settings = [f"auth.user={user}"] if user else []
    if users:
        parse_users(users)
        settings.append(f"dev_users=[{users}]")
    return settings


def chosen_cluster(
    engine: Option, context: Option, namespace: Option, env: Option = None, instance: Option = None
) -> Cluster | None:
    """Return the cluster that the options name, or in which `up` has deployed ``env``; None: this host."""
    from .definition.names import deploy_folder
    from .engines.cluster import Cluster
    from .session import recorded_clusters

    if cluster_settings(engine, context, namespace):
        return Cluster(str(context), str(namespace))
    return recorded_clusters(ROOT).get(deploy_folder(ROOT, env, instance)) if env else None


def whole_number(option: str, text: str, numbers: range = range(10**9)) -> int:
    """Return the number ``text``, one of ``numbers``. Invoke's own conversion ends in a traceback."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) in numbers):
        hint = f"give a whole number from {numbers[0]} to {numbers[-1]}"
        raise DefinitionError(f"{option} {text}: no such number", hint)
    return int(text)


def confirm(task_name: str, env: str, is_prod: bool, yes: bool) -> None:
    """Ask before running ``task_name`` on a production ``env``, unless ``yes``; without a yes end it."""
    if yes or not is_prod:
        return
    if not sys.stdin.isatty():
        raise DefinitionError(f"{task_name} --env {env}: there is nobody to ask", "give --yes")
    if not ask(f"{task_name} {env}?"):
        raise Exit("nothing was done", code=1)


def ask(question: str) -> bool:
    """Ask ``question`` and return whether the answer is yes; False without a terminal."""
    if not sys.stdin.isatty():
        return False
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:  # Ctrl-D
        answer = ""
    return answer.strip().lower() in ("y", "yes")


def words(text: str | None) -> tuple[str, ...]:
    """Split ``text`` as a shell does; without it, return the words after `--` on the command line.

    Invoke 2.2 doesn't hand those on.
    """
    if text:
        try:
            return tuple(shlex.split(text))
        except ValueError as error:
            raise DefinitionError(f"{text}: {error}", "close the quotation") from None
    return tuple(sys.argv[sys.argv.index("--") + 1 :]) if "--" in sys.argv else ()


def end_with(status: int) -> None:
    """End the task with the exit ``status`` of a program that it ran."""
    if status:
        raise Exit(code=status)
