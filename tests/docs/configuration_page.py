"""docs/configuration.md, made of the types of the settings and of the comments in deploy/dicom-node.toml.

`python tests/docs/configuration_page.py` writes it anew. What a key means is said once, in the file that a site copies;
type, range and default are those of `dicom_node.settings`.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from dicom_node.settings.sections import DEFAULT_BUNDLE, Settings  # noqa: E402 - of this checkout

PAGE = ROOT / "docs" / "configuration.md"
SHIPPED = ROOT / "deploy" / "dicom-node.toml"

HEAD = """# Configuration

Made by `python tests/docs/configuration_page.py` from the types of the settings and the comments of
[deploy/dicom-node.toml](../deploy/dicom-node.toml); do not edit. How to begin: [install.md](install.md#configure).

- One TOML file, named by `--config FILE` or by the environment variable `DICOM_NODE_CONFIG`; without a file the
  defaults hold.
- A variable of the environment goes before the file: `DICOM_NODE_NODE__PORT=11113` is `port` of `[node]`. A list may be
  written as words with commas between, or as JSON; a list of tables is JSON.
- Unknown keys and wrong values are errors, in one line with file, line and key, and so are keys that contradict each
  other: `dicom-node check-config --config FILE`.
- Relative paths are relative to the working directory of the process.
- Settings are read when a process starts; a change needs a restart of the node.
- No key needs to hold a secret: those of DICOMweb are in a file or a variable that a key names; a URL with the
  password of Redis or PostgreSQL is best given as a variable, `DICOM_NODE_BROKER__URL` or `DICOM_NODE_NODE__DATABASE`.
"""

PATTERNS = {
    r"^(sqlite|postgresql|mysql|https?)": "a URL of sqlite, postgresql, mysql, http or https",
    r"^[A-Za-z0-9._ -]{1,64}$": "1 to 64 of letters, digits, `.`, `_`, `-` and space",
    r"^(auto|cpu|cuda(:\d+)?)$": "`auto`, `cpu`, `cuda` or `cuda:N`",
    r"^(redis|rediss|redis\+socket)://|^sentinel://[^;]+(;sentinel://[^;]+)*$": (
        "a URL of redis, rediss or redis+socket, or those of sentinels with `;` between them"
    ),
    r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._-]+)*$": "`s3://` and a bucket, with a prefix if wanted",
    r"^https?://[^/@]+$": "a URL of http or https without a path",
    r"^[a-z0-9-]{1,32}$": "1 to 32 lower-case letters, digits and `-`",
    r"^[A-Za-z0-9._-]{1,64}$": "1 to 64 of letters, digits, `.`, `_` and `-`",
    r"^[a-z0-9+]+://": "a URL as SQLAlchemy has them",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "the name of a variable",
    r"^[^\s@<>,]+@[^\s@<>,]+$": "an e-mail address",
    r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$": "1 to 64 letters, digits, spaces, `.`, `_` and `-`; a letter or digit first",
}
"""What a pattern of the settings is in words; a new one needs its words here."""

LISTED = {"text": "texts", "path": "paths", PATTERNS[r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$"]: "names"}
TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}


def page() -> str:
    """The whole page."""
    schema = Settings.model_json_schema(by_alias=True)
    comments = comments_of(SHIPPED.read_text(encoding="utf-8"))
    parts = [HEAD]
    for name, field in Settings.model_fields.items():
        many = "items" in schema["properties"][name]
        reference = schema["properties"][name]["items"] if many else schema["properties"][name]
        section = schema["$defs"][reference["$ref"].rpartition("/")[2]]
        parts.append("\n".join(_section(name, field, section, comments, many=many)))
        if name == "rules":
            parts.append("\n".join(_conditions(schema["$defs"]["Condition"])))
    return "\n".join(parts)


def comments_of(text: str) -> dict[str, str]:
    """What the shipped file says of each key, by `section.key`, and of each section, by its name.

    A key that stands there several times has the words of all places, each once.
    """
    found: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        if header := re.match(r"#? ?\[\[?([a-z_]+)\]\]?(?:\s+#\s*(.+))?$", line):
            section = header[1]
            if header[2]:
                found[section] = header[2]
        elif key := re.match(r"#? ?([a-z_]+) = (?:\"[^\"]*\"|\[[^\]]*\]|[^#\s]+)(?:\s+#\s*(.+))?$", line):
            said = [found.get(f"{section}.{key[1]}", ""), (key[2] or "").strip()]
            found[f"{section}.{key[1]}"] = "; ".join(dict.fromkeys(filter(None, said)))
    return found


def _section(
    name: str, field: FieldInfo, section: Mapping[str, Any], comments: Mapping[str, str], *, many: bool
) -> Iterator[str]:
    yield f"## {name}\n"
    about = comments.get(name) or _sentence(section["description"])
    yield f"`[[{name}]]`, any number of such tables: {about}.\n" if many else f"`[{name}]`: {about}.\n"
    yield "| key | type and range | default | meaning |\n|---|---|---|---|"
    defaults = {} if many else {one.alias or key: one.default for key, one in type(field.default).model_fields.items()}
    for key, described in section["properties"].items():
        needed = key in section.get("required", ())
        default = "must be set" if needed else _default(defaults.get(key, described.get("default")))
        yield f"| `{key}` | {_type(described)} | {default} | {_meaning(name, key, comments)} |"
    yield ""


def _conditions(section: Mapping[str, Any]) -> Iterator[str]:
    """The tables within `when` of a rule."""
    yield "### A condition of a rule\n"
    yield "A table within `when`, with exactly one of `equals`, `in` and `regex`.\n"
    yield "| key | type and range | default | meaning |\n|---|---|---|---|"
    for key, described in section["properties"].items():
        default = "must be set" if key in section["required"] else _default(described.get("default"))
        yield f"| `{key}` | {_type(described)} | {default} | {CONDITION[key]} |"
    yield ""


CONDITION = {
    "tag": "DICOM keyword, `Sequence.Keyword`, or one of `BodyPart` (CHEST, OTHER), `View` (PA, AP, FRONTAL, LATERAL, "
    "OTHER) and `CallingAETitle`",
    "equals": "the value, without regard to case; of several values one must be it",
    "in": "the values, of which one must be it",
    "regex": "a regular expression that must match the whole value",
    "missing": "what an absent or empty element means",
}


def _meaning(section: str, key: str, comments: Mapping[str, str]) -> str:
    said = comments.get(f"{section}.{key}", "")
    if not said and section in SAME_AS:
        other = SAME_AS[section]
        return f"as in `{other}`, here for this one alone" if comments.get(f"{other}.{key}") else ""
    return said.replace("|", "\\|")


SAME_AS = {"destinations": "results", "commitment_peers": "destinations"}
"""Where a key is explained whose table does not explain it again."""


def _sentence(docstring: str) -> str:
    """What stands behind the name of the table in its class's docstring."""
    return " ".join(docstring.split("\n\n", maxsplit=1)[0].split()).partition(": ")[2].rstrip(".") or "see below"


def _default(value: Any) -> str:
    if value == DEFAULT_BUNDLE:
        return "the one that came with the program"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list | tuple):
        return ", ".join(f"`{one}`" for one in value) or "empty"
    return f"`{value}`"


