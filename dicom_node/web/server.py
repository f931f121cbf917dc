"""The HTTP server of the role `web`: uvicorn around one Starlette application."""

import socket
import threading
from dataclasses import dataclass

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dicom_node.errors import ConfigError
from dicom_node.settings.sections import Settings
from dicom_node.storage.ledger import Ledger

_STOP_SECONDS = 5
_LOOK_SECONDS = 0.2

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What pages are made of; every page gets it as `request.app.state.node`."""

    settings: Settings
    ledger: Ledger


def make_app(node: Node) -> Starlette:
    """The application: a route per page."""
    app = Starlette(routes=[Route("/health/live", _live)])
    app.state.node = node
    return app


def _live(_: Request) -> Response:
    """200 while this process answers."""
    return JSONResponse({"status": "live"})


def run(node: Node, stop: threading.Event) -> None:
    """Serve until `stop`.

    Raises:
        ConfigError: the address or the port cannot be used.
    """
    chosen = node.settings.web
    try:
        listening = socket.create_server((chosen.host, chosen.port))
    except OSError as error:
        raise ConfigError(f"web.port: {chosen.host}:{chosen.port} cannot be used: {error.strerror}") from error
    config = uvicorn.Config(
        make_app(node),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    with listening:
        log.info("dashboard", host=chosen.host, port=listening.getsockname()[1])
        server = uvicorn.Server(config)
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="http")
        serving.start()  # in a thread uvicorn leaves the signals to the role
        while not stop.wait(_LOOK_SECONDS) and serving.is_alive():
            pass
        server.should_exit = True
        serving.join()
