"""JupyterHub log-in by OpenID Connect ID token, and Slurm jobs in the projects that the token names."""

__version__ = "0.1.0"

from bricsauthenticator.auth import BricsAuthenticator
from bricsauthenticator.spawner import BricsSlurmSpawner

__all__ = ["BricsAuthenticator", "BricsSlurmSpawner", "__version__"]
