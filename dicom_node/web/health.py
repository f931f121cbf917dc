"""/health: 200 or 503 and what each part says; /metrics: the same in numbers, for Prometheus.

Both are for machines: they need no login, name no patient, and answer within seconds whatever hangs.
"""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dicom_node.health.figures import Observer
from dicom_node.health.parts import State, parts, worst
from dicom_node.settings.sections import Settings
from dicom_node.web import exposition

NO_STORE = {"Cache-Control": "no-store"}


def routes(settings: Settings, observer: Observer) -> list[Route]:
    """The pages; with the dashboard they share one observer, so that many who ask cost one look a second."""
    pages: dict[str, Callable[[], Response]] = {
        "/health": lambda: health(settings, observer),
        "/metrics": lambda: metrics(settings, observer),
    }
    return [Route(path, _page(made)) for path, made in pages.items()]


def health(settings: Settings, observer: Observer) -> Response:
    """Every part of the node, and 503 where one is bad."""
    figures = observer.look()
    found = parts(figures, settings)
    state = worst(found)
    told = {
        "state": state.value,
        "at": figures.at.isoformat(),
        "parts": {one.name: {"state": one.state.value, "said": one.said, "advice": one.advice} for one in found},
    }
    return JSONResponse(told, 503 if state is State.BAD else 200, headers=NO_STORE)


def metrics(settings: Settings, observer: Observer) -> Response:
    """The node in numbers."""
    return Response(exposition.text(settings, observer), media_type=exposition.MEDIA_TYPE, headers=NO_STORE)


def _page(made: Callable[[], Response]) -> Callable[[Request], Response]:
    def page(_: Request) -> Response:  # not async: Starlette runs it in a thread
        return made()

    return page
