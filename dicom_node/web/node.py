"""What pages are made of: the parts of the node that they show and change, and how templates write things."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from dicom_node.clock import utc_now
from dicom_node.health.figures import Observer
from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger import Ledger
from dicom_node.storage.spool import Spool
from dicom_node.watch.audit import Audit
from dicom_node.web.access import user_of

PAGES: Final = (
    ("/", "Studies"),
    ("/queues", "Queues"),
    ("/models", "Models"),
    ("/jobs", "Retraining"),
    ("/destinations", "Destinations"),
    ("/system", "System"),
    ("/settings", "Settings"),
)
_KINDS: Final = {
    "good": "explained sent committed done passed champion promoted open ok answered reported",
    "busy": "receiving ready explaining pending leased queued running waiting asked",
    "warn": "ignored downgraded troubled cancelled forced none refused",
    "bad": "failed dead paused unknown wrong",
}
_KIND: Final = {word: kind for kind, words in _KINDS.items() for word in words.split()}
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_WORDS = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The parts of the node that pages show and change.

    Attributes:
        settings: as read when the role began.
        ledger: all that is known of studies.
        spool: where pictures lie.
        audit: is told who saw and did what.
        search_key: by which studies are found; None: by their UID alone.
        observer: what /health, /metrics and the page of the system are made from.
    """

    settings: Settings
    ledger: Ledger
    spool: Spool
    audit: Audit
    search_key: bytes | None
    observer: Observer


def node_of(request: Request) -> Node:
    """The node that a page is about."""
    node: Node = request.app.state.node
    return node


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page.

    Args:
        request: what is answered; its session may hold what the last act said, which is shown once.
        template: its name in templates/.
        status: of HTTP.
        values: what the template shows.
    """
    node = node_of(request)
    common = {
        "ae_title": node.settings.node.ae_title,
        "pages": PAGES,
        "here": _here(request.url.path),
        "user": user_of(request),
        "said": request.session.pop("said", None),
        "wrong": request.session.pop("wrong", False),
    }
    return HTMLResponse(_TEMPLATES.get_template(template).render(common | values), status)


def fragment(request: Request, template: str, **values: Any) -> Response:
    """A part of a page, for htmx."""
    shown = {"ae_title": node_of(request).settings.node.ae_title, "user": user_of(request)}
    return HTMLResponse(_TEMPLATES.get_template(template).render(shown | values))


def done(request: Request, path: str, said: str, *, wrong: bool = False) -> Response:
    """After an act: the page where its outcome is seen, with a line that says what was done."""
    request.session["said"], request.session["wrong"] = said[:1000], wrong
    return RedirectResponse(path, 303)


def plain_json(value: Any) -> Response:
    """Any value as JSON; times as ISO 8601, and what else JSON lacks as text."""
    text = json.dumps(value, default=lambda one: one.isoformat() if isinstance(one, datetime) else str(one))
    return Response(text, media_type="application/json")


def _here(path: str) -> str:
    first = "/" + path.strip("/").partition("/")[0]
    return "/" if first in {"/studies", "/search"} else first


def ago(moment: datetime) -> str:
    """How long ago, for a glance."""
    passed = (utc_now() - moment).total_seconds()
    if passed < 0:
        return f"in {duration(-passed)}"
    return "just now" if passed < 2 else f"{duration(passed)} ago"  # noqa: PLR2004 - seconds


def duration(seconds: float) -> str:
    """A time span in its two largest units; tenths of a second below ten."""
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def size(count: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:  # noqa: PLR2004 - SI
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _first_words(text: str) -> str:
    return text if len(text) <= _WORDS else text[:_WORDS].rsplit(" ", 1)[0] + " …"


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("dicom_node.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: Mapping[str, Any] = {
        "ago": ago,
        "duration": lambda value: duration(value.total_seconds() if isinstance(value, timedelta) else value),
        "utc": _utc,
        "size": size,
        "percent": lambda share: f"{100 * share:.1f} %",
        "kind": lambda word: _KIND.get(str(word), ""),
        "first_words": _first_words,
    }
    made.filters.update(filters)
    return made


_TEMPLATES: Final = _templates()
