"""Composition root: Settings -> running processes. The only place that wires parts together.

A node is six roles, each a process of its own so that none can take another down: the listener receives, the
dispatcher decides, workers explain, the sender delivers, retention removes what is over, web shows it all.
`supervision` runs several of them as children and starts again whichever ends by itself. What one role needs is
imported by that role alone: the others have its time at the start and its memory for themselves.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from dicom_node.dicom import tls
from dicom_node.errors import ConfigError, OutOfResources
from dicom_node.health.process import observed
from dicom_node.nouns import Destination
from dicom_node.settings.sections import Settings
from dicom_node.storage.key_file import KeyUnusable, secret_key
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.spool import Spool
from dicom_node.watch import logs, pulse
from dicom_node.watch.audit import Audit
from dicom_node.watch.audit_kept import OldTrail
from dicom_node.watch.audit_running import opened, read_key, tell_configuration, told
from dicom_node.watch.audit_syslog import Server
from dicom_node.watch.audit_trail import Trail
from explain_core.errors import BundleError

if TYPE_CHECKING:
    from dicom_node.storage.retention import Retention, Store
    from explain_core.explanation import Explainer

SERVE: Final = ("listener", "dispatcher", "sender", "retention", "web")
MEGABYTE: Final = 1 << 20
BEAT_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


def open_ledger(settings: Settings) -> Ledger:
    """The node's ledger, its tables made where they are missing."""
    url = settings.node.database
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(url)
    ledger.create()
    return ledger


def load_explainer(settings: Settings, bundle: Path | None = None, methods: Sequence[str] | None = None) -> "Explainer":
    """A bundle on its device, which serves the methods that it is needed for.

    Args:
        settings: device, augmentations, seed, methods.
        bundle: folder of the bundle; None is the configured one.
        methods: names; None is all that any destination wants.

    Raises:
        ConfigError: the bundle or the device cannot be used, or a method cannot be served; the message names it.
    """
    from dicom_node.explain.running_model import open_explainer  # noqa: PLC0415 - only where something is explained

    wanted = settings.methods_for() if methods is None else methods
    try:
        return open_explainer(settings, bundle or settings.model.bundle, wanted)
    except (BundleError, ValueError) as error:
        raise ConfigError(f"{_named(settings, bundle)}: {error}") from error


def check_methods(settings: Settings, bundle: Path) -> None:
    """Refuse a method that a bundle has no scale for; quickly, from its description, and silently without one.

    Raises:
        ConfigError: the message names the method and says what to do; or the bundle's description cannot be read.
    """
    from explain_core.bundles.files import need_scales, scaled_methods  # noqa: PLC0415 - loads NumPy

    if not bundle.is_dir():  # on the host of the listener
        return
    try:
        need_scales(settings.methods_for(), scaled_methods(bundle))
    except BundleError as error:
        raise ConfigError(f"{_named(settings, bundle)}: {error}") from error


def check_tls_port(settings: Settings) -> None:
    """Refuse files that the listener cannot open its TLS port with.

    Raises:
        ConfigError: one cannot be read or is not what it should be.
    """
    mine = settings.tls
    if mine.serves:
        tls.server_context(mine.files, require_client_certificate=mine.require_client_certificate)


def check_tls(settings: Settings) -> None:
    """Refuse files that no TLS connection can be made with, of the node and of its destinations.

    Raises:
        ConfigError: one cannot be read or is not what it should be, or the certificate has expired.
    """
    check_tls_port(settings)
    for one in settings.destinations:
        there = settings.destination(one.name)
        if isinstance(there, Destination) and there.tls is not None:
            tls.client_context(there.tls, check_name=one.tls_check_name)
    if settings.tls.certificate is not None:
        tls.validity(settings.tls.files).check(datetime.now(UTC))


def _named(settings: Settings, bundle: Path | None) -> str:
    return "model.bundle" if bundle in {None, settings.model.bundle} else "the bundle"


def running_bundle(settings: Settings) -> Path:
    """The bundle that workers run: the promoted one, else the configured one; makes no ledger where there is none."""
    from dicom_node.storage.bundles import bundle_path  # noqa: PLC0415 - loads NumPy

    url = settings.node.database
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        return settings.model.bundle
    return bundle_path(settings, open_ledger(settings).deployed("champion"))


