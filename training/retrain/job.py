"""job.toml -> Job: what a retraining job is asked. Unknown keys and wrong values are errors with file and line."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from explain_core import toml_files
from explain_core.bundles.files import toml_text
from training import datasets
from training.errors import TrainingError

REGISTRY = "registry"
"""As [champion] bundle: the version that the registry calls champion."""

_SOURCE = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)=)?(?P<spec>(?P<reader>[a-z][a-z0-9_]*)(?:[:?].*)?)", re.DOTALL)


FILES = (("split", "book"), ("gate", "rules"), ("mediffusion", "weights"), ("diffex", "weights"))
"""Table and key of what names a file or a folder of the site."""
_OF_NIH = ("nih", "nih14", "rsna", "rsna_lungs")


class JobError(TrainingError):
    """job.toml is wrong; one line, `file:line: key: what to do`."""


class Section(BaseModel):
    """A table of job.toml; frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


def _source(text: str) -> str:
    if not _SOURCE.fullmatch(text):
        raise ValueError("write a source as reader:folder?option=value, or NAME=reader:folder")
    return text


def _sources(texts: tuple[str, ...]) -> tuple[str, ...]:
    names = [source_name(text) for text in texts]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two sources are called {name}; patients are told apart by it, so write NAME=reader:folder"
            )
    same = [reader for reader in map(source_reader, texts) if reader in _OF_NIH]
    if len(set(same)) > 1:
        raise ValueError(f"{' and '.join(dict.fromkeys(same))} have the same patients: take one of them")
    return texts


def source_reader(source: str) -> str:
    """The name of a source's reader."""
    found = _SOURCE.fullmatch(source)
    return found["reader"] if found else ""


def patient_prefix(source: str) -> str:
    """What a source's patients are told apart by: its name; of a node's own exports, whose pseudonyms differ, one."""
    return "studies" if source_reader(source) == "studies" else source_name(source)


def source_name(source: str) -> str:
    """What a source's patients are prefixed with: the name before "=", else that of the reader."""
    found = _SOURCE.fullmatch(source)
    return (found["name"] or found["reader"]) if found else source


def source_spec(source: str) -> str:
    """A source as `datasets.read` takes it."""
    found = _SOURCE.fullmatch(source)
    return found["spec"] if found else source


Source = Annotated[str, AfterValidator(_source)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Share = Annotated[float, Field(ge=0.01, le=0.5)]
Start = Literal["champion", "random"]
Filters = Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=8)]
Seed = Annotated[int, Field(ge=0, lt=1 << 31)]
Natural = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class JobTable(Section):
    """[job]. `kind` is what is trained: a classifier with its generators, or a joint diffusion model.

    "diffex" trains no version: it explains one, the champion, by ranked attributes.
    """

    name: Name = "retraining"
    kind: Literal["classifier", "mediffusion", "diffex"] = "classifier"
    seed: Seed = 0


class DataTable(Section):
    """[data]: what is learnt from. `label` "" and `size` 0 are the champion's."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1), AfterValidator(_sources)]
    label: str = ""
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=2)] | None = None
    size: Annotated[int, Field(ge=0, le=2048)] = 0


class LimitsTable(Section):
    """[limits]: below these nothing is trained."""

    min_patients: PositiveInt = 100
    min_positives: PositiveInt = 10
    min_negatives: PositiveInt = 10
    label_problems: Natural = 0
    unreadable_share: Annotated[float, Field(ge=0, le=1)] = 0.02


class SplitTable(Section):
    """[split]: of patients without a ready-made split. `book` "" is splits.csv beside the job folders."""

    test: Share = 0.2
    validation: Share = 0.1
    ready_made: bool = True
    book: str = ""


class RehearsalTable(Section):
    """[rehearsal]: what an administrator tries the gate with, on purpose; test patients are never touched.

    `share` is the part of the training and validation patients that is used, `flipped` the part of their labels that
    is turned into the opposite. The report and the registry say so.
    """

    share: Fraction = 1.0
    flipped: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class ChampionTable(Section):
    """[champion]: a bundle's folder, or "registry"."""

    bundle: str = REGISTRY


