"""The hub's configuration that every environment shares, made from the deployment's DEPLOY_CONFIG_* variables.

An environment's own jupyterhub_config.py loads this file and then sets what differs.
"""

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import sys
from functools import partialmethod
from pathlib import Path
from urllib.parse import unquote, urlsplit

from jupyterhub.objects import Hub
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.web import Application, ErrorHandler, RequestHandler, stream_request_body

LOWEST_PORT = "/proc/sys/net/ipv4/ip_unprivileged_port_start"  # lowest port that jobs can listen on

c = get_config()  # from JupyterHub's configuration loader


def setting(name: str, default: str = "") -> str:
    """Return the deployment's setting ``name``; ``default`` where it is not set or empty."""
    return os.environ.get(f"DEPLOY_CONFIG_{name}") or default


# The hub. The proxy is a service of its own and users' servers are jobs, so both outlive the hub's process.
c.JupyterHub.log_level = setting("LOG_LEVEL", "INFO")
c.JupyterHub.base_url = setting("BASE_URL", "/jupyter")
# The URL at which people find the hub. With https the cookies of hub and servers are Secure.
if url := setting("EXTERNAL_URL"):
    c.JupyterHub.public_url = f"{url}{c.JupyterHub.base_url}"
c.JupyterHub.subdomain_host = setting("SUBDOMAIN_HOST")
c.JupyterHub.db_url = "sqlite:////var/lib/jupyterhub/jupyterhub.sqlite"
# That of a kept volume, if JupyterHub is newer; a copy of the old one stays beside it.
c.JupyterHub.upgrade_db = True
c.JupyterHub.cleanup_servers = False
c.JupyterHub.allow_named_servers = setting("NAMED_SERVERS") == "true"
c.JupyterHub.cookie_max_age_days = float(setting("COOKIE_MAX_AGE_DAYS", "14"))
# The name of the log-in's cookie, for which JupyterHub has no setting. Browsers send a host's cookies to all its ports.
Hub.cookie_name = setting("HUB_COOKIE", Hub.cookie_name)

# A job that waits in Slurm's queue costs the hub nothing, so starts are not counted.
c.JupyterHub.concurrent_spawn_limit = 0


MOST_LOGGED = 4_000  # characters of a line


def escaped(character: re.Match[str]) -> str:
    """Return a character as it is, or escaped if a terminal would obey it."""
    return character[0] if character[0].isprintable() else character[0].encode("unicode_escape").decode()


def tame(record: logging.LogRecord) -> bool:
    """Shorten a long message, escape control characters and indent further lines.

    Anybody can send 20 MB, and what they send must not look like a line of the hub's.
    """
    message = record.getMessage()
    if len(message) > MOST_LOGGED:
        message = f"{message[:MOST_LOGGED]}... ({len(message)} characters)"
    message = message.replace(PROXIED, "[secret]")  # JupyterHub logs a request's headers if it ends in a 500
    record.msg, record.args = re.sub(r"[^\n\t -~]", escaped, message).replace("\n", "\n    "), ()
    return True


c.JupyterHub.logging_config = {
    "filters": {"tame": {"()": lambda: tame}},
    "handlers": {"console": {"filters": ["tame"]}},
}

# Where servers call the hub. It listens beyond loopback only if that is another host; the proxy always uses loopback.
c.Spawner.hub_connect_url = setting("HUB_CONNECT_URL", "http://127.0.0.1:8081")
if urlsplit(c.Spawner.hub_connect_url).hostname not in ("127.0.0.1", "localhost", "::1"):
    c.JupyterHub.hub_ip = "0.0.0.0"
    c.JupyterHub.hub_connect_ip = "127.0.0.1"
else:
    # Jobs are in this network. Told its own port as a server's, the proxy would send itself each request.
    c.BricsSlurmSpawner.lowest_port = max(1, int(Path(LOWEST_PORT).read_text()))

# Show the progress page at once, not after 10 s of waiting for the server. After a restart, answer requests before
# Slurm has been asked about each server.
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0, "headers": {"X-Content-Type-Options": "nosniff"}}
if setting("EXTERNAL_URL").startswith("https:"):  # the cookie `_xsrf` too, for which public_url does nothing
    c.JupyterHub.tornado_settings["cookie_options"] = {"secure": True}
