"""The first process of a job. It runs on the compute node, as a part of the batch script, and runs the rest of that.

It asks the hub whether it knows this start, reserves a port for the server, tells the hub when the server listens
there, and what was wrong if it ends before. It needs nothing but Python, 3.8 or newer: the hub puts this file's text in
the script. Arguments: the batch script, the home folder, the log file (as for `sbatch --output`), the seconds in which
the hub must have answered, and how many minutes before the time limit JupyterLab is to warn (0: not at all).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

REQUEST_TIME = 10.0
"""Seconds for one request to the hub."""

LONGEST_PAUSE = 5.0
"""Seconds between two tries to reach the hub, or two questions whether the start has come to its end; at most."""

END_REPORT_TIME = 10.0
"""Seconds in which a job whose server has ended tells the hub so; it finds out by itself, too."""

REPORT_TIME = 60.0
"""Seconds in which the hub is told why the job ends."""

END_TIME = 10.0
"""Seconds that the server has to end before it is killed, where the hub doesn't know its start."""

REPORTED = 3000
"""Bytes of the log's end that the hub is told."""

FORWARDED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT}


NOTICE = """
(() => {
  const end = END, minutes = MINUTES;
  const activate = app => {
    const timer = setInterval(() => {
      if (Date.now() < end - minutes * 60000) return;
      clearInterval(timer);
      const at = new Date(end).toLocaleTimeString([], {hour: '2-digit', minute: '2-digit'});
      const message = `This session ends at ${at}, at its time limit. Save your work.`;
      app.commands.execute('apputils:notify', {message, type: 'warning', options: {autoClose: false}});
    }, 5000);
  };
  const plugin = {id: 'jupyterhub-time-limit:notice', autoStart: true, activate};
  window._JUPYTERLAB = window._JUPYTERLAB || {};
  const module = {__esModule: true, default: plugin};
  window._JUPYTERLAB['jupyterhub-time-limit'] = {init: () => {}, get: async () => () => module};
})();
"""
"""An extension of JupyterLab as its builder makes them, small enough to be written by hand."""


class UnknownStart(Exception):
    """The hub doesn't know this start (any more): nobody will ever see its server."""


class Hub:
    """The hub, asked with the server's token."""

    def __init__(self, seconds: float) -> None:
        self.url = urlsplit(os.environ["JUPYTERHUB_API_URL"])
        # To the hub a job that Slurm starts again is a server that runs, for which it waits without a limit.
        self.patience = float("inf") if int(os.environ.get("SLURM_RESTART_COUNT") or 0) else seconds
        self.deadline = time.monotonic() + self.patience

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send `body` until the hub has answered; UnknownStart if it says so, or is away for too long."""
        pause = 0.5
        while True:
            try:
                answer = self.ask_once(path, body)
                self.deadline = time.monotonic() + self.patience
                return answer
            except (OSError, http.client.HTTPException, ValueError) as error:
                if time.monotonic() > self.deadline:
                    raise UnknownStart(f"the hub can't be reached: {error}") from None
                say(f"The hub is not there yet, trying again: {error}")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def ask_once(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send `body` and return the answer; OSError if it isn't the hub's, UnknownStart if the hub refuses."""
        connection = self.connection()
        headers = {
            "Authorization": f"token {os.environ['JUPYTERHUB_API_TOKEN']}",
            "Content-Type": "application/json",
        }
        try:
            content = json.dumps({**body, "job": os.environ.get("SLURM_JOB_ID", "")})
            connection.request("POST", self.url.path.rstrip("/") + path, content, headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        # A proxy before a hub that starts says 404 as well.
        if response.status in (403, 404) and response.getheader("X-JupyterHub-Version"):
            raise UnknownStart(f"the hub says {response.status} {response.reason}")
        if not 200 <= response.status < 300:
            raise OSError(f"{response.status} {response.reason}")
        answer = json.loads(text)
        return answer if isinstance(answer, dict) else {}

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection, not yet open; with the certificates that JupyterHub's internal_ssl has made, if any."""
        host, port = self.url.hostname or "", self.url.port
        if self.url.scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=REQUEST_TIME)
        import ssl  # slow to import

        context = ssl.create_default_context(cafile=os.environ.get("JUPYTERHUB_SSL_CLIENT_CA") or None)
        if certificate := os.environ.get("JUPYTERHUB_SSL_CERTFILE"):
            context.load_cert_chain(certificate, os.environ.get("JUPYTERHUB_SSL_KEYFILE"))
        return http.client.HTTPSConnection(host, port, timeout=REQUEST_TIME, context=context)

    def fail(self, message: str) -> None:
        """Tell why the job ends, for the user to read."""
        say(message)
        self.tell("/batchspawner/failed", {"message": message}, REPORT_TIME)

    def tell(self, path: str, body: dict[str, Any], seconds: float) -> None:
        """Send `body` at the job's end, for so many seconds, and ignore the answer."""
        self.deadline = min(self.deadline, time.monotonic() + seconds)
        with contextlib.suppress(UnknownStart):
            self.ask(path, body)