class ClassifierTable(Section):
    """[classifier]. `architecture` "" is the champion's.

    `noise` is the largest standard deviation of the noise on training images; left out, 0.3 for a classifier that
    decides by maps of evidence, which noise keeps from being changed by fragile patterns, and 0.02 for others.
    `map_weight` is that of the loss of its maps, on images with boxes.

    `threshold` "matched" is the one at which as many negative validation images are called positive as by the
    champion, so that a new version brings no wave of false alarms; "kept" is the champion's number.
    """

    architecture: str = ""
    start: Start = "champion"
    epochs: PositiveInt = 10
    learning_rate: PositiveFloat = 3e-4
    batch: PositiveInt = 32
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    noise: Weight | None = None
    map_weight: Weight = 1.0
    frozen_statistics: bool = True
    processes: PositiveInt = 1
    precision: Literal["auto", "32-true", "64-true", "bf16-mixed"] = "auto"
    threshold: Literal["matched", "kept"] = "matched"
    checkpoint_every: PositiveInt = 100


ON_PIXELS = {
    "batch": 8,
    "learning_rate": 1e-3,
    "decision_similar": 0.02,
    "decision_adversarial": 0.1,
    "generator_distance": 0.02,
    "total_variation": 0.6,
    "decision_noise": 0.03,
}
"""Of [generators], what generators on pixels take where nothing is named."""


class GeneratorsTable(Section):
    """[generators]: a start from the champion keeps its architecture.

    `preset` "" is the one of the champion's kind. It gives the weights of the loss and, on a random start, the heads.
    Without `filters`, the champion's. What is named here replaces the preset's. Generators on pixels without a weight
    named here take `ON_PIXELS`: Table I's 0.001 of the decision changes no decision of these classifiers
    (docs/benchmark/README.md).
    """

    start: Start = "champion"
    preset: Annotated[str, Field(pattern=r"^[a-z0-9_]*$")] = ""
    steps: PositiveInt = 3000
    filters: Filters | None = None
    batch: PositiveInt | None = None
    learning_rate: PositiveFloat | None = None
    report_every: PositiveInt = 100
    decision_similar: Weight | None = None
    decision_adversarial: Weight | None = None
    generator_distance: Weight | None = None
    total_variation: Weight | None = None
    decision_noise: Weight | None = None


class MediffusionTable(Section):
    """[mediffusion], for jobs of that kind; [classifier] and [generators] count for nothing there, but for `threshold`.

    `preset` is one of training/runs/mediffusion, on the champion's grid; what is named here takes the place of its
    own. `weights` is the folder or file of the autoencoder that it works in. `start` "champion" takes the champion's
    weights and shape. `second_share` is the part of the patients whose labels teach the second classifier alone, 0 for
    none.
    """

    preset: Literal["tiny", "small", "cpu", "gpu", "vce-testing"] = "gpu"
    start: Start = "random"
    weights: str = ""
    steps: PositiveInt | None = None
    batch: PositiveInt | None = None
    unlabelled: Literal["none", "fixmatch"] | None = None
    report_every: PositiveInt | None = None
    checkpoint_every: PositiveInt | None = None
    second_share: Annotated[float, Field(ge=0, le=0.5)] = 0.25
    second_epochs: PositiveInt = 24


class DiffexTable(Section):
    """[diffex], for jobs of that kind, which use [data], [limits], [split], [champion] and [registry] besides.

    `preset` is one of training/runs/diffex; what is named here takes the place of its own. `weights` is the folder or
    file of the autoencoder that it works in. `gate` false goes on though the code is hardly used; the report says so.
    """

    preset: Literal["phantom", "chest", "folder", "gpu"] = "gpu"
    weights: str = ""
    size: Annotated[int, Field(ge=16, le=1024)] | None = None
    steps: PositiveInt | None = None
    directions: Annotated[int, Field(ge=2, le=100)] | None = None
    direction_steps: PositiveInt | None = None
    attributes: PositiveInt | None = None
    ranked: Annotated[int, Field(ge=8)] | None = None
    noise: Literal["inverted", "fixed"] | None = None
    report_every: PositiveInt | None = None
    checkpoint_every: PositiveInt | None = None
    gate: bool = True


class EvaluationTable(Section):
    """[evaluation]. `localisation_images` 0: all test images with boxes.

    `draws` of patients make the intervals, and the bounds that the gate calls certain: of a few there are none.
    """

    cases: PositiveInt = 24
    localisation_images: Natural = 0
    draws: Annotated[int, Field(ge=200)] = 1000


class GateTable(Section):
    """[gate]: a TOML file of rules; "" for the rules that come with the program."""

    rules: str = ""


