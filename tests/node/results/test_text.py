"""Text in pictures: a font for every script, nothing lost in wrapping, and names from whatever bytes there are."""

import re
import unicodedata
from copy import deepcopy

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pydicom import Dataset, config
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from radiographs import synthetic

from dicom_node.results import fonts
from dicom_node.results.header import header_of
from dicom_node.results.legend import Sentence, decision, digits_apart, glance
from dicom_node.results.patient import NOT_PRINTABLE, patient_lines
from dicom_node.results.text import (
    BACKGROUND,
    TEXT,
    WARNING,
    font,
    font_names,
    line_height,
    lines_of,
    printable,
    wrap,
    write,
)
from explain_core.explanation import Prediction

NAMES = {
    "latin 1": "Äneas Rüdiger",
    "vietnamese": "Nguyễn Thị Hồng",
    "greek": "Διονυσιος",
    "cyrillic": "Люксембург",
    "hebrew": "שרון דבורה",
    "arabic": "قباني لنزار",
    "thai": "สมชาย ใจดี",
    "japanese": "山田 太郎 やまだ",
    "half-width": "ﾔﾏﾀﾞ ﾀﾛｳ",
    "korean": "홍길동 洪吉洞",
    "simplified chinese": "张小东",
    "traditional chinese": "陳怡君",
    "devanagari": "राम कुमार",
}
HONG = b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf"
YAMADA = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"
"""Of PS3.5 H.3.1 and I.2."""
UNWRITABLE = "𒀀𒁀"  # cuneiform


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """A host with the fonts of the Python packages and no others."""
    monkeypatch.setattr(fonts, "installed", lambda: (fonts.BUILT_IN, *fonts.find(fonts.packaged(), [])))


def header(charset, name, **changes):
    """A header whose name is bytes still to be decoded."""
    changes = {"PatientID": b"7", "StudyDate": b"20240506"} | changes
    ds = Dataset()
    if isinstance(charset, bytes):
        changes["SpecificCharacterSet"] = charset
    elif charset is not None:
        ds.SpecificCharacterSet = charset
    for keyword, value in {"PatientName": name, **changes}.items():
        tag = Tag(keyword)
        vr = dictionary_VR(tag)
        ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    return ds


# --- fonts ---


@pytest.mark.parametrize("script", NAMES)
def test_every_script_has_a_font_with_all_its_letters(script):
    path = fonts.face(NAMES[script])
    letters = TTFont(path).getBestCmap()
    assert all(ord(letter) in letters for letter in NAMES[script] if letter != " ")
    assert fonts.PACKAGE in path, "of the package, so that every host has it"


def test_ascii_is_in_pillows_own_font():
    assert fonts.face("RESEARCH USE ONLY: |x_s - x_a| >= 0.25 (50%)") == fonts.BUILT_IN


def test_what_no_font_carries_is_not_printable():
    assert fonts.face(UNWRITABLE) is None
    assert not printable(UNWRITABLE)
    assert not printable("Z\ufffdrich"), "damaged in decoding"


def test_fonts_of_the_package_come_first_then_the_systems(tmp_path):
    package, system = tmp_path / "package", tmp_path / "system"
    for path in (package / "KurintoSansKR-Rg.ttf", package / "KurintoSans-Rg.ttf", package / "Other.ttf",
                 system / "deep" / "unifont.otf", system / "DejaVuSans.ttf", system / "Comic.ttf"):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    names = [path.rsplit("/", 1)[1] for path in fonts.find(package, [tmp_path / "none", system])]
    assert names == ["KurintoSans-Rg.ttf", "KurintoSansKR-Rg.ttf", "DejaVuSans.ttf", "unifont.otf"]
    assert len(list(fonts.find(None, [system]))) == 2


def test_arabic_letters_are_joined():
    word = "قباني"
    assert fonts.shapes(), "Pillow lacks raqm or the system fribidi: apt-get install libfribidi0"
    chosen = font(40, word)
    assert chosen.getlength(word) < 0.95 * sum(chosen.getlength(letter) for letter in word)


