"""Section 8.1: what stands in created objects, attribute by attribute, read from objects that are really built.

Where a value comes from is seen by what changes it: another source, other settings, another model (`example`). Which
module an attribute belongs to is what highdicom's copy of PS3.3 says; one that no module of the IOD has makes a
Standard Extended SOP Class.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_description, keyword_for_tag
from pydicom.tag import BaseTag
from pydicom.uid import UID

from conformance.example import Variants
from conformance.markdown import prose, table
from dicom_node.dicom.image_pixel import USUAL

_HEAD = ("Attribute", "Tag", "VR", "Value", "Presence", "Source")
_SHOWN = frozenset({"CS", "IS", "LO", "SH", "UI", "US"})
"""VRs whose fixed values tell something; text drawn from the pixels and numbers of the picture do not."""
_INITIALS = frozenset({"icc", "lut", "sc", "sop", "sr", "voi"})
_LONGEST = 64
_OF_THE_EXAMPLE = frozenset(
    {"Columns", "InstanceNumber", "NumberOfFrames", "ReferencedSOPClassUID", "Rows", "SeriesDescription"}
)
"""Would be others of another image, method or font."""
_ANOTHER = "another item"
_TREE = "ContentSequence"
"""Stands in 8.3.3 as a tree."""


class Row(NamedTuple):
    """An attribute of an object: what the tables have of it."""

    name: str
    tag: str
    vr: str
    value: str
    presence: str
    source: str


Block = tuple[Row, ...]
"""An attribute of the data set and, where it is a sequence, those of its items."""


class Contents(NamedTuple):
    """What stands in one kind of object.

    Attributes:
        sop_class: of the object.
        modules: of its IOD, and what stands in them, in the order of the IOD and of tags; "" is of none.
    """

    sop_class: UID
    modules: Mapping[str, tuple[Block, ...]]


def contents(built: Mapping[str, Variants]) -> dict[str, Contents]:
    """The contents of every object, by the name of its builder."""
    return {name: _contents(variants) for name, variants in built.items()}


def render(built: Mapping[str, Variants]) -> list[str]:
    """Sections 8.1.1 to 8.1.4."""
    every = contents(built)
    common = _common(every)
    lines = [
        "### 8.1.1 Created SOP instances",
        "",
        *prose(
            "Presence: ALWAYS with a value; VNAP always there, empty where there is no value; EMPTY; ANAP only",
            "where its condition holds, mostly that the source states it. Source: COPY from the radiograph that",
            "is explained; CONFIG from the settings; AUTO made by the node. A value is given where it is the",
            "same in every object of the kind. `>` is an attribute of an item. Binary values and the content of",
            "documents (8.3.3) are left out.",
        ),
        "#### Common to all objects",
        "",
        *table(_HEAD, (row for block in common for row in block)),
    ]
    for name, one in every.items():
        lines += [f"#### {name}: {one.sop_class.name}", "", *_modules(one, set(common))]
    return [*lines, *_received()]


def extended(built: Mapping[str, Variants]) -> list[tuple[str, str, str]]:
    """Attributes of standard objects that no module of their IOD has: SOP Class, name and tag of each, once."""
    found = {
        (one.sop_class.name, block[0].name, block[0].tag): None
        for one in contents(built).values()
        for block in one.modules.get("", ())
    }
    return list(found)


def _contents(variants: Variants) -> Contents:
    sop_class = UID(variants.whole.SOPClassUID)
    modules = get_iod_module_map()[get_sop_class_iod_map()[sop_class]]
    found: dict[str, list[Block]] = {_named(module["key"], module["usage"]): [] for module in modules}
    where = {
        attribute["keyword"]: _named(module["key"], module["usage"])
        for module in reversed(modules)
        for attribute in get_module_attribute_map()[module["key"]]
        if not attribute["path"]
    }
    for tag in sorted({element.tag for ds in variants.made for element in ds}):
        block = tuple(_rows(tuple(ds.get(tag) for ds in variants.made), tag, variants))
        found.setdefault(where.get(keyword_for_tag(tag), ""), []).append(block)
    return Contents(sop_class, {name: tuple(blocks) for name, blocks in found.items() if blocks})


def _named(key: str, usage: str) -> str:
    words = [word.upper() if word in _INITIALS else word.capitalize() for word in key.split("-")]
    return f"{' '.join(words)} ({usage})"


def _rows(found: tuple[DataElement | None, ...], tag: BaseTag, within: Variants, depth: int = 0) -> Iterator[Row]:
    """An attribute and, where it is a sequence, those of its items."""
    element, source = next(one for one in found if one is not None), _source(found, tag, within)
    yield Row(
        name=f"{'>' * depth}{element.name}",
        tag=f"({tag.group:04X},{tag.element:04X})",
        vr=element.VR,
        value="" if source == "COPY" else _value(found),
        presence=_presence(found),
        source=source,
    )
    if element.VR != "SQ" or element.keyword == _TREE:
        return
    items = [[*(one.value if one is not None else ())] for one in found]
    known: set[Row] = set()
    for place in range(1, max(map(len, items)) + 1):  # from the last one: what is optional comes first
        of = [one[-place] if place <= len(one) else None for one in items]
        inner = sorted({each.tag for item in of if item is not None for each in item})
        rows = [row for each in inner for row in _rows(_within(of, each), each, within, depth + 1)]
        if not known.issuperset(rows):
            yield from ([Row(f"{'>' * (depth + 1)}*{_ANOTHER}*", "", "", "", "", "")] if known else [])
            yield from rows
        known.update(rows)


def _within(items: Sequence[Dataset | None], tag: BaseTag) -> tuple[DataElement | None, ...]:
    """An element of each item; where a data set has no such item, that is the sequence's matter and not its own."""
    first = next(item[tag] for item in items if item is not None and tag in item)
    return tuple(first if item is None else item.get(tag) for item in items)


