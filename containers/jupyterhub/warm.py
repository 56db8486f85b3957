"""JupyterHub as the child of a process that has imported it already, so that it restarts in half a second.

``warm.py [option of jupyterhub ...]`` is the service. It ends when the hub does, with the hub's exit status.
``warm.py --ask check|restart|debug PORT`` tells the running service what to do, prints what it answers, and exits
with status 0 if it could: `check` loads the configuration in a process that ends after it; `restart` replaces the hub
and waits until it listens; `debug` does that too, with a debugger's adapter from then on (PORT 0: without it).
"""

import contextlib
import ctypes
import gc
import importlib
import os
import secrets
import select
import signal
import socket
import sys
import time

SOCKET = "/run/jupyterhub/hub.socket"
DEBUG_SOCKET = "/run/jupyterhub/debug.socket"
LOG = "/var/lib/jupyterhub/log/jupyterhub/current"
# The hub's largest dependencies. The package under development isn't among them, so each new hub imports it afresh.
PRELOADED = ("jupyterhub.app", "batchspawner", "jwt")
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Seconds to wait for another command after the hub could not start. Then the service ends and s6 restarts it.
GRACE = 30


class Service:
    """The hub's process and how it is replaced."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.debug_port = 0
        self.stopping = False
        self.start()

    def start(self) -> None:
        """Start a hub; ``self.pipe`` gives a byte when it listens, and ends when it does."""
        self.pipe, pipe = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self.forked()
            hub(self.argv, pipe, self.debug_port)
        os.close(pipe)

    def stop(self) -> int:
        """Make the hub end if it has not, and return its exit status."""
        os.close(self.pipe)
        os.kill(self.pid, signal.SIGTERM)  # no error if it has ended: it hasn't been waited for
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def restart(self, output: int) -> bool:
        """Replace the hub and return whether the new one listens; if not, what it logged is written to ``output``."""
        self.stop()
        logged = os.path.getsize(LOG)
        self.start()
        if os.read(self.pipe, 1):
            return True
        time.sleep(0.2)  # the logger has its last lines by then
        with open(LOG, "rb") as log:
            log.seek(logged)
            os.write(output, log.read())
        return False

    def forked(self) -> None:
        """Prepare a child: it ends with its parent, its signals are its own, and changed modules are seen."""
        end_with_parent()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        importlib.invalidate_caches()

    def end(self, *_: object) -> None:
        """Handle SIGTERM: the hub ends, and the service with it."""
        self.stopping = True
        os.kill(self.pid, signal.SIGTERM)

    def check(self, output: int) -> bool:
        """Return whether the configuration can be loaded; why not is written to ``output``."""
        pid = os.fork()
        if pid == 0:
            self.forked()
            os.dup2(output, 1)
            os.dup2(output, 2)
            load(self.argv)
        return os.waitpid(pid, 0)[1] == 0

    def answer(self, connection: socket.socket) -> None:
        """Do what ``connection`` asks for, if anything; the last line of the answer is `done` or `failed`."""
        words = connection.recv(100).decode(errors="replace").split()
        if not words:
            return
        if words[0] == "check":
            done = self.check(connection.fileno())
        else:
            if words[0] == "debug":
                self.debug_port = int(words[1])
            done = self.restart(connection.fileno())
        connection.sendall(b"\ndone" if done else b"\nfailed")
        connection.shutdown(socket.SHUT_RDWR)  # close() isn't enough: a hub forked meanwhile has it open too

    def run(self) -> int:
        """Serve until the hub ends and return its exit status."""
        signal.signal(signal.SIGTERM, self.end)
        with socket.socket(socket.AF_UNIX) as listener:
            if os.path.exists(SOCKET):
                os.unlink(SOCKET)
            listener.bind(SOCKET)
            listener.listen()
            died = None
            while not self.stopping and (died is None or time.monotonic() < died + GRACE):
                watched = [listener] if died else [listener, self.pipe]
                ready, _, _ = select.select(watched, [], [], 1)
                if listener in ready:
                    # The client may have gone, or have sent nothing.
                    with listener.accept()[0] as connection, contextlib.suppress(ConnectionError):
                        self.answer(connection)
                    # If the hub could not start, keep serving for a while, so that the bad edit can be rolled back.
                    died = time.monotonic() if hub_ended(self.pid) else None
                elif self.pipe in ready and not os.read(self.pipe, 1):
                    break
        return self.stop()


def hub_ended(pid: int) -> bool:
    """Return whether the child ``pid`` has ended, leaving its exit status for who asks later."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end_with_parent() -> None:
    """Have the kernel send SIGTERM when the process ends that has forked this one."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def be_debugged(port: int) -> None:
    """Start the adapter that editors talk to, and have it debug this process.

    `debugpy.listen` asks editors for no password, and every job reaches the pod's ports. Here editors come by a
    socket in a folder of root's. The one port is for this process, which shows a token there; jobs can't listen on it.
    """
    token = secrets.token_hex(32)
    ready, pipe = os.pipe()
    if os.fork() == 0:
        end_with_parent()
        debug_adapter(port, token, pipe)
    os.close(pipe)
    if not os.read(ready, 1):
        sys.exit("the debugger's adapter does not start")
    os.close(ready)
    import debugpy.server  # noqa: F401  makes pydevd importable
    import pydevd

    # As `debugpy.connect`, which waits for an editor. Children would have the token in their arguments.
    pydevd.settrace(
        host="127.0.0.1",
        port=port,
        client_access_token=token,
        suspend=False,
        wait_for_ready_to_run=False,
        patch_multiprocessing=False,
        notify_stdin=False,
    )


def debug_adapter(port: int, token: str, pipe: int) -> None:
    """Be debugpy's adapter until the hub ends; write a byte to ``pipe`` when it listens."""
    from debugpy import adapter
    from debugpy.adapter import clients, servers

    adapter.access_token = token
    clients.listener = None  # `clients.serve` would listen on a port
    servers.serve("127.0.0.1", port)
    with socket.socket(socket.AF_UNIX) as listener:
        if os.path.exists(DEBUG_SOCKET):
            os.unlink(DEBUG_SOCKET)
        listener.bind(DEBUG_SOCKET)
        listener.listen()
        os.write(pipe, b"1")
        os.close(pipe)
        while True:
            clients.Client(listener.accept()[0])


