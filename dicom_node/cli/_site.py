"""What a site chooses, what is the matter with each choice, and the settings file that has them: `dicom-node init`.

A check yields what is wrong, and nothing where all is well; it changes nothing and leaves nothing behind.
"""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dicom_node.errors import BrokerUnreachable, ConfigError, NodeError
from dicom_node.settings import template

if TYPE_CHECKING:
    from dicom_node.settings.sections import Settings

_ECHO_SECONDS: Final = 10
_MEGABYTE: Final = 1 << 20
_PEER: Final = re.compile(r"(?P<title>.+)@(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s@:\[\]]+):(?P<port>\d{1,5})")
_URL: Final = re.compile(r"https?://\S+")
_BESIDE: Final = {
    ("model", "store"): "models",
    ("registry", "artifacts"): "registry/artifacts",
    ("retraining", "jobs"): "jobs",
    ("export", "key"): "export.key",
    ("audit", "folder"): "audit",
    ("metrics", "folder"): "metrics",
    ("web", "users"): "users.toml",
    ("web", "session_key"): "session.key",
    ("web", "search_key"): "search.key",
}
"""What else the node writes: it lies beside the spool."""


class Problem(NamedTuple):
    """What is wrong with a choice and what to do; `keep`: whether it may be kept all the same."""

    said: str
    keep: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The choices.

    Attributes:
        senders: who may send, "PACS@192.0.2.7" each.
        destination: "AE@HOST:PORT", or the URL of a DICOMweb service.
        spool: where images and results lie; everything else that the node writes lies beside it.
        device: auto, cpu, cuda or cuda:N.
        certificate, key, authorities: PEM files of TLS, or None: no TLS.
        destination_tls: whether the destination is reached over TLS.
        ae_title, port: of the node.
        redis: URL of the broker.
    """

    senders: tuple[str, ...] = ()
    destination: str = ""
    spool: Path = Path("/srv/dicom-node/spool")
    device: str = "auto"
    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None
    destination_tls: bool = False
    ae_title: str = "EXPLAIN"
    port: int = 11112
    redis: str = "redis://127.0.0.1:6379/0"

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.certificate is not None

    @property
    def host(self) -> str:
        """The address to listen on: this machine's alone where nobody sends from elsewhere."""
        return "127.0.0.1" if self.senders and all(map(_from_here, self.senders)) else "0.0.0.0"  # noqa: S104

    def tables(self) -> dict[str, Any]:
        """What the settings are made of that the checks need.

        Raises:
            ConfigError: the destination is neither an AE nor a URL.
        """
        files = {"certificate": self.certificate, "key": self.key, "authorities": self.authorities}
        return {
            "node": {"ae_title": self.ae_title, "port": self.port, "host": self.host, "spool": self.spool,
                     "calling_ae_titles": self.senders},
            "tls": files if self.tls else {},
            "broker": {"url": self.redis},
            "model": {"device": self.device},
            "destinations": [{"name": "pacs", **self._there()}] if self.destination else [],
            "delivery": {"timeout": _ECHO_SECONDS},
        }  # fmt: skip

    def _there(self) -> dict[str, Any]:
        if _URL.fullmatch(self.destination):
            return {"url": self.destination.rstrip("/")}
        if (peer := _PEER.fullmatch(self.destination)) is None:
            raise ConfigError("write AE@HOST:PORT, such as PACS@192.0.2.7:104, or the URL of a DICOMweb service")
        host = peer["host"].strip("[]")
        return {"ae_title": peer["title"], "host": host, "port": int(peer["port"]), "tls": self.destination_tls}

    def text(self) -> str:
        """The settings file: the one that comes with the program, with these choices in it."""
        home, there = self.spool.parent, self._there()
        values: dict[tuple[str, str], template.Value] = {
            ("node", "ae_title"): self.ae_title,
            ("node", "host"): self.host,
            ("node", "port"): self.port,
            ("node", "calling_ae_titles"): self.senders,
            ("node", "spool"): str(self.spool),
            ("node", "database"): f"sqlite:///{home}/ledger.sqlite",
            ("broker", "url"): self.redis,
            ("model", "device"): self.device,
            ("registry", "uri"): f"sqlite:///{home}/registry/mlflow.sqlite",
        }
        values |= {place: str(home / name) for place, name in _BESIDE.items()}
        files = {"certificate": self.certificate, "key": self.key, "authorities": self.authorities}
        values |= {("tls", name): str(path) for name, path in files.items() if path is not None}
        if "url" not in there:
            values |= {("destinations", name): value for name, value in there.items() if name != "tls" or value}
            return template.filled(values, {})
        url = f"url = {json.dumps(there['url'])}  # of the DICOMweb service; /studies follows it"
        gone: dict[tuple[str, str], str | None] = {("destinations", "host"): None, ("destinations", "port"): None}
        return template.filled(values, {("destinations", "ae_title"): url} | gone)


