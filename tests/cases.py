"""`python -m tests.cases`: the recipes of ../shared/cases through `dicom-node explain` and through a running node.

Prints a table: case, way, answer, right or wrong; exits with 1 where anything is wrong. The node is whole: Redis, the
four roles as processes of their own, the default bundle, and an archive of DICOM files as its destination. Cases 10 and
11 have no files: their peers are made here.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT.parent / "shared" / "cases"
for _folder in ("tests/viewers", "tests/node"):
    sys.path.insert(0, str(ROOT / _folder))

import reports  # noqa: E402 - of the folders above
import whole_node  # noqa: E402

from dicom_node.app import load_explainer  # noqa: E402
from dicom_node.demo.servers import ArchivePacs, free_port  # noqa: E402
from dicom_node.dicom.negotiation import presentation_contexts  # noqa: E402
from dicom_node.dicom.reading import find  # noqa: E402
from dicom_node.errors import DatasetUnreadable  # noqa: E402
from dicom_node.nouns import DeliveryState  # noqa: E402
from dicom_node.offline.files import explain_files, instance_of  # noqa: E402
from dicom_node.settings.sections import Settings  # noqa: E402

OBJECTS = ("secondary_capture", "structured_report", "presentation_state")
PICTURE = "1.2.840.10008.5.1.4.1.1.7"
SECONDS = 120


@dataclass
class Answer:
    """What came of a folder of files: result objects, and a line for each file that was refused."""

    sources: list[Path]
    objects: list[Dataset] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def of(self, modality: str) -> list[Dataset]:
        return [ds for ds in self.objects if ds.Modality == modality]

    @property
    def pictures(self) -> list[Dataset]:
        return [ds for ds in self.objects if str(ds.SOPClassUID) == PICTURE]

    @property
    def said(self) -> str:
        """Everything that the reports say."""
        return " | ".join(
            str(item.TextValue) for sr in self.of("SR") for item in reports.items(sr) if "TextValue" in item
        )

    def told(self) -> str:
        found = [f"{len(self.pictures)} explained", *self.refused]
        found += [text for text in self.said.split(" | ") if "not analysed" in text or "another patient" in text]
        return "; ".join(dict.fromkeys(found))[:150]


def explained(answer: Answer) -> bool:
    """Every file is explained."""
    return len(answer.pictures) == len(answer.sources) and not answer.refused


def one_patient(answer: Answer) -> bool:
    """Only one patient's image is explained, nothing of the other stands anywhere, and the report says so."""
    patients = {(str(ds.PatientID), str(ds.PatientName)) for ds in answer.objects}
    return len(answer.pictures) == len(patients) == 1 and "patient" in answer.said


def shown_by_state(answer: Answer) -> bool:
    """Each presentation state shows greys, by dcmtk where that is installed."""
    states = answer.of("PR")
    if len(states) != len(answer.sources):
        return False
    if shutil.which("dcmp2pgm") is None:
        return True
    by_uid = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in answer.sources}
    with tempfile.TemporaryDirectory() as folder:
        for number, state in enumerate(states):
            path, image = Path(folder) / f"{number}.dcm", Path(folder) / f"{number}.pgm"
            state.save_as(path)
            source = by_uid[state.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID]
            subprocess.run(["dcmp2pgm", "-p", path, source, image], check=True, capture_output=True)
            if len(set(image.read_bytes()[-10_000:])) < 10:
                return False
    return True


def good_one_explained(answer: Answer) -> bool:
    """The good image is explained; each other one is explained, a line, or refused."""
    good = str(dcmread(next(path for path in answer.sources if path.name == "good.dcm")).SOPInstanceUID)
    uids = {str(one.ReferencedSOPInstanceUID) for ds in answer.pictures for one in ds.SourceImageSequence}
    return good in uids


def with_its_patient(answer: Answer) -> bool:
    """A report under the patient's name, or a refusal."""
    reports_ = answer.of("SR")
    if not reports_:
        return bool(answer.refused)
    return all((ds.PatientID, str(ds.PatientName)) == ("FAKE001", "Fake^Patient1") for ds in reports_)


NAMES = {
    "empty.dcm": "Fake^Name",
    "gb2312.dcm": "Zhang^XiaoDong=\x1b$)A张^\x1b$)A小东",
    "ir13.dcm": "ﾔﾏﾀﾞ^ﾀﾛｳ",
    "utf8.dcm": "Müller^Jörg",
}
"""As pydicom reads them by a right Specific Character Set; of annex K it leaves the escape sequences in."""


def names_kept(answer: Answer) -> bool:
    """Every object says the file's name by a valid character set, and no escape remnant stands in a report."""
    names = {str(dcmread(path, stop_before_pixels=True).StudyInstanceUID): NAMES[path.name] for path in answer.sources}
    kept = all(str(ds.PatientName) == names[str(ds.StudyInstanceUID)] for ds in answer.objects)
    valid = all(ds.get("SpecificCharacterSet", "none") not in ("", "UTF-8") for ds in answer.objects)
    return explained(answer) and kept and valid and "$)A" not in answer.said


