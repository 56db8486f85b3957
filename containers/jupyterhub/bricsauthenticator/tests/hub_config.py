"""Configuration of the hub that the tests run."""

import os
import sys
from pathlib import Path

from constants import API_TOKEN, AUDIENCE, CULLER_TOKEN, PLATFORM, START_TIMEOUT
from jupyterhub.handlers import BaseHandler
from jupyterhub.proxy import Proxy

import bricsauthenticator.commands

bricsauthenticator.commands.RETRY_LIMIT = 0.2

c = get_config()  # noqa: F821

folder, port = os.environ["TEST_FOLDER"], os.environ["TEST_PORT"]
slurm = f"{sys.executable} {Path(__file__).parent}/fake_slurm.py {folder}/slurm"


class NoProxy(Proxy):
    """The tests talk to the hub itself."""

    should_start = False

    async def add_route(self, routespec, target, data):
        """Do nothing."""

    async def delete_route(self, routespec):
        """Fail as the proxy's API does while it restarts, if there is a file `no-proxy`."""
        if Path(folder, "slurm/no-proxy").exists():
            raise ConnectionRefusedError(111, "Connection refused")

    async def get_all_routes(self):
        """Have no routes."""
        return {}


class BrokenHandler(BaseHandler):
    """Answers 500, upon which JupyterHub logs the request's headers."""

    def get(self):
        """Fail."""
        raise RuntimeError(f"broken by {self.request.headers.get('X-Auth-Id-Token')}")


c.JupyterHub.authenticator_class = "brics"
c.JupyterHub.spawner_class = "brics"
c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.bind_url = "http://127.0.0.1:1/jupyter"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{port}"
c.JupyterHub.db_url = f"sqlite:///{folder}/jupyterhub.sqlite"
c.JupyterHub.upgrade_db = True
c.JupyterHub.cookie_secret_file = f"{folder}/cookie_secret"
c.JupyterHub.log_level = "DEBUG"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.init_spawners_timeout = 1
c.JupyterHub.allow_named_servers = True
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 2, "slow_stop_timeout": 0.2}
c.JupyterHub.extra_handlers = [("/broken", BrokenHandler)]
c.JupyterHub.services = [
    {"name": "test", "api_token": API_TOKEN},
    {"name": "idle-culler", "api_token": CULLER_TOKEN},
]
SCOPES = ["admin:servers", "admin:users", "tokens"]
c.JupyterHub.load_roles = [
    {"name": "test", "services": ["test"], "scopes": SCOPES},
    {"name": "idle-culler", "services": ["idle-culler"], "scopes": ["read:servers", "delete:servers"]},
]

c.BricsAuthenticator.oidc_server = os.environ["TEST_ISSUER"]
c.BricsAuthenticator.brics_platform = PLATFORM
c.BricsAuthenticator.jwt_audience = AUDIENCE
c.BricsAuthenticator.logout_redirect_url = "/jupyter/_oidc/sign_out?rd=/"

c.BricsSlurmSpawner.exec_prefix = "env FAKE_USER={username}"
c.BricsSlurmSpawner.batch_submit_cmd = f"{slurm} sbatch"
c.BricsSlurmSpawner.batch_query_cmd = f"{slurm} squeue"
c.BricsSlurmSpawner.batch_query_many_cmd = f"env FAKE_USER=nobody {slurm} squeue_many"
c.BricsSlurmSpawner.batch_cancel_cmd = f"{slurm} scancel"
c.BricsSlurmSpawner.startup_poll_interval = 0.1
c.BricsSlurmSpawner.poll_interval = 1
c.BricsSlurmSpawner.command_timeout = 15
c.BricsSlurmSpawner.start_timeout = START_TIMEOUT
c.BricsSlurmSpawner.http_timeout = int(os.environ.get("TEST_HTTP_TIMEOUT", "300"))  # 300: as a site has it
c.BricsSlurmSpawner.cmd = [sys.executable, f"{Path(__file__).parent}/fake_singleuser.py"]
c.BricsSlurmSpawner.batchspawner_singleuser_cmd = "exec"
c.BricsSlurmSpawner.environment = {"OWN": "it's", "LANG": "C.UTF-8"}
c.BricsSlurmSpawner.batch_script = """#!/bin/bash
# {{site_environment | replace("\\n", ", ")}}
#SBATCH --chdir={{homedir}}
#SBATCH --time={{runtime}}
{% if partition %}#SBATCH --partition={{partition}}
{% endif %}{{environment}}
{% if partition == "broken" %}exit 1
{% elif partition in ("waits", "limited") %}exec sleep 600
{% elif partition == "late" %}while [ ! -e {{folder}}/slurm/go-$JUPYTERHUB_SERVER_NAME ]; do sleep 0.05; done
{% endif %}{{cmd}}
""".replace("{{folder}}", folder)


# Jobs that the launcher starts, in the partitions whose names begin with `launched`; homes are in the folder.
launched = """#!/bin/bash
# partition={{partition}}
set -e
{{environment}}
{{launcher}}
launch "$0" {{folder}}/slurm{{homedir}} {% if "full" in partition %}/dev/full{% else %}.job-%j.log{% endif %} {{limit}}
echo activating in $PWD
{% if "late" in partition %}while [ ! -e {{folder}}/slurm/go-$JUPYTERHUB_SERVER_NAME ]; do sleep 0.05; done
{% endif %}{% if "broken" in partition %}echo '<b>'
nonsense
{% endif %}exec {{cmd}}
""".replace("{{folder}}", folder).replace("{{limit}}", str(START_TIMEOUT))


def choose_script(spawner):
    """Take the script that the partition is for."""
    if spawner.job_options.get("partition", "").startswith("launched"):
        spawner.batch_script = launched
    else:
        spawner.batch_script = c.BricsSlurmSpawner.batch_script
    if spawner.job_options.get("partition") == "limited":
        spawner.start_timeout = 3


c.BricsSlurmSpawner.pre_spawn_hook = choose_script
