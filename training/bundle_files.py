"""The small files of a bundle: TOML and checksums."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from explain_core.bundle import SUMS, digest_of


def toml_text(table: Mapping[str, Any], prefix: str = "") -> str:
    """A TOML document of strings, numbers, lists and nested tables."""
    values = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, Mapping)]
    tables = [
        f"\n[{prefix}{key}]\n{toml_text(value, f'{prefix}{key}.')}"
        for key, value in table.items()
        if isinstance(value, Mapping)
    ]
    return "\n".join([*values, *tables]) + "\n"


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over every other file of the bundle."""
    names = sorted(path.name for path in folder.iterdir() if path.name != SUMS)
    for name in names:
        (folder / name).chmod(0o644)  # safetensors writes for its owner alone
    (folder / SUMS).write_text("".join(f"{digest_of(folder / name)}  {name}\n" for name in names))
