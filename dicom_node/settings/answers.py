"""What destinations get, and how they are reached: [results], [[destinations]], [[commitment_peers]]."""

from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dicom_node.settings.callers import AETitleText
from dicom_node.settings.dicomweb import WebKeys
from dicom_node.settings.methods import Methods
from dicom_node.settings.rule_tables import Name, ResultName, Section, split_words


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