def test_a_host_that_cannot_shape_writes_no_reversed_name(monkeypatch):
    monkeypatch.setattr(fonts, "shapes", lambda: False)
    assert fonts.face(NAMES["hebrew"]) is None
    assert fonts.face(NAMES["devanagari"]) is None
    assert fonts.face(NAMES["japanese"]) is not None
    (line,) = patient_lines(header("ISO_IR 192", "Sharon^Deborah=שרון^דבורה".encode()))
    assert line.startswith("Patient: Sharon Deborah, ID 7")


@pytest.mark.parametrize("text", ["", *NAMES.values()])
@pytest.mark.parametrize("height", [8, 13, 16, 32, 50, 100])
def test_text_is_as_high_as_asked(height, text):
    _, top, _, bottom = font(height, text).getbbox("Ag")
    assert height <= bottom - top <= height * 1.3 + 2


# --- lines ---


def test_wrap_loses_nothing():
    text = "RESEARCH USE ONLY - NOT FOR DIAGNOSIS and averyveryverylongwordwithoutanyspace end"
    lines = wrap(text, font(20), 150)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(font(20).getlength(line) <= 150 for line in lines)


@pytest.mark.parametrize("text", [8 * "ที่นี่", 8 * "कि"])
def test_a_word_is_not_cut_before_its_vowel_sign(text):
    for width in range(30, 200, 7):
        lines = wrap(text, font(24, text), width)
        assert "".join(lines) == text
        assert not any(unicodedata.category(line[0]) in {"Mn", "Mc"} for line in lines)


def test_lines_keep_their_sentences_font_and_name_it():
    lines = lines_of([Sentence("first"), Sentence("山田 " * 20, warning=True)], 20, 300)
    assert [line.warning for line in lines] == [False] + [True] * (len(lines) - 1)
    assert font_names(lines) == ("KurintoSansJP-Rg.ttf",)
    assert font_names(lines[:1]) == ()


