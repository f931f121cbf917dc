"""Frozen settings from one TOML file and the environment; what is wrong is said in one line.

Precedence: environment (`DICOM_NODE_<SECTION>__<KEY>`), then the file, then the defaults here.
Lists and tables in the environment are JSON; a list of plain words may be separated by commas.
Relative paths are relative to the working directory. Unknown keys are errors.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from dicom_node import method_types
from dicom_node.default_rules import DEFAULT_RULES
from dicom_node.errors import ConfigError
from dicom_node.method_types import Methods
from dicom_node.model import AETitle, Destination, Route
from dicom_node.rule_types import Name, ResultName, Rule, Section, split_words
from dicom_node.toml_lines import line_of

ENV_PREFIX = "DICOM_NODE_"
CONFIG_VARIABLE = "DICOM_NODE_CONFIG"
"""Names the settings file for the command line; not a setting."""

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
    max_seconds: PositiveFloat = 3600

    @property
    def quiet(self) -> timedelta:
        """Time without a new image."""
        return timedelta(seconds=self.quiet_seconds)

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


DEFAULT_BUNDLE = Path(__file__).parent / "bundles" / "default"
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
    if SYNTHETIC in names:
        raise ValueError(f"{SYNTHETIC} are sent only where a destination says synthetic_images = true; remove it here")
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


SYNTHETIC = "synthetic_images"
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

    def routes(self) -> dict[str, Route]:
        """The routes of all rules that explain, by name."""
        return {route.name: route for rule in self.rules if (route := rule.route) is not None}


_Problem = tuple[tuple[str | int, ...], str]


def load_settings(path: Path | None, env: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Args:
        path: the TOML file, or None for defaults and environment only.
        env: the environment.

    Raises:
        ConfigError: one line, `file:line: key: what to do`, or `environment: VARIABLE: what to do`.
    """
    text = _read(path) if path else ""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        where = line[1] if line else max(1, len(text.splitlines()))
        raise ConfigError(f"{path}:{where}: not valid TOML: {error}") from None
    variables = _overlay(data, env)
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _located((first["loc"], _advice(first)), path, text, variables) from None
    for problem in _contradictions(settings):
        raise _located(problem, path, text, variables)
    return settings


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot read the settings file: {reason}") from None


def _overlay(data: dict[str, Any], env: Mapping[str, str]) -> dict[tuple[str | int, ...], str]:
    """Put the environment's values into `data`; return which variable set which key."""
    variables: dict[tuple[str | int, ...], str] = {}
    for variable in sorted(env):
        if not variable.startswith(ENV_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        path = tuple(variable.removeprefix(ENV_PREFIX).lower().split("__"))
        table: Any = data
        for part in path[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"environment: {variable}: set the whole of {path[0]} as JSON instead")
        table[path[-1]] = _value(variable, env[variable])
        variables[path] = variable
    return variables


def _value(variable: str, text: str) -> Any:
    if text.lstrip()[:1] not in {"[", "{"}:
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"environment: {variable}: not valid JSON: {error}") from None


def _located(
    problem: _Problem, path: Path | None, text: str, variables: Mapping[tuple[str | int, ...], str]
) -> ConfigError:
    loc, advice = problem
    for key, variable in variables.items():
        if loc[: len(key)] == key:
            return ConfigError(f"environment: {variable}: {advice}")
    line = line_of(text, loc)
    file = path or "defaults"
    where = f"{file}:{line}" if line else f"{file}"
    return ConfigError(f"{where}: {'.'.join(str(part) for part in loc)}: {advice}")


def _advice(error: Any) -> str:
    """What to do about one validation error; never the value, which may be a password in a URL."""
    kind, loc = error["type"], error["loc"]
    if kind == "extra_forbidden":
        known = _known_keys(loc[:-1])
        close = difflib.get_close_matches(str(loc[-1]), known, n=1)
        return f"unknown key; did you mean {close[0]}?" if close else f"unknown key; known: {', '.join(known)}"
    if kind == "missing":
        return "add this key"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message.replace("Input should", "should") if message.startswith("Input") else message


def _known_keys(loc: tuple[str | int, ...]) -> list[str]:
    model: Any = Settings
    for part in loc:
        if isinstance(part, str):
            field = next(f for name, f in model.model_fields.items() if part in {name, f.alias})
            kinds = [field.annotation, *get_args(field.annotation)]
            model = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _contradictions(settings: Settings) -> Iterator[_Problem]:
    methods: dict[method_types.Key, tuple[str, ...]] = {("results", "methods"): settings.results.methods}
    for index, one in enumerate(settings.destinations):
        methods["destinations", index, "methods"] = one.methods or ()
    yield from method_types.problems(settings.model.method_folders, methods)
    broker = settings.broker
    if broker.soft_time_limit >= broker.hard_time_limit:
        yield ("broker", "soft_time_limit"), "must be less than hard_time_limit"
    if broker.visibility_timeout <= broker.hard_time_limit:
        yield ("broker", "visibility_timeout"), "must be more than hard_time_limit, or tasks run twice"
    if settings.study.max_seconds < settings.study.quiet_seconds:
        yield ("study", "max_seconds"), "must not be less than quiet_seconds"
    for section, named in (("destinations", settings.destinations), ("rules", settings.rules)):
        names = [one.name for one in named]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield (section, index, "name"), "used twice; names must differ"
    known = {destination.name for destination in settings.destinations}
    for index, rule in enumerate(settings.rules):
        if not known.issuperset(rule.destinations or ()):
            yield (
                ("rules", index, "destinations"),
                f"unknown destination; there is: {', '.join(sorted(known)) or 'none'}",
            )
