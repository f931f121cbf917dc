"""The node as it runs in a hospital, with every role a process of its own and Orthanc as its destination."""

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom import dcmread

from dicom_node.app import open_ledger
from dicom_node.deliver.scu import StoreRequest, echo, store
from dicom_node.demo.servers import Orthanc, Redis, free_port
from dicom_node.errors import DeliveryUnreachable
from dicom_node.nouns import AETitle, Destination, StudyState
from dicom_node.offline.files import instance_of
from dicom_node.settings.loading import load_settings
from dicom_node.storage.ledger import Ledger
from dicom_node.supervision import Supervisor

AE_TITLE, MODALITY_AE_TITLE = "EXPLAIN", "MODALITY"
ROLES = ("listener", "dispatcher", "worker", "sender")

_CONFIG = """
[node]
ae_title = "{ae_title}"
port = {port}
calling_ae_titles = ["{modality}"]
spool = "{folder}/spool"
database = "sqlite:///{folder}/ledger.sqlite"
low_water_mb = 50

[audit]
folder = "{folder}/audit"

[metrics]
folder = "{folder}/metrics"

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
objects = {objects}
synthetic_images = {synthetic}
"""


@dataclass(frozen=True)
class Node:
    """A running node and the folder it writes to."""

    folder: Path
    port: int
    ledger: Ledger
    supervisor: Supervisor

    def explain(self, paths: Sequence[Path], seconds: float = 150) -> None:
        """Send radiographs as a modality would and wait until every result has reached the PACS."""
        here = Destination(name="node", ae_title=AETitle(AE_TITLE), host="127.0.0.1", port=self.port)
        self._wait_for(lambda: _answers(here), "the listener", 60)
        for uid in send(here, paths):
            self._wait_for(lambda uid=uid: self._delivered(uid), "every delivery", seconds)

    def written(self) -> list[Path]:
        """The files in the outbox."""
        return sorted((self.folder / "spool" / "outbox").glob("*/*.dcm"))

    def _delivered(self, study: str) -> bool:
        (found,) = (one for one in self.ledger.studies() if one.study_instance_uid == study)
        assert found.state != StudyState.FAILED, f"{found.reason}; see the logs in {self.folder}"
        return self.ledger.timeline(study).delivered_at is not None

    def _wait_for(self, condition, what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}; see the logs in {self.folder}"
            self.supervisor.check()
            time.sleep(0.2)


def send(there: Destination, paths: Sequence[Path]) -> list[str]:
    """C-STORE radiographs as a modality would; the Study Instance UIDs."""
    instances = [instance_of(path, MODALITY_AE_TITLE, datetime.now(UTC)) for path in paths]
    requests = [
        StoreRequest(
            key=str(one.path),
            sop_instance_uid=one.sop_instance_uid,
            sop_class_uid=one.sop_class_uid,
            path=one.path,
        )
        for one in instances
    ]
    errors = [one.error for one in store(there, requests, calling_ae_title=MODALITY_AE_TITLE, timeout=60)]
    assert errors == [None] * len(paths), errors
    return [one.study_instance_uid for one in instances]


def _answers(here: Destination) -> bool:
    try:
        echo(here, calling_ae_title=MODALITY_AE_TITLE, timeout=5)
    except DeliveryUnreachable:
        return False
    return True


@contextlib.contextmanager
def running(folder: Path, pacs: Orthanc, objects: Sequence[str]) -> Iterator[Node]:
    """Redis and the four roles inside; nothing of them after.

    Args:
        folder: everything the node writes.
        pacs: a started Orthanc that knows the AE title EXPLAIN.
        objects: names of the result builders.
    """
    with contextlib.ExitStack() as stack:
        short = stack.enter_context(tempfile.TemporaryDirectory(prefix="dn-"))
        redis = Redis(Path(short))  # a socket's path may have 107 characters at most
        redis.start()
        stack.callback(redis.stop)
        config, port = folder / "dicom-node.toml", free_port()
        config.write_text(
            _CONFIG.format(
                ae_title=AE_TITLE,
                port=port,
                modality=MODALITY_AE_TITLE,
                folder=folder,
                redis=redis.url,
                objects=json.dumps([name for name in objects if name != "synthetic_images"]),
                synthetic=json.dumps("synthetic_images" in objects),
                pacs=pacs.ae_title,
                pacs_port=pacs.port,
            )
        )
        ledger = open_ledger(load_settings(config))
        stack.callback(ledger.close)
        supervisor = Supervisor(config, ROLES, lambda role: (folder / f"{role}.log").open("ab"))
        supervisor.start()
        stack.callback(supervisor.stop)
        yield Node(folder=folder, port=port, ledger=ledger, supervisor=supervisor)


def changed(source: Path, target: Path, attributes: Mapping[str, Any]) -> Path:
    """A copy of a DICOM file with other values of some attributes."""
    ds = dcmread(source)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(target)
    return target