def hub(argv: list[str], pipe: int, debug_port: int) -> None:
    """Be the hub, and write a byte to ``pipe`` when it listens."""
    if debug_port:
        be_debugged(debug_port)
    from jupyterhub import app

    class JupyterHub(app.JupyterHub):
        """A hub that says when it has started."""

        async def start(self) -> None:
            await super().start()
            os.write(pipe, b"1")

    # Servers outlive a restart, also with a configuration that leaves this at JupyterHub's default.
    sys.exit(JupyterHub.launch_instance([*argv, "--JupyterHub.cleanup_servers=False"]))


def load(argv: list[str]) -> None:
    """Load the hub's configuration and what it names, as a starting hub does; end with status 0 if that works."""
    import traceback

    from jupyterhub.app import JupyterHub

    status = 1
    try:
        app = JupyterHub.instance()
        app.parse_command_line(argv)
        app.load_config_file(app.config_file)
        assert app.spawner_class
        app.authenticator_class(parent=app)
        status = 0
    except SystemExit:
        pass  # it has said why
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def ask(request: str) -> int:
    """Send ``request`` to the service, print its answer and return an exit status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SOCKET)
        connection.sendall(request.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")
    text, _, last = answer.rpartition("\n")
    print(text)
    return int(last != "done")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ask"]:
        sys.exit(ask(" ".join(sys.argv[2:])))
    # Imported modules stay, so garbage collection would be wasted on them: an eighth of the time.
    gc.disable()
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()  # the hubs share these pages of memory
    gc.enable()
    sys.exit(Service(sys.argv[1:]).run() % 256)