def audit_trail(settings: Settings) -> Trail:
    """The node's audit trail, its folder made where it is missing.

    Raises:
        ConfigError: the folder cannot be used, or the key.
    """
    chosen = settings.audit
    try:
        return Trail(chosen.folder, key=read_key(chosen.seal_key), longest=chosen.file_mb * MEGABYTE)
    except OSError as error:
        raise ConfigError(f"audit.folder: {chosen.folder} cannot be made: {error.strerror}") from error


def open_audit(settings: Settings, name: str, *, send: bool = False) -> AbstractContextManager[Audit]:
    """The audit of this process.

    Args:
        settings: [audit], and the AE title.
        name: of the process: a role or a command.
        send: whether it also sends the trail to the audit repository, if there is one.

    Raises:
        ConfigError: the folder, the key or a certificate cannot be used.
    """
    server = audit_server(settings) if send else None
    trail, ids = audit_trail(settings), settings.audit.patient_ids
    return opened(name, trail, ae_title=settings.node.ae_title, patient_ids=ids, server=server)


def audit_server(settings: Settings) -> Server | None:
    """The audit repository that the trail is sent to, if there is one."""
    chosen = settings.audit
    if chosen.syslog_host is None:
        return None
    return Server(
        host=chosen.syslog_host,
        port=chosen.syslog_port,
        authorities=chosen.syslog_ca,
        certificate=chosen.syslog_certificate,
        key=chosen.syslog_key,
    )


def check_audit(settings: Settings) -> None:
    """Refuse a key or certificates of the audit that cannot be used; nothing is made or sent.

    Raises:
        ConfigError: the message names the setting and says what to do.
    """
    read_key(settings.audit.seal_key)
    if (server := audit_server(settings)) is not None:
        server.context()


def run_listener(settings: Settings, stop: threading.Event, audit: Audit) -> None:
    """Receive until `stop`."""
    from dicom_node.receive.listener import Listener  # noqa: PLC0415 - only here

    listener = Listener(settings, open_ledger(settings), Spool.of(settings), audit=audit)
    port = listener.start()
    log.info(
        "listening",
        ae_title=settings.node.ae_title,
        host=settings.node.host,
        port=port if settings.node.plain else None,
        tls_port=listener.tls_port,
    )
    pulse.ready()
    while not stop.wait(BEAT_SECONDS):
        if listener.accepting():
            pulse.beat()
    listener.stop()


def run_dispatcher(settings: Settings, stop: threading.Event, _audit: Audit) -> None:
    """Assemble, route, submit and reconcile until `stop`."""
    from dicom_node.queue import broker  # noqa: PLC0415 - only roles that speak with the broker
    from dicom_node.route.dispatcher import Dispatcher  # noqa: PLC0415 - only here

    app, key = broker.make_celery(settings), search_key(settings)
    Dispatcher(settings, open_ledger(settings), app, fetch=Spool.of(settings).fetch, search_key=key).run(stop)


def search_key(settings: Settings) -> bytes | None:
    """The key by which studies are found; without it they are found by their UID, and nothing else changes."""
    try:
        return secret_key(settings.web.search_key)
    except (KeyUnusable, OutOfResources) as error:
        log.error("studies cannot be found by accession number", reason=str(error))  # noqa: TRY400
        return None


def run_sender(settings: Settings, stop: threading.Event, audit: Audit) -> None:
    """Deliver results until SIGTERM, which Celery handles; beside that ask for, and report, Storage Commitment."""
    from dicom_node.deliver.commitment import Committer  # noqa: PLC0415 - only here
    from dicom_node.deliver.sender import Sender, register_deliver  # noqa: PLC0415 - only here
    from dicom_node.queue import broker  # noqa: PLC0415 - only roles that speak with the broker

    app, ledger, fetch = broker.make_celery(settings), open_ledger(settings), Spool.of(settings).fetch
    register_deliver(app, Sender(settings=settings, ledger=ledger, fetch=fetch, audit=audit))
    committer = Committer(settings=settings, ledger=ledger, fetch=fetch)
    threading.Thread(target=committer.run, args=(stop,), name="commitment", daemon=True).start()
    broker.run_worker(app, broker.DELIVER, concurrency=max(1, len(settings.destinations)))


