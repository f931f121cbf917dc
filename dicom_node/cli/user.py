"""Who may log in to the dashboard."""

import sys
from typing import Annotated

import typer

from dicom_node.cli._shared import ConfigOption, JsonOption, audit_of, console, fail, plain, print_json, settings_of

app = typer.Typer(no_args_is_help=True, help="Who may log in to the dashboard.")

Name = Annotated[str, typer.Argument(help="Of the user.")]


@app.command()
def add(
    name: Name,
    *,
    administrator: Annotated[
        bool, typer.Option("--administrator", help="May act: send again, promote, roll back; else only look.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add somebody, or change role and password; asks for the password, or takes the first line of standard input.

    JSON: `user`, `role`.
    """
    from dicom_node.web.users import UserRole, Users  # noqa: PLC0415 - commands load only what they need

    settings = settings_of(config)
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    role = UserRole.ADMINISTRATOR if administrator else UserRole.VIEWER
    Users(settings.web.users).put(name, password, role)
    with audit_of(settings, "user add") as audit:
        audit.software_changed("dashboard user", f"urn:dicom-node:user:{name}", {"Role": role.value}, by_person=True)
    if as_json:
        print_json({"user": name, "role": role.value})
    else:
        print(f"{name} may log in as {role.value}")  # noqa: T201


@app.command("list")
def list_users(*, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Everybody who may log in.

    JSON: a list of `user`, `role`.
    """
    from dicom_node.web.users import Users  # noqa: PLC0415

    found = Users(settings_of(config).web.users).all()
    if as_json:
        print_json([{"user": one.name, "role": one.role.value} for one in found])
        return
    table = plain("user", "role")
    for one in found:
        table.add_row(one.name, one.role.value)
    console().print(table if found else "nobody yet: dicom-node user add NAME --administrator")


@app.command()
def remove(name: Name, *, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Remove somebody; who is logged in is logged out.

    JSON: `removed`.
    """
    from dicom_node.web.users import Users  # noqa: PLC0415

    settings = settings_of(config)
    if not Users(settings.web.users).remove(name):
        raise fail(f"there is no user {name!r}")
    with audit_of(settings, "user remove") as audit:
        audit.software_changed("dashboard user", f"urn:dicom-node:user:{name}", {"Role": "removed"}, by_person=True)
    if as_json:
        print_json({"removed": name})
    else:
        print(f"{name} may not log in any more")  # noqa: T201
