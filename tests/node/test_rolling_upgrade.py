"""A rolling upgrade of listeners: another takes over while a modality sends; what was acknowledged is there."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from keeping import Systemd
from pynetdicom import AE
from receiving import CR, radiograph
from working import free_port, short_folder

from dicom_node.status import Status
from dicom_node.storage.ledger import Ledger

ROUNDS = 3


class Listener:
    """A role as systemd or Kubernetes runs it: others reach it once it has said that it is ready."""

    def __init__(self, folder, place, name):
        self.port = free_port()
        self._systemd = Systemd(f"{place}/{name}")
        told = {
            "NODE__PORT": str(self.port),
            "NODE__SPOOL": f"{folder}/spool",
            "NODE__DATABASE": f"sqlite:///{folder}/ledger.sqlite",
            "NODE__CALLING_AE_TITLES": "MODALITY",
            "NODE__LOW_WATER_MB": "0",
            "AUDIT__FOLDER": f"{folder}/audit",
        }
        environment = os.environ | {f"DICOM_NODE_{key}": value for key, value in told.items()}
        environment["NOTIFY_SOCKET"] = self._systemd.address
        command = [sys.executable, "-m", "dicom_node", "serve", "--only", "listener"]
        self._process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    def ready(self):
        assert self._systemd.heard(120) == "READY=1"
        return self

    def end(self):
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(120) == 0

    def close(self):
        self._process.kill()
        self._process.wait()
        self._systemd.close()


class Requestor(AE):
    """Closes its connections: pynetdicom 3.0 leaves one that the peer has reset or refused to the garbage collector."""

    def __init__(self, title):
        super().__init__(title)
        self._connections = []

    def _create_socket(self, *arguments):
        created = super()._create_socket(*arguments)
        self._connections.append(created.socket)
        return created

    def close(self):
        for connection in self._connections:
            connection.close()


class Modality:
    """Sends one object after the other to whoever the service leads to, and sends again what was not acknowledged."""

    def __init__(self, service):
        self._service = service
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.acknowledged = []
        self.tries = 0

    def _send(self):
        with contextlib.closing(Requestor("MODALITY")) as entity:
            self._send_with(entity)

    def _send_with(self, entity):
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
        entity.add_requested_context(CR)
        association = None
        while not self._stop.is_set():
            ds = radiograph(len(self.acknowledged) + 1, size=16)
            if association is None or not association.is_established:
                association = entity.associate("127.0.0.1", self._service[0].port, ae_title="EXPLAIN")
            self.tries += 1
            if association.is_established and self._answer(association, ds) == Status.SUCCESS:
                self.acknowledged.append(str(ds.SOPInstanceUID))
            self._stop.wait(0.05)
        if association.is_established:
            association.release()

    @staticmethod
    def _answer(association, ds):
        try:
            return association.send_c_store(ds).get("Status")
        except (RuntimeError, ValueError):  # aborted since it was looked at
            return None

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(120)

    def wait_for(self, more):
        wanted = len(self.acknowledged) + more
        while len(self.acknowledged) < wanted:
            assert self._thread.is_alive()
            self._thread.join(0.05)


@pytest.mark.slow
def test_listeners_are_replaced_under_load_and_nothing_acknowledged_is_lost(tmp_path):
    with short_folder() as place, contextlib.ExitStack() as held:
        service = [held.enter_context(contextlib.closing(Listener(tmp_path, place, "0"))).ready()]
        with Modality(service) as modality:
            modality.wait_for(5)
            for number in range(1, ROUNDS + 1):
                new = held.enter_context(contextlib.closing(Listener(tmp_path, place, str(number)))).ready()
                old, service[0] = service[0], new
                old.end()  # while the modality holds an association with it
                modality.wait_for(5)
        service[0].end()
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    instances = {str(one.sop_instance_uid): Path(one.path) for one in rows(ledger)}
    ledger.close()
    assert len(modality.acknowledged) >= 5 * (ROUNDS + 1)
    assert len(set(modality.acknowledged)) == len(modality.acknowledged)
    assert set(modality.acknowledged) <= instances.keys()
    assert all(path.is_file() for path in instances.values())
    assert not list((tmp_path / "spool" / "incoming").glob("*/*.part")), "nothing half is left"


def rows(ledger):
    """Every instance that the ledger knows, of studies that nobody has closed."""
    return [one for activity in ledger.assembly_snapshot()
            for one in ledger.study(activity.study_instance_uid, activity.revision).instances]  # fmt: skip
