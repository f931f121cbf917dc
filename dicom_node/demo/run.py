"""The whole node on one machine: Redis, all its roles and a PACS; a radiograph in, heatmaps out, and a dashboard.

Everything listens on loopback and free ports and lives in one folder. The radiograph is sent by C-STORE as a modality
would send it, and what is shown is read back from the PACS.
"""

import contextlib
import json
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import util
from pathlib import Path
from typing import IO, Any

from pydicom import Dataset
from rich.console import Console
from rich.table import Table

from dicom_node.app import check_methods, open_ledger
from dicom_node.deliver.scu import StoreRequest, echo, store
from dicom_node.demo.servers import Pacs, Redis, Stored, choose, free_port
from dicom_node.dicom import elements, reading
from dicom_node.errors import DatasetUnreadable, DeliveryUnreachable
from dicom_node.nouns import AETitle, Destination
from dicom_node.offline import preview
from dicom_node.offline.files import instance_of
from dicom_node.results.summary import read_summaries
from dicom_node.settings.loading import load_settings
from dicom_node.settings.sections import DEFAULT_BUNDLE, Settings
from dicom_node.storage.ledger import Ledger
from dicom_node.supervision import Supervisor
from dicom_node.web.users import UserRole, Users
from explain_core.bundles.files import scaled_methods, toml_text

AE_TITLE, MODALITY_AE_TITLE = "EXPLAIN", "MODALITY"
ROLES = ("listener", "dispatcher", "worker", "sender", "retention", "web")
USER = "demo"  # who may log in to the dashboard

CONFIG = """# Settings of this demo; see deploy/dicom-node.toml for every key.
[node]
ae_title = "{ae_title}"
port = {port}
calling_ae_titles = ["{modality}"]
spool = "{folder}/spool"
database = "sqlite:///{folder}/ledger.sqlite"
low_water_mb = 50

[study]
quiet_seconds = 1

[broker]
url = "{redis}"

[delivery]
retry_seconds = 2

[[destinations]]
name = "pacs"
ae_title = "{pacs}"
host = "127.0.0.1"
port = {pacs_port}
synthetic_images = {synthetic}

[audit]
folder = "{folder}/audit"

[web]
port = {web_port}
users = "{folder}/users.toml"
session_key = "{folder}/session.key"
search_key = "{folder}/search.key"

[metrics]
folder = "{folder}/metrics"

[logging]
json = true
{explain}"""


def explaining(methods: Sequence[str], bundle: Path | None) -> str:
    """The settings of other methods or of another bundle than the default; what they generate is sent too.

    Raises:
        ConfigError: the bundle does not serve a method; the message says what to do.
    """
    if not methods and bundle is None:
        return ""
    settings = Settings.model_validate({
        "model": {} if bundle is None else {"bundle": bundle.resolve()},
        "results": {"methods": methods or scaled_methods(bundle or DEFAULT_BUNDLE)[:1]},
    })  # fmt: skip
    check_methods(settings, settings.model.bundle)
    return toml_text(
        {"model": {"bundle": str(settings.model.bundle)}, "results": {"methods": list(settings.results.methods)}}
    )


def sample() -> Path:
    """The real chest radiograph of the package pydicom-data (CR, PA, 15 bits, MONOCHROME1).

    Raises:
        RuntimeError: the package is not installed.
    """
    spec = util.find_spec("data_store")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "data" / "RG1_UNCR.dcm"
        if path.is_file():
            return path
    raise RuntimeError("the demo's radiograph is missing: pip install pydicom-data, or give --input FILE")