def settings_of(site: Site) -> "Settings":
    """The settings that the choices make.

    Raises:
        ConfigError: one is not what it should be; the message says what it should be.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - commands load only what they need

    from dicom_node.settings.sections import Settings  # noqa: PLC0415
    from explain_core.toml_files import advice  # noqa: PLC0415

    try:
        return Settings.model_validate(site.tables())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(advice(first, Settings)) from None


def check_senders(site: Site) -> Iterator[Problem]:
    """Whether those who send are named as the settings name them."""
    if not site.senders:
        yield Problem("nobody could send: name at least one AE title, with its address: PACS@192.0.2.7", keep=False)
        return
    with _told() as told:
        settings_of(replace(Site(), senders=site.senders))
    yield from told


def check_node(site: Site) -> Iterator[Problem]:
    """AE title and port of the node, and Redis."""
    with _told() as told:
        settings_of(replace(Site(), ae_title=site.ae_title, port=site.port, redis=site.redis))
    yield from told
    if not told:
        yield from _port(site.host, site.port, "--port")
        yield from check_redis(site)


def check_redis(site: Site) -> Iterator[Problem]:
    """Whether Redis answers."""
    from dicom_node.queue import broker  # noqa: PLC0415

    try:
        celery = broker.make_celery(settings_of(replace(Site(), redis=site.redis)))
        broker.depth(celery, broker.EXPLAIN)
    except BrokerUnreachable as error:
        yield Problem(f"{error}: start Redis, or give the URL of another with --redis")


def check_tls(site: Site) -> Iterator[Problem]:
    """Whether the files are what TLS needs, the certificate valid now, and the port free."""
    from dicom_node import app as node  # noqa: PLC0415

    if not site.tls:
        return
    if site.key is None or site.authorities is None:
        yield Problem(
            "TLS needs PEM files of certificate, key, and the authorities of the peers' certificates", keep=False
        )
        return
    with _told() as told:
        settings = settings_of(replace(site, destination=""))
        node.check_tls(settings)
    yield from told
    if not told:
        yield from _port(site.host, settings.tls.port, "its default is 2762")


def check_destination(site: Site) -> Iterator[Problem]:
    """Whether the destination answers: C-ECHO, or a search."""
    from dicom_node.deliver.echo import echo  # noqa: PLC0415

    if not site.destination:
        yield Problem("nobody would get results: name a destination", keep=False)
        return
    with _told() as told:
        settings = settings_of(replace(site, device="auto"))
    yield from told
    if not told and not (tried := echo(settings, "pacs")).reached:
        yield Problem(tried.said + (f": {tried.advice}" if tried.advice else ""))


def check_spool(site: Site) -> Iterator[Problem]:
    """Whether there is room, and the right to write; what is not there yet is not made."""
    low = settings_of(Site()).clean_below_mb
    if not site.spool.is_absolute():
        yield Problem(f"{site.spool}: give a whole path, which does not depend on where the node starts", keep=False)
        return
    there = next(one for one in (site.spool, *site.spool.parents) if one.exists())
    if not there.is_dir():
        yield Problem(f"{there} is a file: the spool is a folder")
        return
    free = shutil.disk_usage(there).free // _MEGABYTE
    if free < low:
        yield Problem(
            f"{there} has {free:,} MB free: below {low:,} MB the node removes what is over before its time; make room"
        )
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".dicom-node-init-"):
            pass
    except OSError as error:
        yield Problem(
            f"{there} cannot be written by this user ({error.strerror}): make {site.spool} and chown it to the node's"
        )


def check_device(site: Site) -> Iterator[Problem]:
    """Whether the GPU is here; one that is not may be on the workers' machine."""
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", site.device) is None:
        yield Problem(f"{site.device}: write auto, cpu, cuda or cuda:N", keep=False)
        return
    if not site.device.startswith("cuda"):
        return
    found, number = gpus(), int(site.device.partition(":")[2] or 0)
    if number >= len(found):
        has = f"this machine has {len(found)} GPU(s) by nvidia-smi" if found else "nvidia-smi finds no GPU here"
        yield Problem(f"{has}: keep {site.device} if the workers run elsewhere, or choose auto or cpu")


def gpus() -> list[str]:
    """The names of the GPUs of this machine, by nvidia-smi; without PyTorch."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
        return done.stdout.splitlines()
    return []


def remarks(site: Site) -> Iterator[str]:
    """What is worth knowing about choices with which nothing is wrong."""
    if anywhere := [one for one in site.senders if "@" not in one]:
        yield f"anybody can claim the AE title {anywhere[0]}: {anywhere[0]}@ADDRESS lets it in from there alone"
    if not site.tls:
        yield "without TLS images and results travel in the clear: docs/security.md"
    if site.device == "cpu":
        yield "on a CPU an explanation takes seconds instead of parts of one"


def _from_here(sender: str) -> bool:
    with contextlib.suppress(ValueError):
        return ip_address(sender.rpartition("@")[2]).is_loopback
    return False


def _port(host: str, port: int, how: str) -> Iterator[Problem]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            yield Problem(
                f"port {port} cannot be listened on ({error.strerror}): choose another ({how}), or stop what has it"
            )


@contextlib.contextmanager
def _told() -> Iterator[list[Problem]]:
    """What an error of ours says, as a problem that no settings can have."""
    told: list[Problem] = []
    try:
        yield told
    except NodeError as error:
        told.append(Problem(str(error), keep=False))
