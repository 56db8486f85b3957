"""What the tasks share: the checkout, their options' texts, errors in one line, signals, a question before prod."""

from __future__ import annotations

import functools
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from invoke import Context, Exit
from invoke import task as invoke_task

from . import variables
from .errors import DefinitionError, HubEnvsError

if TYPE_CHECKING:
    from .console import Console
    from .engine import Engine
    from .suite import Suite

# What --set was given: Invoke makes a list of it, unless the default is something else than None.
Settings = Sequence[str] | None
ROOT = Path(__file__).resolve().parents[1]


def _base() -> dict[str, Any]:
    """Return the keys of a definition with their defaults; end the program if the file that has them is damaged."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # of libyaml: PyYAML's own takes 20 ms
    try:
        base: object = yaml.load((ROOT / "envs/base.yaml").read_text("utf-8"), loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        base = error
    if not isinstance(base, dict):
        sys.exit(f"error: envs/base.yaml: {' '.join(str(base).split())}: `git checkout envs/base.yaml` brings it back")
    return base


BASE = _base()
# Invoke keeps Python from writing compiled files; to compile the package at each run takes 0.1 s.
sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
HELP = {
    "env": "name of the environment (a folder of envs/)",
    "instance": "name of a further deployment of the same environment, with ports of its own",
    "set": "set a key of the definition, like slurm.nodes=4; can be given several times",
    "json": "print JSON, for scripts",
}


# Tasks that may leave something half done when they are interrupted.
CHANGING = {"up", "build", "volumes", "secrets", "play", "load"}


def task(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return Invoke's task decorator, with our help texts and our errors: one line and an exit status."""

    def decorate(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            _open_closed()
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
                    signal.signal(number, _interrupt)
            try:
                return function(*args, **kwargs)
            except HubEnvsError as error:
                raise Exit(error.report, code=error.exit_code) from None
            except BrokenPipeError:  # who reads has seen enough, like `head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still has to write
                raise Exit(code=128 + signal.SIGPIPE) from None
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                raise Exit(f"error: {where}{error.strerror or error}", code=1) from None
            except KeyboardInterrupt as error:
                number = error.args[0] if error.args else signal.SIGINT
                changes = function.__name__ in CHANGING
                text = "interrupted" + ("; `invoke up` continues, `invoke down` cleans up" if changes else "")
                raise Exit(text, code=128 + number) from None

        names = {
            name.strip("_").replace("_", "-") for name in function.__code__.co_varnames[: function.__code__.co_argcount]
        }
        texts = {**{name: text for name, text in HELP.items() if name in names}, **options.pop("help", {})}
        iterable = [name for name in ("set_",) if name in function.__code__.co_varnames]
        return invoke_task(run, help=texts, iterable=iterable, **options)

    return decorate


def _open_closed() -> None:
    """Lead the standard streams that we were started without (`>&-`) to nowhere: the next file would become them."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def _interrupt(number: int, frame: object) -> None:
    """Let a signal that ends us do it as Ctrl-C does."""
    raise KeyboardInterrupt(number)


def open_suite(
    ctx: Context,
    env: str | None,
    instance: str | None,
    set_: Settings,
    *,
    config_map: str | None = None,
    quiet: bool = False,
    dry: bool = False,
    as_deployed: bool = False,
) -> Suite:
    """Return the suite for ``env`` as the options and Invoke's configuration say."""
    from .suite import Suite

    variables.refuse_unknown(BASE, os.environ)
    configuration = variables.given(ctx.config.get("hubenvs", {}))
    echo = bool(ctx.config.run.echo)
    return Suite.open(
        ROOT,
        env,
        instance=instance,
        settings=set_ or (),
        configuration=configuration,
        config_map=Path(config_map) if config_map else None,
        quiet=quiet,
        echo=echo,
        dry=dry,
        as_deployed=as_deployed,
    )


def open_engine(ctx: Context, quiet: bool = False) -> tuple[Engine, Console]:
    """Return the engine and the console, for tasks that need no environment."""
    from .console import Console
    from .engine import Engine

    console = Console(quiet, bool(ctx.config.run.echo))
    return Engine(ROOT / ".deploy", console.echo), console


def whole(option: str, text: str, numbers: range = range(10**9)) -> int:
    """Return which of ``numbers`` the ``option`` was given; Invoke's own conversion ends in a traceback."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) in numbers):
        raise DefinitionError(f"{option} {text}", f"give a whole number from {numbers[0]} to {numbers[-1]}")
    return int(text)


def confirm(what: str, env: str | None, yes: bool) -> None:
    """Ask before doing ``what`` to prod, unless ``yes`` was given; end the task without a yes."""
    if env != "prod" or yes:
        return
    if not sys.stdin.isatty():
        raise DefinitionError(f"{what} --env prod: there is nobody to ask", "give --yes")
    try:
        answer = input(f"{what} prod? [y/N] ")
    except EOFError:  # Ctrl-D
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise Exit("nothing was done", code=1)


def words(text: str | None) -> tuple[str, ...]:
    """Return the words of ``text``, without it those after `--` on the command line (Invoke 2 keeps them to itself)."""
    if text:
        try:
            return tuple(shlex.split(text))
        except ValueError as error:
            raise DefinitionError(f"{text}: {error}", "close the quotation") from None
    return tuple(sys.argv[sys.argv.index("--") + 1 :]) if "--" in sys.argv else ()
