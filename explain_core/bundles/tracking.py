"""How the registry speaks with MLflow: its client, quiet and patient for seconds only, and its failures by our names.

MLflow is imported with the first call.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from explain_core.errors import ExplainError, install

SQLITE: Final = "sqlite:///"
_PROBE_SECONDS: Final = 5
_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_DEFAULTS: Final = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""Of MLflow's client; a site may set others. `probe` asks before, so that a server that is away costs less."""

_AWAY: Final = {"RequestException", "OperationalError", "ConnectionError", "Timeout"}
_AWAY_CODES: Final = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"}


class RegistryError(ExplainError):
    """The registry refuses, or lacks what is asked for; the message says what to do."""


class RegistryUnreachable(RegistryError):
    """The registry does not answer; nothing was registered, and the call may be repeated."""


def client(uri: str) -> Any:
    """MLflow's client, quiet; a database is made and brought up to date by one process at a time."""
    os.environ.update(_ENVIRONMENT)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")  # of MLflow's own dependencies
        try:
            from mlflow.tracking import MlflowClient  # noqa: PLC0415 - an optional dependency, and slow
        except ImportError as error:
            raise RegistryError(f"MLflow is missing: {install('registry')}") from error
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is raised, in one line
        if uri.startswith(SQLITE):
            file = Path(uri.removeprefix(SQLITE))
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(file.with_name(f"{file.name}.lock")))
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def probe(uri: str) -> None:
    """Ask whether a server is there; any answer will do."""
    import requests  # noqa: PLC0415 - comes with MLflow

    with contextlib.suppress(requests.exceptions.SSLError):  # it is; MLflow's client has the site's certificates
        requests.get(f"{uri.rstrip('/')}/health", timeout=_PROBE_SECONDS)


@contextlib.contextmanager
def named(uri: str) -> Iterator[None]:
    """Failures of MLflow, of its database and of its connections as this module's errors, in one line."""
    try:
        yield
    except (ExplainError, KeyboardInterrupt):
        raise
    except Exception as error:
        where = uri.rsplit("@", 1)[-1]  # without a password
        came_of = list(causes(error))
        names = {base.__name__ for one in came_of for base in type(one).__mro__}
        if names & _AWAY or (code := getattr(error, "error_code", None)) in _AWAY_CODES:
            raise RegistryUnreachable(f"the registry {where} does not answer ({type(came_of[-1]).__name__})") from error
        if isinstance(error, OSError):
            raise RegistryError(f"the registry's files: {error.filename or where}: {error.strerror}") from error
        if code is None:
            raise  # no answer of MLflow but a fault of ours
        raise RegistryError(f"the registry {where} refuses: {str(error).splitlines()[0]}") from error


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it came of, one after the other."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
