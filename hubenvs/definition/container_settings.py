"""The environment variables of the containers, ``DEPLOY_CONFIG_…``: the ConfigMap's data."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from .containers import TUNNEL
from .environment import Environment


def container_settings(env: Environment) -> dict[str, str]:
    """Return the variables of every container of ``env`` by name."""
    auth, hub, slurm, gateway = env.auth, env.hub, env.slurm, env.publish["gateway"]
    values = {
        "LOG_LEVEL": env.log_level,
        "BASE_URL": env.base_url,
        "EXTERNAL_URL": hub.external_url,
        "SUBDOMAIN_HOST": hub.subdomain_host,
        "DEV_USERS": "\n".join(dev_user.account for dev_user in env.dev_users),
        "SSH_HOSTNAME": slurm.ssh_hostname,
        "SSH_PORT": slurm.ssh_port,
        "SLURMSPAWNER_WRAPPERS_BIN": slurm.wrappers_bin,
        "QUERY_MANY_AS": slurm.query_many_as,
        "CONDA_PREFIX_DIR": slurm.env_prefix,
        "JUPYTER_DATA_DIR": slurm.jupyter_data_dir,
        "HUB_CONNECT_URL": slurm.hub_connect_url,
        "OIDC_SERVER": env.issuer,
        "OIDC_PROXY": auth.proxy,
        "PROVIDER_ASKS": auth.provider_password,
        "GATEWAY_URL": gateway and f"http://{gateway}",
        "TOKEN_LIFETIME": auth.token_lifetime,
        "BRICS_PLATFORM": auth.platform,
        "BRICS_PORTAL": auth.portal,
        "JWT_AUDIENCE": auth.audience,
        "JWT_AZP": auth.azp,
        "MATCH_USERNAME": auth.match_username,
        "AUTH_USER": auth.user,
        "LOGOUT_REDIRECT_URL": auth.logout_redirect_url or _sign_out_behind_the_tunnel(env),
        "INVALID_JWT_LOGOUT": auth.invalid_jwt_logout,
        "START_POLL_INTERVAL": hub.start_poll_interval,
        "POLL_INTERVAL": hub.poll_interval,
        "COMMANDS_AT_ONCE": hub.commands_at_once,
        "IDLE_TIMEOUT": hub.idle_timeout,
        "WARN_MINUTES": hub.warn_minutes,
        "START_TIMEOUT": hub.start_timeout,
        "HTTP_TIMEOUT": hub.http_timeout,
        "ADMIN_USERS": None if hub.admin_users is None else ",".join(hub.admin_users) or ",",
        "COOKIE_MAX_AGE_DAYS": hub.cookie_max_age_days,
        # A browser sends a host's cookies to all its ports, so each hub on a host needs another name.
        "HUB_COOKIE": f"jupyterhub-hub-login-{env.pod}",
        "NAMED_SERVERS": hub.named_servers,
        "REQUEST_GPUS": _either(hub.request_gpus, slurm.gpus_per_node > 0),
        "FORM": _form(env),
        "GPU_OPTION": hub.gpu_option,
        "JOB_NODES": hub.job_nodes,
        "PROXY_ADDRESS": env.proxy_address,
        "JOB_LOG": hub.job_log,
        "ENVIRONMENT_IN_SCRIPT": _either(slurm.environment_in_script, env.slurm_elsewhere),
        "SLURM_NODES": slurm.nodes,
        "SLURM_MAX_PROCESSES": slurm.max_processes,
        # All accounts of the host reach a rootful pod's address: Slurm listens on loopback, unless it serves
        # a hub elsewhere. In a cluster the network policy guards its ports, and probes have to reach them.
        "SLURM_ADDRESS": "127.0.0.1" if "jupyterhub" in env.containers else "",
        "ZENITH_SERVER_ADDRESS": env.zenith.server_address,
        "ZENITH_SERVER_PORT": env.zenith.server_port,
    }
    return {f"DEPLOY_CONFIG_{key}": _text(value) for key, value in values.items()}


def _form(env: Environment) -> str:
    """Return the spawn form's choices as JSON; null means the partitions and reservations of our Slurm."""
    form, declared = env.hub.form, env.slurm if "slurm" in env.containers else None
    choices = form.model_dump(mode="json")
    if declared and form.partitions is None:
        choices["partitions"] = [item.name for item in declared.partitions]
    if declared and form.reservations is None:
        choices["reservations"] = [item.name for item in declared.reservations]
    return json.dumps(choices)


def _sign_out_behind_the_tunnel(env: Environment) -> str:
    """Return the sign-out page at the tunnel's other end, which redirects to the hub; empty if unused."""
    if TUNNEL not in env.containers or env.auth.kind != "oidc":
        return ""
    return f"{env.base_path}/_oidc/sign_out?rd={quote(env.base_url, safe='')}"


def _either(value: bool | None, default: bool) -> bool:
    return default if value is None else value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
