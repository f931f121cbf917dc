"""The tables of the settings file as frozen types, with the defaults; unknown keys are errors."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from dicom_node.errors import ConfigError
from dicom_node.nouns import AETitle, Destination, TLSFiles, WebDestination
from dicom_node.settings.answers import CommitmentPeer, DestinationSettings, PeerSettings, ResultSettings
from dicom_node.settings.callers import AETitleText, CallerText
from dicom_node.settings.dashboard import WebSettings
from dicom_node.settings.default_rules import DEFAULT_RULES
from dicom_node.settings.dicomweb import WebKeys
from dicom_node.settings.monitoring import AlertSettings, MetricsSettings, TracingSettings
from dicom_node.settings.rule_tables import Rule, Section, split_words

Port = Annotated[int, Field(ge=0, le=65535)]


class NodeSettings(Section):
    """[node]: the listener, the spool and the ledger. Times in seconds, sizes as named."""

    ae_title: AETitleText = "EXPLAIN"
    host: str = "127.0.0.1"
    port: Port = 11112
    plain: bool = True
    max_pdu: Annotated[int, Field(ge=4096, le=1 << 24)] = 131072
    max_associations: PositiveInt = 25
    max_associations_per_peer: PositiveInt = 10
    acse_timeout: PositiveFloat = 5
    dimse_timeout: PositiveFloat = 30
    network_timeout: PositiveFloat = 30
    association_deadline: PositiveFloat = 30
    slowest_peer: PositiveInt = 1000
    slowest_peer_seconds: PositiveFloat = 60
    calling_ae_titles: Annotated[tuple[CallerText, ...], BeforeValidator(split_words)] = ()
    accept_any_calling_ae: bool = False
    spool: Path = Path("var/spool")
    database: Annotated[str, Field(pattern=r"^[a-z0-9+]+://")] = "sqlite:///var/ledger.sqlite"
    low_water_mb: Annotated[int, Field(ge=0)] = 500


class StoreSettings(Section):
    """[store]: the object store that complete files lie in, in place of the spool; its credentials never stand here."""

    url: Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._-]+)*$")] | None = None
    endpoint: Annotated[str, Field(pattern=r"^https?://[^/@]+$")] | None = None
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")] | None = None
    authorities: Path | None = None
    timeout: PositiveFloat = 20
    cache_mb: Annotated[int, Field(ge=0)] = 5000


class TLSSettings(Section):
    """[tls]: DICOM TLS (PS3.15 B.12), of the listener and towards destinations with `tls = true`."""

    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None
    revocations: Path | None = None
    listen: bool = True
    port: Port = 2762
    require_client_certificate: bool = True

    @property
    def files(self) -> TLSFiles:
        """What connections are made with."""
        return TLSFiles(
            certificate=self.certificate, key=self.key, authorities=self.authorities, revocations=self.revocations
        )

    @property
    def serves(self) -> bool:
        """Whether the node listens for TLS."""
        return self.listen and self.certificate is not None


class StudySettings(Section):
    """[study]: when a study counts as complete, in seconds."""

    quiet_seconds: PositiveFloat = 10
    open_quiet_seconds: PositiveFloat = 60
    max_seconds: PositiveFloat = 3600

    @property
    def quiet(self) -> timedelta:
        """Time without a new image."""
        return timedelta(seconds=self.quiet_seconds)

    @property
    def open_quiet(self) -> timedelta:
        """The same while an association that sent images of the study is open."""
        return timedelta(seconds=self.open_quiet_seconds)

    @property
    def cap(self) -> timedelta:
        """Time after which a study is taken as it is."""
        return timedelta(seconds=self.max_seconds)


_BROKER = r"^(redis|rediss|redis\+socket)://|^sentinel://[^;]+(;sentinel://[^;]+)*$"


class BrokerSettings(Section):
    """[broker]: Redis and the limits of a task, in seconds."""

    url: Annotated[str, Field(pattern=_BROKER)] = "redis://127.0.0.1:6379/0"
    sentinel_master: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "mymaster"
    visibility_timeout: PositiveInt = 3600
    hard_time_limit: PositiveInt = 900
    soft_time_limit: PositiveInt = 840
    lease_seconds: PositiveInt = 60
    max_attempts: PositiveInt = 3


DEFAULT_BUNDLE = Path(__file__).parents[1] / "bundles" / "default"
"""The model bundle that comes with the node."""


class ModelSettings(Section):
    """[model]: what explains, and how. A promoted version takes the place of `bundle`."""

    bundle: Path = DEFAULT_BUNDLE
    store: Path = Path("var/models")
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    augmentations: Annotated[int, Field(ge=0, le=1000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    method_folders: tuple[Path, ...] = ()


class RegistrySettings(Section):
    """[registry]: MLflow, where versions of the model are kept."""

    uri: Annotated[str, Field(pattern=r"^(sqlite|postgresql|mysql|https?)")] = "sqlite:///var/registry/mlflow.sqlite"
    artifacts: Path = Path("var/registry/artifacts")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._ -]{1,64}$")] = "chest"


class RetrainingSettings(Section):
    """[retraining]: jobs of administrators, which never slow the clinical work."""

    jobs: Path = Path("var/jobs")
    nice: Annotated[int, Field(ge=0, le=19)] = 19
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5


class ExportSettings(Section):
    """[export]: training sets made of what the node has received; the key of the pseudonyms never leaves the node."""

    key: Path = Path("var/export.key")


class AuditSettings(Section):
    """[audit]: the audit trail of PS3.15 A.5, and where it is sent to (A.6)."""

    folder: Path = Path("var/audit")
    file_mb: Annotated[int, Field(ge=1, le=1024)] = 64
    seal_key: Path | None = None
    patient_ids: bool = True
    syslog_host: Annotated[str, Field(min_length=1)] | None = None
    syslog_port: Annotated[int, Field(ge=1, le=65535)] = 6514
    syslog_ca: Path | None = None
    syslog_certificate: Path | None = None
    syslog_key: Path | None = None


class DeliverySettings(Section):
    """[delivery]: how results are sent, in seconds."""

    retry_seconds: PositiveFloat = 30
    factor: Annotated[float, Field(ge=1, le=10)] = 2
    max_attempts: PositiveInt = 10
    pause_after: PositiveInt = 3
    probe_seconds: PositiveFloat = 300
    timeout: PositiveFloat = 30
    commitment_wait: Annotated[float, Field(ge=0, le=600)] = 5
    commitment_timeout: PositiveFloat = 3600


Days = Annotated[float, Field(ge=0, le=36_500)]


class RetentionSettings(Section):
    """[retention]: how long what is over is kept, in days; 0 keeps it for ever."""

    results_days: Days = 7
    images_days: Days = 30
    failed_days: Days = 0
    quarantine_days: Days = 30
    quarantine_mb: Annotated[int, Field(ge=0)] = 2000
    jobs_days: Days = 180
    audit_days: Days = 0
    ledger_days: Days = 730
    clean_below_mb: Annotated[int, Field(ge=0)] | None = None


class LoggingSettings(Section):
    """[logging]."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    as_json: Annotated[bool, Field(alias="json")] = False


