"""Part of `up`: the settings of an existing ConfigMap, which later tasks need too."""

from __future__ import annotations

from pathlib import Path

from ..definition.configmap import as_yaml, read_config_map
from ..definition.layers import merge, parse_yaml
from ..deployment import folder
from ..files import write
from ..session import Session


def keep_settings(session: Session, config_map: str | None, save: bool) -> None:
    """Keep the settings of ``config_map`` for later tasks: in the deploy folder, with ``save`` in local.yaml.

    Without ``config_map``, ``save`` moves the settings that an earlier `up` kept.
    """
    env, say = session.env, session.console.say
    kept, local = env.deploy_folder / folder.SETTINGS, env.root / "envs" / env.name / "local.yaml"
    if config_map:
        path = Path(config_map)
        settings = as_yaml(read_config_map(path, env.root).local_yaml, f"the ConfigMap in {path.absolute()}")
    elif kept.exists():
        settings = kept.read_text()
    else:
        return
    name = local.relative_to(env.root)
    if not save:
        write(kept, settings)
        say("settings", f"kept until `invoke down`; `invoke up {env.options} --save` writes them to {name}")
        return
    text = f"written to {name}"
    if local.exists():
        old = local.with_name("local.yaml.old")
        local.replace(old)
        layers = parse_yaml(old.read_text(), str(old)), parse_yaml(settings, str(local))
        settings = as_yaml(merge(layers)[0], f"{old.name} and a ConfigMap")
        text += f"; the earlier file is {old.name} now"
    write(local, settings)
    kept.unlink(missing_ok=True)
    say("settings", text)
