"""The default bundle behind HTTP, as dicom-ai-router asks a model: python tests/bench/model_server.py PORT.

Multipart form data with DICOM files in; what the bundle says of the first one out, decided and explained by the same
calls as in our worker. One request is worked on at a time, as in our worker.
"""

import json
import sys
import threading
import time
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

from pydicom import dcmread

from dicom_node.dicom import pixels
from explain_core.explainer import DEFAULT_METHOD, open_bundle
from explain_core.processor import keep_memory

BUNDLE = Path(__file__).resolve().parents[2] / "dicom_node" / "bundles" / "default"
keep_memory()
EXPLAINER, ONE = open_bundle(BUNDLE), threading.Lock()


class Model(BaseHTTPRequestHandler):
    def do_POST(self):
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        form = BytesParser().parsebytes(head + self.rfile.read(int(self.headers["Content-Length"])))
        ds = dcmread(BytesIO(form.get_payload()[0].get_payload(decode=True)))
        begun = time.monotonic()
        with ONE:
            radiograph = pixels.radiograph(ds)
            assessment = EXPLAINER.classify(radiograph)
            (explained,) = EXPLAINER.explain(radiograph, [DEFAULT_METHOD], assessment)
        at = explained.attribution.values
        row, column = divmod(int(at.argmax()), at.shape[1])
        said = assessment.prediction
        answer = {
            "model": "opacity", "model_version": EXPLAINER.identity.version,
            "result": "POSITIVE" if said.positive else "NEGATIVE",
            "summary_lines": [["Probability", f"{said.probability:.2f}"]],
            "key_sop_instance_uid": str(ds.SOPInstanceUID),
            "overlays": [{"cx": column, "cy": row, "r": 100, "label": said.label}],
            "display_window": [2048, 4096], "processing_ms": 1000 * (time.monotonic() - begun),
        }  # fmt: skip
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Model)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.serve_forever()
