"""Modalities: they send studies of real radiographs, image by image, and each image until it is acknowledged."""

import copy
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from dicom_node.deliver.scu import StoreRequest, store
from dicom_node.nouns import AETitle, Destination, SOPInstanceUID

AE_TITLE, NODE_AE_TITLE = "MODALITY", "EXPLAIN"
PAUSE = (0.3, 2.0)
"""Seconds before an image that was not acknowledged is sent again."""
ANSWER_SECONDS = 20.0
MOST_AT_A_TIME = 16
SENT_TWICE = 0.1
"""Part of the studies whose images come again, as from a modality that missed the answer."""


@dataclass
class Sent:
    """One study as its modality knows it.

    Attributes:
        acknowledged: when (time.monotonic()) each SOP Instance UID was first answered with 0x0000.
        tries: C-STORE requests, those that had no answer or another one included.
        seconds: of each request that was answered with 0x0000, its association included.
    """

    study: str
    acknowledged: dict[str, float] = field(default_factory=dict)
    tries: int = 0
    seconds: list[float] = field(default_factory=list)


class Modalities:
    """Any number of modalities, with the radiographs that they have.

    Args:
        folder: for the images that are being sent.
        ports: of the listeners, of which each image goes to one by chance.
        radiographs: files.
        seed: of all chance.
    """

    def __init__(self, folder: Path, ports: Sequence[int], radiographs: Sequence[Path], seed: int) -> None:
        self._folder = folder
        self._folder.mkdir()
        self._listeners = [
            Destination(name=str(port), ae_title=AETitle(NODE_AE_TITLE), host="127.0.0.1", port=port) for port in ports
        ]
        self._images = [dcmread(path) for path in radiographs]
        self._seed = seed
        self._chance = random.Random(seed)  # noqa: S311
        self._pool = ThreadPoolExecutor(MOST_AT_A_TIME, "modality")
        self._stop = threading.Event()
        self._under_way: list[Future[None]] = []
        self.studies: list[Sent] = []

    def send(self, gap: float | None = None) -> None:
        """Begin to send a study of one to three images.

        Args:
            gap: about so many seconds between two images of three; None is at once.
        """
        name = f"{self._seed}.{len(self.studies)}"
        sent = Sent(generate_uid(entropy_srcs=[name, "study"]))
        self.studies.append(sent)
        self._under_way.append(self._pool.submit(self._send, sent, random.Random(name), gap))  # noqa: S311

    def run(self, rate: float, seconds: float) -> None:
        """Begin `rate` studies a minute, as they come by chance, for so long."""
        end = time.monotonic() + seconds
        while not self._stop.wait(self._chance.expovariate(rate / 60)) and time.monotonic() < end:
            self.send()

    def finish(self, seconds: float) -> None:
        """Return when everything is acknowledged, or give up after `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not all(one.done() for one in self._under_way):
            time.sleep(0.1)
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
        for one in self._under_way:
            if not one.cancelled():
                one.result()

    def _send(self, sent: Sent, chance: random.Random, gap: float | None) -> None:
        series, patient = generate_uid(), f"SOAK{chance.randrange(10**6)}"
        times = 1 + (not gap and chance.random() < SENT_TWICE)
        for number in range(3 if gap else chance.choice((1, 1, 1, 2, 3))):
            if gap and number:
                self._stop.wait(gap * chance.uniform(0.8, 1.2))
            ds = _renamed(chance.choice(self._images), sent.study, series, patient)
            path = self._folder / f"{ds.SOPInstanceUID}.dcm"
            ds.save_as(path)
            for _ in range(times):
                self._until_acknowledged(sent, ds, path, chance)
            path.unlink()

    def _until_acknowledged(self, sent: Sent, ds: Dataset, path: Path, chance: random.Random) -> None:
        uid = SOPInstanceUID(str(ds.SOPInstanceUID))
        asked = StoreRequest(key="", sop_instance_uid=uid, sop_class_uid=str(ds.SOPClassUID), path=path)
        while not self._stop.is_set():
            sent.tries += 1
            began = time.monotonic()
            there = chance.choice(self._listeners)
            (outcome,) = store(there, [asked], calling_ae_title=AE_TITLE, timeout=ANSWER_SECONDS)
            if outcome.status == 0:
                sent.seconds.append(time.monotonic() - began)
                sent.acknowledged.setdefault(uid, time.monotonic())
                return
            self._stop.wait(chance.uniform(*PAUSE))


def _renamed(source: Dataset, study: str, series: str, patient: str) -> Dataset:
    ds = copy.deepcopy(source)
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, series, generate_uid()
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.PatientID, ds.PatientName = patient, f"Soak^{patient}"
    return ds
