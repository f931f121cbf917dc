"""Sections 8.3 and 8.5: codes, templates and content of documents, read from objects that are really built."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pydicom import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code
from pydicom.uid import UID

from conformance import objects
from conformance.example import Variants
from conformance.markdown import prose, table
from dicom_node.results import codes

CONTEXT_GROUPS: Mapping[str, tuple[str, ...]] = {
    "Purpose of Reference Code Sequence": ("7005", "7202"),
    "Derivation Code Sequence": ("7203",),
    "Segmented Property Category Code Sequence": ("7150",),
    "Algorithm Family Code Sequence": ("7162",),
    "Measurement Units Code Sequence": ("7181",),
    "Quantity": ("217",),
    "Algorithm Family": ("7162",),
    "Observer Type": ("270",),
    "Finding": ("6102",),
    "Finding Site": ("4",),
    "Evidence lies in": ("6171",),
    "Laterality": ("244",),
    "Classifier decision": ("240",),
    "CAD Processing and Findings Summary": ("6047",),
    "Procedure reported": ("100",),
    "Procedure Reported": ("100",),
    "Document title": ("7010", "7021"),
    **dict.fromkeys(
        (
            "Decision is near the threshold",
            "Similar image keeps the decision",
            "Adversarial image crosses the decision threshold",
        ),
        ("230",),
    ),
}
"""By attribute or concept: the context groups of PS3.16 that its values come from, all of them extensible."""

TEMPLATES = {
    "1410": "Planar ROI Measurements and Qualitative Evaluations",
    "1500": "Measurement Report",
    "2010": "Key Object Selection",
    "300": "Measurement",
}
"""Names of the templates that documents say they follow (PS3.16)."""


class Used(NamedTuple):
    """A code as an object has it: where, and which."""

    where: str
    value: str
    scheme: str
    meaning: str


def render(built: Mapping[str, Variants], refused: Dataset) -> list[str]:
    """Sections 8.3 to 8.6."""
    every = [variants.whole for variants in built.values()] + [refused]
    return [
        "## 8.3 Coded terminology and templates",
        "",
        "### 8.3.1 Context groups",
        "",
        *prose(
            "Codes as they stand in objects about one radiograph and in the report on one that was not",
            "analysed.",
        ),
        *table(("Attribute or concept", "Code", "Meaning", "Context group"), _context_rows(every)),
        "### 8.3.2 Templates",
        "",
        *table(("TID", "Name"), [(one, TEMPLATES[one]) for one in templates(every)]),
        *_documents(built, refused),
        "### 8.3.4 Private code definitions",
        "",
        *prose(
            f"Coding scheme {codes.SCHEME}, in Coding Scheme Identification Sequence of every object that uses",
            "it. Findings that the standard has no code for, and explanation methods, get a code made of their",
            "names.",
        ),
        *table(("Code", "Meaning"), [(one.value, one.meaning) for one in private_codes()]),
        "## 8.4 Grayscale image consistency",
        "",
        *prose("None: the node displays nothing."),
        "## 8.5 Standard extended, specialized and private SOP Classes",
        "",
        *prose(
            "No specialized and no private SOP Classes. Standard Extended by attributes that the IOD does not",
            "have (any more) and that the source states (PS3.3 of today):",
        ),
        *table(("SOP Class", "Attribute", "Tag"), objects.extended(built)),
        "## 8.6 Private transfer syntaxes",
        "",
        "None.",
    ]


def _documents(built: Mapping[str, Variants], refused: Dataset) -> list[str]:
    return [
        "### 8.3.3 Content of documents",
        "",
        *prose("structured_report, of one image; repeated items once:"),
        *_tree(built["structured_report"].whole),
        "",
        *prose("structured_report on an image that was not analysed:"),
        *_tree(refused),
        "",
        *prose("key_object:"),
        *_tree(built["key_object"].whole),
        "",
    ]


def used(ds: Dataset) -> Iterator[Used]:
    """Every code of an object that is a value, not the name of a concept."""
    concept = _name(ds)
    for element in ds:
        for item in element.value if element.VR == "SQ" else ():
            if "CodingSchemeDesignator" in item and "CodeMeaning" in item:
                title = element.keyword == "ConceptNameCodeSequence" and "SOPClassUID" in ds
                if title or element.keyword != "ConceptNameCodeSequence":
                    value = element.keyword == "ConceptCodeSequence"
                    where = "Document title" if title else concept if value else element.name
                    yield Used(where, _value(item), item.CodingSchemeDesignator, item.CodeMeaning)
            yield from used(item)


def templates(every: Sequence[Dataset]) -> list[str]:
    """Identifiers of the templates that content items say they follow."""
    found = {
        str(item.ContentTemplateSequence[0].TemplateIdentifier)
        for ds in every
        for item in _items(ds)
        if "ContentTemplateSequence" in item
    }
    return sorted(found, key=int)


def private_codes() -> list[Code]:
    """The codes of the project's own scheme."""
    named = [one for one in vars(codes).values() if isinstance(one, Code)]
    tables = [
        one for of in vars(codes).values() if isinstance(of, dict) for one in of.values() if isinstance(one, Code)
    ]
    own = {one.value: one for one in (*named, *tables) if one.scheme_designator == codes.SCHEME}
    return [own[value] for value in sorted(own)]


def _context_rows(every: Sequence[Dataset]) -> list[tuple[str, str, str, str]]:
    found = sorted({one for ds in every for one in used(ds)})
    return [(one.where, f"({one.value}, {one.scheme})", one.meaning, context_group(one)) for one in found]


def context_group(one: Used) -> str:
    """The context group that has a code, or the one that it extends; "" where there is none."""
    groups = CONTEXT_GROUPS.get(one.where, ())
    for cid in groups:
        members = getattr(standard, f"cid{cid}").concepts.values()
        if any((member.value, member.scheme_designator) == (one.value, one.scheme) for member in members):
            return f"CID {cid}"
    return f"CID {groups[0]}, extended" if groups else ""


def _items(ds: Dataset) -> Iterator[Dataset]:
    yield ds
    for item in ds.get("ContentSequence", ()):
        yield from _items(item)


def _tree(ds: Dataset, depth: int = 0) -> list[str]:
    """Content items as a list inside lists; those that say the same of other things once."""
    relation = f"{ds.RelationshipType} " if "RelationshipType" in ds else ""
    of = _name(ds)
    name = f"{of} " if of else ""
    lines = [f"{'  ' * depth}- {relation}{ds.ValueType} {name}".rstrip() + _coded(ds)]
    below: dict[str, list[str]] = {}
    for item in ds.get("ContentSequence", ()):
        tree = _tree(item, depth + 1)
        if len(tree) > len(below.get(tree[0], ())):
            below[tree[0]] = tree
    return [*lines, *(line for tree in below.values() for line in tree)]


def _coded(ds: Dataset) -> str:
    """The name's code."""
    if "ConceptNameCodeSequence" not in ds:
        return (
            f" ({UID(ds.ReferencedSOPSequence[0].ReferencedSOPClassUID).name})" if "ReferencedSOPSequence" in ds else ""
        )
    item = ds.ConceptNameCodeSequence[0]
    return f" ({_value(item)}, {item.CodingSchemeDesignator})"


def _name(ds: Dataset) -> str:
    return str(ds.ConceptNameCodeSequence[0].CodeMeaning) if "ConceptNameCodeSequence" in ds else ""


def _value(item: Dataset) -> str:
    return str(item.get("CodeValue") or item.get("LongCodeValue"))