def _presence(found: tuple[DataElement | None, ...]) -> str:
    if any(one is None for one in found):
        return "ANAP"
    empty = [one is None or one.is_empty for one in found]
    return "EMPTY" if all(empty) else "VNAP" if any(empty) else "ALWAYS"


def _source(found: tuple[DataElement | None, ...], tag: BaseTag, within: Variants) -> str:
    """COPY, CONFIG or AUTO; see the module."""
    whole, _, other, elsewhere, retrained = found
    copied = all(
        one is not None and tag in of and not one.is_empty and one.value == of[tag].value
        for one, of in ((whole, within.source), (other, within.other_source))
    )
    if copied:
        return "COPY" if whole == elsewhere else "CONFIG, else COPY"
    set_here = whole != elsewhere and whole == other and whole == retrained
    return "CONFIG" if set_here and whole is not None and whole.VR != "SQ" else "AUTO"


def _value(found: tuple[DataElement | None, ...]) -> str:
    there = [one for one in found if one is not None]
    first = there[0]
    if first.VR not in _SHOWN or first.keyword in _OF_THE_EXAMPLE or any(one != first for one in there):
        return ""
    values = first.value if first.VM > 1 else [first.value or ""]
    said = "\\".join(UID(str(one)).name if first.VR == "UI" else str(one) for one in values)
    return said if len(said) <= _LONGEST and not said.startswith("2.25.") else ""


def _common(every: Mapping[str, Contents]) -> list[Block]:
    """What every object has, in the order of modules and tags."""
    each = [{block for blocks in one.modules.values() for block in blocks} for one in every.values()]
    first = next(iter(every.values()))
    return [block for blocks in first.modules.values() for block in blocks if all(block in one for one in each)]


def _modules(one: Contents, common: set[Block]) -> Iterator[str]:
    for module, blocks in one.modules.items():
        own = [row for block in blocks if block not in common for row in block]
        if own:
            yield f"{module or 'In no module of the IOD'}:"
            yield ""
            yield from table(_HEAD, own)


def _received() -> list[str]:
    """Sections 8.1.2 to 8.2."""
    used = ", ".join(sorted(dictionary_description(keyword) for keyword in USUAL))
    return [
        "### 8.1.2 Usage of attributes from received IODs",
        "",
        *prose(
            "SOP Class UID, SOP Instance UID, Series Instance UID and Study Instance UID must be there. What is",
            "copied into results (COPY above) is used as it is. Which images are explained: by the rules of the",
            "settings, by default Modality, Body Part Examined, Anatomic Region Sequence, View Position, View",
            "Code Sequence, Presentation Intent Type and Number of Frames, in other words where equipment",
            "writes others (8.7). The picture: the Image Pixel, Modality LUT, VOI LUT and Presentation LUT",
            "attributes, Pixel Spacing, Imager Pixel Spacing, Patient Orientation, the plane in the patient. Of",
            f"these, where they are missing, the usual value is taken (8.7): {used}.",
        ),
        "### 8.1.3 Attribute mapping",
        "",
        *prose("None: nothing comes from a worklist or another source than the image, the settings and the model."),
        "### 8.1.4 Coerced and modified fields",
        "",
        *prose(
            "None in what is received. In results: see 6 for Specific Character Set; dates and times of the",
            "time before DICOM 3 are written in today's form; a value that its VR does not allow is left out.",
        ),
        "## 8.2 Data dictionary of private attributes",
        "",
        *prose("None: the node writes no private attributes, and copies none."),
    ]
