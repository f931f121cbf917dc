"""The same in JSON, for a site's own monitoring: states and numbers by UID, nothing of a patient."""

from dataclasses import asdict

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dicom_node.clock import utc_now
from dicom_node.nouns import StudyState
from dicom_node.storage.ledger.story import what_next
from dicom_node.web.node import node_of, plain_json

_MOST = 500


def studies(request: Request) -> Response:
    """Study revisions, newest first; `?state=` and `?limit=` choose."""
    asked, limit = request.query_params.get("state", ""), request.query_params.get("limit", "50")
    if asked and asked not in {*StudyState}:
        raise HTTPException(400, f"state: one of {', '.join(StudyState)}")
    if not limit.isdecimal() or not 0 < int(limit) <= _MOST:
        raise HTTPException(400, f"limit: 1 to {_MOST}")
    found = node_of(request).ledger.overview(int(limit), StudyState(asked) if asked else None)
    return plain_json([asdict(one) | {"seconds": one.timeline.seconds()} for one in found])


def study(request: Request) -> Response:
    """The whole story of one study."""
    story = node_of(request).ledger.story(request.path_params["uid"])
    if story is None:
        raise HTTPException(404, "The node knows no study of that UID.")
    return plain_json(asdict(story) | {"next": what_next(story, utc_now())})


def queues(request: Request) -> Response:
    """What waits at each destination, and how many rows are in which state."""
    node = node_of(request)
    names = [one.name for one in node.settings.destinations]
    waiting = node.ledger.queues(names, node.settings.delivery.pause_after)
    return plain_json({"counts": node.ledger.counts(), "destinations": [asdict(one) for one in waiting]})
