"""The tables of the settings file as frozen types, with the defaults; unknown keys are errors."""

from collections.abc import Iterable
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
from dicom_node.nouns import AETitle, Destination
from dicom_node.settings.default_rules import DEFAULT_RULES
from dicom_node.settings.methods import Methods
from dicom_node.settings.rule_tables import Name, ResultName, Rule, Section, split_words

_AE_TITLE_LENGTH = 16  # PS3.5, 6.2


def _ae_title(value: str) -> str:
    title = value.strip()
    if not 0 < len(title) <= _AE_TITLE_LENGTH or "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


AETitleText = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=0, le=65535)]


class NodeSettings(Section):
    """[node]: the listener, the spool and the ledger. Times in seconds, sizes as named."""

    ae_title: AETitleText = "EXPLAIN"
    host: str = "127.0.0.1"
    port: Port = 11112
    max_pdu: Annotated[int, Field(ge=4096, le=1 << 24)] = 131072
    max_associations: PositiveInt = 25
    max_associations_per_peer: PositiveInt = 10
    acse_timeout: PositiveFloat = 5
    dimse_timeout: PositiveFloat = 30
    network_timeout: PositiveFloat = 30
    association_deadline: PositiveFloat = 30
    calling_ae_titles: Annotated[tuple[AETitleText, ...], BeforeValidator(split_words)] = ()
    accept_any_calling_ae: bool = False
    spool: Path = Path("var/spool")
    database: Annotated[str, Field(pattern=r"^[a-z0-9+]+://")] = "sqlite:///var/ledger.sqlite"
    low_water_mb: Annotated[int, Field(ge=0)] = 500


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


class DestinationSettings(Section):
    """[[destinations]]: a Storage SCP that takes results; what it does not say of them is as in [results]."""

    name: Name
    ae_title: AETitleText
    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    objects: Objects | None = None
    methods: Methods | None = None
    long_edge: LongEdge | None = None
    compression: Compression | None = None
    explain: Policy | None = None
    synthetic_images: bool = False


class DeliverySettings(Section):
    """[delivery]: how results are sent, in seconds."""

    retry_seconds: PositiveFloat = 30
    factor: Annotated[float, Field(ge=1, le=10)] = 2
    max_attempts: PositiveInt = 10
    timeout: PositiveFloat = 30


class LoggingSettings(Section):
    """[logging]."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    as_json: Annotated[bool, Field(alias="json")] = False


class Settings(Section):
    """Everything that can be set. A rule without destinations has been given all of them."""

    node: NodeSettings = NodeSettings()
    study: StudySettings = StudySettings()
    broker: BrokerSettings = BrokerSettings()
    model: ModelSettings = ModelSettings()
    registry: RegistrySettings = RegistrySettings()
    retraining: RetrainingSettings = RetrainingSettings()
    export: ExportSettings = ExportSettings()
    results: ResultSettings = ResultSettings()
    destinations: tuple[DestinationSettings, ...] = ()
    delivery: DeliverySettings = DeliverySettings()
    rules: Annotated[tuple[Rule, ...], Field(validate_default=True)] = DEFAULT_RULES  # type: ignore[assignment]
    logging: LoggingSettings = LoggingSettings()
    audit: AuditSettings = AuditSettings()

    @model_validator(mode="after")
    def _complete_rules(self) -> Self:
        every = {"destinations": tuple(destination.name for destination in self.destinations)}
        rules = tuple(rule if rule.destinations is not None else rule.model_copy(update=every) for rule in self.rules)
        object.__setattr__(self, "rules", rules)  # before anyone has seen the object
        return self

    def destination(self, name: str) -> Destination:
        """The destination of that name.

        Raises:
            ConfigError: there is none.
        """
        for one in self.destinations:
            if one.name == name:
                return Destination(name=name, ae_title=AETitle(one.ae_title), host=one.host, port=one.port)
        raise ConfigError(f"destinations: there is no destination {name!r}; add it or change the rule")

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
