"""The HTTP server of the role `web`: uvicorn around one Starlette application, a route per page."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import Final

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from uvicorn.protocols.http.h11_impl import H11Protocol

from dicom_node.dicom import tls
from dicom_node.errors import ConfigError, NodeError, OutOfResources
from dicom_node.nouns import TLSFiles
from dicom_node.storage.key_file import secret_key
from dicom_node.watch import pulse
from dicom_node.watch.logs import place
from dicom_node.web import api, health, models, operations, sessions, studies
from dicom_node.web.access import BehindProxy, Doorkeeper, Needs, SameOrigin, allowed
from dicom_node.web.node import Node, page
from dicom_node.web.users import Users

_STOP_SECONDS: Final = 5
_LOOK_SECONDS: Final = 0.2
_BEAT_SECONDS: Final = 1
_MOST_FORM: Final = 20
"""Fields of a form."""
_MOST_CONNECTIONS: Final = 256
_PATIENCE_SECONDS: Final = 10
_MINUTE: Final = 60

Page = Callable[[Request], Response]

log = structlog.get_logger(__name__)


def make_app(node: Node) -> Starlette:
    """The application.

    Raises:
        KeyUnusable: the key of the sessions.
        ConfigError: the file of users is damaged.
    """
    web = node.settings.web
    app = Starlette(
        routes=[*health.routes(node.settings, node.observer), *_routes()],
        middleware=[
            *([Middleware(BehindProxy)] if web.proxied else []),
            Middleware(SameOrigin),
            Middleware(
                SessionMiddleware,
                secret_key=secret_key(web.session_key).hex(),
                session_cookie="dicom-node",
                max_age=web.session_minutes * _MINUTE,
                same_site="strict",
                https_only=web.certificate is not None or web.proxied,
            ),
        ],
        exception_handlers={HTTPException: _wrong, NodeError: _trouble, Exception: _fault},
    )
    app.state.node, app.state.users, app.state.door = node, Users(web.users), Doorkeeper()
    app.state.users.all()
    return app


def _routes() -> list[Route | Mount]:
    users, administrators = Needs.USER, Needs.ADMINISTRATOR
    return [
        Route("/health/live", _live),
        Mount("/static", StaticFiles(directory=str(files("dicom_node.web") / "static"))),
        *_shown("/login", sessions.login, methods=["GET", "POST"]),
        *_shown("/logout", sessions.logout, methods=["POST"]),
        *_shown("/", studies.studies),
        *_shown("/studies/rows", studies.rows),
        *_shown("/search", studies.search, methods=["POST"]),
        *_shown("/studies/{uid}", studies.study),
        *_shown("/studies/{uid}/objects/{sop}/validation", studies.validation, users),
        *_shown("/studies/{uid}/rerun", studies.rerun, administrators, ["POST"]),
        *_shown("/views/{task}/{view}/{member}", studies.picture, users),
        *_shown("/queues", operations.queues),
        *_shown("/queues/now", operations.queues_now),
        *_shown("/queues/replay", operations.replay, administrators, ["POST"]),
        *_shown("/models", models.models),
        *_shown("/models/versions", models.versions),
        *_shown("/models/rollback", models.rollback, administrators, ["POST"]),
        *_shown("/models/{number:int}", models.version),
        *_shown("/models/{number:int}/promote", models.promote, administrators, ["POST"]),
        *_shown("/models/{number:int}/reports/{name}", models.report, users),
        *_shown("/jobs", models.jobs),
        *_shown("/jobs/{name}", models.job, users),
        *_shown("/jobs/{name}/cancel", models.cancel, administrators, ["POST"]),
        *_shown("/destinations", operations.destinations),
        *_shown("/destinations/{name}/echo", operations.echo, users, ["POST"]),
        *_shown("/system", operations.system),
        *_shown("/system/now", operations.system_now),
        *_shown("/system/badge", operations.badge),
        *_shown("/settings", operations.settings, users),
        *_shown("/api/studies", api.studies),
        *_shown("/api/studies/{uid}", api.study),
        *_shown("/api/queues", api.queues),
    ]


def _shown(path: str, shown: Page, needs: Needs = Needs.NOBODY, methods: list[str] | None = None) -> list[Route]:
    return [Route(path, partial(_answer, shown, needs), methods=methods or ["GET"])]


async def _answer(shown: Page, needs: Needs, request: Request) -> Response:
    """A page, made in a thread: it reads databases and files."""
    refusal = await run_in_threadpool(allowed, request, needs)
    if refusal is not None:
        return refusal
    if "HX-Request" not in request.headers and "user" in request.session:
        request.session["seen"] = int(time.time())  # a click; what a page asks by itself prolongs no session
    if request.method == "POST":
        async with request.form(max_files=0, max_fields=_MOST_FORM) as form:
            request.state.form = form
            return await run_in_threadpool(shown, request)
    return await run_in_threadpool(shown, request)


async def _live(_: Request) -> Response:
    """200 while this process answers."""
    return JSONResponse({"status": "live"})


def _wrong(request: Request, error: Exception) -> Response:
    """What is asked wrongly, or may not be had."""
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette's contract
    return _said(request, error.status_code, str(error.detail))


def _trouble(request: Request, error: Exception) -> Response:
    """The ledger that does not answer, and its like: the message says what to do."""
    return _said(request, 503 if isinstance(error, OutOfResources) else 500, str(error))


def _fault(request: Request, error: Exception) -> Response:
    log.error("page failed", error=type(error).__name__, place=place(error))
    return _said(request, 500, f"The page could not be made ({type(error).__name__}); the log has more.")


def _said(request: Request, status: int, detail: str) -> Response:
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": detail}, status)
    title = {403: "Not allowed", 404: "Not found", 503: "Trouble"}.get(status, "Something is wrong")
    return page(request, "error.html", status, title=title, detail=detail)


async def _beat() -> None:
    """Called by uvicorn's own loop: while it goes round, pages are served."""
    pulse.beat()


class _Impatient(H11Protocol):
    """Ends a connection that has sent no whole request head in time: all of them together are limited."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection has begun."""
        super().connection_made(transport)
        self.loop.call_later(_PATIENCE_SECONDS, self._end_if_silent)

    def _end_if_silent(self) -> None:
        if self.cycle is None:
            self.transport.close()


def run(node: Node, stop: threading.Event) -> None:
    """Serve until `stop`.

    Raises:
        ConfigError: the address, the port, the certificate or the file of users cannot be used.
        KeyUnusable: the key of the sessions.
    """
    chosen = node.settings.web
    if chosen.certificate is not None:
        tls.server_context(TLSFiles(certificate=chosen.certificate, key=chosen.key), require_client_certificate=False)
    app = make_app(node)
    try:
        listening = socket.create_server((chosen.host, chosen.port))
    except OSError as error:
        raise ConfigError(f"web.port: {chosen.host}:{chosen.port} cannot be used: {error.strerror}") from error
    config = uvicorn.Config(
        app,
        http=_Impatient,
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=chosen.certificate,
        ssl_keyfile=chosen.key,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_STOP_SECONDS,
        timeout_notify=_BEAT_SECONDS,
        callback_notify=_beat,
    )
    with listening:
        log.info("dashboard", host=chosen.host, port=listening.getsockname()[1])
        server = uvicorn.Server(config)
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="http")
        serving.start()  # in a thread uvicorn leaves the signals to the role
        while not stop.wait(_LOOK_SECONDS) and serving.is_alive():
            if server.started:
                pulse.ready()
        server.should_exit = True
        serving.join()
