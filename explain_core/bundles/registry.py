"""The registry: every version of the model with where it came from, in MLflow. Nothing here loads PyTorch.

A version is a run with the bundle's files and reports as its artifacts, and, made last, a version of the registered
model that names the run: whatever is interrupted leaves a run that nothing points to. Which version runs is not decided
here: aliases follow the node's ledger.
"""

import contextlib
import errno
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from explain_core.bundles.files import SUMS, listed, verify
from explain_core.bundles.tracking import SQLITE, RegistryError, client, named, probe
from explain_core.errors import BundleError
from explain_core.files import sync

GATES: Final = ("passed", "forced", "refused", "none")
ABANDONED: Final = "abandoned"
"""Tag of runs whose registration was interrupted; no version points to them."""

_BUNDLE, _REPORTS, _DIGEST = "bundle", "reports", "digest"
_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of the registered model.

    Attributes:
        number: of MLflow, from 1.
        digest: of the bundle, 64 hexadecimal digits; `bundle_name` and `bundle_version` are what it says of itself.
        gate: "passed"; "forced", let through for a reason that is kept; "refused"; or "none", not judged by any.
        tags: everything that is written at the version, lineage included.
        metrics: figures of the evaluation.
    """

    number: int
    digest: str
    bundle_name: str
    bundle_version: str
    created_at: datetime
    aliases: frozenset[str]
    gate: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    run_id: str


class Registry:
    """Versions of one model in one MLflow.

    Every method may raise RegistryUnreachable, within seconds when nothing listens, and RegistryError.

    Args:
        uri: `sqlite:///FILE` (made with its folder), another database, or `http(s)://...` of an MLflow server.
        name: of the registered model and of the experiment that keeps its runs.
        artifacts: folder for the files when `uri` is a database; a server has its own.
    """

    def __init__(self, uri: str, name: str, artifacts: Path) -> None:
        if uri.startswith(SQLITE):
            uri = SQLITE + str(Path(uri.removeprefix(SQLITE)).absolute())
        self._uri, self._name, self._artifacts = uri, name, artifacts.absolute()
        self._opened: Any = None

    def register(
        self,
        bundle: Path,
        *,
        gate: str,
        reason: str = "",
        lineage: Mapping[str, str],
        metrics: Mapping[str, float],
        reports: Sequence[Path] = (),
    ) -> Version:
        """Make the bundle a version, unless it is one already: the same bundle is the same version.

        Args:
            bundle: folder of the bundle; verified before anything is sent.
            gate: one of `GATES`.
            reason: why the gate was passed over, or where the bundle comes from.
            lineage: data_sha256, code_version, seeds, parent_digest, job, as far as they are known.
            metrics: figures by flat names, such as "auc".
            reports: files that are kept with it.

        Raises:
            BundleError: the bundle is incomplete or does not match its checksums.
        """
        if gate not in GATES:
            raise RegistryError(f"gate {gate!r}: use one of {', '.join(GATES)}")
        digest = verify(bundle)
        tags = {**lineage, **_names(bundle), _DIGEST: digest, "gate": gate, "reason": reason}
        if (known := self.by_digest(digest)) is not None:
            return known
        with self._calling() as client:
            experiment = self._experiment(client)
            self._mark_abandoned(client, experiment, digest)
            run_id = client.create_run(experiment, tags=tags, run_name=tags["bundle_version"]).info.run_id
            for key, text in lineage.items():
                client.log_param(run_id, key, text)
            for key, value in metrics.items():
                client.log_metric(run_id, key, float(value))
            for name in (*listed(bundle / SUMS), SUMS):
                client.log_artifact(run_id, str(bundle / name), _BUNDLE)
            for report in reports:
                client.log_artifact(run_id, str(report), _REPORTS)
            client.set_terminated(run_id, "FINISHED")
            self._ensure_model(client)
            made = client.create_model_version(
                self._name, source=f"runs:/{run_id}/{_BUNDLE}", run_id=run_id, tags=tags, await_creation_for=0
            )
            first = min(int(one.version) for one in self._found(client, digest))
            if first != int(made.version):  # another process was faster by a moment
                client.delete_model_version(self._name, str(made.version))
        return self.version(first)

    def versions(self) -> list[Version]:
        """Every version, oldest first; those of other programs, which have no digest, are left out."""
        with self._calling() as client:
            aliases, metrics = self._aliases(client), self._metrics(client)
            found = [one for one in self._search(client, f"name='{self._name}'") if _DIGEST in one.tags]
        found.sort(key=lambda one: int(one.version))
        return [_version(one, aliases, metrics.get(one.run_id, {})) for one in found]

    def version(self, number: int) -> Version:
        """One version.

        Raises:
            RegistryError: there is none of that number.
        """
        with self._calling() as client:
            found = client.get_model_version(self._name, str(number))
            if _DIGEST not in found.tags:
                raise RegistryError(f"version {number} of {self._name} was not made by this program: it has no digest")
            return _version(found, self._aliases(client), client.get_run(found.run_id).data.metrics)

    def by_alias(self, alias: str) -> Version | None:
        """The version that `alias` points to."""
        with self._calling() as client:
            number = self._aliases(client).get(alias)
        return self.version(number) if number else None

    def by_digest(self, digest: str) -> Version | None:
        """The version whose bundle has this digest."""
        with self._calling() as client:
            number = min((int(one.version) for one in self._found(client, digest)), default=None)
        return None if number is None else self.version(number)

    def set_alias(self, alias: str, number: int) -> None:
        """Point `alias` to a version and to no other."""
        with self._calling() as client:
            client.set_registered_model_alias(self._name, alias, str(number))

    def remove_alias(self, alias: str) -> None:
        """Let `alias` point to nothing."""
        with self._calling() as client:
            if alias in self._aliases(client):
                client.delete_registered_model_alias(self._name, alias)

    def note(self, number: int, tags: Mapping[str, str]) -> None:
        """Write tags at a version, such as the reason of a forced promotion."""
        with self._calling() as client:
            for key, text in tags.items():
                client.set_model_version_tag(self._name, str(number), key, text)

    def attach(self, digest: str, reports: Sequence[Path]) -> int | None:
        """Keep further reports with the version of a bundle, in place of earlier ones of the same names.

        Args:
            digest: of the bundle.
            reports: files.

        Returns:
            the version's number; None where there is none of this digest.
        """
        version = self.by_digest(digest)
        if version is None:
            return None
        with self._calling() as client:
            for report in reports:
                client.log_artifact(version.run_id, str(report), _REPORTS)
        return version.number

    def fetch(self, number: int, store: Path) -> Path:
        """Bring the bundle of a version to `store`/<digest>, which is returned; there already and sound, it stays.

        Raises:
            BundleError: the registry's files are not those that were registered; the store is left as it was.
        """
        version = self.version(number)
        target = store / version.digest
        if sound(target, version.digest):
            return target
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=store) as aside:
            with self._calling() as client:
                fetched = Path(client.download_artifacts(version.run_id, _BUNDLE, dst_path=aside))
            if verify(fetched) != version.digest:
                raise BundleError(f"the registry's files of version {number} are not the ones that were registered")
            place(fetched, target)
        return target

    def reports(self, number: int, folder: Path) -> list[Path]:
        """Copy the reports of a version into `folder`."""
        run_id = self.version(number).run_id
        folder.mkdir(parents=True, exist_ok=True)
        with self._calling() as client, tempfile.TemporaryDirectory(dir=folder) as aside:
            names = [one.path for one in client.list_artifacts(run_id, _REPORTS) if not one.is_dir]
            fetched = [Path(client.download_artifacts(run_id, name, dst_path=aside)) for name in names]
            return [path.replace(folder / path.name) for path in fetched]

    @contextlib.contextmanager
    def _calling(self) -> Iterator[Any]:
        """MLflow's client; its errors and those of what lies below it become ours."""
        with named(self._uri):
            if self._uri.startswith("http"):
                probe(self._uri)
            if self._opened is None:
                self._opened = client(self._uri)
            yield self._opened

    def _experiment(self, client: Any) -> str:
        """The experiment's identifier; made where it is missing."""
        found = client.get_experiment_by_name(self._name)
        if found is None:
            location = None if self._uri.startswith("http") else self._artifacts.as_uri()
            try:
                return str(client.create_experiment(self._name, artifact_location=location))
            except Exception:
                found = client.get_experiment_by_name(self._name)  # made by another process meanwhile
                if found is None:
                    raise
        return str(found.experiment_id)

    def _ensure_model(self, client: Any) -> None:
        def there() -> bool:
            return bool(client.search_registered_models(f"name='{self._name}'"))

        if not there():
            try:
                client.create_registered_model(self._name)
            except Exception:
                if not there():  # else it was made by another process meanwhile
                    raise

    def _mark_abandoned(self, client: Any, experiment: str, digest: str) -> None:
        """Say of earlier runs with this bundle that they were interrupted; none of them has a version."""
        for run in client.search_runs([experiment], f"tags.{_DIGEST} = '{digest}'"):
            if ABANDONED not in run.data.tags:
                client.set_tag(run.info.run_id, ABANDONED, "interrupted before there was a version")
                client.set_terminated(run.info.run_id, "KILLED")

    def _found(self, client: Any, digest: str) -> list[Any]:
        return self._search(client, f"name='{self._name}' and tags.{_DIGEST}='{digest}'")

    def _search(self, client: Any, query: str) -> list[Any]:
        return _pages(lambda token: client.search_model_versions(query, max_results=_PAGE, page_token=token))

    def _metrics(self, client: Any) -> dict[str, dict[str, float]]:
        """Figures by run."""
        if (found := client.get_experiment_by_name(self._name)) is None:
            return {}
        experiment = [found.experiment_id]
        runs = _pages(lambda token: client.search_runs(experiment, max_results=_PAGE, page_token=token))
        return {run.info.run_id: run.data.metrics for run in runs}

    def _aliases(self, client: Any) -> dict[str, int]:
        for model in client.search_registered_models(f"name='{self._name}'"):
            return {alias: int(number) for alias, number in model.aliases.items()}
        return {}