def retention(settings: Settings) -> "Retention":
    """What removes what is over: from the spool, from the folders of retraining jobs, and of the audit trail."""
    from dicom_node.learn.jobs import EndedJobs  # noqa: PLC0415 - only here
    from dicom_node.storage.retention import Retention  # noqa: PLC0415 - only here

    others: list[tuple[Store, float]] = [
        (EndedJobs(settings.retraining.jobs), settings.retention.jobs_days),
        (OldTrail(settings.audit.folder, sent=settings.audit.syslog_host is not None), settings.retention.audit_days),
    ]
    return Retention(settings=settings, ledger=open_ledger(settings), spool=Spool.of(settings), others=others)


def run_retention(settings: Settings, stop: threading.Event, _audit: Audit) -> None:
    """Remove what is over, and beside that tell people what needs one, until `stop`."""
    from dicom_node.health import watchman  # noqa: PLC0415 - only here, with all that he looks at

    watchman.beside(settings, stop, lambda: retention(settings).run(stop))


def run_worker(settings: Settings, _stop: threading.Event, _audit: Audit) -> None:
    """Explain until SIGTERM, which Celery handles; the model is loaded before the first task is taken.

    Raises:
        ConfigError: the deployed bundle cannot be used.
    """
    from dicom_node.explain.running_model import RunningModel  # noqa: PLC0415 - only here
    from dicom_node.explain.worker import Worker, register_explain  # noqa: PLC0415 - only here, with its result builders
    from dicom_node.health import heartbeat  # noqa: PLC0415 - only here
    from dicom_node.queue import broker  # noqa: PLC0415 - only roles that speak with the broker

    ledger = open_ledger(settings)
    model = RunningModel(settings, ledger, partial(load_explainer, settings))
    current = heartbeat.describing(model.current)
    current()
    app = broker.make_celery(settings)
    wake = partial(broker.submit, app, broker.DELIVER)
    worker = Worker(settings, ledger, Spool.of(settings), current, wake=wake)
    register_explain(app, worker)
    broker.run_worker(app, broker.EXPLAIN)


def run_shadow(settings: Settings, stop: threading.Event, _audit: Audit) -> None:
    """Let the challenger see what the champion has explained, until `stop`."""
    from dicom_node.models import shadow  # noqa: PLC0415 - loads torch

    shadow.run(settings, stop)


def run_web(settings: Settings, stop: threading.Event, audit: Audit) -> None:
    """Serve dashboard, health and metrics until `stop`.

    Raises:
        ConfigError: the port cannot be used.
    """
    from dicom_node.health.figures import Observer  # noqa: PLC0415
    from dicom_node.web import server  # noqa: PLC0415 - only this role needs a web server
    from dicom_node.web.node import Node  # noqa: PLC0415

    ledger = open_ledger(settings)
    node = Node(
        settings=settings,
        ledger=ledger,
        observer=Observer(settings, ledger),
        spool=Spool.of(settings),
        audit=audit,
        search_key=search_key(settings),
    )
    server.run(node, stop)


ROLES: Final[Mapping[str, Callable[[Settings, threading.Event, Audit], None]]] = {
    "listener": run_listener,
    "dispatcher": run_dispatcher,
    "sender": run_sender,
    "retention": run_retention,
    "web": run_web,
    "worker": run_worker,
    "shadow": run_shadow,
}


def run_role(role: str, settings: Settings, config: Path | None = None) -> None:
    """Run one role in this process until SIGTERM or SIGINT; the audit is told of start, stop and changed settings."""
    logs.configure(settings.logging.level, as_json=settings.logging.as_json)
    pulse.begin()
    stop = pulse.stop_signal()
    with observed(settings, role), audited(settings, role, config) as audit:
        ROLES[role](settings, stop, audit)


@contextmanager
def audited(settings: Settings, role: str, config: Path | None) -> Iterator[Audit]:
    """The audit of a role that runs: its start, its stop, and settings that are other than at its last start."""
    with open_audit(settings, role, send=True) as audit, told(audit):
        tables = settings.model_dump(mode="json", by_alias=True)
        uri = "urn:dicom-node:environment" if config is None else config.absolute().as_uri()
        tell_configuration(audit, settings.audit.folder, tables, uri)
        yield audit