c.JupyterHub.init_spawners_timeout = 1

# The proxy refuses headers over 64 KiB. Tornado's limit is the same but counts the punctuation as well, and it closes
# the connection without an answer, so the hub accepts everything that the proxy lets through.
HTTPServer.initialize = partialmethod(HTTPServer.initialize, max_header_size=128 * 1024)

# Requests that bypass the proxy, as those of servers do, reach the API only: no page to log in at.
# Without CONFIGPROXY_AUTH_TOKEN no request counts as the proxy's.
proxy_token = os.environ.get("CONFIGPROXY_AUTH_TOKEN") or secrets.token_hex()
PROXIED = hashlib.sha256(f"proxied {proxy_token}".encode()).hexdigest()
SHORT = re.compile("[0-9]{0,6}")  # Content-Length of a body that is read
OPEN = re.compile(rf"{re.escape(c.JupyterHub.base_url.rstrip('/'))}/hub/(api(/.*)?|health)")


@stream_request_body
class TooLong(RequestHandler):
    """413 to any request, whose body is read, so that the answer arrives, and not kept: strangers can send 100 MB."""

    def check_xsrf_cookie(self) -> None:
        """Accept the request: it is refused anyway."""

    def data_received(self, chunk: bytes) -> None:
        """Discard a piece of the body."""

    def refuse(self) -> None:
        """Answer once the body has ended."""
        self.send_error(413)

    get = head = post = put = patch = delete = options = refuse


def find_handler(app: Application, request: HTTPServerRequest, find=Application.find_handler, **more):
    """Return the handler of ``request``: 404 for one that bypassed the proxy, unless it is for the API.

    And 400 for a path with control characters: a server's name is part of lines in the log. 413 for 1 MB and more (the
    end, if no length was said): JupyterHub takes 100 MB, and keeps a server's options in its database as sent.
    """
    if "Transfer-Encoding" in request.headers:
        request.connection.set_max_body_size(1_000_000)
    if not SHORT.fullmatch(request.headers.get("Content-Length", "")):
        return app.get_handler_delegate(request, TooLong)
    if not unquote(request.path).isprintable():
        return app.get_handler_delegate(request, ErrorHandler, {"status_code": 400})
    proxied = hmac.compare_digest(request.headers.get("X-Jupyterhub-Proxied", ""), PROXIED)
    if proxied or OPEN.fullmatch(request.path):
        return find(app, request, **more)
    return app.get_handler_delegate(request, ErrorHandler, {"status_code": 404})


Application.find_handler = find_handler

# The identity provider decides who may log in: everybody whose token has a project on this platform. allow_all is set
# here for packages of other sources too. A site that sets c.Authenticator.allowed_users sets it to False.
c.JupyterHub.authenticator_class = "brics"
c.Authenticator.allow_all = True
c.Authenticator.enable_auth_state = True
# A list of administrators decides at each start, also an empty one (","). c.Authenticator.admin_users would only add
# some: who was taken off it would stay one.
c.JupyterHub.load_roles = []
if admins := setting("ADMIN_USERS"):
    c.JupyterHub.load_roles += [{"name": "admin", "users": [name for name in admins.split(",") if name]}]
c.BricsAuthenticator.oidc_server = setting("OIDC_SERVER")
c.BricsAuthenticator.brics_platform = setting("BRICS_PLATFORM")
c.BricsAuthenticator.jwt_audience = setting("JWT_AUDIENCE")
if url := setting("LOGOUT_REDIRECT_URL"):
    c.BricsAuthenticator.logout_redirect_url = url
if setting("INVALID_JWT_LOGOUT") == "true":
    c.BricsAuthenticator.invalid_jwt_logout = True
if proxy := setting("OIDC_PROXY"):
    c.BricsAuthenticator.oidc_proxy = proxy
if azp := setting("JWT_AZP"):
    c.BricsAuthenticator.jwt_azp = azp
if setting("MATCH_USERNAME") == "false":
    c.BricsAuthenticator.match_username = False

