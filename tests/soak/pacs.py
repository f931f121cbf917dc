"""The destination of a soak: a Storage SCP that can go away, and remembers of every object what a judge asks."""

import hashlib
import threading
import time
from dataclasses import dataclass
from io import BytesIO

from pydicom import Dataset, dcmread
from pynetdicom import AE, AllStoragePresentationContexts, evt
from working import free_port

AE_TITLE = "PACS"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One object that came; the same object may come more than once.

    Attributes:
        at: time.monotonic().
        study, series_number, modality: of the object.
        digest: of its data set.
        about: SOP Instance UIDs that it refers to.
    """

    at: float
    uid: str
    study: str
    series_number: int
    modality: str
    digest: str
    about: frozenset[str]


def arrival(ds: Dataset, data: bytes, at: float) -> Arrival:
    """What is remembered of an object."""
    return Arrival(
        at=at,
        uid=str(ds.SOPInstanceUID),
        study=str(ds.StudyInstanceUID),
        series_number=int(ds.SeriesNumber),
        modality=str(ds.Modality),
        digest=hashlib.sha256(data).hexdigest(),
        about=frozenset(str(one.value) for one in ds.iterall() if one.keyword == "ReferencedSOPInstanceUID"),
    )


class Pacs:
    """Takes whatever comes, and keeps no pixels."""

    def __init__(self) -> None:
        self.port = free_port()
        self.arrivals: list[Arrival] = []
        self._lock = threading.Lock()
        self._entity = AE(AE_TITLE)
        self._entity.supported_contexts = [*AllStoragePresentationContexts]
        self._server = None

    def start(self) -> None:
        if self._server is None:
            handlers = [(evt.EVT_C_STORE, self._store)]
            self._server = self._entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        """Go away in the midst of whatever is under way."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _store(self, event: evt.Event) -> int:
        data = event.encoded_dataset()
        ds = dcmread(BytesIO(data), stop_before_pixels=True)
        with self._lock:
            self.arrivals.append(arrival(ds, data, time.monotonic()))
        return 0x0000
