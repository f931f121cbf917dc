"""`dicom-node init`: what a site must choose, checked as it is answered, and a commented settings file of it."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import typer

from dicom_node.cli import _site
from dicom_node.cli._shared import WRONG_USE, JsonOption, fail, print_json
from dicom_node.cli._site import Problem, Site
from dicom_node.errors import ConfigError
from explain_core.files import write

app = typer.Typer()
_DEFAULT: Final = Site()


@dataclass(frozen=True, slots=True)
class _Question:
    """One choice.

    Attributes:
        option: of the command line.
        title: what is asked, in a few words.
        check: what is wrong with a choice.
        ask: a person's answer.
    """

    option: str
    title: str
    check: Callable[[Site], Iterator[Problem]]
    ask: Callable[[Site], Site]


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="The settings file to write.")] = Path("dicom-node.toml"),
    *,
    sender: Annotated[
        list[str] | None, typer.Option(help="Who may send, AE@ADDRESS; repeat it for more.", metavar="AE")
    ] = None,
    destination: Annotated[
        str, typer.Option(help="Where results go: AE@HOST:PORT, or a URL of DICOMweb.", metavar="PLACE")
    ] = "",
    spool: Annotated[
        Path | None, typer.Option(help="Folder of images and results; what else is written lies beside it.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="The node's certificate (PEM); with --tls-key.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    tls_authorities: Annotated[Path | None, typer.Option(help="Who signs the certificates of peers.")] = None,
    no_tls: Annotated[bool, typer.Option("--no-tls", help="Connections are not encrypted.")] = False,
    destination_plain: Annotated[
        bool, typer.Option("--destination-plain", help="The destination is reached without the node's TLS.")
    ] = False,
    ae_title: Annotated[str, typer.Option(help="AE title of the node.")] = _DEFAULT.ae_title,
    port: Annotated[int, typer.Option(help="Port of the node.")] = _DEFAULT.port,
    redis: Annotated[str, typer.Option(help="URL of Redis.")] = _DEFAULT.redis,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: take the options and the defaults.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="With --yes: write it although something is wrong.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over a file that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask what a site must choose, check each answer, and write a settings file with a comment for every key.

    JSON (asks nothing, as --yes): `file`, `wrong` (what was kept although it is wrong), `remarks`, `next`.
    """
    over_tls = tls_cert is not None and not destination_plain
    site = Site(
        senders=tuple(sender or ()), destination=destination, destination_tls=over_tls, ae_title=ae_title, port=port,
        redis=redis, spool=spool or _DEFAULT.spool, device=device or ("auto" if _site.gpus() else "cpu"),
        certificate=tls_cert, key=tls_key, authorities=tls_authorities,
    )  # fmt: skip
    if no_tls and (tls_cert or tls_key):
        raise fail("--no-tls and --tls-cert exclude each other", WRONG_USE)
    silent = yes or as_json
    if file.exists() and not overwrite and (silent or not typer.confirm(f"{file} is there already. Write over it?")):
        raise fail(f"{file} is there already; --overwrite writes over it")
    given = {"--sender": sender, "--destination": destination, "--spool": spool, "--device": device, "": True}
    given["--tls-cert"] = tls_cert or no_tls
    if silent:
        wrong = _checked(site, keep=keep)
    else:
        site, wrong = _asked(site, [option for option, value in given.items() if value])
    _write(file, site)
    _tell(file, site, wrong, as_json=as_json)


def _checked(site: Site, *, keep: bool) -> list[str]:
    """Everything that is wrong and may be kept; ends the command where something may not."""
    wrong: list[str] = []
    for question in _QUESTIONS:
        for problem in question.check(site):
            said = f"{question.option or question.title.lower()}: {problem.said}"
            if not problem.keep:
                raise fail(said, WRONG_USE)
            wrong.append(said)
    if wrong and not keep:
        raise fail("; ".join(wrong) + "; nothing is written, --keep writes it all the same")
    return wrong


def _asked(site: Site, given: Sequence[str]) -> tuple[Site, list[str]]:
    """What a person answers, asked again until nothing is wrong or they keep it; what was given is only checked."""
    wrong: list[str] = []
    numbered = [one.option for one in _QUESTIONS if one.option]
    for question in _QUESTIONS:
        number = f"{numbered.index(question.option) + 1} of {len(numbered)}  " if question.option else ""
        typer.secho(f"\n{number}{question.title}", bold=True)
        known = question.option in given
        while True:
            site = site if known else question.ask(site)
            problems = list(question.check(site))
            for one in problems:
                typer.secho(f"  ! {one.said}", fg="red")
            if not problems:
                typer.secho("  ok", fg="green")
                break
            if all(one.keep for one in problems) and typer.confirm("  Keep it all the same?", default=False):
                wrong += [f"{question.option or question.title.lower()}: {one.said}" for one in problems]
                break
            known = False
    return site, wrong


