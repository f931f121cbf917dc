"""Specific Character Set: what equipment writes, and what is made of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.charset import python_encoding
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from dicom_node.dicom.charsets import meant, repair

KATAKANA = b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3"
KANJI = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
DEFINED = sorted(name for name in python_encoding if name)


@pytest.mark.parametrize(
    ("terms", "text", "expected"),
    [
        (("ISO_IR 100",), b"M\xfcller", ("ISO_IR 100",)),
        (("", "ISO 2022 IR 87"), KANJI, ("", "ISO 2022 IR 87")),
        (("ISO 2022 IR 13", "ISO 2022 IR 87"), KANJI, ("ISO 2022 IR 13", "ISO 2022 IR 87")),
        (("",), b"Plain", ()),
        (("",), b"M\xfcller", ()),
        (("UTF-8",), "Müller".encode(), ("ISO_IR 192",)),
        (("utf8",), b"Plain", ("ISO_IR 192",)),
        (("UTF-8",), b"M\xfcller", ()),
        (("ISO-IR 100",), b"M\xfcller", ("ISO_IR 100",)),
        (("ISO IR_144",), b"\xbb", ("ISO_IR 144",)),
        (("", "ISO_IR 13"), KATAKANA, ("ISO_IR 13",)),
        (("", "ISO_IR 100"), b"M\xfcller", ("ISO_IR 100",)),
        (("", "ISO_IR 87"), KANJI, ("", "ISO 2022 IR 87")),
        (("NONSENSE",), b"M\xfcller", ()),
        (("ISO_IR 999",), b"Plain", ()),
    ],
)
def test_what_is_written_is_kept_or_put_right_or_left_out(terms, text, expected):
    assert meant(terms, [text]) == expected


@given(
    st.lists(st.one_of(st.sampled_from(DEFINED), st.text(max_size=12)), max_size=4), st.lists(st.binary(max_size=12))
)
def test_what_comes_out_is_legal_and_stays_as_it_is(terms, texts):
    found = meant(tuple(terms), texts)
    assert meant(found, texts) == found
    assert all(one in python_encoding for one in found)
    assert all(one.startswith("ISO 2022 ") for one in found[1:])


@given(st.sampled_from(DEFINED), st.binary(max_size=12))
def test_a_defined_term_is_never_touched(term, text):
    assert meant((term,), [text]) == (term,)


@pytest.mark.parametrize(("value", "expected"), [(b"", None), (b"UTF-8 ", "ISO_IR 192"), (b"ISO_IR 100", "ISO_IR 100")])
def test_a_data_set_keeps_its_bytes_and_gets_a_legal_set(value, expected):
    ds = Dataset()
    for keyword, vr, text in (("SpecificCharacterSet", "CS", value), ("PatientName", "PN", b"Fake^Name ")):
        tag = Tag(keyword)
        ds[tag] = RawDataElement(tag, vr, len(text), text, 0, False, True)
    repair(ds)
    assert ds.get("SpecificCharacterSet") == expected
    assert ds.get_item("PatientName").value == b"Fake^Name "
