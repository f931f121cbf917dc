"""Who a request comes from, and what it may do: sessions, failed logins, requests that other sites forge, headers.

Without a login the dashboard shows states and numbers by UID. Pictures and names need a user, what changes something an
administrator. A session is a signed cookie that holds a user's name and nothing of a patient.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.web.users import User, Users

TRIES: Final = 5
"""Failed logins in a row of one user or from one address, after which the next ones have to wait."""
WAIT_SECONDS: Final = 60.0
LONGEST_FORM: Final = 1 << 16
"""Bytes."""
_MOST_KEPT: Final = 10_000
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(slots=True)
class Doorkeeper:
    """Counts failed logins, so that passwords cannot be tried one after the other.

    Attributes:
        clock: seconds, monotonic.
        one_at_a_time: to be held while a password is looked at and counted.
    """

    clock: Callable[[], float] = time.monotonic
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock, init=False)
    _failed: dict[str, tuple[int, float]] = field(default_factory=dict, init=False)

    def waits(self, *who: str) -> float:
        """Seconds until one of these names or addresses may try again; 0 where all may."""
        now = self.clock()
        return max((until - now for one in who if (until := self._until(one)) > now), default=0.0)

    def failed(self, *who: str) -> None:
        """Remember a failed login of each."""
        now = self.clock()
        if len(self._failed) > _MOST_KEPT:
            self._failed = {one: told for one, told in self._failed.items() if now - told[1] < WAIT_SECONDS}
        for one in who:
            count, last = self._failed.get(one, (0, now))
            self._failed[one] = (count + 1 if now - last < 2 * WAIT_SECONDS else 1, now)

    def granted(self, *who: str) -> None:
        """Forget the failures of each."""
        for one in who:
            self._failed.pop(one, None)

    def _until(self, one: str) -> float:
        count, last = self._failed.get(one, (0, 0.0))
        return last + WAIT_SECONDS if count >= TRIES else 0.0


def user_of(request: Request) -> User | None:
    """Who is logged in, or None; a user who was removed or has another password since is not."""
    name, seal = request.session.get("user"), request.session.get("seal")
    if not isinstance(name, str):
        return None
    users: Users = request.app.state.users
    found = users.user(name)
    return found if found is not None and found.seal == seal else None


class Needs(Enum):
    """Who may have a page."""

    NOBODY = 0
    USER = 1
    ADMINISTRATOR = 2


def allowed(request: Request, needs: Needs) -> Response | None:
    """Nothing where a request may be answered; else what it gets instead: the login, from which it comes back.

    Raises:
        HTTPException: 403, somebody is logged in who may not do that.
    """
    if needs is Needs.NOBODY:
        return None
    user = user_of(request)
    if user is None:
        return _login(request)
    if needs is Needs.ADMINISTRATOR and not user.administers:
        raise HTTPException(403, f"{user.name} may look, but not act: an administrator may.")
    return None


def _login(request: Request) -> Response:
    if request.method not in _SAFE:
        raise HTTPException(403, "log in first")
    if "HX-Request" in request.headers:
        return Response(headers={"HX-Redirect": "/login"})
    return RedirectResponse(f"/login?next={request.url.path}", 303)


class SameOrigin:
    """Refuses what another site makes a browser send, and what is too long; keeps every answer to this site."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = None if scope["method"] in _SAFE else _refusal(Headers(scope=scope))
        await (refusal or self._app)(scope, receive, sealed)


class BehindProxy:
    """Takes address and scheme of a request from the one proxy in front: what that proxy wrote, which comes last.

    Whatever stands before it in X-Forwarded-For a client may have written: failed logins would be counted, and audit
    messages written, for an address of its choice.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            told = ",".join(headers.getlist("x-forwarded-for")).rpartition(",")[2].strip()
            with suppress(ValueError):
                scope["client"] = (str(ip_address(told)), 0)
            scheme = ",".join(headers.getlist("x-forwarded-proto")).rpartition(",")[2].strip()
            scope["scheme"] = scheme if scheme in {"http", "https"} else scope["scheme"]
        await self._app(scope, receive, send)


def _refusal(headers: Headers) -> Response | None:
    """What a request that changes something gets where it is not answered."""
    if not _own(headers):
        return Response("this request comes from another site, or does not say where from", 403)
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return Response("this request does not say how long it is", 411)
    return Response("no form of this site is as long", 413) if int(length) > LONGEST_FORM else None


def _own(headers: Headers) -> bool:
    """Whether a request that changes something comes from a page of ours; every browser says so."""
    if (site := headers.get("sec-fetch-site")) is not None:
        return site == "same-origin"
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == headers.get("host")
