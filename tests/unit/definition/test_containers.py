"""The table of containers, beside envs/base.yaml."""

from __future__ import annotations

from pathlib import Path

import yaml

from hubenvs.definition.environment import Environment


def test_base_yaml_has_the_keys_that_the_table_makes(env: Environment, root: Path) -> None:
    """Each row of the table has its lines in base.yaml, where people look for them; no line lacks a row."""
    base = yaml.safe_load((root / "envs/base.yaml").read_text())
    bare = Environment.model_validate(env.model_dump() | {"publish": {}, "images": {}})
    assert bare.publish.keys() == base["publish"].keys()
    assert bare.images.keys() == base["images"].keys()