def say(line: str) -> None:
    """Write `line` to the job's log file. A file system that is full must not keep the hub from being told."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="replace"))


def log_path(pattern: str) -> str:
    """Return the log file that sbatch would write for `pattern`."""
    job = os.environ.get("SLURM_JOB_ID", "")
    node = os.environ.get("SLURMD_NODENAME", "")
    known = {"j": job, "A": job, "J": job, "N": node, "u": os.environ.get("USER", ""), "%": "%"}
    known["x"] = os.environ.get("SLURM_JOB_NAME", "")
    return re.sub(r"%(\d*)([jAJNux%])", lambda match: known[match[2]].zfill(int(match[1] or 0)), pattern)


def open_log(home: str, pattern: str) -> tuple[int, int]:
    """Go home, let standard output and error go to the log file, and return its descriptor and its size until now.

    Raises OSError, whose file name is the folder or file that is in the way.
    """
    os.chdir(home)
    log = os.open(log_path(pattern), os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    return log, os.fstat(log).st_size


def last_lines(log: int, start: int) -> str:
    """Return the last lines of the log file after its first `start` bytes."""
    try:
        end = os.fstat(log).st_size
        text = os.pread(log, REPORTED, max(start, end - REPORTED))
    except OSError:  # no regular file
        return ""
    return text.decode(errors="replace").strip()


def log_trouble(log: int) -> str:
    """Return why the log file can't be written to, such as a full home or quota; empty if it can."""
    try:
        os.write(log, b"\n")
    except OSError as error:
        return f"Its log file can't be written to: {error.strerror}."
    return ""


def reserve() -> socket.socket:
    """Return a socket whose port the system gives to nobody else. A program that asks for just that port gets it."""
    reserved = socket.socket()
    reserved.bind(("", 0))
    # Not before: some kernels choose a port that is in use for a socket which may share it.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return reserved


def listens(host: str, port: int) -> bool:
    """Return whether a process of this user listens at the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((host, port)):
            return False
    return os.getuid() in list(listeners(port)) or not os.path.exists("/proc/net/tcp")


def listeners(port: int) -> Iterator[int]:
    """Yield the user ids of the processes that listen at the port."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as lines:
                for line in lines:
                    fields = line.split()
                    if fields[3] == "0A" and fields[1].endswith(f":{port:04X}"):
                        yield int(fields[7])
        except OSError:
            pass


def write_notice(folder: str, minutes: str) -> None:
    """Write into `folder`, which JUPYTER_PATH names, an extension that warns so long before the job's end."""
    end = int(os.environ["SLURM_JOB_END_TIME"])
    extension = f"{folder}/labextensions/jupyterhub-time-limit"
    script = f"static/remoteEntry.{end}.js"  # browsers keep it
    build = {"load": script, "extension": "./extension"}
    package = {"name": "jupyterhub-time-limit", "version": "1.0.0", "jupyterlab": {"extension": True, "_build": build}}
    os.makedirs(f"{extension}/static")
    with open(f"{extension}/package.json", "w") as file:
        json.dump(package, file)
    with open(f"{extension}/{script}", "w") as file:
        file.write(NOTICE.replace("END", str(end * 1000)).replace("MINUTES", minutes))