def lateral(answer: Answer) -> bool:
    """It is refused as a lateral image, in words of the file."""
    return not answer.pictures and "ateral" in answer.said


FOLDERS: dict[str, Callable[[Answer], bool]] = {
    "01_two_patients_one_study": one_patient,
    "02_gsps_blank": shown_by_state,
    "03_one_bad_image_fails_study": good_one_explained,
    "04_report_without_patient": with_its_patient,
    "06_dx_anatomic_region_only": explained,
    "07_words_of_equipment": explained,
    "08_empty_lut_items": explained,
    "14_names": names_kept,
    "15_cli_deflated": good_one_explained,
    "17_lateral_by_description": lateral,
}


@dataclass
class Row:
    case: str
    way: str
    answer: str
    right: bool


def by_command(case: str, explainer: object) -> Row:
    """The folder through what `dicom-node explain` does."""
    settings = Settings.model_validate({"results": {"objects": list(OBJECTS)}})
    with tempfile.TemporaryDirectory() as out:
        studies, unreadable = explain_files(_files(case), Path(out), settings, explainer)
        objects = [dcmread(path) for study in studies for path in study.objects]
    answer = Answer(_files(case), objects, [line.rsplit("/", 1)[-1] for line in unreadable])
    return Row(case, "explain", answer.told(), FOLDERS[case](answer))


def by_network(case: str, node: "Running") -> Row:
    """The folder by C-STORE to the node, its answers from the archive."""
    answer = Answer(_files(case))
    studies = set()
    for path in answer.sources:
        try:
            instance = instance_of(path, "MODALITY", datetime.now(UTC))
        except DatasetUnreadable:
            answer.refused.append(f"{path.name}: no file that a sender could send")
            continue
        try:
            status = node.store(path)
        except Exception as error:  # noqa: BLE001 - pydicom and pynetdicom, which here stand for a sender
            answer.refused.append(f"{path.name}: a sender cannot read it ({type(error).__name__})")
            continue
        if status:
            answer.refused.append(f"{path.name}: 0x{status:04X}")
        else:
            studies.add(instance.study_instance_uid)
    for study in studies:
        node.wait(study)
        answer.objects += [one.dataset for one in node.pacs.objects(study)]
    return Row(case, "C-STORE", answer.told(), FOLDERS[case](answer))


def script(case: str, node: "Running", right: Callable[[list[str]], bool]) -> Row:
    """The peer of a case, which prints a line for each thing that it tries."""
    text = (CASES / case / "script.py").read_text()
    head = f"import sys; sys.path.insert(0, {str(CASES)!r}); sys.argv[1:] = []\nimport peers\n"
    program = head + "\n".join(
        line for line in text.splitlines() if not line.startswith("import peers; peers.H")
    ).replace("from peers import *", f"from peers import *\npeers.H = H = ('127.0.0.1', {node.port})", 1)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    lines = done.stdout.strip().splitlines()
    answer = "; ".join(line[:60] for line in lines) or done.stderr.strip().splitlines()[-1]
    return Row(case, "peer", answer[:150], done.returncode == 0 and right(lines))


@dataclass
class Running:
    """A whole node, and the archive that it sends to."""

    node: whole_node.Node
    pacs: ArchivePacs

    @property
    def port(self) -> int:
        return self.node.port

    def store(self, path: Path) -> int:
        """The status of a C-STORE of one file; 0 is success."""
        ds = dcmread(path)
        with self.associated(str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)) as association:
            return int(association.send_c_store(path).Status)

    @contextlib.contextmanager
    def associated(self, sop_class: str, syntax: str) -> Iterator[object]:
        entity = AE("MODALITY")
        entity.add_requested_context(sop_class, syntax)
        entity.add_requested_context("1.2.840.10008.1.1")
        association = entity.associate("127.0.0.1", self.port, ae_title="EXPLAIN")
        assert association.is_established
        try:
            yield association
        finally:
            association.release()

    def wait(self, study: str) -> None:
        """Until all results of a study are delivered."""
        deadline = time.monotonic() + SECONDS
        while self.node.ledger.timeline(study).delivered_at is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"study {study} was not delivered; see {self.node.folder}")
            time.sleep(0.2)


