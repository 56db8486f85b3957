"""Configuration of the hub: the site's wiring, with a password in the place of an identity provider."""

import os

from dummyauth import DummyBricsAuthenticator

load_subconfig("common.py")  # from JupyterHub's configuration loader
c.JupyterHub.authenticator_class = DummyBricsAuthenticator
c.JupyterHub.template_paths = [f"{os.environ['JUPYTERHUB_SRV_DIR']}/templates"]