def sound(folder: Path, digest: str) -> bool:
    """Whether `folder` is the bundle of that digest, every byte of it."""
    try:
        return verify(folder) == digest
    except (BundleError, OSError, UnicodeDecodeError):
        return False


def place(source: Path, target: Path) -> None:
    """Rename a verified bundle, durably, to `target`, which its digest names; what is unsound there is put aside."""
    for path in (*source.iterdir(), source):
        sync(path)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        if sound(target, target.name):
            return
        aside = Path(tempfile.mkdtemp(prefix=f"damaged-{target.name[:8]}-", dir=target.parent))
        target.rename(aside / target.name)
        source.rename(target)
    sync(target.parent)


def _names(bundle: Path) -> dict[str, str]:
    try:
        description = tomllib.loads((bundle / "bundle.toml").read_text())
        return {f"bundle_{key}": str(description[key]) for key in ("name", "version")}
    except (KeyError, ValueError) as error:
        raise BundleError(f"{bundle / 'bundle.toml'}: {type(error).__name__}: {error}") from error


def _pages(call: Any) -> list[Any]:
    """All results of a call that gives them page by page."""
    page = call(None)
    found = list(page)
    while page.token:
        page = call(page.token)
        found += page
    return found


def _version(found: Any, aliases: Mapping[str, int], metrics: Mapping[str, float]) -> Version:
    number = int(found.version)
    return Version(
        number=number,
        digest=found.tags[_DIGEST],
        bundle_name=found.tags.get("bundle_name", ""),
        bundle_version=found.tags.get("bundle_version", ""),
        created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        aliases=frozenset(alias for alias, one in aliases.items() if one == number),
        gate=found.tags.get("gate", "none"),
        tags=dict(found.tags),
        metrics=dict(metrics),
        run_id=found.run_id,
    )
