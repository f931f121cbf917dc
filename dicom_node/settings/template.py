"""The settings file that comes with the program, with a site's choices in it: its comments are written once."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

TEMPLATE: Final = Path(__file__).with_name("dicom-node.toml")
"""deploy/dicom-node.toml, of which an installed package has a copy."""

_COMMENTS: Final = 32
"""Column in which its comments stand."""

Value = str | int | bool | tuple[str, ...]

_HEAD = re.compile(r"\[{1,2}(?P<table>[a-z_]+)\]{1,2}")
_KEY = re.compile(r"(?:# )?(?P<key>[a-z_]+) = (?P<value>\"[^\"]*\"|\[[^\]]*\]|[^\s#]+)(?P<gap>\s*)(?P<comment>#.*)?")


def filled(values: Mapping[tuple[str, str], Value], lines: Mapping[tuple[str, str], str | None]) -> str:
    """The template with values of its own; what is commented out there is set.

    Args:
        values: by table and key.
        lines: whole lines in place of a key's; None: the line goes.

    Raises:
        KeyError: the template has no such key in that table.
    """
    table, written, left = "", list[str](), {*values, *lines}
    for line in TEMPLATE.read_text(encoding="utf-8").splitlines():
        if (head := _HEAD.match(line.removeprefix("# "))) is not None:
            table = head["table"] if line.startswith("[") else ""
        found = _KEY.fullmatch(line)
        place = (table, found["key"]) if found is not None else ("", "")
        if found is None or place not in left:
            written.append(line)
            continue
        left.remove(place)
        if place in values:
            written.append(_line(found, values[place]))
        elif (other := lines[place]) is not None:
            written.append(other)
    if left:
        raise KeyError(f"{TEMPLATE} has no {', '.join('.'.join(place) for place in sorted(left))}")
    return "\n".join(written) + "\n"


def _line(found: re.Match[str], value: Value) -> str:
    """The line with another value, its comment where the comments of the file stand if there is room."""
    told = f"{found['key']} = {json.dumps(value, ensure_ascii=False)}"
    if not found["comment"]:
        return told
    return f"{told:<{_COMMENTS - 2}}  {found['comment']}"
