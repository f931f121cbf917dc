"""Whose an image is: two patients under one Study Instance UID are never answered as one.

What one image does not state another may: an image belongs to the study when it may be of the person whom all of its
images so far describe together.

A Study Instance UID that is used twice is a fault of equipment or of a migration, and reported often. The images of the
patient who came first are answered; those of another are not analysed, and the report, the log and the status say so.
"""

from dataclasses import dataclass

from pydicom import Dataset

from dicom_node.watch.logs import without_warnings

OTHER_PATIENT = "it is of another patient than the study's first image: two patients share one Study Instance UID"
_FILL = " \0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What a header says of whose it is; "" for what it does not state or what cannot be read.

    Attributes:
        identifier: Patient ID (0010,0020).
        issuer: Issuer of Patient ID (0010,0021), without which an identifier may mean two people.
        family: the family name, first component of Patient's Name, without regard to case.
        birth_date: Patient's Birth Date.
    """

    identifier: str = ""
    issuer: str = ""
    family: str = ""
    birth_date: str = ""

    def may_be(self, other: "Patient") -> bool:
        """Whether both may be one person.

        Identifiers decide where both are stated, with their issuers where both are; a name may be corrected between two
        images. Where one identifier is missing, family name and birth date must not contradict each other.
        """
        if self.identifier and other.identifier:
            return self.identifier == other.identifier and _agree(self.issuer, other.issuer)
        return _agree(self.family, other.family) and _agree(self.birth_date, other.birth_date)

    def completed_by(self, other: "Patient") -> "Patient":
        """The same person, known by what another of his images states too."""
        return Patient(
            identifier=self.identifier or other.identifier,
            issuer=self.issuer or (other.issuer if other.identifier else ""),
            family=self.family or other.family,
            birth_date=self.birth_date or other.birth_date,
        )


NOBODY = Patient()
"""Whom nothing is known of."""


def patient_of(header: Dataset) -> Patient:
    """Whose an image is; never raises, whatever the header holds."""
    with without_warnings():
        return Patient(
            identifier=_text(header, "PatientID"),
            issuer=_text(header, "IssuerOfPatientID"),
            family=_text(header, "PatientName").partition("^")[0].strip(_FILL).casefold(),
            birth_date=_text(header, "PatientBirthDate"),
        )


def _agree(one: str, other: str) -> bool:
    return not one or not other or one == other


def _text(header: Dataset, keyword: str) -> str:
    try:
        return str(header.get(keyword) or "").strip(_FILL)
    except Exception:  # noqa: BLE001 - pydicom raises almost anything for a damaged element
        return ""