def _type(described: Mapping[str, Any]) -> str:
    if "anyOf" in described:
        return _type(next(one for one in described["anyOf"] if one.get("type") != "null"))
    if "enum" in described:
        *others, last = [f"`{one}`" for one in described["enum"]]
        return f"{', '.join(others)} or {last}"
    if described["type"] == "array":
        inner = described["items"]
        return "list of tables" if "$ref" in inner else f"list of {LISTED.get(_type(inner), _type(inner))}"
    if "pattern" in described:
        return PATTERNS[described["pattern"]]
    return "path" if described.get("format") == "path" else TYPES[described["type"]] + _range(described)


def _range(described: Mapping[str, Any]) -> str:
    low, high = described.get("minimum"), described.get("maximum")
    above, below = described.get("exclusiveMinimum"), described.get("exclusiveMaximum")
    least, most = described.get("minLength"), described.get("maxLength")
    if most is not None:
        return f", {least or 0} to {most} letters"
    if low is not None and high is not None:
        return f", {low:g} to {high:g}" if isinstance(low, float) else f", {low} to {high}"
    words = [
        f"at least {low}" if low is not None else "",
        f"above {above}" if above is not None else "",
        f"at most {high}" if high is not None else "",
        f"below {below}" if below is not None else "",
        "not empty" if least else "",
    ]
    return "".join(f", {one}" for one in words if one)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
