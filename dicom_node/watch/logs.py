"""Structured logs that carry identifiers and never a patient's data.

Our own events name UIDs and AE titles. Messages, warnings and exceptions of the DICOM libraries may quote
values of a data set, so only their place in the code is logged; of our own errors the message too.
"""

import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import structlog

from dicom_node.errors import NodeError
from explain_core.errors import ExplainError

bound = structlog.contextvars.bound_contextvars
"""`with bound(association_id=..., study=..., task_id=...)`: every log line inside carries the identifiers."""

_QUOTING = ("pydicom", "pynetdicom", "highdicom", "pylibjpeg", "PIL", "httpx2", "httpcore2")
_REPEATING = ("celery.worker.strategy", "celery.app.trace")
"""They tell of each message by Celery's own identifier; our lines tell of the same work, and of which study it is."""
_SPEAKING_ERRORS = (NodeError, ExplainError)
_FRAMES = 6


def configure(level: str = "info", *, as_json: bool = False, stream: IO[str] | None = None) -> None:
    """Set up logging for this process; call once, in the composition root.

    Args:
        level: debug, info, warning or error.
        as_json: one JSON object a line instead of text for people.
        stream: where to; stderr when None.
    """
    target = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _place_of_exception,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=target.isatty(), pad_event_to=0)
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_withhold_foreign_text, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUOTING:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _REPEATING:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    warnings.showwarning = _show_warning
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def place(error: BaseException) -> list[str]:
    """The innermost frames of `error` as file:line:function, outermost first; no values, no source text."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    return [f"{Path(frame.filename).name}:{frame.lineno}:{frame.name}" for frame in frames]


class _Silence:
    """The process's warnings, ignored from the first thread that asks for it to the last; none waits for another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = warnings.catch_warnings()

    def begin(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def end(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__(None, None, None)


_silence = _Silence()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep warnings silent inside: those of pydicom quote values."""
    _silence.begin()
    try:
        yield
    finally:
        _silence.end()


def _place_of_exception(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace a traceback, whose messages may quote a data set, by the error's type and place."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        event["place"] = place(error)
        if isinstance(error, _SPEAKING_ERRORS):
            event["message"] = str(error)
    return event


def _withhold_foreign_text(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    record: logging.LogRecord | None = event.get("_record")
    if record is not None and record.name.split(".")[0] in _QUOTING:
        event["event"] = f"{record.name.split('.')[0]}: {record.levelname.lower()}"
        event["place"] = [f"{record.filename}:{record.lineno}:{record.funcName}"]
        event.pop("positional_args", None)
        event.pop("exc_info", None)
    return event


def _show_warning(
    message: Warning | str,  # noqa: ARG001 - it may quote values
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    log = structlog.get_logger(__name__)
    log.warning("python warning", category=category.__name__, place=[f"{Path(filename).name}:{lineno}"])


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    structlog.get_logger(__name__).error("uncaught exception", exc_info=error)


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        structlog.get_logger(__name__).error("uncaught exception in a thread", exc_info=args.exc_value)
