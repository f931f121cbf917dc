"""Model versions: which runs, which is challenged, what their reports say; promotion and rollback; retraining jobs."""

import tempfile
from pathlib import Path
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from dicom_node.clock import utc_now
from dicom_node.errors import NodeError
from dicom_node.learn.jobs import Jobs, NoSuchJob
from dicom_node.models import promotion
from dicom_node.storage import bundles
from dicom_node.storage.ledger.deployments import Deployment
from dicom_node.web.access import user_of
from dicom_node.web.node import Node, done, fragment, node_of, page
from dicom_node.web.studies import tell_done
from explain_core.bundles.registry import Version
from explain_core.bundles.tracking import RegistryError
from explain_core.errors import BundleError

_LAST_LINES: Final = 200
_REPORT_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
"""Reports are pages of their own, with pictures and styles inside; they run no programs."""


def models(request: Request) -> Response:
    """Champion, challenger, and what ran before: all that the ledger knows, whether the registry answers or not."""
    node = node_of(request)
    name, version = bundles.described(node.settings.model.bundle)
    return page(
        request,
        "models.html",
        title="Models",
        champion=node.ledger.deployed("champion"),
        challenger=node.ledger.deployed("challenger"),
        configured=f"{name} {version}",
        history=node.ledger.history()[::-1][:20],
        swaps=node.ledger.swaps(5),
    )


def versions(request: Request) -> Response:
    """Every version with its gate; the registry may take its time."""
    node = node_of(request)
    found, trouble = _versions(node)
    roles = {row.digest: role for role in promotion.ROLES if (row := node.ledger.deployed(role)) is not None}
    return fragment(request, "versions.html", versions=found[::-1], trouble=trouble, roles=roles)


def version(request: Request) -> Response:
    """Everything about one version."""
    node, number = node_of(request), request.path_params["number"]
    try:
        one = promotion.open_registry(node.settings).version(number)
        with tempfile.TemporaryDirectory(prefix="dicom-node-web-") as aside:
            reports = [path.name for path in promotion.open_registry(node.settings).reports(number, Path(aside))]
    except (RegistryError, OSError) as error:
        raise HTTPException(404, str(error)) from None
    return page(
        request,
        "version.html",
        title=f"Version {number}",
        version=one,
        reports=[name for name in reports if name.endswith(".html")],
        history=[row for row in node.ledger.history() if row.digest == one.digest],
    )


def report(request: Request) -> Response:
    """One report of a version, a page of its own."""
    node, number, wanted = node_of(request), request.path_params["number"], request.path_params["name"]
    try:
        with tempfile.TemporaryDirectory(prefix="dicom-node-web-") as aside:
            for path in promotion.open_registry(node.settings).reports(number, Path(aside)):
                if path.name == wanted and path.suffix == ".html":
                    answer = HTMLResponse(path.read_bytes())
                    answer.headers["Content-Security-Policy"] = _REPORT_POLICY
                    return answer
    except (RegistryError, OSError) as error:
        raise HTTPException(404, str(error)) from None
    raise HTTPException(404, "The version has no such report.")


def promote(request: Request) -> Response:
    """Make a version the champion."""
    node, form, number = node_of(request), request.state.form, request.path_params["number"]
    try:
        row = promotion.promote(
            node.settings,
            node.ledger,
            promotion.open_registry(node.settings),
            number,
            by=_who(request),
            reason=str(form.get("reason", "")),
            force="force" in form,
            now=utc_now(),
        )
    except (NodeError, RegistryError, BundleError, OSError) as error:
        return done(request, "/models", str(error), wrong=True)
    return _deployed(request, row)


def rollback(request: Request) -> Response:
    """Go back to the champion before the last promotion."""
    node = node_of(request)
    try:
        row = promotion.rollback(
            node.settings,
            node.ledger,
            promotion.open_registry(node.settings),
            by=_who(request),
            reason=str(request.state.form.get("reason", "")),
            now=utc_now(),
        )
    except (NodeError, RegistryError, BundleError, OSError) as error:
        return done(request, "/models", str(error), wrong=True)
    return _deployed(request, row)


def jobs(request: Request) -> Response:
    """Retraining jobs and how far they are."""
    every = Jobs(node_of(request).settings.retraining.jobs)
    return page(request, "jobs.html", title="Retraining", jobs=[every.status(name) for name in every.names()[:50]])


def job(request: Request) -> Response:
    """One job: its stages, its figures and the end of its log."""
    every, name = Jobs(node_of(request).settings.retraining.jobs), request.path_params["name"]
    try:
        status, log = every.status(name), every.job(name).log_file
    except NoSuchJob as error:
        raise HTTPException(404, str(error)) from None
    lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:] if log.is_file() else []
    return page(request, "job.html", title=name, job=status, log="\n".join(lines))


def cancel(request: Request) -> Response:
    """Ask a job to stop; what it has made is kept."""
    every, name = Jobs(node_of(request).settings.retraining.jobs), request.path_params["name"]
    try:
        state = every.cancel(name)
    except NodeError as error:
        return done(request, "/jobs", str(error), wrong=True)
    tell_done(request, "retraining job cancelled", f"urn:dicom-node:job:{name}")
    said = f"{name} will stop at its next safe point." if state.open else f"{name} is {state}."
    return done(request, f"/jobs/{name}", said)


def _versions(node: Node) -> tuple[list[Version], str]:
    uri = node.settings.registry.uri
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return [], ""  # nothing was registered yet, and looking makes no registry
    try:
        return promotion.open_registry(node.settings).versions(), ""
    except (RegistryError, ImportError, OSError) as error:
        return [], str(error)


def _who(request: Request) -> str:
    user = user_of(request)
    return "" if user is None else user.name


def _deployed(request: Request, row: Deployment) -> Response:
    uri = f"urn:sha256:{row.digest}" if row.digest else "urn:dicom-node:configured-bundle"
    details: dict[str, Any] = {"Version": str(row.number or ""), "Reason": row.reason, "Forced": "yes" * row.forced}
    tell_done(request, f"{row.role}: {row.action}", uri, **{key: text for key, text in details.items() if text})
    what = f"version {row.number}, {row.name} {row.version}" if row.digest else "the configured bundle"
    return done(request, "/models", f"{row.role}: {what}; workers take it with their next study.")
