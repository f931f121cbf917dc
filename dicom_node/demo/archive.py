"""A small archive for the demo: a Storage SCP that keeps every object as a file in one folder."""

from pathlib import Path

from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from dicom_node.dicom.uids import checked_uid


class Archive:
    """Accepts anything from anyone on loopback; the stand-in for a PACS where Orthanc is not installed.

    Args:
        folder: where the objects go, as <SOP Instance UID>.dcm.
        ae_title: its AE title.
    """

    def __init__(self, folder: Path, ae_title: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._ae = AE(ae_title)
        self._ae.supported_contexts = [*AllStoragePresentationContexts]
        self._ae.add_supported_context(Verification)
        self._server: ThreadedAssociationServer | None = None

    def start(self, port: int) -> None:
        """Listen on loopback in threads of this process."""
        self._server = self._ae.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()

    def _store(self, event: evt.Event) -> int:
        name = checked_uid(UID(str(getattr(event.request, "AffectedSOPInstanceUID", ""))))
        part = self.folder / f"{name}.part"
        part.write_bytes(event.encoded_dataset())
        part.replace(self.folder / f"{name}.dcm")
        return 0x0000
