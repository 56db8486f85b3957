"""Invoke tasks that bring up JupyterHub and Slurm as containers of one pod."""

import os

# Otherwise Pydantic looks for plugins in every installed package: a tenth of the time until a task begins.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

__version__ = "0.2.0"
