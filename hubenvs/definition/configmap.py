"""Settings of an existing deployment, read from its ConfigMap (`up --configmap`) and the files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import DefinitionError, suggestion
from .containers import CONTAINERS
from .dev_users import from_file, parse_dev_users
from .layers import Layer, merge, parse_documents, parse_yaml, read_text, shown, single_key

# The definition's key for each key of the ConfigMap. Accounts and password are handled apart.
KEYS = {
    "logLevel": "log_level",
    "baseUrl": "base_url",
    "sshHostname": "slurm.ssh_hostname",
    "slurmSpawnerWrappersBin": "slurm.wrappers_bin",
    "condaPrefixDir": "slurm.env_prefix",
    "jupyterDataDir": "slurm.jupyter_data_dir",
    "hubConnectUrl": "slurm.hub_connect_url",
    "oidcServer": "auth.oidc_server",
    "bricsPlatform": "auth.platform",
    "jwtAudience": "auth.audience",
}
USERS_KEY, PASSWORD_KEY = "devUsers", "dummyAuthPassword"
KNOWN = (*KEYS, USERS_KEY, PASSWORD_KEY)
# The definition's key for each key in the tunnel client's configuration beside such a ConfigMap.
TUNNEL_KEYS = {
    **dict.fromkeys(("server_address", "serverAddress"), "zenith.server_address"),
    **dict.fromkeys(("server_port", "serverPort"), "zenith.server_port"),
}


@dataclass(frozen=True)
class ConfigMap:
    """The settings in a ConfigMap: layers of a definition, and the password."""

    layers: tuple[Layer, ...] = ()
    password: str | None = None

    @property
    def local_yaml(self) -> Mapping[str, Any]:
        """Return the settings for local.yaml, which never contains the password."""
        return merge(self.layers)[0]


def read_config_map(path: Path, root: Path) -> ConfigMap:
    """Return the settings of the only ConfigMap in the file ``path``, and those of the files beside it.

    Files beside it: `dev_users`, the tunnel client's configuration, and the site's files. If one of the
    site's files is there, `site_folder` is that folder. Raises DefinitionError.
    """
    config_map = parse_config_map(read_text(path, root), shown(path, root))
    return ConfigMap((*_beside(path.absolute().parent, root), *config_map.layers), config_map.password)


def _beside(folder: Path, root: Path) -> list[Layer]:
    layers = []
    if (users := folder / "dev_users").is_file():
        accounts = [user.account for user in from_file(users, root)]
        layers.append(single_key("dev_users", accounts, shown(users, root)))
    names = {name for row in CONTAINERS.values() for key in row.keys for name in key.files}
    if any((folder / name).is_file() for name in names):
        layers.append(single_key("site_folder", str(folder), shown(folder, root)))
    for name in next(key.files for key in CONTAINERS["zenith-client"].keys if key.name == "zenith_config"):
        if (path := folder / name).is_file():
            data = parse_yaml(read_text(path, root), shown(path, root)).data
            layers += [
                single_key(ours, data[theirs], f"{shown(path, root)}: {theirs}")
                for theirs, ours in TUNNEL_KEYS.items()
                if theirs in data
            ]
    return layers


def parse_config_map(text: str, label: str) -> ConfigMap:
    """Return the settings of the only ConfigMap among the YAML documents in ``text``.

    Raises DefinitionError with ``label`` and the line number for an unknown key or a value that isn't text.
    """
    mappings = [document for document in parse_documents(text, label) if isinstance(document[0], dict)]
    config_maps = [document for document in mappings if document[0].get("kind") == "ConfigMap"]
    if len(config_maps) != 1:
        raise DefinitionError(f"{label}: {len(config_maps)} ConfigMaps in it", "give a file with exactly one")
    document, lines = config_maps[0]
    data = document.get("data")
    if not isinstance(data, dict) or document.get("binaryData"):
        problem = "its ConfigMap should have text in `data`, and nothing else"
        raise DefinitionError(f"{label}: {problem}", "move the settings below `data:`")
    layers, password = [], None
    for key, value in data.items():
        where = f"{label}:{lines['data', key]}: data.{key}"
        if key not in KNOWN:
            raise DefinitionError(f"{where}: has no meaning here", suggestion(str(key), KNOWN))
        if not isinstance(value, str) or not (value := value.strip()):
            raise DefinitionError(f"{where}: should be text", "quote it, or leave the key out")
        if key == USERS_KEY:
            accounts = [user.account for user in parse_dev_users(value, where)]
            layers.append(single_key("dev_users", accounts, where))
        elif key == PASSWORD_KEY:
            password = value
        else:
            layers.append(single_key(KEYS[key], value, where))
            if KEYS[key] == "auth.oidc_server":
                layers.append(single_key("auth.provider", "external", where))
    return ConfigMap(tuple(layers), password)


def as_yaml(settings: Mapping[str, Any], source: str) -> str:
    """Return ``settings`` as the text of a local.yaml, with a comment that names their ``source``."""
    return f"# From {source}.\n" + yaml.safe_dump(dict(settings), sort_keys=False, width=110)
