"""A collector of OpenTelemetry: OTLP over HTTP, on a port of this machine, that keeps the spans it gets."""

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    name: str
    trace: str
    span: str
    parent: str
    began: int
    ended: int
    role: str
    said: dict[str, str | int]


class Collector:
    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.bytes = b""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    content = gzip.decompress(content)
                collector.take(content)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def take(self, content: bytes) -> None:
        self.bytes += content
        for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
            role = {one.key: one.value.string_value for one in resource.resource.attributes}["service.instance.id"]
            for one in (span for scope in resource.scope_spans for span in scope.spans):
                said = {pair.key: pair.value.string_value or pair.value.int_value for pair in one.attributes}
                ids = (one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex())
                times = (one.start_time_unix_nano, one.end_time_unix_nano)
                self.spans.append(Span(one.name, *ids, *times, role, said))

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
