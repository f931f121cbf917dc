"""Body part and view of an image, as equipment says them: one table of words and codes, read in one place.

PS3.3 has several elements for each; what stands in them differs by vendor, decade and language. Words are taken apart,
so that "CHEST PA", "PORT CHEST", "TORAX" and "POSTERO_ANTERIOR" mean what they say, and a word that nobody knows makes
a statement something else. Codes are those of PS3.16 (CID 4 and 4031 for the chest, CID 4010 DX View) in
SNOMED CT and, as older equipment sends them, SNOMED RT; a test compares them with pydicom's tables.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from pydicom import Dataset
from pydicom.datadict import dictionary_description

from dicom_node.dicom.elements import code, codes, orientation, texts

MODALITIES = ("CR", "DX", "DR", "RG")
"""Plain radiographs: CR and DX are defined terms, DR is what some equipment writes for DX, RG is of scanned film."""


class BodyPart(StrEnum):
    """What an image shows, as far as this node is concerned."""

    CHEST = "CHEST"
    OTHER = "OTHER"


class View(StrEnum):
    """How the beam went; FRONTAL is PA or AP, and does not say which."""

    PA = "PA"
    AP = "AP"
    FRONTAL = "FRONTAL"
    LATERAL = "LATERAL"
    OTHER = "OTHER"

    @property
    def frontal(self) -> bool:
        """Whether it is PA or AP."""
        return self in {View.PA, View.AP, View.FRONTAL}


What = TypeVar("What", BodyPart, View)


@dataclass(frozen=True, slots=True)
class Stated(Generic[What]):
    """What an element says.

    Attributes:
        what: its meaning.
        said: which element says so and, unless it is free text, with what value; a clause without names of people.
    """

    what: What
    said: str


_CHEST_CODES = frozenset(
    {
        "816094009",  # chest
        "43799004",  # intra-thoracic
        *("51185008", "T-D3000"),  # thoracic structure
        *("302551006", "302552004"),  # entire thorax
        *("39607008", "T-28000"),  # lung
    }
)
_VIEW_CODES = {
    **dict.fromkeys(("272479007", "R-40888", "R-10214"), View.PA),
    **dict.fromkeys(("399348003", "R-10206"), View.AP),
    **dict.fromkeys(("399033003", "R-10202"), View.FRONTAL),
    **dict.fromkeys(
        (
            *("399067008", "R-102CD"),  # lateral
            *("399173006", "R-10236"),  # left lateral
            *("399198007", "R-10232"),  # right lateral
            *("399352003", "R-10228"),  # latero-medial
            *("399260004", "R-10224"),  # medio-lateral
            *("30730003", "G-A145"),  # sagittal
        ),
        View.LATERAL,
    ),
}


def _split(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CHEST_WORDS = _split("""
    CHEST CXR THORAX THORACIC TORAX TORACE THORAKS BRUSTKORB LUNG LUNGS LUNGE LUNGEN POUMON POUMONS PULMON PULMONES
    POLMONE POLMONI PULMAO LONG LONGEN PLUCA
""")
_VIEW_WORDS = {
    "PA": View.PA,
    "AP": View.AP,
    **dict.fromkeys(_split("FRONTAL FRONTALE FRONT FACE FRENTE"), View.FRONTAL),
    **dict.fromkeys(
        _split("""
            LATERAL LAT LATERALE LATERAAL LL RL LLAT RLAT PROFIL PROFILE PERFIL SEITLICH SEITL DWARS BOCZNE BOCZNY
            SIDOBILD SAGITTAL
        """),
        View.LATERAL,
    ),
    **dict.fromkeys(
        _split("""
            DECUBITUS DECUB DECUBITO LLD RLD OBLIQUE OBLIQUA OBLICUA OBL LAO RAO LPO RPO LORDOTIC APICAL
        """),
        View.OTHER,
    ),
}
_SPELLINGS = (
    (re.compile(r"POSTER(O|IOR)\W*ANT(ERIOR)?\b|\bP[./ -]A\b\.?"), " PA "),
    (re.compile(r"ANTER(O|IOR)\W*POST(ERIOR)?\b|\bA[./ -]P\b\.?"), " AP "),
    (re.compile(r"LATERO\W*LATERALE?\b"), " LATERAL "),
)
_SIDES = frozenset({"L", "R"})
"""Of a lateral view where they stand alone in View Position, else of the body."""
_NEUTRAL = _SIDES | _split("""
    UPRIGHT ERECT STANDING SITTING SEATED SUPINE SUPINO PRONE PORTABLE PORT PORTATIL MOBILE MOBIL BED BEDSIDE BETT
    LIEGEND STEHEND SITZEND DEBOUT COUCHE ASSIS INSPIRATION EXPIRATION INSP EXP GRID WITH WITHOUT NON NO DE EN AND ET
    UND Y E ADULT PED PEDS PEDIATRIC CHILD XR CR DX DR RX RAD XRAY RAYS RAY X VIEW VIEWS V VUE PROJECTION PROJ SINGLE
    ONE TWO ROUTINE STD
