"""Configuration of the hub: the site's wiring, with log-in by the ID tokens of an OpenID Connect provider."""

import os

load_subconfig("common.py")  # from JupyterHub's configuration loader
c.JupyterHub.template_paths = [f"{os.environ['JUPYTERHUB_SRV_DIR']}/templates"]

# Where there is a gateway, who signs out of the hub is signed out there and at the provider as well, unless the
# definition says where to go.
if os.environ.get("DEPLOY_CONFIG_GATEWAY_URL") and not os.environ.get("DEPLOY_CONFIG_LOGOUT_REDIRECT_URL"):
    gateway = f"{c.JupyterHub.base_url.rstrip('/')}/_oidc"
    c.BricsAuthenticator.logout_redirect_url = f"{gateway}/sign_out?rd={gateway}/signed_out"
