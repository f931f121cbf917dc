"""The modules around a result: Patient and Study as the source has them, our Series, Equipment, SOP Common.

Text of the source is copied as the bytes it came in, with its Specific Character Set, so that no name
changes; our own text is ASCII, which every character set of the standard contains.
"""

import re
import unicodedata
from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_node.dicom import charsets
from dicom_node.dicom.elements import OWN_CONTRIBUTION, code
from dicom_node.results import codes
from dicom_node.results.context import Context, SourceReference, device_uid, uid
from dicom_node.watch.logs import without_warnings

DISCLAIMER = "RESEARCH USE ONLY - NOT FOR DIAGNOSIS"
IMPLEMENTATION_CLASS_UID = UID(uid("implementation"))
IMPLEMENTATION_VERSION_NAME = "XAI_NODE"

# PS3.3 C.7.1.1, C.7.1.3, C.7.2.1, C.7.2.2, C.7.2.3 and what retired attributes equipment still sends.
TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
CHARSET = "SpecificCharacterSet"
INHERITED = (
    CHARSET,
    *TYPE_2,
    *("TimezoneOffsetFromUTC", "LongitudinalTemporalInformationModified", "StudyInstanceUID"),
    # Patient
    *("IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence", "PatientBirthTime"),
    *("PatientBirthDateInAlternativeCalendar", "PatientDeathDateInAlternativeCalendar"),
    *("PatientAlternativeCalendar", "OtherPatientIDs", "OtherPatientNames", "OtherPatientIDsSequence"),
    *("QualityControlSubject", "StrainDescription", "EthnicGroup", "EthnicGroupCodeSequence"),
    *("PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription"),
    *("PatientBreedCodeSequence", "BreedRegistrationSequence", "ResponsiblePerson"),
    *("ResponsiblePersonRole", "ResponsibleOrganization", "PatientComments", "PatientIdentityRemoved"),
    *("DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    # Clinical trial
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName"),
    *("ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID"),
    *("ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription"),
    # Study
    *("StudyDescription", "ProcedureCodeSequence", "IssuerOfAccessionNumberSequence"),
    *("ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName", "PhysiciansOfRecord"),
    *("NameOfPhysiciansReadingStudy", "RequestingService", "ReasonForPerformedProcedureCodeSequence"),
    # Patient Study
    *("AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "PatientAge", "PatientSize"),
    *("PatientWeight", "MedicalAlerts", "Allergies", "Occupation", "SmokingStatus"),
    *("AdditionalPatientHistory", "PregnancyStatus", "LastMenstrualDate", "PatientSexNeutered"),
    *("ReasonForVisit", "ReasonForVisitCodeSequence", "AdmissionID", "IssuerOfAdmissionIDSequence"),
    *("ServiceEpisodeID", "ServiceEpisodeDescription", "IssuerOfServiceEpisodeIDSequence", "PatientState"),
)
UNPAIRED = frozenset({"CHEST"})
_TEXT = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT"})
_FILL = b" \0"
_FORMS = {
    "AS": re.compile(rb"(\d{3}[DWMY])?"),
    "CS": re.compile(rb"[A-Z0-9_ ]{0,16}"),
    "DA": re.compile(rb"(\d{8})?"),
    "DS": re.compile(rb"([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)?"),
    "TM": re.compile(rb"(\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?)?"),
}
"""The form of values with a fixed one (PS3.5 6.2); a name or an identifier is passed on whatever it is."""
_FIRST_NON_HEADER = 0x50000000
_OVERLAYS, _OVERLAY_TYPE = range(0x6000, 0x6020, 2), 0x0040
_LONGEST_TEXT = 64
"""Characters of a LO (PS3.5 6.2)."""


def header_of(ds: Dataset) -> Dataset:
    """A view of `ds` without curves, overlays and pixels; elements not decoded yet stay so.

    Of an overlay its type stays, which says that there is one. Elements are shared, not copied: a copy of sequences
    nested a hundred deep needs more stack than there is.
    """
    header = ds[:_FIRST_NON_HEADER]
    for group in _OVERLAYS:
        if (tag := Tag(group, _OVERLAY_TYPE)) in ds:
            header[tag] = ds.get_item(tag)
    if hasattr(ds, "file_meta"):
        header.file_meta = deepcopy(ds.file_meta)
    return header


def overlays_of(header: Dataset) -> tuple[int, ...]:
    """The groups of the overlay planes of a source (PS3.3 C.9.2)."""
    return tuple(group for group in _OVERLAYS if Tag(group, _OVERLAY_TYPE) in header)


def patient_and_study(ds: Dataset) -> Dataset:
    """A copy of what `ds` says of the patient and the study, and nothing of its image or equipment."""
    header = header_of(ds)
    kept = {Tag(keyword) for keyword in INHERITED}
    for tag in [tag for tag in header.keys() if tag not in kept]:  # noqa: SIM118 - would decode every element
        del header[tag]
    return header


def start(about: Context, kind: str, sop_class_uid: str, *choices: str) -> Dataset:
    """A data set with Patient, Study, Series, Equipment and SOP Common, and its file meta information.

    Args:
        about: what is reported.
        kind: name of the builder, part of the UIDs.
        sop_class_uid: SOP Class of the result.
        choices: of the destination, as far as they change this object's bytes; part of its SOP Instance UID.
    """
    with without_warnings():
        ds = Dataset()
        for keyword in INHERITED:
            inherit(about.header, ds, keyword)
        charsets.repair(ds)
        # The bytes that were copied are now this data set's own encoding, to be written as they are.
        ds.set_original_encoding(False, True, ds._character_set)  # noqa: SLF001 - pydicom has no public name for it
    for keyword in TYPE_2:
        if keyword not in ds:
            setattr(ds, keyword, None)
    if "TimezoneOffsetFromUTC" not in ds and about.options.timezone is not UTC:
        ds.TimezoneOffsetFromUTC = about.moment.strftime("%z")  # the site's, in which its sources are dated too
    ds.StudyInstanceUID = about.task.study_instance_uid  # the ledger's: a torn file's own may be cut short
    _sop_common(ds, about, sop_class_uid, about.sop_instance_uid(kind, *choices))
    _equipment(ds, about)
    ds.SeriesInstanceUID = about.series_instance_uid(kind)
    ds.SeriesDescription = _series_description(about, kind)
    ds.InstanceNumber = about.number
    ds.ContentDate, ds.ContentTime = ds.InstanceCreationDate, ds.InstanceCreationTime
    return ds


def inherit(source: Dataset, target: Dataset, keyword: str, *, decoded: bool = False) -> None:
    """Copy one element, text as its bytes unless `decoded`; an element that cannot be read is left out."""
    tag = Tag(keyword)
    if tag not in source:
        return
    element = source.get_item(tag)
    vr = dictionary_VR(tag)
    if isinstance(element, RawDataElement) and element.value is not None and vr in _TEXT and not decoded:
        value = element.value if keyword == CHARSET else _legal(vr, element.value)  # put right by what it is for
        if value or not element.value.strip(_FILL):
            raw = element._replace(VR=vr, value=value, length=len(value), is_implicit_VR=False)
            target[tag] = raw._replace(is_little_endian=True)
        return
    try:
        target[tag] = deepcopy(source[tag])
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RecursionError):
        return


def inherit_anatomy(ds: Dataset, source: Dataset) -> None:
    """Body part and laterality of the source (PS3.3 C.7.3.1).

    Laterality is of paired body parts: none for a chest, and empty where it is not stated for another part.
    """
    for keyword in ("BodyPartExamined", "Laterality", "ImageLaterality"):
        inherit(source, ds, keyword)
        if keyword in ds and not code(ds, keyword):
            del ds[keyword]
    if code(ds, "ImageLaterality") or code(ds, "BodyPartExamined") in UNPAIRED:
        ds.pop("Laterality", None)
    elif "Laterality" not in ds:
        ds.Laterality = ""


def reference(source: SourceReference) -> Dataset:
    """`source` as an item that names a SOP Instance (PS3.3 table 10-11)."""
    item = Dataset()
    item.ReferencedSOPClassUID = source.sop_class_uid
    item.ReferencedSOPInstanceUID = source.sop_instance_uid
    return item


def by_study(references: Sequence[SourceReference]) -> list[Dataset]:
    """References grouped by study and series (Hierarchical SOP Instance Reference Macro, PS3.3 table C.17-3)."""
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for one in references:
        series = studies.setdefault(one.study_instance_uid, {})
        series.setdefault(one.series_instance_uid, []).append(reference(one))
    items = []
    for study_uid, by_series in studies.items():
        item = Dataset()
        item.StudyInstanceUID = study_uid
        item.ReferencedSeriesSequence = []
        for series_uid, instances in by_series.items():
            series_item = Dataset()
            series_item.SeriesInstanceUID = series_uid
            series_item.ReferencedSOPSequence = instances
            item.ReferencedSeriesSequence.append(series_item)
        items.append(item)
    return items


def _legal(vr: str, value: bytes) -> bytes:
    """`value` if it has the form of its VR; dates and times of the time before DICOM in today's form; else b""."""
    text = value.strip(_FILL)
    if vr == "DA":
        text = re.sub(rb"(\d{4})\.(\d{2})\.(\d{2})", rb"\1\2\3", text)
    if vr == "TM":
        text = text.replace(b":", b"")
    if vr not in _FORMS or all(_FORMS[vr].fullmatch(part.strip(_FILL)) for part in text.split(b"\\")):
        return value if text == value.strip(_FILL) else text + b" " * (len(text) % 2)
    return b""


def _sop_common(ds: Dataset, about: Context, sop_class_uid: str, sop_instance_uid: str) -> None:
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = sop_instance_uid
    ds.InstanceCreationDate = about.moment.strftime("%Y%m%d")
    ds.InstanceCreationTime = about.moment.strftime("%H%M%S.%f")
    ds.ContentQualification = about.options.content_qualification
    ds.ContributingEquipmentSequence = [*_acquisition(about.header), _processing(about)]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.FileMetaInformationVersion = b"\x00\x01"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    ds.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME


def _equipment(ds: Dataset, about: Context) -> None:
    options, model = about.options, about.model
    ds.Manufacturer = plain(options.manufacturer)
    ds.StationName = plain(options.station_ae_title, 16)
    ds.SoftwareVersions = [plain(options.software_version)]
    if model is not None:
        ds.ManufacturerModelName = plain(model.name)
        ds.SoftwareVersions = [plain(options.software_version), plain(f"model {model.version}")]
        ds.DeviceUID = device_uid(model)
    if options.institution:
        ds.InstitutionName = plain(options.institution)
    else:
        inherit(about.header, ds, "InstitutionName")


def _processing(about: Context) -> Dataset:
    """This software and its model as Processing Equipment (CID 7005)."""
    item = Dataset()
    _equipment(item, about)
    item.pop("InstitutionName", None)
    item.ContributionDateTime = about.moment.strftime("%Y%m%d%H%M%S.%f%z")
    described = f", bundle SHA-256 {about.model.digest}" if about.model is not None else ""
    item.ContributionDescription = f"{OWN_CONTRIBUTION}{described}"
    item.PurposeOfReferenceCodeSequence = [codes.item(codes.PROCESSING_EQUIPMENT)]
    return item


def _acquisition(source: Dataset) -> list[Dataset]:
    """The source's equipment as Acquisition Equipment; nothing when it does not name its manufacturer."""
    item = Dataset()
    for keyword in (
        "Manufacturer",
        "ManufacturerModelName",
        "DeviceSerialNumber",
        "SoftwareVersions",
        "StationName",
    ):
        inherit(source, item, keyword, decoded=True)
    if not item.get("Manufacturer"):
        return []
    item.PurposeOfReferenceCodeSequence = [codes.item(codes.ACQUISITION_EQUIPMENT)]
    return [item]


def _series_description(about: Context, kind: str) -> str:
    """The warning first: lists cut long lines. Then as much of the model as has room whole: 4.1 is not 4.1.2."""
    name, version = (about.model.name, about.model.version) if about.model is not None else ("no model", "")
    what = kind if about.method is None else f"{kind}, {about.method}"
    said = f"NOT FOR DIAGNOSIS - AI {what.replace('_', ' ')}"
    choices = (plain(one, 2 * _LONGEST_TEXT) for one in (f"{said} - {name} {version}", f"{said} - {name}", said))
    return plain(next((one for one in choices if len(one) <= _LONGEST_TEXT), said))


def plain(text: str, length: int = _LONGEST_TEXT) -> str:
    """`text` in printable ASCII without backslash, at most `length` characters (LO by default)."""
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    kept = "".join(letter if letter.isprintable() and letter != "\\" else " " for letter in folded)
    return " ".join(kept.split())[:length].rstrip()
