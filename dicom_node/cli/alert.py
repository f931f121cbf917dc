"""`dicom-node alert`: who is told when something needs a person."""

from dataclasses import asdict
from datetime import UTC, datetime

import typer
from rich.table import Table

from dicom_node.cli._shared import ConfigOption, JsonOption, console, fail, ledger_of, print_json, settings_of
from dicom_node.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Alerts by e-mail and webhook, and what needs a person now.")


@app.command(name="test")
def try_(*, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Send a test alert to everybody who would be told; 1 where a server does not take it.

    JSON: `sent`.
    """
    from dicom_node.health import telling  # noqa: PLC0415 - commands load only what they need
    from dicom_node.health.alerts import Kind, Message  # noqa: PLC0415
    from dicom_node.health.heartbeat import host  # noqa: PLC0415
    from dicom_node.storage.ledger import Noted  # noqa: PLC0415

    settings, now = settings_of(config), datetime.now(UTC)
    if not settings.alerts.wanted:
        raise ConfigError("alerts: nobody is told; set alerts.smtp_host or alerts.webhooks")
    said = "this is a test of `dicom-node alert test`: nothing is wrong"
    test = Noted(name="test", level="warning", said=said, began_at=now, seen_at=now)
    messages = [Message(kind=Kind.FIRING, about=test, told_before=None)]
    failures = telling.tell(settings.alerts, settings.node.ae_title, host(), messages, now)
    if failures:
        raise fail("; ".join(failures))
    if as_json:
        print_json({"sent": True})
    else:
        print("sent")  # noqa: T201


@app.command(name="list")
def list_(*, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """What needs a person now, since when, and when somebody was told; 1 where there is something.

    JSON: a list of `name`, `level`, `said`, `began_at`, `seen_at`, `told_at`.
    """
    found = ledger_of(settings_of(config)).noted()
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        table = Table("what", "level", "since", "told", "because")
        for one in found:
            told = "not yet" if one.told_at is None else f"{one.told_at:%Y-%m-%d %H:%M}"
            table.add_row(one.name, one.level, f"{one.began_at:%Y-%m-%d %H:%M}", told, one.said)
        console().print(table)
    raise typer.Exit(1 if found else 0)