""")
"""Words that change neither body part nor view."""
_OF_IMAGE = ("BodyPartExamined", "SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")
"""Where words may name the view of one image, the nearest to it first."""
_OF_STUDY = ("StudyDescription",)
"""Where they may name the views of several."""


def body_part(ds: Dataset) -> Stated[BodyPart] | None:
    """Whether the image shows the chest: by Body Part Examined, else Anatomic Region Sequence; None if not stated."""
    text = _text(ds, "BodyPartExamined")
    if text:
        words = _words(text)
        chest = any(word in _CHEST_WORDS for word in words) and all(_harmless(word) for word in words)
        return Stated(BodyPart.CHEST if chest else BodyPart.OTHER, _quoted(ds, "BodyPartExamined"))
    regions = codes(ds, "AnatomicRegionSequence")
    if not regions:
        return None
    chest = bool(regions & _CHEST_CODES)
    return Stated(BodyPart.CHEST if chest else BodyPart.OTHER, f"Anatomic Region is {', '.join(sorted(regions))}")


def view(ds: Dataset) -> Stated[View] | None:
    """The view: by the first element that states one, those made for it before words in others; None if none does.

    View Position, View Code Sequence, Patient Position where a view stands there, Patient Orientation whose rows run
    front to back, Body Part Examined, descriptions of series, protocol and study. A description that names a
    frontal and a lateral view is of a whole examination and states none.
    """
    return next(_views(ds), None)


def _views(ds: Dataset) -> Iterator[Stated[View]]:
    position = _of_position(_text(ds, "ViewPosition"))
    if position is not None:
        yield Stated(position, _quoted(ds, "ViewPosition"))
    found = codes(ds, "ViewCodeSequence")
    if found:
        known = {_VIEW_CODES.get(one, View.OTHER) for one in found}
        what = known.pop() if len(known) == 1 else View.OTHER
        yield Stated(what, f"View Code is {', '.join(sorted(found))}")
    if (stated := code(ds, "PatientPosition")) in {View.PA, View.AP}:
        yield Stated(View(stated), _quoted(ds, "PatientPosition"))
    directions = orientation(ds)
    if directions and directions[0][:1] in {"A", "P"}:
        yield Stated(View.LATERAL, "its rows run front to back")
    for keyword in (*_OF_IMAGE, *_OF_STUDY):
        named = _named(_text(ds, keyword))
        one = _one(set(named.values()), several=keyword in _OF_STUDY)
        if one is not None:
            word = next((word for word, meaning in named.items() if meaning is one), "a frontal view")
            yield Stated(one, f"its {dictionary_description(keyword)} says {word}")


def _text(ds: Dataset, keyword: str) -> str:
    """All values of an element in one."""
    return " ".join(texts(ds, keyword)).strip()


def _of_position(text: str) -> View | None:
    """What View Position says as a whole: a word that nobody knows makes it something else.

    None where it names no view, empty or with words such as PORTABLE alone.
    """
    words = _words(text)
    if words and set(words) <= _SIDES:
        return View.LATERAL
    if (text and not words) or not all(_harmless(word) for word in words):
        return View.OTHER
    named = set(_named(text).values())
    return (_one(named) or View.OTHER) if named else None


def _named(text: str) -> dict[str, View]:
    """The words of a text that name a view."""
    return {word: _VIEW_WORDS[word] for word in _words(text) if word in _VIEW_WORDS}


def _one(named: set[View], *, several: bool = False) -> View | None:
    """The one view of an image for which all of `named` are said; None where none is, or each may be of another image.

    Args:
        named: the views that are named.
        several: whether they may be of several images.
    """
    frontal, others = {one for one in named if one.frontal}, {one for one in named if not one.frontal}
    if View.OTHER in others and not (several and frontal):
        return View.OTHER
    if others:
        return None if frontal else View.LATERAL
    exact = frontal - {View.FRONTAL}
    return exact.pop() if len(exact) == 1 else View.FRONTAL if frontal else None


def _harmless(word: str) -> bool:
    """Whether a word beside others leaves what they say as it is."""
    return word in _CHEST_WORDS or word in _VIEW_WORDS or word in _NEUTRAL or word[:1].isdigit()


def _words(text: str) -> list[str]:
    """The words of a text in capital letters without accents; views that are spelled with marks as one word."""
    folded = unicodedata.normalize("NFKD", text.upper()).encode("ascii", "ignore").decode("ascii")
    folded = folded.replace("_", " ")
    for spelled, word in _SPELLINGS:
        folded = spelled.sub(word, folded)
    return re.findall(r"\d+[A-Z]*|[A-Z]+", folded)


def _quoted(ds: Dataset, keyword: str) -> str:
    return f"{dictionary_description(keyword)} is '{code(ds, keyword)}'"
