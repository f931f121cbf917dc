"""One role of a node as a process of its own, for tests that kill it: python processes.py ROLE FOLDER [POINT].

The model is the toy. POINT names a place where the process kills itself (SIGKILL), to the instruction:

    leased       the worker has its lease and has done nothing
    written      the worker has written one of its result files
    explained    the worker has written all files; the ledger knows nothing
    completed    the ledger knows; the broker has no acknowledgement
    stored       the destination has an object; the ledger does not know
    downgraded   the ledger knows that another object stands in; nobody has sent it
    asked        the destination has taken a commitment request; the ledger knows of no answer
"""

import json
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

from toy_explainer import ToyExplainer

from dicom_node.deliver import scu
from dicom_node.deliver.commitment import Committer
from dicom_node.deliver.sender import Sender, register_deliver
from dicom_node.queue import broker
from dicom_node.route.dispatcher import Dispatcher
from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.spool import Spool
from dicom_node.watch import logs


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(function, action):
    def wrapped(*arguments, **options):
        result = function(*arguments, **options)
        action()
        return result

    return wrapped


class Patient:
    """The toy, which says when it begins and goes on when it may."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._toy = ToyExplainer()
        self.identity = self._toy.identity
        self.classify = self._toy.classify

    def explain(self, radiograph, methods, assessment=None):
        (self._folder / "explaining").touch()
        while not (self._folder / "go").exists():
            time.sleep(0.02)
        return self._toy.explain(radiograph, methods, assessment)


def worker(settings: Settings, ledger: Ledger, spool: Spool, folder: Path, point: str) -> None:
    from dicom_node.explain.worker import Worker, register_explain

    if point == "leased":
        ledger.lease = after(ledger.lease, die)
    if point == "written":
        write = spool.write_outbox
        spool.write_outbox = lambda name, datasets: die(write(name, list(datasets)[:1]))
    if point == "explained":
        ledger.complete = die
    if point == "completed":
        ledger.complete = after(ledger.complete, die)
    app = broker.make_celery(settings)
    register_explain(app, Worker(settings, ledger, spool, lambda: Patient(folder)))
    broker.run_worker(app, broker.EXPLAIN)


def sender(settings: Settings, ledger: Ledger, spool: Spool, point: str) -> None:
    def deadly(*arguments, **options):
        for outcome in scu.store(*arguments, **options):
            if outcome.status == 0:
                die()
            yield outcome

    if point == "downgraded":
        ledger.delivery_refused = after(ledger.delivery_refused, die)
    app = broker.make_celery(settings)
    store = deadly if point == "stored" else scu.store
    register_deliver(app, Sender(settings=settings, ledger=ledger, fetch=spool.fetch, store=store))
    broker.run_worker(app, broker.DELIVER, concurrency=max(2, len(settings.destinations)))


def main(role: str, folder: Path, point: str) -> None:
    settings = Settings.model_validate(json.loads((folder / "settings.json").read_text()))
    if port := os.environ.get("NODE_PORT"):  # of a second listener
        settings = settings.model_copy(update={"node": settings.node.model_copy(update={"port": int(port)})})
    logs.configure(settings.logging.level)
    ledger = Ledger(settings.node.database)
    ledger.create()
    spool = Spool.of(settings)
    if role == "worker":
        worker(settings, ledger, spool, folder, point)
    elif role == "sender":
        sender(settings, ledger, spool, point)
    elif role == "committer":
        if point == "asked":
            ledger.commitment_asked = die
        Committer(settings=settings, ledger=ledger, fetch=spool.fetch).run(threading.Event())
    elif role == "listener":
        from dicom_node.receive.listener import Listener

        Listener(settings, ledger, spool).start()
        threading.Event().wait()
    else:
        app = broker.make_celery(settings)
        loop = Dispatcher(settings, ledger, app, fetch=spool.fetch, resubmit=timedelta(seconds=1))
        loop.run(threading.Event(), 0.1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