@dataclass(slots=True)
class Demo:
    """The running demo.

    Attributes:
        folder: everything the demo writes.
        console: where progress goes.
        explain: further settings; see `explaining`.
    """

    folder: Path
    console: Console
    explain: str = ""
    _pacs: Pacs = field(init=False)
    _ledger: Ledger = field(init=False)
    _port: int = field(init=False)
    _web_port: int = field(init=False)
    _password: str = field(init=False)
    _supervisor: Supervisor = field(init=False)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Everything up inside, everything down after."""
        with contextlib.ExitStack() as stack:
            short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dicom-node-")))
            redis = Redis(short)  # a socket's path may have 107 characters at most
            redis.start()
            stack.callback(redis.stop)
            self._pacs = choose(self.folder / "pacs", {"explain": AE_TITLE})
            self._pacs.start()
            stack.callback(self._pacs.stop)
            self._port, self._web_port = free_port(), free_port()
            self._password = secrets.token_urlsafe(12)
            Users(self.folder / "users.toml").put(USER, self._password, UserRole.ADMINISTRATOR)
            config = self.folder / "dicom-node.toml"
            config.write_text(
                CONFIG.format(
                    ae_title=AE_TITLE,
                    port=self._port,
                    web_port=self._web_port,
                    modality=MODALITY_AE_TITLE,
                    folder=self.folder,
                    redis=redis.url,
                    pacs=self._pacs.ae_title,
                    pacs_port=self._pacs.port,
                    synthetic=str(bool(self.explain)).lower(),
                    explain=self.explain,
                )
            )
            self._ledger = open_ledger(load_settings(config))
            stack.callback(self._ledger.close)
            self._supervisor = Supervisor(config, ROLES, self._log)
            self._supervisor.start()
            stack.callback(self._supervisor.stop)
            yield

    def _log(self, role: str) -> IO[bytes]:
        return (self.folder / f"{role}.log").open("ab")

    def describe(self) -> str:
        """Where everything is, in one line."""
        return (
            f"node {AE_TITLE}@127.0.0.1:{self._port}, PACS {self._pacs.name} "
            f"{self._pacs.ae_title}@127.0.0.1:{self._pacs.port}, logs in {self.folder}"
        )

    def dashboard(self) -> str:
        """Where the dashboard is, and how to log in."""
        return f"http://127.0.0.1:{self._web_port}/ (user {USER}, password {self._password})"

    def wait_until_listening(self, seconds: float) -> None:
        """Wait for the listener.

        Raises:
            RuntimeError: it does not listen; the message names its log.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._supervisor.check()
            with contextlib.suppress(DeliveryUnreachable):
                echo(self._node(), calling_ae_title=MODALITY_AE_TITLE, timeout=5)
                return
            time.sleep(0.2)
        raise RuntimeError(f"the listener did not start; see {self.folder / 'listener.log'}")

    def keep(self) -> None:
        """Start again whichever role ends by itself, for ever."""
        while True:
            self._supervisor.check()
            time.sleep(1)

    def _node(self) -> Destination:
        return Destination(name="node", ae_title=AETitle(AE_TITLE), host="127.0.0.1", port=self._port)

    def send(self, paths: Sequence[Path]) -> tuple[list[str], list[str]]:
        """C-STORE files as a modality would; return the studies sent and a line per file that was not."""
        studies: dict[str, None] = {}
        refused: list[str] = []
        requests = []
        for path in paths:
            try:
                instance = instance_of(path, MODALITY_AE_TITLE, datetime.now(UTC))
            except DatasetUnreadable as error:
                refused.append(str(error))
                continue
            studies[instance.study_instance_uid] = None
            requests.append(
                StoreRequest(
                    key=str(path),
                    sop_instance_uid=instance.sop_instance_uid,
                    sop_class_uid=instance.sop_class_uid,
                    path=path,
                )
            )
        outcomes = store(self._node(), requests, calling_ae_title=MODALITY_AE_TITLE, timeout=60)
        refused += [f"{one.key}: {one.error}" for one in outcomes if one.error is not None]
        return list(studies), refused

    def wait(self, studies: Sequence[str], seconds: float) -> bool:
        """Show progress until every study is answered and delivered, or time is up."""
        deadline = time.monotonic() + seconds
        with self.console.status("received") as status:
            while time.monotonic() < deadline:
                self._supervisor.check()
                done = [self._step(study) for study in studies]
                status.update(", ".join(f"{study[-12:]}: {step}" for study, step in zip(studies, done, strict=True)))
                if all(step == "delivered" for step in done):
                    return True
                time.sleep(0.2)
        return False

    def _step(self, study: str) -> str:
        timeline = self._ledger.timeline(study)
        if timeline.delivered_at is not None:
            return "delivered"
        if timeline.explained_at is not None:
            return "delivering"
        if timeline.leased_at is not None:
            done = next((one.done for one in self._ledger.studies() if one.study_instance_uid == study), None)
            return f"explaining {done:.0%}" if done else "explaining"
        return "queued" if timeline.ready_at is not None else "receiving"

    def report(self, study: str) -> dict[str, Any]:
        """Everything about one study, as plain values; objects are read back from the PACS."""
        summary = next(one for one in self._ledger.studies() if one.study_instance_uid == study)
        seconds = self._ledger.timeline(study).seconds()
        stored = list(self._pacs.objects(study))
        kinds = {str(one.sop_instance_uid): one.kind for one in self._ledger.deliveries(study=study)}
        findings = [found for one in stored for found in read_summaries(one.dataset)]
        return {
            "study_instance_uid": study,
            "state": summary.state.value,
            "reason": summary.reason,
            "received": summary.instances,
            "explained": len(findings),
            "delivered": len(stored),
            "seconds": {name: None if value is None else round(value, 2) for name, value in seconds.items()},
            "images": [
                {
                    "probability": found.probability,
                    "decision": found.decision,
                    "model": found.model,
                }
                for found in findings
            ],
            "objects": [self._object(one, kinds.get(str(one.dataset.SOPInstanceUID), "other")) for one in stored],
        }

    def _object(self, stored: Stored, kind: str) -> dict[str, Any]:
        ds = stored.dataset
        folder = self.folder / "previews"
        folder.mkdir(exist_ok=True)
        picture = folder / f"{kind}-{ds.SOPInstanceUID[-8:]}.png"
        entry: dict[str, Any] = {
            "kind": kind,
            "sop_class": ds.SOPClassUID.name,
            "sop_instance_uid": str(ds.SOPInstanceUID),
            "series_number": int(ds.SeriesNumber),
            "bytes": stored.size,
            "preview": str(picture) if preview.save_png(ds, picture, self._source(ds)) else None,
        }
        if stored.preview is not None:
            of_pacs = folder / f"{kind}-{ds.SOPInstanceUID[-8:]}-{self._pacs.name.lower()}.png"
            of_pacs.write_bytes(stored.preview)
            entry["preview_of_pacs"] = str(of_pacs)
        return entry

    def _source(self, ds: Dataset) -> Dataset | None:
        """The received image that a result is about."""
        found = (self._ledger.find_instance(uid) for uid in elements.referenced(ds))
        instance = next((one for one in found if one is not None), None)
        return reading.read(instance.path) if instance is not None else None


