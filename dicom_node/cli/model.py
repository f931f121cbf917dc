"""Models that the node runs: versions, promotion, rollback."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node.cli._shared import (
    ConfigOption,
    JsonOption,
    audit_of,
    console,
    fail,
    ledger_of,
    plain,
    print_json,
    settings_of,
)
from dicom_node.models import promotion
from dicom_node.settings.sections import Settings
from dicom_node.storage import bundles
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.ledger.deployments import Deployment
from dicom_node.watch.audit import Audit, user_name
from explain_core.bundles.files import verify as verify_bundle
from explain_core.bundles.registry import Registry, Version
from explain_core.bundles.tracking import RegistryError
from explain_core.errors import BundleError

app = typer.Typer(no_args_is_help=True, help="Models that the node runs.")

Number = Annotated[int, typer.Argument(metavar="VERSION", help="Number of the version in the registry.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in plain words; it is kept.")]
DIGITS = 12


@dataclass(frozen=True, slots=True)
class _Place:
    """What every command works on."""

    settings: Settings
    ledger: Ledger
    registry: Registry
    audit: Audit

    def versions(self) -> tuple[list[Version], list[str]]:
        """All versions, their aliases set right by the ledger, and what differed.

        Raises:
            RegistryError: the registry does not answer.
        """
        versions = self.registry.versions()
        said = promotion.follow(self.settings, self.ledger, self.registry, versions)
        return (self.registry.versions() if said else versions), said

    def follow(self) -> list[str]:
        """Set aliases right after a change; that the registry is away is said, and is no failure."""
        try:
            promotion.follow(self.settings, self.ledger, self.registry, self.registry.versions())
        except RegistryError as error:
            return [f"{error}; its aliases will follow with the next model command"]
        return []


@contextmanager
def _place(config: Path | None, changing: str = "") -> Iterator[_Place]:
    """Open ledger, registry, and the audit of a changing command."""
    settings = settings_of(config)
    ledger = ledger_of(settings, make=True)
    with audit_of(settings, changing) if changing else nullcontext(Audit.nowhere()) as audit:
        yield _Place(settings, ledger, promotion.open_registry(settings), audit)


@app.command("list")
def list_versions(*, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Versions, what their gates said, and which of them runs; sets aliases right where they differ.

    JSON: `champion`, `challenger`, `versions`, `registry`, `repaired`, `history`, `workers`.
    """
    with _place(config) as place:
        trouble, versions, said = None, list[Version](), list[str]()
        try:
            versions, said = place.versions()
        except RegistryError as error:
            trouble = str(error)
        if as_json:
            print_json(
                {
                    "champion": _running(place),
                    "challenger": _row(place.ledger.deployed("challenger")),
                    "versions": [_version(one) for one in versions],
                    "registry": {"uri": place.settings.registry.uri.rsplit("@", 1)[-1], "trouble": trouble},
                    "repaired": said,
                    "history": [_row(one) for one in place.ledger.history()],
                    "workers": [asdict(one) for one in place.ledger.swaps()],
                }
            )
        else:
            _show_list(place, versions, said)
        if trouble is not None:
            raise fail(f"{trouble}; what runs is known without it")


def _show_list(place: _Place, versions: Sequence[Version], said: Sequence[str]) -> None:
    out = console()
    table = plain("version", "model", "gate", "runs as", "made", "digest")
    roles = {row.digest: role for role in promotion.ROLES if (row := place.ledger.deployed(role)) is not None}
    for one in versions:
        table.add_row(
            str(one.number),
            f"{one.bundle_name} {one.bundle_version}",
            one.gate,
            roles.get(one.digest, ""),
            f"{one.created_at:%Y-%m-%d}",
            one.digest[:DIGITS],
        )
    out.print(table if versions else "the registry has no version")
    running = _running(place)
    out.print(f"runs: {running['name']} {running['version']} ({str(running['digest'])[:DIGITS]}), {running['since']}")
    if running["trouble"]:
        out.print(f"its files cannot be used: {running['trouble']}")
    for swap in place.ledger.swaps(1):
        if swap.trouble is not None:
            out.print(f"worker {swap.process} goes on with {swap.version or 'nothing'}: {swap.trouble}")
    for line in said:
        out.print(line)