# Servers are Slurm jobs. The connection's details (key, known hosts, port, environment) are in ssh_config.
c.JupyterHub.spawner_class = "brics"
wrappers = setting("SLURMSPAWNER_WRAPPERS_BIN", "/opt/slurmspawner_wrappers/bin")
remote = f"ssh jupyterspawner@{setting('SSH_HOSTNAME', 'slurm')}"
c.BricsSlurmSpawner.exec_prefix = f"{remote} sudo -u {{username}}"
c.BricsSlurmSpawner.batch_submit_cmd = f"{wrappers}/slurmspawner_sbatch"
job = "SLURMSPAWNER_JOB_ID={job_id}"  # set by sudo; a SlurmSpawner of another source doesn't fill it in
c.BricsSlurmSpawner.batch_query_cmd = f"{job} {wrappers}/slurmspawner_squeue"
c.BricsSlurmSpawner.batch_cancel_cmd = f"{job} {wrappers}/slurmspawner_scancel"
if account := setting("QUERY_MANY_AS"):
    c.BricsSlurmSpawner.batch_query_many_cmd = (
        f"{remote} sudo -n -u {account} {wrappers}/slurmspawner_squeue_many"
    )
c.BricsSlurmSpawner.cmd = ["jupyterhub-singleuser"]
# Seconds for which a server remembers that a browser is logged in: a log-out takes effect after at most this time.
c.BricsSlurmSpawner.args = ["--HubOAuth.cache_max_age=20"]
if setting("EXTERNAL_URL").startswith("https:"):  # servers' cookie `_xsrf`, as above; for the script's shell
    c.BricsSlurmSpawner.args += ["--ServerApp.tornado_settings=\"{'xsrf_cookie_kwargs': {'secure': True}}\""]
c.BricsSlurmSpawner.form_choices = json.loads(setting("FORM", "{}"))
c.BricsSlurmSpawner.gres_enabled = setting("REQUEST_GPUS") == "true"

# A service of the hub stops servers that nobody uses. Its role allows that, and to see whether kernels compute.
if idle_timeout := int(setting("IDLE_TIMEOUT", "0")):
    culler = [sys.executable, "-m", "jupyterhub_idle_culler", f"--timeout={idle_timeout}"]
    # The first look waits until the hub has learnt from the proxy, asked every 3 s, of use while it was away.
    culler = ["sh", "-c", 'sleep 15; exec "$@"', "sh", *culler]
    culler = ["setpriv", "--pdeathsig=TERM", *culler]  # else it outlives a hub that is killed
    # Not by append(): load_subconfig would append it twice.
    c.JupyterHub.services = [{"name": "idle-culler", "command": culler}]
    scopes = ["list:users", "read:users:activity", "read:servers", "access:servers", "delete:servers"]
    c.JupyterHub.load_roles += [{"name": "idle-culler", "services": ["idle-culler"], "scopes": scopes}]

# A person waits for a server that starts, so it is polled more often than one that runs.
c.BricsSlurmSpawner.startup_poll_interval = float(setting("START_POLL_INTERVAL", "1"))
c.BricsSlurmSpawner.poll_interval = int(setting("POLL_INTERVAL", "30"))
c.BricsSlurmSpawner.commands_at_once = int(setting("COMMANDS_AT_ONCE", "8"))
c.BricsSlurmSpawner.start_timeout = int(setting("START_TIMEOUT", "300"))
c.BricsSlurmSpawner.http_timeout = int(setting("HTTP_TIMEOUT", "300"))