class Settings(Section):
    """Everything that can be set. A rule without destinations has been given all of them."""

    node: NodeSettings = NodeSettings()
    store: StoreSettings = StoreSettings()
    tls: TLSSettings = TLSSettings()
    study: StudySettings = StudySettings()
    broker: BrokerSettings = BrokerSettings()
    model: ModelSettings = ModelSettings()
    registry: RegistrySettings = RegistrySettings()
    retraining: RetrainingSettings = RetrainingSettings()
    export: ExportSettings = ExportSettings()
    results: ResultSettings = ResultSettings()
    destinations: tuple[DestinationSettings, ...] = ()
    commitment_peers: tuple[CommitmentPeer, ...] = ()
    delivery: DeliverySettings = DeliverySettings()
    retention: RetentionSettings = RetentionSettings()
    rules: Annotated[tuple[Rule, ...], Field(validate_default=True)] = DEFAULT_RULES  # type: ignore[assignment]
    logging: LoggingSettings = LoggingSettings()
    audit: AuditSettings = AuditSettings()
    web: WebSettings = WebSettings()
    metrics: MetricsSettings = MetricsSettings()
    alerts: AlertSettings = AlertSettings()
    tracing: TracingSettings = TracingSettings()

    @model_validator(mode="after")
    def _complete_rules(self) -> Self:
        every = {"destinations": tuple(destination.name for destination in self.destinations)}
        rules = tuple(rule if rule.destinations is not None else rule.model_copy(update=every) for rule in self.rules)
        object.__setattr__(self, "rules", rules)  # before anyone has seen the object
        return self

    def destination(self, name: str) -> Destination | WebDestination:
        """The destination of that name.

        Raises:
            ConfigError: there is none.
        """
        for one in self.destinations:
            if one.name == name:
                if (peer := one.peer) is not None:
                    return replace(self._reached(peer, name), commitment=one.commitment)
                return WebDestination(name=name, **one.model_dump(include=set(WebKeys.model_fields)))
        raise ConfigError(f"destinations: there is no destination {name!r}; add it or change the rule")

    def commitment_peer(self, ae_title: str) -> Destination | None:
        """Where a peer of that AE title takes reports: as [[commitment_peers]] say, else as a destination; or None."""
        known = (*self.commitment_peers, *(one.peer for one in self.destinations))
        return next((self._reached(one, ae_title) for one in known if one and one.ae_title == ae_title), None)

    @property
    def clean_below_mb(self) -> int:
        """Free megabytes below which what is over goes before its time; never less than the low-water mark."""
        asked = self.retention.clean_below_mb
        return max(self.node.low_water_mb, 2 * self.node.low_water_mb if asked is None else asked)

    def _reached(self, one: PeerSettings, name: str) -> Destination:
        return Destination(
            name=name,
            ae_title=AETitle(one.ae_title),
            host=one.host,
            port=one.port,
            tls=self._tls_towards(one) if one.tls else None,
            tls_name=(one.tls_name or one.host) if one.tls_check_name else None,
        )

    def _tls_towards(self, one: PeerSettings) -> TLSFiles:
        if one.tls_authorities is None:
            return self.tls.files
        return replace(self.tls.files, authorities=one.tls_authorities, revocations=None)

    def methods(self) -> tuple[str, ...]:
        """Every explanation method that is named, [results] first: the order of their series."""
        named = (self.results.methods, *(one.methods or () for one in self.destinations))
        return tuple(dict.fromkeys(name for names in named for name in names))

    def methods_for(self, destinations: Iterable[str] | None = None) -> tuple[str, ...]:
        """The methods that these destinations want, together, in that order; None: all that there are.

        Without any destination they are those of [results].
        """
        chosen = [one for one in self.destinations if destinations is None or one.name in set(destinations)]
        wanted = {name for one in chosen for name in one.methods or self.results.methods}
        return tuple(name for name in self.methods() if name in wanted) or self.results.methods