@app.command()
def show(
    version: Annotated[int | None, typer.Argument(metavar="[VERSION]", help="Default: what runs.")] = None,
    *,
    config: ConfigOption = None,
    reports: Annotated[Path | None, typer.Option(help="Folder to copy the version's reports to.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Everything about one version: gate, figures, where it comes from, when it ran.

    JSON: every field of the version in the registry, `deployments`, `reports`.
    """
    with _place(config) as place:
        if version is None and (row := place.ledger.deployed("champion")) is not None:
            version = row.number
        if version is None:
            found = _running(place)
        else:
            one = place.registry.version(version)
            rows = [_row(row) for row in place.ledger.history() if row.digest == one.digest]
            found = _version(one) | {"deployments": rows}
            if reports is not None:
                found["reports"] = [str(path) for path in place.registry.reports(version, reports)]
        if as_json:
            print_json(found)
            return
        table = plain("", "")
        table.show_header = False
        for key, value in found.items():
            items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
            text = "" if value is None else str(value)
            table.add_row(key, "\n".join(f"{name}: {part}" for name, part in items) if items else text)
        console().print(table)


@app.command()
def promote(
    version: Number,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Against the gate or another objection; needs --reason.")
    ] = False,
    reason: Reason = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version the champion; workers take it with their next study.

    JSON: `role`, `action`, `number`, `name`, `version`, `digest`, `by`, `reason`, `forced`, `deployed_at`, `notes`.
    """
    with _place(config, "model promote") as place:
        row = promotion.promote(
            place.settings,
            place.ledger,
            place.registry,
            version,
            by=user_name(),
            reason=reason,
            force=force,
            now=datetime.now(UTC),
        )
        _say(place, row, as_json=as_json)


@app.command()
def shadow(
    version: Annotated[int | None, typer.Argument(metavar="[VERSION]", help="Number in the registry.")] = None,
    *,
    off: Annotated[bool, typer.Option("--off", help="No challenger any more.")] = False,
    reason: Reason = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version the challenger: it sees what the champion sees, and its results are not sent.

    JSON: as of `promote`.
    """
    if (version is None) != off:
        raise fail("give a VERSION or --off", 2)
    with _place(config, "model shadow") as place:
        now = datetime.now(UTC)
        if version is None:
            if not place.ledger.withdraw("challenger", by=user_name(), reason=reason, now=now):
                raise fail("there is no challenger")
            row = place.ledger.history("challenger")[-1]
        else:
            row = promotion.shadow(
                place.settings, place.ledger, place.registry, version, by=user_name(), reason=reason, now=now
            )
        _say(place, row, as_json=as_json)


@app.command()
def rollback(*, reason: Reason = "", config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Go back to the champion before the last promotion that was not taken back; needs no registry.

    JSON: as of `promote`.
    """
    with _place(config, "model rollback") as place:
        row = promotion.rollback(
            place.settings, place.ledger, place.registry, by=user_name(), reason=reason, now=datetime.now(UTC)
        )
        _say(place, row, as_json=as_json)


def _say(place: _Place, row: Deployment, *, as_json: bool) -> None:
    """What a change came to; to the audit, and to who made it."""
    uri = f"urn:sha256:{row.digest}" if row.digest else place.settings.model.bundle.absolute().as_uri()
    details = {"Version": str(row.number or ""), "Reason": row.reason, "Forced": "against an objection" * row.forced}
    told = {key: text for key, text in details.items() if text}
    place.audit.software_changed(f"{row.role}: {row.action}", uri, told, by_person=True)
    said = place.follow()
    if as_json:
        print_json(_row(row) | {"notes": said})
        return
    if row.digest:
        what = f"version {row.number}, {row.name} {row.version} ({row.digest[:DIGITS]})"
    else:
        what = f"the configured bundle, {place.settings.model.bundle}" if row.role == "champion" else "nothing"
    print(f"{row.role}: {what}, since {row.deployed_at:%Y-%m-%d %H:%M:%S} UTC by {row.by}")  # noqa: T201
    for line in said:
        print(line)  # noqa: T201


@app.command()
def verify(
    version: Annotated[int | None, typer.Argument(metavar="[VERSION]", help="Default: every version.")] = None,
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every file of the store's copies and of the registry's; exit status 1 when one is damaged.

    JSON: `checks`, `damaged`. Of a check: `what`, `digest`, `trouble`.
    """
    with _place(config) as place:
        checks: list[dict[str, Any]] = []
        try:
            versions = place.versions()[0] if version is None else [place.registry.version(version)]
        except RegistryError as error:
            checks.append({"what": "registry", "trouble": str(error)})
            versions = []
        if version is None:
            checks.append(_checked("what runs", lambda: bundles.check(place.settings, _champion(place))))
        chosen = {one.digest for one in versions} if version is not None else None
        for digest in bundles.digests(place.settings):
            if chosen is None or digest in chosen:
                folder = place.settings.model.store / digest
                checks.append(_checked(f"store {digest[:DIGITS]}", lambda folder=folder: _is(folder)))
        for one in versions:
            with tempfile.TemporaryDirectory(prefix="dicom-node-verify-") as aside:
                number, there = one.number, Path(aside)
                check = _checked(
                    f"registry version {number}",
                    lambda number=number, there=there: place.registry.fetch(number, there).name,
                )
                checks.append(check)
        bad = [one for one in checks if one["trouble"]]
        if as_json:
            print_json({"checks": checks, "damaged": len(bad)})
        else:
            for line in checks:
                print(f"{line['what']}: {line['trouble'] or 'ok'}")  # noqa: T201
        raise typer.Exit(1 if bad else 0)


def _checked(what: str, check: Any) -> dict[str, Any]:
    try:
        return {"what": what, "digest": check(), "trouble": None}
    except (BundleError, RegistryError, OSError) as error:
        return {"what": what, "trouble": str(error)}


def _is(folder: Path) -> str:
    digest = verify_bundle(folder)
    if digest != folder.name:
        raise BundleError(f"{folder} holds another bundle, with the digest {digest}")
    return digest


@app.command("import")
def import_bundle(
    source: Annotated[Path, typer.Argument(metavar="FOLDER|TAR", help="A bundle from elsewhere.")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Where it comes from and why it is here; it is kept.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register a bundle that came from elsewhere, with gate "none"; nothing runs it until it is promoted.

    JSON: every field of the version in the registry, `notes`.
    """
    if not reason.strip():
        raise fail("--reason: say where the bundle comes from", 2)
    if not source.exists():
        raise fail(f"{source}: no such file or folder", 2)
    with _place(config) as place, bundles.unpacked(source, place.settings.model.store) as folder:
        made = place.registry.register(
            folder, gate="none", reason=f"imported by {user_name()}: {reason}", lineage={"job": "import"}, metrics={}
        )
        said = place.follow()
        if as_json:
            print_json(_version(made) | {"notes": said})
            return
        print(f"version {made.number}: {made.bundle_name} {made.bundle_version}, digest {made.digest}")  # noqa: T201


@app.command()
def export(
    version: Number,
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="The file to write.")],
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version's bundle as a tar file, for another node.

    JSON: `file`, `digest`, `bytes`.
    """
    with _place(config) as place, tempfile.TemporaryDirectory(prefix="dicom-node-export-") as aside:
        bundle = place.registry.fetch(version, Path(aside))
        bundles.pack(bundle, file)
        if as_json:
            print_json({"file": str(file), "digest": bundle.name, "bytes": file.stat().st_size})
        else:
            print(f"{file}: {file.stat().st_size:,} bytes, digest {bundle.name}")  # noqa: T201


def _champion(place: _Place) -> Deployment | None:
    return place.ledger.deployed("champion")


def _running(place: _Place) -> dict[str, Any]:
    """What runs by the ledger, and whether its files are sound."""
    row = _champion(place)
    trouble = None
    try:
        digest = bundles.check(place.settings, row)
    except (BundleError, OSError) as error:
        digest, trouble = "" if row is None else row.digest, str(error)
    if row is not None:
        return (_row(row) or {}) | {"since": f"since {row.deployed_at:%Y-%m-%d %H:%M} UTC", "trouble": trouble}
    name, version = bundles.described(place.settings.model.bundle)
    return {
        "name": name,
        "version": version,
        "digest": digest,
        "number": None,
        "since": "as configured",
        "trouble": trouble,
    }


def _row(row: Deployment | None) -> dict[str, Any]:
    return {} if row is None else asdict(row)


def _version(one: Version) -> dict[str, Any]:
    values = {name: getattr(one, name) for name in Version.__slots__}
    return values | {"aliases": sorted(one.aliases), "tags": dict(one.tags), "metrics": dict(one.metrics)}