# The server's variables come to the job by SSH, sudo and sbatch; those of c.Spawner.environment, whose names none of
# the three expects, come in the script. Where nothing may pass, all do: sbatch reads the script from standard input.
# A SlurmSpawner of another source doesn't know `environment`.
#
# Only ALL and NIL start jobs on every Slurm: for NONE or a list of names slurmd runs a login shell, and in a container
# without privileges 26.05 dies of that. With NIL, /etc/profile takes the place of that shell.
# With ALL the script drops what else sudo or sshd have let through: what is kept is Slurm's, or named by the spawner.
exported = """\
if [ -z "${JUPYTERHUB_LAUNCHED-}" ]; then
    for name in $(compgen -e); do
        case ,{{keepvars}}, in *,"$name",*) continue ;; esac
        case $name in
            SLURM*|JUPYTERHUB_*|CUDA_*|ROCR_*|GPU_*|ZE_*|HYDRA_*|I_MPI_*|OMPI_*|PRTE_*) ;;
            TMPDIR|PATH|HOME|USER|LOGNAME|SHELL|LANG|PWD|SHLVL) ;;
            *) unset "$name" ;;
        esac
    done
fi
{{site_environment}}"""
in_script = """\
[ -n "${JUPYTERHUB_LAUNCHED-}" ] || [ ! -r /etc/profile ] || . /etc/profile
export PATH
{{environment}}"""
variables, export = exported, "ALL"
if setting("ENVIRONMENT_IN_SCRIPT") == "true":
    variables = f"{{% if environment %}}{in_script}{{% else %}}{exported}{{% endif %}}"
    export = "{% if environment %}NIL{% else %}ALL{% endif %}"

# The server isn't started by srun, unless the site wants that.
c.SlurmSpawner.req_srun = ""

# In the package's `launcher` the job tells the hub that it runs and why it fails, and keeps a port for its server. It
# runs the script anew from there on, and writes the log itself: where Slurm can't, it lets the job fail without a word.
# A SlurmSpawner of another source has none.
#
# sbatch expands %j, but no ~ and no variable. Slurm 25.05 refuses --get-user-env, so it is left out. What a site wants
# of every job it says as with any SlurmSpawner (c.SlurmSpawner.req_memory, …). SLURM_EXPORT_ENV would keep the job's
# variables from what srun starts in it.
job_log = setting("JOB_LOG", "~/.jupyterhub-%j.log").replace("~/", "{{homedir}}/", 1)
prefix = setting("CONDA_PREFIX_DIR", "/opt/jupyter")
jupyter_data_dir = setting("JUPYTER_DATA_DIR", f"{prefix}/share/jupyter")
# --gpus: where memory and CPUs follow the number of GPUs. Neither line where none is asked for.
gpus = '("gres", gres)'
if setting("GPU_OPTION") == "gpus":
    gpus = '("gpus", ngpus if gres)'
nodes = f"#SBATCH --nodes={count}\n" if (count := setting("JOB_NODES")) else ""
c.BricsSlurmSpawner.batch_script = f"""\
#!/bin/bash
#SBATCH --job-name=jupyterhub
{{% if launcher %}}#SBATCH --chdir=/
#SBATCH --output=/dev/null
{{% else %}}#SBATCH --chdir={{{{homedir}}}}
#SBATCH --output={job_log}
#SBATCH --open-mode=append
{{% endif %}}\
#SBATCH --export={export}
{nodes}#SBATCH --time={{{{runtime}}}}
{{% for option, value in [
    ("partition", partition), ("reservation", reservation), {gpus}, ("cpus-per-task", nprocs), ("mem", memory),
    ("account", account), ("qos", qos),
] if value %}}#SBATCH --{{{{option}}}}={{{{value}}}}
{{% endfor %}}{{% if options %}}#SBATCH {{{{options}}}}
{{% endif %}}
unset SLURM_EXPORT_ENV
{variables}
{{% if launcher %}}{{{{launcher}}}}
python={prefix}/envs/jupyter-user-env/bin/python3
[ -x "$python" ] || python=python3
launch "$0" {{{{homedir}}}} {job_log} {setting("START_TIMEOUT", "300")} {setting("WARN_MINUTES", "0")}
{{% endif %}}\
source {prefix}/bin/activate jupyter-user-env || exit
set -eo pipefail  # not before: commands in a site's /etc/profile and in activation scripts may fail
export JUPYTER_PATH={jupyter_data_dir}${{JUPYTER_PATH:+:$JUPYTER_PATH}}
{{{{prologue}}}}
{{% if epilogue %}}trap 'echo SIGTERM received' TERM
{{{{srun}}}} {{{{cmd}}}}
{{{{epilogue}}}}
{{% else %}}exec {{{{srun}}}} {{{{cmd}}}}
{{% endif %}}"""
