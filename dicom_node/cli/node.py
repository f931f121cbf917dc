"""Commands that run the node, explain files and show what became of studies."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dicom_node.cli import _completion, _places
from dicom_node.cli._shared import (
    WRONG_USE,
    ConfigOption,
    JsonOption,
    console,
    fail,
    ledger_of,
    print_json,
    settings_of,
)
from dicom_node.errors import OutOfResources

if TYPE_CHECKING:
    from dicom_node.route.rules import Decision

DECODING = ("worker", "shadow")
"""Roles that see pixels; all the others read headers and pass bytes on."""

app = typer.Typer()
rules_app = typer.Typer(no_args_is_help=True, help="Routing rules.")
app.add_typer(rules_app, name="rules")


@app.command()
def demo(
    *,
    inputs: Annotated[
        list[Path] | None, typer.Option("--input", help="DICOM files or folders to send instead of the sample.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for everything the demo writes.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Explanation methods, separated by commas; default: similar_adversarial.",
            autocompletion=_completion.methods,
        ),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Model bundle, instead of the default one; its first method explains.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop after the first answer.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the whole node on this machine and explain a real chest radiograph.

    JSON: `studies`, `not_sent`, `folder`.
    """
    from dicom_node.demo.run import run  # noqa: PLC0415 - commands load only what they need
    from dicom_node.settings.rule_tables import split_words  # noqa: PLC0415

    for path in inputs or ():
        if not path.exists():
            raise fail(f"--input {path}: no such file or folder", WRONG_USE)
    if bundle is not None and not bundle.is_dir():
        raise fail(f"--bundle {bundle}: no such folder", WRONG_USE)
    methods = tuple(split_words(method or ""))
    raise typer.Exit(run(inputs=inputs or (), out=out, once=once, as_json=as_json, methods=methods, bundle=bundle))


@app.command()
def serve(
    *,
    config: ConfigOption = None,
    only: Annotated[
        str | None,
        typer.Option(
            help="Run one role in this process: listener, dispatcher, sender, retention, web, worker, shadow.",
            autocompletion=_completion.roles,
        ),
    ] = None,
) -> None:
    """Run listener, dispatcher, sender, retention and web until stopped; `dicom-node worker` starts workers."""
    from dicom_node.dicom.without_decoders import import_pydicom  # noqa: PLC0415

    if only not in DECODING:
        import_pydicom()  # before anything imports it
    from dicom_node import app as node  # noqa: PLC0415
    from dicom_node.supervision import supervise  # noqa: PLC0415

    settings = settings_of(config)
    if only is not None and only not in node.ROLES:
        raise fail(f"--only {only}: choose one of {', '.join(node.ROLES)}", WRONG_USE)
    _places.check_folders(settings)
    if only is None:
        node.check_tls_port(settings)
        supervise(config, node.SERVE, settings)
    else:
        node.run_role(only, settings, config)


@app.command()
def worker(
    *,
    config: ConfigOption = None,
    count: Annotated[int, typer.Option(min=1, help="Worker processes, all on model.device.")] = 1,
) -> None:
    """Run explanation workers until stopped."""
    from dicom_node import app as node  # noqa: PLC0415
    from dicom_node.supervision import supervise  # noqa: PLC0415

    settings = settings_of(config)
    _places.check_folders(settings)
    with suppress(OutOfResources):  # a ledger that is away: the workers wait for it
        node.check_methods(settings, node.running_bundle(settings))
    supervise(config, ["worker"] * count, settings)


