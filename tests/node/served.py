"""The role `web` in a thread of the test, and what it answers."""

import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

from working import free_port, wait_for

from dicom_node.health.figures import Observer
from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.spool import Spool
from dicom_node.watch.audit import Audit
from dicom_node.web import server
from dicom_node.web.node import Node


class Web:
    """Asks the role."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def health(self) -> tuple[int, dict[str, dict[str, str]]]:
        status, content = self.get("/health")
        return status, json.loads(content)["parts"]

    def samples(self) -> dict[str, float]:
        """Name with labels, as in the text, and value."""
        lines = self.get("/metrics")[1].decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def answers(self) -> bool:
        try:
            return self.get("/health/live")[0] == 200
        except OSError:
            return False


@contextlib.contextmanager
def served(settings: Settings, ledger: Ledger) -> Iterator[Web]:
    """The role runs inside."""
    port, stop = free_port(), threading.Event()
    folder = settings.node.spool.parent
    web = {"port": port, "users": folder / "users.toml", "session_key": folder / "session.key"}
    chosen = settings.model_copy(update={"web": settings.web.model_copy(update=web)})
    spool, audit = Spool(settings.node.spool, 0), Audit.nowhere()
    seen = Observer(chosen, ledger)
    node = Node(settings=chosen, ledger=ledger, spool=spool, audit=audit, search_key=None, observer=seen)
    role = threading.Thread(target=server.run, args=(node, stop))
    role.start()
    try:
        asked = Web(port)
        wait_for(asked.answers)
        yield asked
    finally:
        stop.set()
        role.join()