@contextlib.contextmanager
def running(pacs: object, folder: Path) -> Iterator[Running]:
    """A node that takes any sender and closes a study two seconds after its last image, whoever stays connected."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        pacs.start()
        with whole_node.running(folder, pacs, OBJECTS) as node:
            found = Running(node, pacs)
            here = whole_node.Destination(name="n", ae_title="EXPLAIN", host="127.0.0.1", port=node.port)
            deadline = time.monotonic() + SECONDS
            while not whole_node._answers(here) and time.monotonic() < deadline:
                time.sleep(0.2)
            yield found
    finally:
        pacs.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


_ENVIRONMENT = {
    "DICOM_NODE_NODE__ACCEPT_ANY_CALLING_AE": "true",
    "DICOM_NODE_NODE__CALLING_AE_TITLES": "",
    "DICOM_NODE_STUDY__OPEN_QUIET_SECONDS": "2",
}


class LosesAnAnswer:
    """A PACS that stores an object and aborts instead of answering; from then on it answers 0x0111 (case 10)."""

    name, ae_title = "PACS", "PACS"

    def __init__(self) -> None:
        self.port, self.held = free_port(), set()
        self._server = None

    def start(self) -> None:
        entity = AE(self.ae_title)
        entity.supported_contexts = presentation_contexts()
        self._server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._take)]
        )

    def _take(self, event: evt.Event) -> int:
        uid = event.request.AffectedSOPInstanceUID
        if uid in self.held:
            return 0x0111
        self.held.add(uid)
        event.assoc.abort()
        return 0x0000

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()


def lost_answer(folder: Path) -> Row:
    """Case 10: what the PACS has already counts as delivered."""
    with running(LosesAnAnswer(), folder) as node:
        path = CASES / "03_one_bad_image_fails_study" / "good.dcm"
        node.store(path)
        study = str(dcmread(path).StudyInstanceUID)
        node.wait(study)
        rows = node.node.ledger.deliveries(study=study)
        states = [row.state for row in rows]
    told = f"{len(rows)} objects: {', '.join(sorted({state.value for state in states}))}"
    return Row(
        "10_status_0111",
        "C-STORE",
        told,
        DeliveryState.SENT in states and set(states) <= {DeliveryState.SENT, DeliveryState.STANDBY},
    )


def open_association(node: Running) -> Row:
    """Case 11: a sender that stays connected delays nobody."""
    path = CASES / "17_lateral_by_description" / "lat.dcm"
    ds = dcmread(path)
    ds.SeriesDescription, ds.StudyInstanceUID = "Chest PA", generate_uid()
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    with node.associated(str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)) as association:
        association.send_c_store(ds)
        began = time.monotonic()
        while (
            node.node.ledger.timeline(ds.StudyInstanceUID).delivered_at is None and time.monotonic() - began < SECONDS
        ):
            association.send_c_echo()
            time.sleep(0.5)
        open_still = association.is_established
    objects = [one.dataset for one in node.pacs.objects(ds.StudyInstanceUID)]
    told = f"{len(objects)} objects while the association was open"
    return Row("11_association_never_released", "C-STORE", told, bool(objects) and open_still)


def stored(lines: list[str]) -> bool:
    """Every object was stored, but those whose bytes are not in the transfer syntax of their context."""
    wrong = [line for line in lines if "0x0000" not in line]
    return bool(lines) and all("explicit in implicit" in line or "implicit in explicit" in line for line in wrong)


def served(lines: list[str]) -> bool:
    """Served or rejected with a reason, never aborted; of several transfer syntaxes the sender's lossless one."""
    chosen = [line for line in lines if line.startswith("TS choice")]
    others = [line for line in lines if line not in chosen]
    fine = all("0x0000" in line or "assoc answer type 3" in line for line in others)
    return fine and len(chosen) == 1 and "1.2.840.10008.1.2.4.201" in chosen[0]


def _files(case: str) -> list[Path]:
    return [path for path in find([CASES / case]) if path.suffix == ".dcm"]


def rows(wanted: Callable[[str], bool]) -> Iterator[Row]:
    """Every case that is wanted, in every way."""
    explainer = load_explainer(Settings())
    folders = [case for case in FOLDERS if wanted(case)]
    for case in folders:
        yield by_command(case, explainer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for name in ("node", "pacs", "other"):
            (path / name).mkdir()
        with running(ArchivePacs(path / "pacs"), path / "node") as node:
            for case in folders:
                yield by_network(case, node)
            for case, right in (("05_group2_in_data_set", stored), ("12_association_request", served)):
                if wanted(case):
                    yield script(case, node, right)
            if wanted("11_association_never_released"):
                yield open_association(node)
        if wanted("10_status_0111"):
            yield lost_answer(path / "other")


def main(arguments: Sequence[str] = ()) -> int:
    if not CASES.is_dir():
        print(f"the recipes are not at {CASES}")  # noqa: T201
        return 2
    wanted = tuple(arguments) or ("",)
    table = Table("case", "way", "answer", "right")
    found = list(rows(lambda case: case.startswith(wanted)))
    for row in sorted(found, key=lambda row: (row.case, row.way)):
        table.add_row(row.case, row.way, row.answer, "right" if row.right else "WRONG")
    Console(width=200 if not sys.stdout.isatty() else None).print(table)
    return 0 if all(row.right for row in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
