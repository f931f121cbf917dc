"""What builders are given, and the UIDs and times that follow from it.

Everything in a result is a function of its inputs: the same task, image, model, parameters and outcome give
the same bytes under the same UID. The outcome is part of the UID, rounded to what the report prints: noise in
the last bits of a GPU's sums does not make a second object, and a changed outcome does not reuse a UID.
"""

import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from importlib import metadata
from typing import Protocol

from pydicom import Dataset

from dicom_node.dicom.elements import code
from dicom_node.dicom.greys import Greys
from dicom_node.errors import Reason
from dicom_node.nouns import Task
from dicom_node.settings.answers import Compression, Policy, ResultSettings
from dicom_node.settings.sections import NodeSettings
from explain_core.explanation import Assessment, Explanation, ModelIdentity
from explain_core.radiograph import Radiograph

NAMESPACE = uuid.UUID("5d0d5b5e-0d5c-5f5b-8f43-1a3a0c0f7d11")
"""Never change: every UID of every result comes from it."""


def uid(*parts: str | int) -> str:
    """A UID that is a function of `parts`: 2.25 and the UUIDv5 of the joined parts (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '|'.join(str(part) for part in parts)).int}"


def device_uid(model: ModelIdentity) -> str:
    """Device UID (0018,1002) of one model version: retraining changes it by construction."""
    return uid("device", model.digest)


_SERIES_OF_A_METHOD = 10
"""Series Numbers that each method has: a builder's `series` is below it."""

