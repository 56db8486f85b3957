"""Invoke tasks that bring up JupyterHub and Slurm as containers of one pod."""

__version__ = "0.2.0"