@contextlib.contextmanager
def notice(minutes: str) -> Iterator[None]:
    """Let JupyterLab warn `minutes` before the job's end while the block runs; Slurm tells that end from 22.05 on."""
    with contextlib.ExitStack() as stack:
        if float(minutes) and os.environ.get("SLURM_JOB_END_TIME"):
            import tempfile  # slow to import

            with contextlib.suppress(OSError):  # a server without it is better than none
                folder = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix=f"jupyterhub-job-{os.environ.get('SLURM_JOB_ID', '')}-")
                )
                write_notice(folder, minutes)
                os.environ["JUPYTER_PATH"] = ":".join(filter(None, [folder, os.environ.get("JUPYTER_PATH")]))
        yield


class Server:
    """The rest of the batch script, with the server in it."""

    def __init__(self, script: str, port: int) -> None:
        url = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
        address = url.hostname or "0.0.0.0"
        self.port, self.host = port, "127.0.0.1" if address in ("0.0.0.0", "::") else address
        netloc = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        environment = {**os.environ, "JUPYTERHUB_LAUNCHED": url._replace(netloc=netloc).geturl()}
        self.signals = {signal.SIGCHLD, *FORWARDED}
        signal.pthread_sigmask(signal.SIG_BLOCK, self.signals)
        self.process = os.posix_spawn(
            "/bin/bash", ["bash", script], environment, setsigmask=[], setsigdef=[signal.SIGPIPE, signal.SIGXFSZ]
        )

    def watch(self, hub: Hub) -> tuple[int, bool]:
        """Return exit status of the process when it has ended, and whether the start was at its end by then.

        UnknownStart if the hub has given the start up.
        """
        listening, settled, since = False, False, time.monotonic()
        while True:
            # Seldom where it takes long: a hundred of us may be on one node.
            pause = LONGEST_PAUSE if listening else min(max((time.monotonic() - since) / 20, 0.05), 0.5)
            status = self.ended(None if settled else pause)
            if status is not None:
                return status, settled
            listening = listening or listens(self.host, self.port)
            if listening and not settled:
                settled = not hub.ask("/batchspawner", {"port": self.port}).get("pending")

    def ended(self, seconds: float | None) -> int | None:
        """Wait for the process's end, for so many seconds if not None, and return its exit status once it has ended.

        Signals are handed on to it.
        """
        info = signal.sigwaitinfo(self.signals) if seconds is None else signal.sigtimedwait(self.signals, seconds)
        if info is not None and info.si_signo != signal.SIGCHLD:
            os.kill(self.process, info.si_signo)
        process, status = os.waitpid(self.process, os.WNOHANG)
        if not process:
            return None
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)

    def end(self) -> None:
        """End the process."""
        deadline = time.monotonic() + END_TIME
        os.kill(self.process, signal.SIGTERM)
        while self.ended(0.1) is None:
            if time.monotonic() > deadline:
                os.kill(self.process, signal.SIGKILL)


def main(script: str, home: str, pattern: str, seconds: str, minutes: str = "0") -> NoReturn:
    """Run the rest of `script`; exits as it does."""
    hub, server, script = Hub(float(seconds)), None, os.path.abspath(script)
    try:
        hub.ask("/batchspawner/running", {})
        try:
            log, start = open_log(home, pattern)
        except OSError as error:
            hub.fail(f"The job can't write its log file: {error.filename}: {error.strerror}")
            sys.exit(1)
        reserved = reserve()
        with notice(minutes):
            server = Server(script, reserved.getsockname()[1])
            status, settled = server.watch(hub)
        if settled:
            # The hub sends the user's requests to this port until it knows better: nobody else listens there before.
            with contextlib.suppress(OSError):
                reserved.listen()
            hub.tell("/batchspawner/ended", {}, END_REPORT_TIME)
        else:
            said = [f"The server ended with exit status {status}.", log_trouble(log), last_lines(log, start)]
            hub.fail("\n".join(filter(None, said)))
        sys.exit(status)
    except UnknownStart as error:
        say(f"Ending this job: {error}")
        if server:
            server.end()
        sys.exit(1)


main(*sys.argv[1:])
