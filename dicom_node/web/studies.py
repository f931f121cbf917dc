"""The list of studies, search, the page of one study with its pictures, and doing it again."""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from dicom_node.clock import utc_now
from dicom_node.errors import NodeError, OutOfResources
from dicom_node.nouns import DeliveryState, StudyState
from dicom_node.offline.validation import validate
from dicom_node.storage.ledger import Overview, Replayed
from dicom_node.storage.ledger.story import Story, what_next
from dicom_node.storage.search_terms import term
from dicom_node.watch.audit_transfers import Transferred
from dicom_node.web.access import user_of
from dicom_node.web.node import Node, done, fragment, node_of, page
from dicom_node.web.people import Person, people

SHOWN: Final = 50
_ABOUT = "view.json"
_TYPES: Final = {".jpg": "image/jpeg", ".png": "image/png"}
_LONGEST_UID = 64
_UNFINISHED: Final = (StudyState.RECEIVING, StudyState.READY, StudyState.EXPLAINING)


def studies(request: Request) -> Response:
    """The list of studies, newest first, renewed by itself."""
    state = _state(request)
    found = node_of(request).ledger.overview(SHOWN, state)
    return _list(request, found, title="Studies", chosen=state)


def rows(request: Request) -> Response:
    """The rows of the list alone."""
    state = _state(request)
    found = node_of(request).ledger.overview(SHOWN, state)
    return fragment(request, "rows.html", **_listed(request, found, filtered=state is not None))


def search(request: Request) -> Response:
    """Studies by a part of their UID, by Accession Number or by Patient ID; what was asked stands in no address."""
    node, what = node_of(request), str(request.state.form.get("what", "")).strip()
    uids: list[str] = []
    if what and not what.strip("0123456789.") and len(what) <= _LONGEST_UID:
        uids += node.ledger.find_studies(what, SHOWN)
    if what and node.search_key is not None:
        uids += node.ledger.find_term(term(node.search_key, what), SHOWN)
    uids = list(dict.fromkeys(uids))
    if len(uids) == 1:
        return RedirectResponse(f"/studies/{uids[0]}", 303)
    found = node.ledger.overview(SHOWN, uids=uids) if uids else []
    said = f"{len(uids)} studies match." if uids else "No study matches. Accession Number and Patient ID must be whole."
    return _list(request, found, title="Search", said=said)


def study(request: Request) -> Response:
    """Everything about one study."""
    node, uid, user = node_of(request), request.path_params["uid"], user_of(request)
    story = node.ledger.story(uid)
    if story is None:
        raise HTTPException(404, "The node knows no study of that UID.")
    person, views = None, []
    if user is not None:
        person = people(node.ledger.first_images([uid]), node.spool.fetch).get(uid)
        views = [one for task in _tasks(story) for one in _views(node, task)]
        if "hx-request" not in request.headers:  # which renews what somebody looks at already
            node.audit.accessed(_accessed(story, person), user.name, _address(request))
    return page(
        request,
        "study.html",
        title="Study",
        story=story,
        person=person,
        views=views,
        pictures=node.settings.web.pictures,
        next=what_next(story, utc_now()),
        open=_open(story),
    )


def picture(request: Request) -> Response:
    """One picture of a view."""
    node, inside = node_of(request), request.path_params["member"]
    wanted = request.path_params["view"]
    try:
        path = next((one for one in node.spool.views(request.path_params["task"]) if one.stem == wanted), None)
        if path is None or Path(inside).suffix not in _TYPES:
            raise HTTPException(404, "There is no such picture any more.")
        with zipfile.ZipFile(node.spool.fetch(path)) as archive:
            content = archive.read(inside)
    except (OSError, KeyError, zipfile.BadZipFile, NodeError):
        raise HTTPException(404, "There is no such picture any more.") from None
    return Response(content, media_type=_TYPES[Path(inside).suffix])


def validation(request: Request) -> Response:
    """What a validator says of one object that was made for a study."""
    node, uid, sop = node_of(request), request.path_params["uid"], request.path_params["sop"]
    path = next((one.path for one in node.ledger.deliveries(study=uid) if one.sop_instance_uid == sop), None)
    if path is None:
        raise HTTPException(404, "No such object was made for that study.")
    return fragment(request, "validation.html", found=validate(node.spool.fetch(path)))


