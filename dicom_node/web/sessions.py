"""Logging in and out."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from dicom_node.web.access import Doorkeeper, user_of
from dicom_node.web.node import node_of, page
from dicom_node.web.users import Users

_LONGEST = 1024


def login(request: Request) -> Response:
    """The form, and what comes of it."""
    if request.method == "GET":
        return _form(request, str(request.query_params.get("next", "/")))
    node, form = node_of(request), request.state.form
    name, password = str(form.get("name", "")).strip()[:64], str(form.get("password", ""))[:_LONGEST]
    after, address = str(form.get("next", "/")), request.client.host if request.client else ""
    door: Doorkeeper = request.app.state.door
    users: Users = request.app.state.users
    if not node.settings.web.secret:
        return _form(request, after, "Over this connection nobody can log in.")
    with door.one_at_a_time:  # a hash takes 64 MiB, and whoever sends many at once has as many tries as others
        if waits := door.waits(f"name {name}", f"address {address}"):
            return _form(request, after, f"Too many failed logins: try again in {waits:.0f} seconds.", status=429)
        user = users.checked(name, password)
        if user is None:
            door.failed(f"name {name}", f"address {address}")
    if user is None:
        node.audit.login(name or "nobody", address, granted=False)
        return _form(request, after, "Name or password is wrong.", status=403)
    door.granted(f"name {name}", f"address {address}")
    node.audit.login(user.name, address)
    request.session.clear()
    request.session.update({"user": user.name, "seal": user.seal})
    return RedirectResponse(_inside(after), 303)


def logout(request: Request) -> Response:
    """End the session."""
    user = user_of(request)
    if user is not None:
        node_of(request).audit.logout(user.name, request.client.host if request.client else "")
    request.session.clear()
    return RedirectResponse("/", 303)


def _form(request: Request, after: str, said: str = "", status: int = 200) -> Response:
    users: Users = request.app.state.users
    if said:
        request.session["said"], request.session["wrong"] = said, True
    return page(
        request,
        "login.html",
        status,
        title="Log in",
        next=_inside(after),
        secret=node_of(request).settings.web.secret,
        none_yet=not users.all(),
    )


def _inside(path: str) -> str:
    """An address of this dashboard; any other becomes its first page."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"
