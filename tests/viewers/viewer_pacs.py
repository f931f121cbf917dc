"""Orthanc with DICOMweb on loopback, and a DICOMweb client that hands out bytes as they came."""

import json
import urllib.parse
import urllib.request
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any

from dicom_node.demo.servers import Orthanc

DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class DicomWebOrthanc(Orthanc):
    """Orthanc that speaks DICOMweb and tells its clients to come through a proxy.

    Args:
        folder: its storage, configuration and log.
        peers: AE titles that may store, by name.
        proxy_port: where browsers reach it; Bulk Data URIs name this port.
    """

    def __init__(self, folder: Path, peers: dict[str, str], proxy_port: int) -> None:
        super().__init__(folder, peers)
        self._proxy_port = proxy_port

    def _configuration(self) -> dict[str, Any]:
        return super()._configuration() | {
            "Plugins": [str(DICOMWEB_PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Host": f"127.0.0.1:{self._proxy_port}"},
            "OverwriteInstances": True,
            "UnknownSopClassAccepted": True,
        }

    def qido(self, path: str, **query: str) -> list[dict[str, Any]]:
        """Search below /dicom-web; the answer as DICOM JSON."""
        return json.loads(self._ask(f"{path}?{urllib.parse.urlencode(query)}", "application/dicom+json")[1] or b"[]")

    def wado(self, path: str) -> list[bytes]:
        """Retrieve below /dicom-web in the transfer syntax it is stored in; one DICOM file per part."""
        accepted = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        return parts(*self._ask(path, accepted))

    def post(self, path: str, body: bytes) -> bytes:
        """POST to its REST interface."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", data=body, timeout=20) as answer:
            return answer.read()

    def _ask(self, path: str, accepted: str) -> tuple[str, bytes]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}/dicom-web{path}", headers={"Accept": accepted}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - loopback
            return answer.headers["Content-Type"], answer.read()


def parts(content_type: str, body: bytes) -> list[bytes]:
    """The parts of a multipart/related body, unchanged (RFC 2046, 5.1.1)."""
    boundary = BytesHeaderParser().parsebytes(f"Content-Type: {content_type}\n\n".encode()).get_boundary()
    assert boundary, f"not a multipart answer: {content_type}"
    found = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    assert found[-1].strip() == b"--", "the multipart answer is cut off"
    return [part.partition(b"\r\n\r\n")[2] for part in found[1:-1]]


def data_set(file: bytes) -> bytes:
    """A DICOM file without preamble and File Meta Information, which each archive writes anew (PS3.10, 7.1)."""
    assert file[128:136] == b"DICM\x02\x00\x00\x00", "no DICOM file"
    return file[144 + int.from_bytes(file[140:144], "little") :]
