"""Hypothesis strategies for what the node is given: UIDs, AE titles, headers, rules, activity."""

from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_node.nouns import StudyActivity
from dicom_node.settings.rule_tables import Condition, Rule

settings.register_profile("busy-machine", deadline=None)
settings.load_profile("busy-machine")

EPOCH = datetime(2026, 3, 1, tzinfo=UTC)

uids = st.lists(st.integers(min_value=0, max_value=10**9), min_size=2, max_size=6).map(
    lambda parts: ".".join(map(str, parts))
)
# What a peer may write where a UID belongs.
not_uids = st.one_of(
    st.text(max_size=80),
    st.sampled_from(["../../etc/passwd", "1..2", "1.02", ".1.2", "1.2.", "1", "1.2/3", "1.2\n", "1." * 32 + "1"]),
).filter(lambda text: not _looks_valid(text))

ae_titles = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\\"), min_size=1, max_size=16
).filter(lambda text: text.strip() == text)

moments = st.integers(min_value=0, max_value=10_000).map(lambda seconds: EPOCH + timedelta(seconds=seconds))

TAGS = ("Modality", "BodyPartExamined", "ViewPosition", "PatientOrientation", "NumberOfFrames", "CallingAETitle")
words = st.sampled_from(["CR", "cr ", "DX", "CHEST", "PA", "AP", "LL", "A", "F", "2", "MOBILE", ""])
texts = st.sampled_from(["CR", "DX", "CHEST", "PA", "AP", "LL", "A", "F", "2", "mobile", ""])


@st.composite
def conditions(draw):
    test = draw(st.sampled_from(["equals", "in", "regex"]))
    wanted = draw(st.lists(texts, max_size=3) if test == "in" else texts)
    return Condition.model_validate(
        {
            "tag": draw(st.sampled_from(TAGS)),
            test: wanted,
            "missing": draw(st.sampled_from(["match", "no-match"])),
        }
    )


@st.composite
def rules(draw, name="rule"):
    ignore = draw(st.booleans())
    return Rule(
        name=name,
        action="ignore" if ignore else "explain",
        when=tuple(draw(st.lists(conditions(), max_size=3))),
        reason="some reason" if ignore else None,
    )


rule_lists = st.integers(min_value=0, max_value=5).flatmap(
    lambda count: st.tuples(*(rules(name=f"rule {number}") for number in range(count)))
)


@st.composite
def headers(draw):
    header = Dataset()
    for keyword in TAGS[:-1]:
        values = draw(st.lists(words, max_size=2))
        if draw(st.booleans()):
            tag = Tag(keyword)
            value = "\\".join(values).encode()
            header[tag] = RawDataElement(tag, "CS", len(value), value, 0, False, True)
    return header


@st.composite
def raw_headers(draw):
    """Headers whose elements hold any bytes under any VR, as a damaged file has them."""
    header = Dataset()
    vrs = st.sampled_from(["CS", "DS", "IS", "UI", "PN", "SQ", "US", "FD", "AT", "UN", "DA", "LO", "OB", "ZZ"])
    for keyword in (*TAGS[:-1], "SOPClassUID", "ContributingEquipmentSequence", "ViewCodeSequence"):
        if draw(st.booleans()):
            tag, value = Tag(keyword), draw(st.binary(max_size=24))
            header[tag] = RawDataElement(tag, draw(vrs), len(value), value, 0, False, True)
    return header


@st.composite
def activities(draw):
    first = draw(moments)
    return StudyActivity(
        study_instance_uid=draw(uids),
        revision=draw(st.integers(min_value=1, max_value=5)),
        first_received=first,
        last_received=first + timedelta(seconds=draw(st.integers(min_value=0, max_value=5000))),
        open_associations=draw(st.integers(min_value=0, max_value=2)),
        new_instances=draw(st.integers(min_value=1, max_value=9)),
    )


def _looks_valid(text):
    """An independent reading of PS3.5 9.1."""
    parts = text.split(".")
    return (
        len(text) <= 64
        and len(parts) > 1
        and all(part.isascii() and part.isdigit() and (part == "0" or part[0] != "0") for part in parts)
    )