def rerun(request: Request) -> Response:
    """Do a study again: what failed of it, the sending of its results, or all of it."""
    node, uid = node_of(request), request.path_params["uid"]
    acts: dict[str, tuple[str, Callable[[str, datetime], Replayed]]] = {
        "failed": ("what failed of a study tried again", node.ledger.replay_failed),
        "results": ("results of a study sent again", node.ledger.resend_study),
        "everything": ("study explained and sent again", node.ledger.rerun_study),
    }
    what = str(request.state.form.get("what", ""))
    if what not in acts:
        raise HTTPException(400, f"what: one of {', '.join(acts)}")
    name, act = acts[what]
    try:
        again = act(uid, utc_now())
    except NodeError as error:
        return done(request, f"/studies/{uid}", str(error), wrong=True)
    tell_done(request, name, f"urn:oid:{uid}")
    return done(request, f"/studies/{uid}", f"{again}.")


def tell_done(request: Request, what: str, uri: str, **details: str) -> None:
    """Tell the audit what an administrator has done."""
    user = user_of(request)
    name = "" if user is None else user.name
    node_of(request).audit.software_changed(what, uri, details, by_person=True, user=name, address=_address(request))


@dataclass(frozen=True, slots=True)
class View:
    """What is shown of one image explained by one method.

    Attributes:
        about: the content of view.json.
        path: of its pictures, in an address.
        there: the names of its pictures.
    """

    about: Mapping[str, Any]
    path: str
    there: frozenset[str]

    @property
    def outlines(self) -> list[str]:
        """The outlines as paths of SVG, in a box of 1000 by 1000."""
        return [
            "M" + " ".join(f"{1000 * x:.1f},{1000 * y:.1f}" for x, y in line) + "z" for line in self.about["outlines"]
        ]


def _views(node: Node, task: str) -> Iterator[View]:
    paths: list[Path] = []
    with suppress(OutOfResources):  # the study is shown without pictures
        paths = node.spool.views(task)
    for path in paths:
        try:
            with zipfile.ZipFile(node.spool.fetch(path)) as archive:
                about, there = json.loads(archive.read(_ABOUT)), frozenset(archive.namelist())
        except (OSError, KeyError, ValueError, zipfile.BadZipFile, NodeError):
            continue  # retention was quicker, or it was written by another version
        yield View(about, f"/views/{task}/{path.stem}", there)


def _open(story: Story) -> bool:
    """Whether something is about to happen to the newest revision, so that the page renews itself."""
    newest = [task for revision in story.revisions[:1] for task in revision.tasks]
    if any(revision.state in _UNFINISHED for revision in story.revisions[:1]):
        return True
    return any(one.state is DeliveryState.PENDING for task in newest for one in task.deliveries)


def _tasks(story: Story) -> list[str]:
    """The tasks, those of the newest revision first."""
    return [task.task_id for revision in story.revisions for task in revision.tasks]


def _accessed(story: Story, person: Person | None) -> Transferred:
    classes: dict[str, int] = {}
    for revision in story.revisions:
        for image in revision.images:
            classes[image.sop_class_uid] = classes.get(image.sop_class_uid, 0) + 1
    identifier = "" if person is None else person.identifier
    return Transferred(study=story.study_instance_uid, patient_id=identifier, sop_classes=classes)


def _list(
    request: Request,
    found: Sequence[Overview],
    *,
    title: str,
    chosen: StudyState | None = None,
    said: str | None = None,
) -> Response:
    """The page of a list; one that was searched for (`said`) is not renewed by itself."""
    filtered = chosen is not None or said is not None
    return page(
        request,
        "studies.html",
        title=title,
        states=[one.value for one in StudyState],
        chosen=chosen,
        found=said,
        live=said is None,
        **_listed(request, found, filtered=filtered),
    )


def _listed(request: Request, found: Sequence[Overview], *, filtered: bool) -> dict[str, Any]:
    """What rows.html shows; names for whoever is logged in."""
    node, uids = node_of(request), {one.summary.study_instance_uid for one in found}
    named = people(node.ledger.first_images(uids), node.spool.fetch) if user_of(request) is not None else {}
    return {"rows": found, "people": named, "nothing_yet": not filtered, "port": node.settings.node.port}


def _state(request: Request) -> StudyState | None:
    asked = request.query_params.get("state", "")
    return StudyState(asked) if asked in {*StudyState} else None


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
