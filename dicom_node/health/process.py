"""What every role is while it runs: counted, traced, and seen to live."""

from collections.abc import Iterator
from contextlib import contextmanager

from dicom_node.health.heartbeat import beating
from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger import Ledger
from dicom_node.watch import metrics, traces


@contextmanager
def observed(settings: Settings, role: str) -> Iterator[None]:
    """The block is the role; what cannot be counted, traced or written down meanwhile stops none of its work.

    Args:
        settings: [metrics], [tracing], and where the ledger is.
        role: of this process.

    Raises:
        ConfigError: traces are asked for, and OpenTelemetry is not installed.
    """
    chosen = settings.metrics
    metrics.start(chosen.folder)
    if chosen.port is not None:
        metrics.serve(chosen.host, chosen.port, chosen.folder)
    traces.start(settings.tracing.endpoint, role)
    try:
        with beating(Ledger(settings.node.database), role):
            yield
    finally:
        traces.stop()
