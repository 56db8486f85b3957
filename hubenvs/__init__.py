"""Bring up JupyterHub and Slurm in one podman pod from a declarative environment definition."""
