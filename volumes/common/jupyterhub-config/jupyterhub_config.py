"""Configuration of the hub: the site's wiring, as it is."""

load_subconfig("common.py")  # from JupyterHub's configuration loader
