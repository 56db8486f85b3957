"""The record of the last `build --refresh`: digests of the mirrors' packages, in .deploy/mirrors.json.

The digests are part of images' tags. So `up` takes the images that `build --refresh` has built, and looks at
no mirror.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..definition.names import deploy_folders
from ..errors import StateError
from ..files import write


def _record(root: Path) -> Path:
    return deploy_folders(root) / "mirrors.json"


def read_mirrors(root: Path) -> dict[str, str]:
    """Return a digest of the packages by Debian release; none before the first refresh.

    Raises StateError if the record can't be read.
    """
    path = _record(root)
    try:
        return {str(release): str(seen) for release, seen in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise StateError(f"{path}: can't be read ({error})", f"rm {path}; invoke build --refresh") from None


def write_mirrors(root: Path, mirrors: Mapping[str, str]) -> None:
    """Record ``mirrors``; without any, remove the record."""
    path = _record(root)
    if mirrors:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write(path, json.dumps(dict(mirrors), indent=1, sort_keys=True) + "\n")
    else:
        path.unlink(missing_ok=True)
