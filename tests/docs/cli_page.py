"""docs/cli.md, the reference of the command line, made of the commands themselves.

`python tests/docs/cli_page.py` writes it anew.
"""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperGroup

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from dicom_node.cli import app  # noqa: E402 - of this checkout

PAGE = ROOT / "docs" / "cli.md"

_INTRO: Final = """\
# Command line

Made by `python tests/docs/cli_page.py` from the commands themselves; do not edit.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | not done: something failed, is missing or does not answer; standard error says what, and what to do |
| 2 | wrong use, or settings that are wrong; nothing was done |

`drift` alone has a fourth: 3, drift was found.

Every command but those that run until they are stopped or print a document has `--json`: one object or list on standard
output, of the shape that stands with the command; names are added, never changed. An error is one line on standard
error, `error: ...`; with `--json` it is the object `{"error": what, "status": exit status}`. Times are in UTC.

Settings come from the file that `--config` or the environment variable `DICOM_NODE_CONFIG` names; without either the
defaults hold, and paths are relative to the working directory.

`dicom-node --install-completion` teaches bash, zsh, fish or PowerShell to complete commands, options, and the names of
destinations, studies, roles, methods, result objects and jobs; `--show-completion` prints what it would install.
"""

_EXAMPLES: Final = {
    "init": [
        "dicom-node init /etc/dicom-node/node.toml",
        "dicom-node init --sender PACS@192.0.2.7 --destination PACS@192.0.2.7:104 --spool /srv/spool --no-tls --yes",
    ],
    "check-config": ["dicom-node check-config --config node.toml"],
    "doctor": ["dicom-node doctor --config node.toml", "dicom-node doctor --config node.toml --no-model --json"],
    "serve": ["dicom-node serve --config node.toml", "dicom-node serve --only sender --config node.toml"],
    "worker": ["dicom-node worker --config node.toml --count 2"],
    "demo": ["dicom-node demo --once"],
    "explain": ["dicom-node explain radiographs --out results --objects secondary_capture,structured_report"],
    "send": [
        "dicom-node send radiographs --config node.toml                          # to this node",
        "dicom-node send image.dcm --to pacs --config node.toml                  # to a destination",
        "dicom-node send radiographs --to PACS@192.0.2.7:104 --calling MODALITY  # to any AE",
    ],
    "status": [
        "dicom-node status --config node.toml",
        "dicom-node status 1.2.826.0.1.3680043.8.498.1 --config node.toml  # the story of one study",
    ],
    "rerun": [
        "dicom-node rerun --failed --config node.toml                              # all that failed",
        "dicom-node rerun 1.2.826.0.1.3680043.8.498.1 --failed --config node.toml  # of one study",
        "dicom-node rerun 1.2.826.0.1.3680043.8.498.1 --config node.toml           # all of it, anew",
        "dicom-node rerun --ignored --config node.toml                             # after a rule was changed",
    ],
    "clean": ["dicom-node clean --dry-run --config node.toml"],
    "echo": ["dicom-node echo --config node.toml", "dicom-node echo pacs --config node.toml"],
    "migrate": ["dicom-node migrate --config node.toml"],
    "rules test": ["dicom-node rules test image.dcm --config node.toml"],
    "export": ["dicom-node export --out training-set --labels labels.csv --config node.toml"],
    "verdict": ["dicom-node verdict 1.2.826.0.1.3680043.8.498.1 agree --by ab --config node.toml"],
    "drift": ["dicom-node drift --since 30 --by calling-ae --config node.toml"],
    "shadow": ["dicom-node shadow --config node.toml"],
    "audit verify": ["dicom-node audit verify --config node.toml"],
    "model list": ["dicom-node model list --config node.toml"],
    "model promote": ['dicom-node model promote 3 --reason "better on the hold-out set" --config node.toml'],
    "model rollback": ['dicom-node model rollback --reason "too many false alarms" --config node.toml'],
    "retrain submit": ["dicom-node retrain submit job.toml --labels labels.csv --config node.toml"],
    "retrain status": ["dicom-node retrain status --config node.toml"],
    "user add": ["dicom-node user add anna --administrator --config node.toml"],
    "conformance": ["dicom-node conformance"],
}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command, hidden ones too, by its words; groups are loaded."""
    yield from _below(typer.main.get_command(app), ())


def _below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if not isinstance(command, TyperGroup):
        yield " ".join(words), command
        return
    context = typer.Context(command, info_name="dicom-node")
    for name in command.list_commands(context):
        yield from _below(command.get_command(context, name), (*words, name))


def render() -> str:
    """The whole page."""
    shown = [(name, command) for name, command in commands() if not command.hidden]
    lines = [_INTRO, "| command | what it does |", "|---|---|"]
    lines += [f"| [{name}](#dicom-node-{name.replace(' ', '-')}) | {_first(command)} |" for name, command in shown]
    for name, command in shown:
        lines += ["", f"## dicom-node {name}", "", inspect.cleandoc(command.help), ""]
        if name in _EXAMPLES:
            lines += ["```sh", *_EXAMPLES[name], "```", ""]
        lines += ["| argument or option | meaning |", "|---|---|"]
        context = typer.Context(command, info_name=name)
        lines += [f"| `{_named(one, context)}` | {_meaning(one)} |" for one in command.params if one.name != "help"]
    return "\n".join(lines) + "\n"


def _first(command: Any) -> str:
    return " ".join(inspect.cleandoc(command.help).partition("\n\n")[0].split())


def _named(parameter: Any, context: typer.Context) -> str:
    """A parameter as it is typed."""
    if parameter.param_type_name == "argument":
        name = str(parameter.metavar or parameter.name.upper()).strip("[]{}").replace("|", " or ")
        return name if parameter.required else f"[{name}]"
    flags = ", ".join((*parameter.opts, *parameter.secondary_opts))
    if parameter.is_flag:
        return flags
    value = str(parameter.metavar or _kind(parameter, context)).replace("|", " or ")
    return f"{flags} {value}"


def _kind(parameter: Any, context: typer.Context) -> str:
    """What a value is, for who types it: the words to choose from, or N, PATH, DATE, TEXT."""
    said = str(parameter.display_type(context)).strip("<>").removeprefix("list[").lower()
    kinds = {"int": "N", "float": "NUMBER", "path": "PATH", "datetime": "DATE", "%y": "DATE", "str": "TEXT"}
    return next((shown for kind, shown in kinds.items() if said.startswith(kind)), said)


def _meaning(parameter: Any) -> str:
    said = str(getattr(parameter, "help", "") or "").replace("|", "\\|")
    default = parameter.default
    plain = isinstance(default, str | int | float) and not isinstance(default, bool) and default != ""
    more = [f"default: {default}"] if plain and "default" not in said else []
    more += ["may be repeated"] if parameter.multiple and "repeat" not in said else []
    return f"{said} ({'; '.join(more)})" if more else said


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