_USUAL = ResultSettings()
"""What the settings file says where it says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultOptions:
    """What a destination gets: the profile of its result objects.

    Attributes:
        objects: names of the builders to run.
        methods: names of the explanation methods; each makes objects of its own.
        method_order: the methods of the whole node, in the order of their series: an object is the same for every
            destination.
        long_edge: longest side in pixels of the radiograph in pictures with a legend; never more than the source's,
            never under 512.
        compression: of pictures with a legend; "none" is Explicit VR Little Endian.
        explain: "positives" leaves negative decisions unexplained: they are reported, without pictures.
        patient_in_image: whether pictures carry the patient's name and identifier as text.
        content_qualification: PRODUCT, RESEARCH or SERVICE (0018,9004).
        series_number_base: series numbers follow this number.
        manufacturer: Manufacturer of this software.
        institution: Institution Name of the results; the source's when None.
        station_ae_title: AE title of this node, its station name.
        software_version: version of this software.
        timezone: local time of the site, for dates and times of results.
    """

    objects: tuple[str, ...] = _USUAL.objects
    methods: tuple[str, ...] = _USUAL.methods
    method_order: tuple[str, ...] = _USUAL.methods
    long_edge: int = _USUAL.long_edge
    compression: Compression = _USUAL.compression
    explain: Policy = _USUAL.explain
    patient_in_image: bool = _USUAL.patient_in_image
    content_qualification: str = _USUAL.content_qualification
    series_number_base: int = _USUAL.series_number_base
    manufacturer: str = _USUAL.manufacturer
    institution: str | None = _USUAL.institution
    station_ae_title: str = NodeSettings().ae_title
    software_version: str = metadata.version("dicom-explanation-node")
    timezone: tzinfo = UTC

    @property
    def site(self) -> tuple[str, ...]:
        """The choices that change the bytes of every object."""
        who = (self.manufacturer, self.institution or "", self.station_ae_title, self.software_version)
        return (self.content_qualification, str(self.series_number_base), str(self.timezone), *who)

    @property
    def picture(self) -> tuple[str, ...]:
        """The choices that change the bytes of pictures with a legend."""
        return (str(self.long_edge), self.compression, "named" if self.patient_in_image else "unnamed")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReference:
    """One source instance, as result objects name it."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str

    @classmethod
    def of(cls, ds: Dataset) -> "SourceReference":
        """How a data set is named."""
        return cls(
            study_instance_uid=str(ds.StudyInstanceUID),
            series_instance_uid=str(ds.SeriesInstanceUID),
            sop_class_uid=str(ds.SOPClassUID),
            sop_instance_uid=str(ds.SOPInstanceUID),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AssessedImage:
    """An image with its decision.

    Attributes:
        source: which image.
        header: its data set without pixels.
        assessment: the decision.
    """

    source: SourceReference
    header: Dataset
    assessment: Assessment

    @property
    def outcome(self) -> tuple[str, ...]:
        """Target, decision and probability to 0.1 %."""
        prediction = self.assessment.prediction
        return ("assessed", prediction.label, str(prediction.positive), f"{prediction.probability:.3f}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedImage(AssessedImage):
    """An image with its decision and the reasons for it.

    Attributes:
        radiograph: the image as the model saw it.
        greys: what its stored values were shown by.
        explanations: one by each method, at least one; all share the decision.
    """

    radiograph: Radiograph
    greys: Greys
    explanations: tuple[Explanation, ...]


@dataclass(frozen=True, slots=True)
class Context:
    """What every result object needs to know.

    Attributes:
        task: the task that is answered; its creation is the content date and time.
        header: the source's data set without pixels; for an unreadable source what a sibling says of the
            patient and the study, or nothing.
        sources: the instances that the result is about; at least one.
        model: the model version, or None when it could not be loaded.
        options: what the destination gets.
        number: Instance Number of the result.
        earlier: headers of results already made for this study, among them this one's predecessors.
    """

    _: KW_ONLY
    task: Task
    header: Dataset
    sources: tuple[SourceReference, ...]
    model: ModelIdentity | None
    options: ResultOptions
    number: int
    earlier: Sequence[Dataset] = ()

    @property
    def moment(self) -> datetime:
        """When the task was made, in the source's offset from UTC if it says one, else in the site's at the study.

        One object has one offset, which governs the study's date and time as well (PS3.3 C.12.1.1.8): in a zone with
        summer time that of today may be another.
        """
        stated = _offset(self.header)
        if stated is not None:
            return self.task.created_at.astimezone(stated)
        then = _study_begun(self.header, self.options.timezone)
        offset = None if then is None else then.utcoffset()
        return self.task.created_at.astimezone(self.options.timezone if offset is None else timezone(offset))

    @property
    def outcome(self) -> tuple[str, ...]:
        """What was found, as far as it makes another object."""
        raise NotImplementedError

    @property
    def method(self) -> str | None:
        """The explanation method whose map is shown; None of what is about several, or about none."""
        return None

    def series_number(self, series: int) -> int:
        """Series Number of a kind of object, whose own number within its method's is `series`, 1 to 10."""
        return self.options.series_number_base + _SERIES_OF_A_METHOD * self._place + series

    @property
    def _place(self) -> int:
        """Of the method among the node's, 0 for the first and for what is of no method."""
        order = self.options.method_order
        return 0 if self.method is None else order.index(self.method) if self.method in order else len(order)

    @property
    def _of_method(self) -> tuple[str, ...]:
        return () if self.method is None else (self.method, str(self._place))

    def series_instance_uid(self, kind: str) -> str:
        """One series per study, model version, site, kind of result and, where it is of one, explanation method."""
        model = self.model.digest if self.model else "none"
        return uid("series", self.task.study_instance_uid, model, *self.options.site, kind, *self._of_method)

    def sop_instance_uid(self, kind: str, *choices: str) -> str:
        """Follows from study, revision, the task's time, sources, model, site, method, outcome, kind, `choices`."""
        return uid(
            self.task.study_instance_uid,
            self.task.revision,
            self.task.created_at.isoformat(),
            *(source.sop_instance_uid for source in self.sources),
            self.model.digest if self.model else "none",
            *self.options.site,
            *self._of_method,
            *self.outcome,
            kind,
            *choices,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultContext(Context):
    """One image explained by one method.

    Attributes:
        image: the image.
        explanation: the decision and its reason, one of the image's.
    """

    image: ExplainedImage
    explanation: Explanation

    @property
    def source(self) -> SourceReference:
        """Which image it is."""
        return self.image.source

    @property
    def radiograph(self) -> Radiograph:
        """The image as the model saw it."""
        return self.image.radiograph

    @property
    def method(self) -> str:
        """The explanation method."""
        return self.explanation.provenance.method

    @property
    def outcome(self) -> tuple[str, ...]:
        """Method and parameters, target, decision, probabilities to 0.1 %, outlined area to 1 %, strength."""
        explanation, attribution = self.explanation, self.explanation.attribution
        images = [image for image in (explanation.similar, explanation.adversarial) if image is not None]
        provenance = explanation.provenance
        return (
            provenance.method,
            *(f"{name}={value}" for name, value in sorted(provenance.parameters.items())),
            provenance.software_version,
            explanation.prediction.label,
            str(explanation.prediction.positive),
            f"{explanation.prediction.probability:.3f}",
            *(f"{image.probability:.3f}" for image in images),
            str(explanation.decision_changed),
            f"{attribution.outlined_area:.2f}",
            f"{attribution.maximum:.2g}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Images that were not analysed for one reason.

    Attributes:
        sources: the images.
        reason: a plain clause that follows "because".
        code: the reason for machines.
    """

    sources: tuple[SourceReference, ...]
    reason: str
    code: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyContext(Context):
    """The whole answer to one task, from which every builder takes what it shows.

    Attributes:
        images: what was explained: each image by each method, those of an image together.
        assessed: what was decided and, as the site wants it for this decision, not explained.
        refused: what was not analysed.
        omitted: for each object that an image cannot have, its name and why.
        made: the objects built before, in the order of their series.
    """

    images: tuple[ResultContext, ...] = ()
    assessed: tuple[AssessedImage, ...] = ()
    refused: tuple[Refusal, ...] = ()
    omitted: tuple[tuple[str, str], ...] = ()
    made: tuple[Dataset, ...] = ()

    @property
    def explained(self) -> tuple[tuple[ResultContext, ...], ...]:
        """`images` with the explanations of one image together; all of them have one decision."""
        grouped: dict[str, list[ResultContext]] = {}
        for image in self.images:
            grouped.setdefault(image.source.sop_instance_uid, []).append(image)
        return tuple(tuple(found) for found in grouped.values())

    @property
    def outcome(self) -> tuple[str, ...]:
        """What was found in every image."""
        return (
            *(part for image in self.images for part in (image.source.sop_instance_uid, *image.outcome)),
            *(part for image in self.assessed for part in (image.source.sop_instance_uid, *image.outcome)),
            *(part for refusal in self.refused for part in ("not analysed", refusal.code, refusal.reason)),
            *(part for one in self.omitted for part in one),
        )


class Builder(Protocol):
    """What a module of this package offers as `PLUGIN`."""

    @property
    def name(self) -> str:
        """The module's name."""

    @property
    def sop_class_uids(self) -> tuple[str, ...]:
        """The SOP Classes of what it builds, for negotiation."""

    @property
    def series(self) -> int:
        """Added to the site's first series number; objects are built in this order."""

    @property
    def fallback(self) -> str | None:
        """The object that a destination gets when it does not take this one's SOP Class."""

    def refuses(self, image: ResultContext) -> str | None:
        """Why this image cannot have the object, as a plain clause that follows "because"; None when it can.

        An empty one is not told: nobody misses what only few methods make.
        """

    def build(self, study: StudyContext) -> tuple[Dataset, ...]:
        """Complete data sets with file meta information, for the images that are not refused."""


def _study_begun(header: Dataset, zone: tzinfo) -> datetime | None:
    """Study Date and Time by the clocks of a zone; None where the date is none."""
    date, time = code(header, "StudyDate"), code(header, "StudyTime")[:6]
    with suppress(ValueError):
        return datetime.strptime(date + time.ljust(6, "0"), "%Y%m%d%H%M%S").replace(tzinfo=zone)
    with suppress(ValueError):
        return datetime.strptime(date, "%Y%m%d").replace(tzinfo=zone)
    return None


def _offset(header: Dataset) -> timezone | None:
    """Timezone Offset From UTC (0008,0201), which then holds for every date and time of a data set."""
    found = re.fullmatch(r"([+-])([01]\d)([0-5]\d)", code(header, "TimezoneOffsetFromUTC"))
    if found is None:
        return None
    ahead = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return timezone(ahead if found[1] == "+" else -ahead)
