"""A site's own configuration, of the kind that deployments had before: it knows the pod by its variables alone."""

import os
import secrets

import batchspawner  # noqa: F401  registers the handler that servers tell their port to
from bricsauthenticator import BricsAuthenticator, BricsSlurmSpawner, __version__

c = get_config()

srv_dir = os.environ["JUPYTERHUB_SRV_DIR"]
wrappers_bin = os.environ["DEPLOY_CONFIG_SLURMSPAWNER_WRAPPERS_BIN"]
ssh_options = f"-i {srv_dir}/ssh_key -o 'SendEnv JUPYTERHUB_* JPY_API_TOKEN USER HOME SHELL'"


class DummyBricsAuthenticator(BricsAuthenticator):
    """BricsAuthenticator with the hub's own log-in form: a password, and the projects of the first dev user."""

    auto_login = False

    def get_handlers(self, app):
        """Return no pages of its own: the hub's are used."""
        return []

    async def authenticate(self, handler, data):
        """Return the first dev user with all projects if the name and the password are right."""
        if not secrets.compare_digest(data["password"], os.environ["DEPLOY_CONFIG_DUMMYAUTH_PASSWORD"]):
            return None
        accounts = os.environ["DEPLOY_CONFIG_DEV_USERS"].split()
        name = accounts[0].split(".")[0]
        if data["username"] != name:
            return None
        projects = {
            f"{account.split('.')[1]}.portal": {"name": account, "username": account}
            for account in accounts
            if account.startswith(f"{name}.")
        }
        return {"name": name, "auth_state": projects}


c.JupyterHub.log_level = os.environ["DEPLOY_CONFIG_LOG_LEVEL"]
c.JupyterHub.bind_url = f"http://:8000{os.environ['DEPLOY_CONFIG_BASE_URL']}"
c.JupyterHub.hub_ip = "0.0.0.0"
c.JupyterHub.hub_connect_url = os.environ["DEPLOY_CONFIG_HUB_CONNECT_URL"]
c.JupyterHub.template_vars = {"announcement": f"bricsauthenticator {__version__}"}

c.JupyterHub.authenticator_class = DummyBricsAuthenticator
c.Authenticator.enable_auth_state = True
c.Authenticator.allow_all = True
c.BricsAuthenticator.oidc_server = os.environ["DEPLOY_CONFIG_OIDC_SERVER"]
c.BricsAuthenticator.brics_platform = os.environ["DEPLOY_CONFIG_BRICS_PLATFORM"]
c.BricsAuthenticator.jwt_audience = os.environ["DEPLOY_CONFIG_JWT_AUDIENCE"]

c.JupyterHub.spawner_class = BricsSlurmSpawner
c.BatchSpawnerBase.exec_prefix = (
    f"ssh {ssh_options} jupyterspawner@{os.environ['DEPLOY_CONFIG_SSH_HOSTNAME']} sudo -u {{username}}"
)
# Each variable as NAME=VALUE of sudo's, with quotes for the shell at the other end.
given = """{% for name in keepvars.split(',') %}{{name}}="'${{name}}'" {% endfor %}"""
c.SlurmSpawner.batch_submit_cmd = f"{given}{wrappers_bin}/slurmspawner_sbatch"
c.SlurmSpawner.batch_query_cmd = f"SLURMSPAWNER_JOB_ID={{job_id}} {wrappers_bin}/slurmspawner_squeue"
c.SlurmSpawner.batch_cancel_cmd = f"SLURMSPAWNER_JOB_ID={{job_id}} {wrappers_bin}/slurmspawner_scancel"
c.BatchSpawnerBase.batch_script = f"""#!/bin/bash
#SBATCH --output={{{{homedir}}}}/jupyterhub_slurmspawner_%j.log
#SBATCH --job-name=spawner-jupyterhub
#SBATCH --chdir={{{{homedir}}}}
#SBATCH --export={{{{keepvars}}}}
#SBATCH --get-user-env=L
#SBATCH --time={{{{runtime}}}}
{{% if partition %}}#SBATCH --partition={{{{partition}}}}{{% endif %}}
set -euo pipefail
trap 'echo SIGTERM received' TERM
source {os.environ["DEPLOY_CONFIG_CONDA_PREFIX_DIR"]}/bin/activate jupyter-user-env
export JUPYTER_PATH={os.environ["DEPLOY_CONFIG_JUPYTER_DATA_DIR"]}${{JUPYTER_PATH:+:}}${{JUPYTER_PATH:-}}
{{{{cmd}}}}
echo "jupyterhub-singleuser ended gracefully"
"""