@app.command()
def explain(
    files: Annotated[list[Path], typer.Argument(help="DICOM files or folders.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the objects and their PNG previews.")],
    config: ConfigOption = None,
    bundle: Annotated[Path | None, typer.Option(help="Model bundle instead of the one that the node runs.")] = None,
    objects: Annotated[
        str | None,
        typer.Option(
            help='Result objects, separated by commas, or "all"; default: those of the settings.',
            autocompletion=_completion.objects,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Explanation methods, separated by commas; default: those of the settings.",
            autocompletion=_completion.methods,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Explain files by the node's rules and pipeline, without any server.

    JSON: `studies`, `unreadable`.
    """
    from dicom_node import app as node  # noqa: PLC0415
    from dicom_node.offline.files import explain_files  # noqa: PLC0415
    from dicom_node.settings.rule_tables import result_names, split_words  # noqa: PLC0415

    settings, known = settings_of(config), result_names()
    chosen = known if objects == "all" else split_words(objects or "")
    if unknown := sorted(set(chosen) - set(known)):
        raise fail(f"--objects {unknown[0]}: no such result object; there is: {', '.join(known)}", WRONG_USE)
    for path in files:
        if not path.exists():
            raise fail(f"{path}: no such file or folder", WRONG_USE)
    wanted = tuple(dict.fromkeys(split_words(methods or ""))) or settings.results.methods
    explainer = node.load_explainer(settings, bundle or node.running_bundle(settings), wanted)
    studies, unreadable = explain_files(files, out, settings, explainer, chosen, wanted)
    if not studies and not unreadable:
        raise fail(_NO_FILES)
    if as_json:
        print_json({"studies": [study.as_json() for study in studies], "unreadable": unreadable})
    else:
        for study in studies:
            console().print(study.table())
        for line in unreadable:
            print(line, file=sys.stderr)  # noqa: T201
    raise typer.Exit(0 if studies and not unreadable else 1)


@app.command()
def rerun(
    study: Annotated[str | None, typer.Argument(help="Study Instance UID.", autocompletion=_completion.studies)] = None,
    *,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only what has failed: tasks and dead deliveries, of the study or of all.")
    ] = False,
    ignored: Annotated[
        bool, typer.Option("--ignored", help="All studies that no rule has taken: the rules of today are asked.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try again: what failed, what no rule has taken, or everything of one study, downgraded objects too.

    A study that was routed keeps its route. One that no rule has taken, named or by --ignored, is routed by the rules
    of today.

    JSON: `tasks`, `deliveries`: how many will be tried again; `studies`: about how many the rules are asked again.
    """
    if (study is None and not failed and not ignored) or (ignored and (failed or study is not None)):
        raise fail("give a Study Instance UID, or --failed, or --ignored alone", WRONG_USE)
    ledger, now = ledger_of(settings_of(config)), datetime.now(UTC)
    if ignored:
        replayed = ledger.replay_ignored()
    else:
        replayed = ledger.replay_failed(study, now) if study is None or failed else ledger.rerun_study(study, now)
    if as_json:
        print_json(asdict(replayed))
    else:
        print(replayed)  # noqa: T201
    raise typer.Exit(0 if study is None or replayed else 1)


@app.command()
def migrate(
    *,
    config: ConfigOption = None,
    backup: Annotated[
        Path | None, typer.Option(help="File for the backup, made in any case; default: beside the spool, if need be.")
    ] = None,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="There is a backup already.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the ledger up to this software's schema, after a backup. Stop the node first.

    Where the schema is this software's already, --backup alone is done, beside a running node too.

    JSON: `before`, `after`, `backup` (null where none was made).
    """
    from dicom_node.storage.ledger import migration  # noqa: PLC0415 - loads Alembic
    from dicom_node.storage.ledger.schema import SCHEMA  # noqa: PLC0415

    settings, target = settings_of(config), None
    found = migration.schema(settings.node.database)
    if backup is not None and no_backup:
        raise fail("give --backup or --no-backup", WRONG_USE)
    if found is not None and (backup is not None or (found < SCHEMA and not no_backup)):
        target = backup or settings.node.spool.parent / f"ledger-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.backup"
        migration.back_up(settings.node.database, target)
    if target is not None and not as_json:
        print(f"backup: {target}")  # noqa: T201
    before, after = found, found
    if found != SCHEMA:
        routes = {
            one.name: (one.destinations, one.results) for rule in settings.rules if (one := rule.route) is not None
        }
        names = [one.name for one in settings.destinations]
        before, after = migration.migrate(settings.node.database, routes, names)
    if as_json:
        print_json({"before": before, "after": after, "backup": target})
    elif before == after:
        print(f"nothing to do: the ledger has the schema {after}")  # noqa: T201
    else:
        print(f"the ledger has the schema {after}, it had {before}")  # noqa: T201


_NO_FILES: Final = "no DICOM file among what was named"


@app.command("check-config")
def check_config(*, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the settings, the files and folders they name, and that the model serves its methods.

    One line says what is wrong.

    JSON: `rules`, `destinations`, `methods`.
    """
    from dicom_node import app as node  # noqa: PLC0415

    settings = settings_of(config)
    _places.check_folders(settings)
    node.check_tls(settings)
    node.check_audit(settings)
    _places.check_runtime(settings.model.bundle)
    node.check_methods(settings, settings.model.bundle)
    rules, names = [one.name for one in settings.rules], [one.name for one in settings.destinations]
    methods = settings.methods_for()
    if as_json:
        print_json({"rules": rules, "destinations": names, "methods": methods})
    else:
        print(f"ok: {len(rules)} rule(s), {len(names)} destination(s), methods: {', '.join(methods)}")  # noqa: T201


@app.command()
def conformance() -> None:
    """Print the DICOM conformance statement (PS3.2) of this version."""
    print(resources.files("dicom_node.cli").joinpath("conformance.md").read_text("utf-8"), end="")  # noqa: T201


@rules_app.command("test")
def rules_test(
    files: Annotated[list[Path], typer.Argument(help="DICOM files or folders.")],
    *,
    config: ConfigOption = None,
    calling: Annotated[str, typer.Option(help="Calling AE title to assume.")] = "MODALITY",
    as_json: JsonOption = False,
) -> None:
    """Say of each file which rule decides and why; shows tag values, so keep the output to yourself.

    JSON: `files`, `unreadable`. A file: `path`, `action`, `rule`, `reason`, `steps`.
    """
    from pydicom import dcmread  # noqa: PLC0415

    from dicom_node.dicom.reading import find  # noqa: PLC0415
    from dicom_node.errors import DatasetUnreadable  # noqa: PLC0415
    from dicom_node.offline.files import instance_of  # noqa: PLC0415
    from dicom_node.route.rules import decide_instance  # noqa: PLC0415

    settings, unreadable = settings_of(config), list[str]()
    decided: dict[Path, Decision] = {}
    for path in find(files):
        try:
            instance_of(path, calling, datetime.now(UTC))
        except DatasetUnreadable as error:
            unreadable.append(str(error))
            continue
        decided[path] = decide_instance(dcmread(path, stop_before_pixels=True), calling, settings.rules)
    if not decided and not unreadable:
        raise fail(_NO_FILES)
    if as_json:
        rows = [
            {"path": path, "action": one.action, "rule": one.rule and one.rule.name, "reason": one.reason,
             "steps": [asdict(step) for step in one.steps]}
            for path, one in decided.items()
        ]  # fmt: skip
        print_json({"files": rows, "unreadable": unreadable})
    else:
        _print_decisions(decided)
        for line in unreadable:
            print(line, file=sys.stderr)  # noqa: T201
    raise typer.Exit(1 if unreadable else 0)


def _print_decisions(decided: Mapping[Path, "Decision"]) -> None:
    for path, decision in decided.items():
        rule = decision.rule.name if decision.rule is not None else "no rule"
        print(f"{path}: {decision.action.value} ({rule})" + (f": {decision.reason}" if decision.reason else ""))  # noqa: T201
        for step in decision.steps:
            found = ", ".join(step.found) or "missing"
            print(f"  {step.rule}: {step.text} [{found}]")  # noqa: T201
