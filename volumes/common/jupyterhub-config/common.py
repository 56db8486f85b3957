"""The hub's configuration that every environment shares, made from the deployment's DEPLOY_CONFIG_* variables.

An environment's own jupyterhub_config.py loads this file and then sets what differs.
"""

import os
from functools import partialmethod
from urllib.parse import urlsplit

from tornado.httpserver import HTTPServer

c = get_config()  # from JupyterHub's configuration loader


def setting(name: str, default: str = "") -> str:
    """Return the deployment's setting ``name``; ``default`` where it is not set or empty."""
    return os.environ.get(f"DEPLOY_CONFIG_{name}") or default


# The hub itself. The proxy is a service of its own beside it, and users' servers are jobs elsewhere: both outlive it.
c.JupyterHub.log_level = setting("LOG_LEVEL", "INFO")
c.JupyterHub.base_url = setting("BASE_URL", "/jupyter")
c.JupyterHub.db_url = "sqlite:////var/lib/jupyterhub/jupyterhub.sqlite"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.allow_named_servers = setting("NAMED_SERVERS") == "true"
c.JupyterHub.cookie_max_age_days = float(setting("COOKIE_MAX_AGE_DAYS", "14"))

# Where servers call back to. Off this host's loopback only if they are told to look elsewhere; the proxy beside it
# finds the hub there in any case.
c.Spawner.hub_connect_url = setting("HUB_CONNECT_URL", "http://127.0.0.1:8081")
if urlsplit(c.Spawner.hub_connect_url).hostname not in ("127.0.0.1", "localhost"):
    c.JupyterHub.hub_ip = "0.0.0.0"
    c.JupyterHub.hub_connect_ip = "127.0.0.1"

# The page that shows a start's progress comes at once, not after 10 s of waiting for the server; and the hub answers
# before it has asked Slurm about each server it remembers.
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
c.JupyterHub.init_spawners_timeout = 1

# The proxy turns away headers over 64 KiB. Tornado's own limit is the same, counts the names' punctuation as well and
# closes the connection without an answer, so here the hub takes all that the proxy lets through.
HTTPServer.initialize = partialmethod(HTTPServer.initialize, max_header_size=128 * 1024)

# Who may log in is the identity provider's to say: whoever has a token with a project on this platform.
c.JupyterHub.authenticator_class = "brics"
c.Authenticator.allow_all = True
c.Authenticator.enable_auth_state = True
c.Authenticator.admin_users = {name.strip() for name in setting("ADMIN_USERS").split(",") if name.strip()}
c.BricsAuthenticator.oidc_server = setting("OIDC_SERVER")
c.BricsAuthenticator.brics_platform = setting("BRICS_PLATFORM")
c.BricsAuthenticator.jwt_audience = setting("JWT_AUDIENCE")

# Servers are Slurm jobs. The connection's details (key, known hosts, port, environment) are in ssh_config.
c.JupyterHub.spawner_class = "brics"
wrappers = setting("SLURMSPAWNER_WRAPPERS_BIN", "/opt/slurmspawner_wrappers/bin")
remote = f"ssh jupyterspawner@{setting('SSH_HOSTNAME', 'slurm')}"
c.BricsSlurmSpawner.exec_prefix = f"{remote} sudo -u {{username}}"
c.BricsSlurmSpawner.batch_submit_cmd = f"{wrappers}/slurmspawner_sbatch"
job = "SLURMSPAWNER_JOB_ID={job_id}"  # sudo's to set; a SlurmSpawner of another source doesn't
c.BricsSlurmSpawner.batch_query_cmd = f"{job} {wrappers}/slurmspawner_squeue"
c.BricsSlurmSpawner.batch_cancel_cmd = f"{job} {wrappers}/slurmspawner_scancel"
if account := setting("QUERY_MANY_AS"):
    c.BricsSlurmSpawner.batch_query_many_cmd = f"{remote} sudo -n -u {account} {wrappers}/slurmspawner_squeue_many"
c.BricsSlurmSpawner.cmd = ["jupyterhub-singleuser"]
c.BricsSlurmSpawner.gres_enabled = int(setting("GPUS_PER_NODE", "0")) > 0

# A person waits for a server that starts; one that runs is asked for seldom.
c.BricsSlurmSpawner.startup_poll_interval = float(setting("START_POLL_INTERVAL", "1"))
c.BricsSlurmSpawner.poll_interval = int(setting("POLL_INTERVAL", "30"))
c.BricsSlurmSpawner.start_timeout = 300
# From the job's start until its server answers: of 50 that start at once on two busy cores the last take 70 s.
c.BricsSlurmSpawner.http_timeout = 300

# sbatch expands %j, but no ~ and no variable. Slurm 25.05 refuses --get-user-env, so it is left out.
job_log = setting("JOB_LOG", "~/.jupyterhub-%j.log").replace("~/", "{{homedir}}/", 1)
prefix = setting("CONDA_PREFIX_DIR", "/opt/jupyter")
jupyter_data_dir = setting("JUPYTER_DATA_DIR", f"{prefix}/share/jupyter")
c.BricsSlurmSpawner.batch_script = f"""\
#!/bin/bash
#SBATCH --job-name=jupyterhub
#SBATCH --chdir={{{{homedir}}}}
#SBATCH --output={job_log}
#SBATCH --open-mode=append
#SBATCH --export={{{{keepvars}}}}
#SBATCH --time={{{{runtime}}}}
{{% if partition %}}#SBATCH --partition={{{{partition}}}}
{{% endif %}}{{% if reservation %}}#SBATCH --reservation={{{{reservation}}}}
{{% endif %}}{{% if gres %}}#SBATCH --gres={{{{gres}}}}
{{% endif %}}
set -euo pipefail
source {prefix}/bin/activate jupyter-user-env
export JUPYTER_PATH={jupyter_data_dir}${{JUPYTER_PATH:+:$JUPYTER_PATH}}
exec {{{{cmd}}}}
"""