class RegistryTable(Section):
    """[registry]: where the version goes."""

    uri: Annotated[str, Field(pattern=r"^(sqlite|postgresql|mysql|https?)")] = "sqlite:///var/registry/mlflow.sqlite"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._ -]{1,64}$")] = "chest"
    artifacts: str = "var/registry/artifacts"


class ResourcesTable(Section):
    """[resources]: how far a job stands back behind clinical work. `threads` 0: all but one."""

    nice: Annotated[int, Field(ge=0, le=19)] = 19
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    gpu_memory_fraction: Fraction = 0.5
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"

    def within(self, nice: int | None, threads: int | None, gpu_memory_fraction: float | None) -> Self:
        """These, but never more than a site allows."""
        few = [count for count in (self.threads, threads or 0) if count]
        return self.model_copy(
            update={
                "nice": max(self.nice, nice or 0),
                "threads": min(few, default=0),
                "gpu_memory_fraction": min(self.gpu_memory_fraction, gpu_memory_fraction or 1.0),
            }
        )


class BundleTable(Section):
    """[bundle]: "" are the champion's name, and the job folder's name as version."""

    name: str = ""
    version: str = ""


class Job(Section):
    """Everything a job is asked; one attribute for each table of job.toml."""

    job: JobTable = JobTable()
    data: DataTable
    limits: LimitsTable = LimitsTable()
    split: SplitTable = SplitTable()
    rehearsal: RehearsalTable = RehearsalTable()
    champion: ChampionTable = ChampionTable()
    classifier: ClassifierTable = ClassifierTable()
    generators: GeneratorsTable = GeneratorsTable()
    mediffusion: MediffusionTable = MediffusionTable()
    diffex: DiffexTable = DiffexTable()
    evaluation: EvaluationTable = EvaluationTable()
    gate: GateTable = GateTable()
    registry: RegistryTable = RegistryTable()
    resources: ResourcesTable = ResourcesTable()
    bundle: BundleTable = BundleTable()

    def text(self) -> str:
        """The job as a TOML document with every key."""
        return toml_text(self.model_dump(mode="json", exclude_none=True))

    def resolved(self, base: Path) -> "Job":
        """The job with every path absolute; relative ones are relative to `base`.

        Raises:
            JobError: a path that must exist does not.
        """
        table = self.model_dump(exclude_none=True)
        table["data"]["sources"] = tuple(
            f"{source_name(one)}={datasets.absolute(source_spec(one), base)}" for one in self.data.sources
        )
        if self.champion.bundle != REGISTRY:
            table["champion"]["bundle"] = str(base / self.champion.bundle)
        for section, key in (*FILES, ("registry", "artifacts")):
            if table[section][key]:
                table[section][key] = str(base / table[section][key])
        if self.registry.uri.startswith("sqlite:///"):
            table["registry"]["uri"] = "sqlite:///" + str(base / self.registry.uri.removeprefix("sqlite:///"))
        return Job.model_validate(table)


def load(path: Path, *, defaults: Mapping[str, Any] | None = None, sources: Sequence[str] = ()) -> Job:
    """Read and check a job.toml.

    Args:
        path: the file.
        defaults: values by "table.key" for keys that the file does not set.
        sources: further sources of data.

    Raises:
        JobError: in one line, `file:line: key: what to do`.
    """
    try:
        table, text = toml_files.read(path, "the job")
    except toml_files.TomlWrong as error:
        raise JobError(str(error)) from None
    _complete(table, defaults or {}, sources)
    try:
        job = Job.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        advice = toml_files.advice(first, Job, 'add this key, for example sources = ["nih:/data/nih"]')
        raise JobError(toml_files.located(path, text, first["loc"], advice)) from None
    if job.split.test + job.split.validation > 0.8:  # noqa: PLR2004 - or too little is left to learn from
        advice = "test and validation together must leave 0.2 for training"
        raise JobError(toml_files.located(path, text, ("split", "test"), advice))
    return job


def _complete(table: dict[str, Any], defaults: Mapping[str, Any], sources: Sequence[str]) -> None:
    for name, value in defaults.items():
        section, _, key = name.partition(".")
        if isinstance(table.setdefault(section, {}), dict):
            table[section].setdefault(key, value)
    if sources and isinstance(table.setdefault("data", {}), dict):
        given = table["data"].setdefault("sources", [])
        if isinstance(given, list):
            given.extend(sources)


def value_of(text: str) -> Any:
    """A value given on the command line: JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