@pytest.mark.parametrize("script", NAMES)
def test_lines_of_any_script_stay_in_their_place(script):
    """Letters and their marks do not run into the lines above and below, nor out of the image."""
    height = 40
    lines = lines_of([Sentence("."), Sentence(NAMES[script]), Sentence(".")], height, 900)
    assert len(lines) == 3
    image = Image.new("RGB", (1000, 3 * line_height(height) + height), BACKGROUND)
    write(image, lines, height, (height, height // 2))
    drawn = (np.asarray(image) != BACKGROUND).any(axis=2)
    rows = np.nonzero(drawn[:, 2 * height :].any(axis=1))[0]
    top = height // 2 + line_height(height)
    assert rows.min() >= top - 0.35 * height
    assert rows.max() <= top + 1.35 * line_height(height)
    assert not drawn[:, -1].any()


# --- patients ---


@pytest.mark.parametrize(
    ("charset", "name", "expected"),
    [
        (None, b"Doe^Jane^^Dr", "Doe Jane Dr"),
        ("ISO_IR 100", "Buc^Jérôme".encode("latin-1"), "Buc Jérôme"),
        ("ISO_IR 126", "Διονυσιος".encode("iso8859-7"), "Διονυσιος"),
        ("ISO_IR 144", "Люксембург".encode("iso8859-5"), "Люксембург"),
        ("ISO_IR 127", "قباني^لنزار".encode("iso8859-6"), "قباني لنزار"),
        ("ISO_IR 138", "שרון^דבורה".encode("iso8859-8"), "שרון דבורה"),
        ("ISO_IR 166", "สมชาย^ใจดี".encode("tis-620"), "สมชาย ใจดี"),
        ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "王 小东 (Wang XiaoDong)"),
        (["", "ISO 2022 IR 149"], HONG, "洪 吉洞 (Hong Gildong)"),
        (["", "ISO 2022 IR 87"], YAMADA, "山田 太郎 (Yamada Tarou)"),
        ("ISO_IR 192", "=山田^太郎".encode(), "山田 太郎"),
        ("ISO_IR 192", f"Ur^Nammu={UNWRITABLE}".encode(), "Ur Nammu"),
        ("ISO_IR 192", UNWRITABLE.encode(), f"name {NOT_PRINTABLE}"),
        ("ISO_IR 192", b"Z\xfcrich", f"name {NOT_PRINTABLE}"),
        (None, b"Z\xfcrich", f"name {NOT_PRINTABLE}"),
        ("ISO_IR 999", b"Z\xfcrich", f"name {NOT_PRINTABLE}"),
        (["", "ISO 2022 IR 58"], b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab", "张 小东 (Zhang XiaoDong)"),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], b"\xd4\xcf\xc0\xde=\x1b$B;3ED\x1b(J", "山田 (ﾔﾏﾀﾞ)"),
        (b"\\ISO_IR 13", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3", "ﾔﾏﾀﾞ ﾀﾛｳ"),
        (b"UTF-8 ", "Müller^Jörg".encode(), "Müller Jörg"),
        (b"", b"Fake^Name", "Fake Name"),
        (b"", b"\x1b$B;3ED\x1b(B", f"name {NOT_PRINTABLE}"),
        ("ISO_IR 100", b"\x1b$B;3ED\x1b(B", f"name {NOT_PRINTABLE}"),
        (None, b"", "no name in the header"),
        (None, b"^^^^ ", "no name in the header"),
        ("ISO_IR 192", "Roe\u202e^John\u200b".encode(), "Roe John"),
        (None, b"Doe^\x07Jane\r\n", "Doe Jane"),
        (None, b"Doe^Jane\\Roe^Max", "Doe Jane"),
    ],
)  # fmt: skip
def test_the_name_is_written_in_its_script(charset, name, expected):
    ds = header(charset, name)
    assert patient_lines(ds) == (f"Patient: {expected}, ID 7, study of 2024-05-06",)
    assert isinstance(ds.get_item("PatientName"), RawDataElement), "the header's bytes are left as they were"


def test_identifier_and_date_are_what_the_header_says():
    (line,) = patient_lines(header(None, b"A", PatientID=b"", StudyDate=b"1997.01.02"))
    assert line == "Patient: A, no ID in the header, study of 1997-01-02"
    (line,) = patient_lines(header(None, b"A", PatientID=b"\xff\xff", StudyDate=b"yesterday"))
    assert line == f"Patient: A, ID {NOT_PRINTABLE}, study date not stated"
    (line,) = patient_lines(Dataset())
    assert line == "Patient: no name in the header, no ID in the header, study date not stated"


def test_scripts_that_no_font_carries_together_get_lines_of_their_own():
    lines = patient_lines(header("ISO_IR 192", "홍^길동".encode(), PatientID="دکتر".encode()))
    assert len(lines) == 2
    assert all(printable(line) for line in lines)


def test_without_fonts_the_alphabetic_group_is_written(monkeypatch):
    monkeypatch.setattr(fonts, "installed", lambda: (fonts.BUILT_IN,))
    (line,) = patient_lines(header("ISO_IR 192", "Yamada^Tarou=山田^太郎".encode()))
    assert line == "Patient: Yamada Tarou, ID 7, study of 2024-05-06"
    (line,) = patient_lines(header("ISO_IR 192", "Люкс".encode()))
    assert line == f"Patient: name {NOT_PRINTABLE}, ID 7, study of 2024-05-06"


CHARSETS = st.one_of(
    st.none(),
    st.sampled_from(sorted(python_encoding)).map(str.encode),
    st.lists(st.sampled_from(sorted(python_encoding)), max_size=4).map(lambda names: "\\".join(names).encode()),
    st.binary(max_size=16),
)


@settings(deadline=None)
@given(CHARSETS, st.binary(max_size=40), st.binary(max_size=20), st.binary(max_size=12))
def test_no_bytes_make_the_patients_line_fail(charset, name, identifier, date):
    ds = header(charset, name, PatientID=identifier, StudyDate=date)
    lines = patient_lines(ds)
    assert all(printable(line) for line in lines)
    assert lines_of([Sentence(line) for line in lines], 20, 300)


def test_a_strict_host_does_not_fail_either(monkeypatch):
    monkeypatch.setattr(config.settings, "_reading_validation_mode", config.RAISE)
    ds = header("ISO_IR 192", b"Z\xfcrich")
    with pytest.raises(UnicodeDecodeError):
        _ = deepcopy(ds).PatientName.alphabetic
    assert patient_lines(ds) == (f"Patient: name {NOT_PRINTABLE}, ID 7, study of 2024-05-06",)


def test_a_real_headers_name_stays_undecoded():
    ds = header_of(synthetic())
    assert patient_lines(ds) == ("Patient: Canary Bird, ID CANARY7, study of 2024-05-06",)
    assert isinstance(ds.get_item("PatientName"), RawDataElement)


@given(st.text("ab il,.W ", max_size=120), st.integers(5, 400))
def test_lines_are_as_long_as_they_can_be(text, width):
    """The same as word by word."""
    chosen, lines, line = font(14), [], ""
    for word in text.split():
        candidate = f"{line} {word}".strip()
        if chosen.getlength(candidate) <= width:
            line = candidate
            continue
        lines += [line] if line else []
        while chosen.getlength(word) > width and len(word) > 1:
            fits = next((n for n in range(len(word) - 1, 1, -1) if chosen.getlength(word[:n]) <= width), 1)
            lines.append(word[:fits])
            word = word[fits:]  # noqa: PLW2901 - what is left of it
        line = word
    assert wrap(text, chosen, width) == [*lines, *([line] if line else [])]


def test_a_line_that_was_written_before_looks_the_same():
    lines = lines_of([Sentence("Says (what), gjpqy", warning=True), Sentence(NAMES["greek"])], 20, 400)
    images = [Image.new("RGB", (400, 80), BACKGROUND) for _ in range(2)]
    for image in images:
        write(image, lines, 20, (7, 9))
    drawn = Image.new("RGB", (400, 80), BACKGROUND)
    baseline = font(20).getbbox("A", anchor="la")[3]
    for number, line in enumerate(lines):
        at = (7, 9 + number * line_height(20) + baseline)
        ink = WARNING if line.warning else TEXT
        ImageDraw.Draw(drawn).text(at, line.text, fill=ink, font=font(20, line.text), anchor="ls")
    assert images[0].tobytes() == images[1].tobytes() == drawn.tobytes()


@given(st.floats(0.0001, 0.9999), st.floats(0.0001, 0.9999), st.sampled_from([0, 1]))
def test_two_shares_that_differ_are_two_on_paper(one, other, least):
    one, other = round(one, 4), round(other, 4)
    digits = digits_apart(one, other, least)
    assert digits >= least
    assert (f"{one:.{digits}%}" == f"{other:.{digits}%}") == (one == other)
    assert digits == least or f"{one:.{digits - 1}%}" == f"{other:.{digits - 1}%}"


@pytest.mark.parametrize("probability", [0.4160, 0.4201, 0.4205, 0.4240])
def test_no_sentence_says_that_42_is_less_than_42(probability):
    prediction = Prediction(label="Opacity", probability=probability, threshold=0.4203, margin=0.0)
    for said in (glance(prediction).text, decision(prediction)):
        numbers = re.findall(r"\d+\.?\d*", said)
        assert float(numbers[0]) != float(numbers[1]), said
        assert (float(numbers[0]) > float(numbers[1])) == prediction.positive, said