def table(report: dict[str, Any], pacs: str) -> Table:
    """One study's report for people."""
    out = Table(title=f"Study {report['study_instance_uid']}", show_header=False, title_justify="left")
    out.add_column(style="bold", no_wrap=True)
    out.add_column(overflow="fold")
    out.add_row("state", report["state"] + (f": {report['reason']}" if report["reason"] else ""))
    out.add_row("received", f"{report['received']} image(s)")
    out.add_row("explained", f"{report['explained']} image(s)")
    out.add_row("delivered", f"{report['delivered']} object(s) in the PACS ({pacs})")
    steps = ", ".join(f"{name} {value:.2f}" for name, value in report["seconds"].items() if value is not None)
    out.add_row("seconds", steps)
    for image in report["images"]:
        out.add_row("probability", f"{image['probability']:.3f} ({image['decision'].lower()})")
        out.add_row("model", image["model"])
    for one in report["objects"]:
        lines = f"{one['sop_class']}, series {one['series_number']}, {one['bytes']:,} bytes\n{one['sop_instance_uid']}"
        for key in ("preview", "preview_of_pacs"):
            if one.get(key):
                lines += f"\n{one[key]}"
        out.add_row(one["kind"], lines)
    return out


def run(
    *,
    inputs: Sequence[Path],
    out: Path | None,
    once: bool,
    as_json: bool,
    methods: Sequence[str] = (),
    bundle: Path | None = None,
    seconds: float = 900,
) -> int:
    """Run the demo; the exit status is 0 when everything was delivered.

    Raises:
        ConfigError, BundleError: see `explaining`.
    """
    explain = explaining(methods, bundle)
    folder = Path(tempfile.mkdtemp(prefix="dicom-node-demo-")) if out is None else out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(file=sys.stderr)
    demo = Demo(folder, console, explain)
    _clean(folder)
    for number in (signal.SIGTERM, signal.SIGHUP):  # end everything that was started, as Ctrl-C does
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    try:
        with demo.running():
            demo.wait_until_listening(60)
            console.print(f"up in {time.monotonic() - began:.1f} s: {demo.describe()}")
            status = _explain(demo, list(reading.find(inputs)) or [sample()], as_json=as_json, seconds=seconds)
            if not once:
                console.print(f"dashboard: {demo.dashboard()}", soft_wrap=True)
                console.print("running until Ctrl-C")
                demo.keep()
            return status
    except KeyboardInterrupt:
        console.print("stopped")
        return 0
    except RuntimeError as error:
        console.print(f"error: {error}")
        return 1


def _explain(demo: Demo, paths: Sequence[Path], *, as_json: bool, seconds: float) -> int:
    studies, refused = demo.send(paths)
    for line in refused:
        demo.console.print(f"not sent: {line}")
    delivered = bool(studies) and demo.wait(studies, seconds)
    reports = [demo.report(study) for study in studies]
    if as_json:
        print(json.dumps({"studies": reports, "not_sent": refused, "folder": str(demo.folder)}, indent=1))  # noqa: T201
    else:
        for report in reports:
            Console().print(table(report, demo.describe().split("PACS ")[1].split(" ")[0]))
    if not delivered:
        demo.console.print(f"not everything was delivered within {seconds:g} s; see the logs in {demo.folder}")
    return 0 if delivered and not refused else 1


def _clean(folder: Path) -> None:
    """Forget an earlier demo in the same folder."""
    for name in ("spool", "pacs", "previews"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in (*folder.glob("ledger.sqlite*"), *folder.glob("*.log")):
        path.unlink()
