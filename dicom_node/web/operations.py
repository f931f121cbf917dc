"""Queues and dead letters, destinations with their echo, what the machine has left, and the settings as read."""

import shutil
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from starlette.requests import Request
from starlette.responses import Response

from dicom_node.clock import utc_now
from dicom_node.deliver.echo import echo as try_one
from dicom_node.errors import BrokerUnreachable, NodeError
from dicom_node.health.heartbeat import ALIVE
from dicom_node.health.parts import State, parts, worst
from dicom_node.queue import broker
from dicom_node.web.node import Node, done, fragment, node_of, page
from dicom_node.web.studies import tell_done

_MEGABYTE: Final = 1 << 20


def queues(request: Request) -> Response:
    """What waits, what was given up, and what stands in for objects that were not taken."""
    return page(request, "queues.html", title="Queues", **_queues(node_of(request)))


def queues_now(request: Request) -> Response:
    """The same without the page around it."""
    return fragment(request, "queues_now.html", **_queues(node_of(request)))


def replay(request: Request) -> Response:
    """Try again what was given up: of one study, or everything."""
    node, uid = node_of(request), str(request.state.form.get("study", "")) or None
    try:
        again = node.ledger.replay_failed(uid, utc_now())
    except NodeError as error:
        return done(request, "/queues", str(error), wrong=True)
    tell_done(request, "dead letters tried again", f"urn:oid:{uid}" if uid else "urn:dicom-node:queues")
    return done(request, "/queues", f"{again}.")


def destinations(request: Request) -> Response:
    """Where results go, and whether they get there."""
    node = node_of(request)
    queued = {one.destination: one for one in _destination_queues(node)}
    return page(
        request,
        "destinations.html",
        title="Destinations",
        destinations=node.settings.destinations,
        queued=queued,
        methods=node.settings.results.methods,
        objects=node.settings.results.objects,
    )


def echo(request: Request) -> Response:
    """C-ECHO, or a search over DICOMweb, of one destination; nothing is sent."""
    node, name = node_of(request), request.path_params["name"]
    try:
        found = try_one(node.settings, name)
    except NodeError as error:
        return fragment(request, "echo.html", reached=False, said=str(error), advice="", seconds=0.0)
    return fragment(
        request, "echo.html", reached=found.reached, said=found.said, advice=found.advice, seconds=found.seconds
    )


def system(request: Request) -> Response:
    """Disk, associations, stores."""
    return page(request, "system.html", title="System", **_system(node_of(request)))


def system_now(request: Request) -> Response:
    """The same without the page around it."""
    return fragment(request, "system_now.html", **_system(node_of(request)))


def badge(request: Request) -> Response:
    """Whether all is well, in the head of every page."""
    node = node_of(request)
    found = parts(node.observer.look(), node.settings)
    wrong = [one for one in found if one.state is not State.GOOD]
    return fragment(request, "badge.html", state=worst(found), wrong=wrong)


def settings(request: Request) -> Response:
    """Every setting as it was read; what may hold a secret is masked."""
    node = node_of(request)
    tables = node.settings.model_dump(mode="json", by_alias=True)
    return page(request, "settings.html", title="Settings", tables=masked(tables))


def masked(value: Any) -> Any:
    """A tree of settings without the passwords in its URLs; secrets themselves lie in files and in the environment."""
    if isinstance(value, dict):
        return {name: masked(one) for name, one in value.items()}
    if isinstance(value, list):
        return [masked(one) for one in value]
    if isinstance(value, str) and "@" in value and "://" in value:
        parts = urlsplit(value)
        user, at, host = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***{at}{host}"))
    return value


def _queues(node: Node) -> dict[str, Any]:
    celery, waiting, trouble = broker.make_celery(node.settings), dict[str, int](), ""
    try:
        waiting = {queue: broker.depth(celery, task) for task, queue in broker.QUEUES.items()}
    except BrokerUnreachable as error:
        trouble = str(error)
    return {
        "counts": node.ledger.counts(),
        "waiting": waiting,
        "trouble": trouble,
        "queues": _destination_queues(node),
        "dead": node.ledger.dead_letters(),
        "downgrades": node.ledger.downgrades(),
        "uncommitted": node.ledger.uncommitted(),
    }


def _destination_queues(node: Node) -> list[Any]:
    names = [one.name for one in node.settings.destinations]
    return node.ledger.queues(names, node.settings.delivery.pause_after)


def _system(node: Node) -> dict[str, Any]:
    chosen, counts, now = node.settings.node, node.ledger.counts(), utc_now()
    processes = node.ledger.heartbeats()
    workers = [one for one in processes if one.role == "worker" and now - one.seen_at < ALIVE]
    disk = shutil.disk_usage(node.spool.root)
    return {
        "disk": disk,
        "low_water": chosen.low_water_mb * _MEGABYTE,
        "clean_below": node.settings.clean_below_mb * _MEGABYTE,
        "stores": node.ledger.sizes(),
        "parts": parts(node.observer.look(), node.settings),
        "processes": processes,
        "workers": len(workers),
        "devices": sorted({one.detail.get("device", "not said yet") for one in workers}),
        "associations": counts["associations"]["open"],
        "most": chosen.max_associations,
        "counts": counts,
        "swaps": node.ledger.swaps(10),
    }
