"""The tables of the settings file as frozen types, with the defaults; unknown keys are errors."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from dicom_node.errors import ConfigError
from dicom_node.nouns import AETitle, Destination, TLSFiles, WebDestination
from dicom_node.settings.callers import caller
from dicom_node.settings.default_rules import DEFAULT_RULES
from dicom_node.settings.methods import Methods
from dicom_node.settings.rule_tables import Name, ResultName, Rule, Section, split_words
from dicom_node.settings.web import WebKeys

_AE_TITLE_LENGTH = 16  # PS3.5, 6.2


def _ae_title(value: str) -> str:
    title = value.strip()
    if not 0 < len(title) <= _AE_TITLE_LENGTH or "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


def _caller(value: str) -> str:
    _ae_title(caller(value).ae_title)
    return value.strip()


AETitleText = Annotated[str, AfterValidator(_ae_title)]
CallerText = Annotated[str, AfterValidator(_caller)]
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


class BrokerSettings(Section):
    """[broker]: Redis and the limits of a task, in seconds."""

    url: Annotated[str, Field(pattern=r"^(redis|rediss|redis\+socket)://")] = "redis://127.0.0.1:6379/0"
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


def _wanted_objects(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("name at least one result object, or remove the key")
    if apart := [name for name in names if name in {SYNTHETIC, MORPHS}]:
        raise ValueError(f"{apart[0]} are sent only where a destination says synthetic_images = true; remove it here")
    return names


def _ascii(text: str) -> str:
    if not text.isascii() or not text.isprintable() or "\\" in text:
        raise ValueError("use printable ASCII without backslash: it must fit into every character set of a source")
    return text


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("use a name of the IANA time zone database, such as Europe/Berlin") from None
    return name


SYNTHETIC, MORPHS = "synthetic_images", "morphs"
Objects = Annotated[tuple[ResultName, ...], BeforeValidator(split_words), AfterValidator(_wanted_objects)]
LongEdge = Annotated[int, Field(ge=512, le=8192)]
Compression = Literal["none", "rle", "jpeg-ls", "jpeg-2000", "jpeg"]
Policy = Literal["always", "positives"]


class ResultSettings(Section):
    """[results]: the objects that answer a study, unless a destination says otherwise."""

    objects: Objects = (
        "secondary_capture",
        "structured_report",
        "presentation_state",
    )
    methods: Methods = ("similar_adversarial",)
    long_edge: LongEdge = 1600
    compression: Compression = "none"
    explain: Policy = "always"
    patient_in_image: bool = True
    content_qualification: Literal["PRODUCT", "RESEARCH", "SERVICE"] = "RESEARCH"
    series_number_base: Annotated[int, Field(ge=1, le=2_000_000_000)] = 9900
    manufacturer: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_ascii)] = "DICOM explanation node"
    institution: Annotated[str, Field(max_length=64), AfterValidator(_ascii)] | None = None
    timezone: Annotated[str, AfterValidator(_time_zone)] | None = None


class PeerSettings(Section):
    """How a peer is reached over DICOM."""

    ae_title: AETitleText
    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    tls: bool = False
    tls_authorities: Path | None = None
    tls_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    tls_check_name: bool = True


OVER_DICOM = (*PeerSettings.model_fields, "commitment")
"""Keys of a destination that is reached over DICOM, and of no other; the first three it needs."""


class DestinationSettings(WebKeys):
    """[[destinations]]: who takes results, a Storage SCP or, with a `url`, a DICOMweb server.

    What a table does not say of the results is as in [results].
    """

    name: Name
    ae_title: AETitleText | None = None
    host: Annotated[str, Field(min_length=1)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    tls: bool = False
    tls_authorities: Path | None = None
    tls_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    tls_check_name: bool = True
    objects: Objects | None = None
    methods: Methods | None = None
    long_edge: LongEdge | None = None
    compression: Compression | None = None
    explain: Policy | None = None
    synthetic_images: bool = False
    commitment: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        said = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        if self.url is not None:
            if mixed := [name for name in OVER_DICOM if name in said]:
                raise ValueError(f"either DICOM (ae_title, host, port) or DICOMweb (url): remove url or {mixed[0]}")
            return self
        if web := [name for name in WebKeys.model_fields if name in said]:
            raise ValueError(f"{web[0]} belongs to DICOMweb: add url, or remove {web[0]}")
        if absent := [name for name in OVER_DICOM[:3] if name not in said]:
            raise ValueError(f"a destination needs ae_title, host and port, or url for DICOMweb: add {absent[0]}")
        return self

    @property
    def peer(self) -> PeerSettings | None:
        """How it is reached over DICOM; None of a DICOMweb server."""
        if self.url is not None:
            return None
        return PeerSettings.model_validate(self.model_dump(include=set(PeerSettings.model_fields)))


class CommitmentPeer(PeerSettings):
    """[[commitment_peers]]: where the reports go of a peer that asks whether what it sent is safe."""


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
    ledger_days: Days = 730
    clean_below_mb: Annotated[int, Field(ge=0)] | None = None


class LoggingSettings(Section):
    """[logging]."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    as_json: Annotated[bool, Field(alias="json")] = False


class Settings(Section):
    """Everything that can be set. A rule without destinations has been given all of them."""

    node: NodeSettings = NodeSettings()
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
