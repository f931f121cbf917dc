"""OpenTelemetry: one trace of each study revision, from its first image to its delivery; nothing without a collector.

Trace and root have identifiers that follow from Study Instance UID and revision, so that the processes that work on a
study need not tell each other. Spans carry identifiers and names of ours, and nothing of the patient. Without an
endpoint OpenTelemetry is not even loaded.

    receive      its images, from the first one to a complete study; the root
    wait         for a worker
    explain      a task, with what took part in it: decode, classify, explain, build, write
    deliver      what was sent of it to one destination, in one go
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from dicom_node.errors import ConfigError
from dicom_node.watch.stages import Stage
from explain_core.errors import install

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_EXPORT_SECONDS: Final = 5
_FLUSH_MILLISECONDS: Final = 5000
_MAX_WAITING: Final = 2048
"""Spans; while the collector is away the newest are dropped."""

_tracer: Any = None
_provider: Any = None
_ids: Any = None


def start(endpoint: str | None, role: str) -> None:
    """Trace from now on, if there is an endpoint.

    Args:
        endpoint: OTLP over HTTP, e.g. http://127.0.0.1:4318/v1/traces.
        role: of this process.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    if endpoint is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional
    except ImportError as error:
        raise ConfigError(f"tracing.endpoint: OpenTelemetry is missing: {install('tracing')}") from error
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    use(OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS), role)


def use(exporter: "SpanExporter", role: str) -> None:
    """Trace into an exporter."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: PLC0415

    class Ids(RandomIdGenerator):
        """Identifiers by chance, but for those of the root that is about to begin."""

        root: tuple[int, int] | None = None

        def generate_trace_id(self) -> int:
            return self.root[0] if self.root else super().generate_trace_id()

        def generate_span_id(self) -> int:
            return self.root[1] if self.root else super().generate_span_id()

    global _tracer, _provider, _ids  # noqa: PLW0603 - of the process, like its logs
    _ids = Ids()
    resource = Resource.create({"service.name": "dicom-node", "service.instance.id": role})
    _provider = TracerProvider(resource=resource, id_generator=_ids, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_MAX_WAITING))
    _tracer = _provider.get_tracer("dicom_node")


def stop() -> None:
    """Send what waits, for a few seconds at most, and trace no more."""
    global _tracer, _provider  # noqa: PLW0603
    if _provider is not None:
        _provider.force_flush(_FLUSH_MILLISECONDS)
        _provider.shutdown()
    _tracer = _provider = None


def running() -> bool:
    """Whether anything is traced."""
    return _tracer is not None


def trace_id(study: str, revision: int) -> int:
    """Of a study revision; 128 bits."""
    return _number("trace", study, revision, 16)


def received(study: str, revision: int, began: datetime, ended: datetime, **more: str | int) -> None:
    """The root: from the first image of a revision to the moment at which it was complete."""
    if _tracer is None:
        return
    _ids.root = (trace_id(study, revision), _root(study, revision))
    try:
        _span("receive", None, began, ended, {"study": study, "revision": revision, **more})
    finally:
        _ids.root = None


def explained(study: str, revision: int, waited_since: datetime, stages: Sequence[Stage], **more: str | int) -> None:
    """A task: how long it waited, and its stages, of which the last one is the whole."""
    if _tracer is None or not stages:
        return
    *parts, whole = stages
    said = {"study": study, "revision": revision, **more}
    parent = _remote(study, revision)
    _span("wait", parent, waited_since, whole.began_at, said)
    context = _span("explain", parent, whole.began_at, whole.ended_at, said)
    for one in parts:
        _span(one.name, context, one.began_at, one.ended_at, {"study": study})


def delivered(study: str, revision: int, began: datetime, ended: datetime, **more: str | int) -> None:
    """What was sent to one destination."""
    if _tracer is not None:
        said = {"study": study, "revision": revision, **more}
        _span("deliver", _remote(study, revision), began, ended, said)


def _span(name: str, context: Any, began: datetime, ended: datetime, said: Mapping[str, str | int]) -> Any:
    """One span that has ended already; its context, for those that are parts of it."""
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

    attributes = {f"dicom_node.{key}": one for key, one in said.items()}
    span = _tracer.start_span(name, context or Context(), start_time=_nanoseconds(began), attributes=attributes)
    span.end(end_time=_nanoseconds(max(ended, began)))
    return set_span_in_context(span)


def _remote(study: str, revision: int) -> Any:
    """The root of a study revision, whichever process made it."""
    from opentelemetry.trace import (  # noqa: PLC0415
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    sampled = TraceFlags(TraceFlags.SAMPLED)
    root = SpanContext(trace_id(study, revision), _root(study, revision), is_remote=True, trace_flags=sampled)
    return set_span_in_context(NonRecordingSpan(root))


def _root(study: str, revision: int) -> int:
    return _number("root", study, revision, 8)


def _number(kind: str, study: str, revision: int, octets: int) -> int:
    digest = hashlib.sha256(f"{kind}|{study}|{revision}".encode()).digest()
    return int.from_bytes(digest[:octets], "big") or 1


def _nanoseconds(moment: datetime) -> int:
    since = moment - datetime(1970, 1, 1, tzinfo=moment.tzinfo)
    return since // timedelta(microseconds=1) * 1000