def _write(file: Path, site: Site) -> None:
    """The file, whole or not at all, and only if the node can be started with it.

    Raises:
        ConfigError: it could not.
    """
    from dicom_node.settings.loading import load_settings  # noqa: PLC0415 - commands load only what they need

    text = site.text()
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as aside:
        aside.write(text)
        aside.flush()
        load_settings(Path(aside.name), {})
    try:
        write(file, text, 0o600)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error


def _tell(file: Path, site: Site, wrong: Sequence[str], *, as_json: bool) -> None:
    commands = [f"dicom-node {command} --config {file}" for command in ("doctor", "serve", "worker")]
    if as_json:
        print_json({"file": file, "wrong": wrong, "remarks": list(_site.remarks(site)), "next": commands})
        return
    out = [f"\nwritten: {file}", *(f"still wrong: {one}" for one in wrong)]
    out += [f"to know: {one}" for one in _site.remarks(site)]
    out += ["\nnext, here:", *(f"  {one}" for one in commands)]
    out += ["and in the PACS: send chest radiographs to the AE title"]
    out += [f"  {site.ae_title}, this machine, port {2762 if site.tls else site.port}, and let it store its results"]
    sys.stdout.write("\n".join(out) + "\n")


def _prompt(hint: str, default: str | None) -> str:
    """What a person writes, below a line that says what it may be."""
    return str(typer.prompt(f"  {hint}\n ", default=default, prompt_suffix=" > ")).strip()


def _ask_senders(site: Site) -> Site:
    shown = ", ".join(site.senders) or None
    text = _prompt("AE titles, with addresses: PACS@192.0.2.7, MODALITY1@10.1.0.0/16", shown)
    return replace(site, senders=tuple(one.strip() for one in text.split(",") if one.strip()))


def _ask_tls(site: Site) -> Site:
    if not typer.confirm("  Encrypt connections with TLS?", default=site.tls):
        return replace(site, certificate=None, key=None, authorities=None, destination_tls=False)

    def path(what: str, known: Path | None) -> Path:
        return Path(_prompt(f"PEM file of {what}", str(known) if known else None))

    return replace(
        site,
        certificate=path("the node's certificate", site.certificate),
        key=path("its private key", site.key),
        authorities=path("those who sign the peers' certificates", site.authorities),
        destination_tls=True,
    )


def _ask_destination(site: Site) -> Site:
    text = "AE@HOST:PORT, such as PACS@192.0.2.7:104, or the URL of a DICOMweb service"
    there = _prompt(text, site.destination or None)
    tls = site.tls and "://" not in there and typer.confirm("  Over TLS?", default=site.destination_tls)
    return replace(site, destination=there, destination_tls=tls)


def _ask_spool(site: Site) -> Site:
    text = "A folder on a disk that survives a restart; ledger, audit and models lie beside it"
    return replace(site, spool=Path(_prompt(text, str(site.spool))))


def _ask_device(site: Site) -> Site:
    for number, name in enumerate(_site.gpus()):
        typer.echo(f"  cuda:{number} is {name}")
    return replace(site, device=_prompt("auto, cpu, cuda or cuda:N", site.device))


def _ask_node(site: Site) -> Site:
    return replace(
        site,
        ae_title=typer.prompt("  AE title of the node", default=site.ae_title),
        port=typer.prompt("  Its port", default=site.port, type=int),
        redis=typer.prompt("  URL of Redis", default=site.redis),
    )


_QUESTIONS: Final = (
    _Question("--sender", "Who sends images?", _site.check_senders, _ask_senders),
    _Question("", "The node itself", _site.check_node, _ask_node),
    _Question("--tls-cert", "TLS or not?", _site.check_tls, _ask_tls),
    _Question("--destination", "Where do results go?", _site.check_destination, _ask_destination),
    _Question("--spool", "Where does the spool lie?", _site.check_spool, _ask_spool),
    _Question("--device", "Which GPU?", _site.check_device, _ask_device),
)
"""The five that a site must choose, and what is asked only where it is wrong: AE title, port, Redis."""
