"""What a shell offers after TAB: names of destinations, studies, roles, methods, result objects, jobs.

A shell waits for it, so it reads what it needs and no more (the settings file as TOML, unchecked), and gives up soon.
Whatever goes wrong, it offers nothing and says nothing.
"""

import os
import threading
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import typer

SECONDS: Final = 3.0
"""That a database that does not answer is waited for."""
ROLES: Final = ("listener", "dispatcher", "sender", "retention", "web", "worker", "shadow")
"""Of `app.ROLES`, which takes too long to load."""
MOST_STUDIES: Final = 200
_PACKAGES: Final = Path(__file__).parents[2]
_DATABASE: Final = "sqlite:///var/ledger.sqlite"
_JOBS: Final = "var/jobs"

Offer = Callable[[typer.Context, str], list[str]]


def offered(find: Callable[[Mapping[str, Any]], Iterable[str]], loads: str = "") -> Offer:
    """The `autocompletion` of an argument or option that takes one of the words that `find` finds.

    Args:
        find: the words, of the tables of the settings file.
        loads: a module that it needs, the loading of which is no waiting.
    """

    def offer(ctx: typer.Context, incomplete: str) -> list[str]:
        found: list[str] = []

        def look() -> None:
            with suppress(Exception):  # whoever presses TAB has asked for no explanation
                found.extend(word for word in find(_tables(ctx)) if word.startswith(incomplete))

        with suppress(ImportError):
            if loads:
                import_module(loads)
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(SECONDS)
        return list(dict.fromkeys(found))

    return offer


def listed(find: Callable[[Mapping[str, Any]], Iterable[str]]) -> Offer:
    """The same of an option that takes several of the words, separated by commas: the last is completed."""

    def offer(ctx: typer.Context, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        taken = {word.strip() for word in before.split(",")}
        return [f"{before}{comma}{word}" for word in offered(find)(ctx, last) if word not in taken]

    return offer


def _tables(ctx: typer.Context) -> Mapping[str, Any]:
    given = ctx.params.get("config") or os.environ.get("DICOM_NODE_CONFIG")
    if not given:
        return {}
    with Path(given).open("rb") as file:
        return tomllib.load(file)


def _destinations(tables: Mapping[str, Any]) -> Iterable[str]:
    return [str(one["name"]) for one in tables.get("destinations", ())]


def _studies(tables: Mapping[str, Any]) -> Iterable[str]:
    """Those that were complete last; a ledger that is not there is not made."""
    from dicom_node.storage.ledger import Ledger  # noqa: PLC0415 - loads SQLAlchemy

    url = os.environ.get("DICOM_NODE_NODE__DATABASE") or tables.get("node", {}).get("database", _DATABASE)
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        return []
    return Ledger(url).recent_studies(MOST_STUDIES)


def _jobs(tables: Mapping[str, Any]) -> Iterable[str]:
    folder = Path(tables.get("retraining", {}).get("jobs", _JOBS))
    return sorted((one.parent.name for one in folder.glob("*/job.toml")), reverse=True)


def _modules(*folder: str) -> Iterable[str]:
    """The folder is the registry: its modules, none of them imported."""
    names = (one.stem for one in _PACKAGES.joinpath(*folder).iterdir() if one.suffix == ".py" or one.is_dir())
    return sorted(name for name in names if not name.startswith("_"))


destinations: Final = offered(_destinations)
studies: Final = offered(_studies, "dicom_node.storage.ledger")
jobs: Final = offered(_jobs)
roles: Final = offered(lambda _: ROLES)
methods: Final = listed(lambda _: _modules("explain_core", "methods"))
objects: Final = listed(lambda _: ("all", *_modules("dicom_node", "results", "objects")))
