"""How long things take, and how many users a pod bears: `nox -s load` and `nox -s bench`."""
