"""Settings of an existing deployment, read from its ConfigMap (`up --configmap`)."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import DefinitionError, suggestion
from .dev_users import parse_dev_users
from .layers import Layer, parse_documents, single_key
from .schema import DevUser

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


@dataclass(frozen=True)
class ConfigMap:
    """The settings in a ConfigMap: layers of a definition, the accounts and the password."""

    layers: tuple[Layer, ...] = ()
    dev_users: tuple[DevUser, ...] | None = None
    password: str | None = None


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
        raise DefinitionError(f"{label}: {problem}", "correct it")
    layers, dev_users, password = [], None, None
    for key, value in data.items():
        where = f"{label}:{lines['data', key]}: data.{key}"
        if key not in KNOWN:
            raise DefinitionError(f"{where}: has no meaning here", suggestion(str(key), KNOWN))
        if not isinstance(value, str) or not (value := value.strip()):
            raise DefinitionError(f"{where}: should be text", "quote it, or leave the key out")
        if key == USERS_KEY:
            dev_users = parse_dev_users(value, where)
        elif key == PASSWORD_KEY:
            password = value
        else:
            layers.append(single_key(KEYS[key], value, where))
    return ConfigMap(tuple(layers), dev_users, password)
