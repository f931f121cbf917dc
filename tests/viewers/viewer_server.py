"""Serves OHIF and, from the same origin, the DICOMweb of a PACS."""

import http.client
import mimetypes
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

DICOMWEB = "/dicom-web"
CONFIG = Path(__file__).parents[2] / "deploy" / "pacs" / "ohif" / "app-config.js"
"""The configuration that is shipped."""
PLAIN = "Object.assign(window.config, { extensions: [], customizationService: [] });"
"""Put behind it: OHIF opens studies as it does of itself, one image in the whole window."""
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"})


class OhifServer:
    """OHIF's prebuilt pages on loopback, with /dicom-web passed on to the PACS.

    Args:
        pages: OHIF's dist folder.
        port: the port to listen on.
    """

    def __init__(self, pages: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.asked: list[str] = []
        self.more = PLAIN
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler(pages.resolve()))
        self._server.daemon_threads = True
        self.pacs_port = 0
        self._thread = threading.Thread(target=self._server.serve_forever, name="ohif", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def _handler(self, pages: Path) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                outer.asked.append(self.path)
                if path.startswith(DICOMWEB + "/"):
                    self._answer(*outer._from_pacs(self.path, self.headers.get("Accept", "*/*")))
                elif path == "/app-config.js":
                    self._answer(200, {"Content-Type": "text/javascript"}, (CONFIG.read_text() + outer.more).encode())
                else:
                    file = (pages / path.lstrip("/")).resolve()
                    if not (file.is_file() and file.is_relative_to(pages)):
                        file = pages / "index.html"  # a page of the application, which has its own router
                    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
                    self._answer(200, {"Content-Type": kind, "Cache-Control": "max-age=3600"}, file.read_bytes())

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                isolation = {
                    "Cross-Origin-Opener-Policy": "same-origin",
                    "Cross-Origin-Embedder-Policy": "require-corp",
                }
                for name, value in (headers | isolation | {"Content-Length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler

    def _from_pacs(self, path: str, accepted: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.pacs_port, timeout=60)
        try:
            connection.request("GET", path, headers={"Accept": accepted})
            answer = connection.getresponse()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            return answer.status, headers, answer.read()
        finally:
            connection.close()
