"""Objects from headers as odd as equipment writes them: drawn by Hypothesis, validated by dciodvfy, read back."""

import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from contexts import errors_of, every
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from radiographs import phantom, reread, synthetic

from explain_core import plugins

EXAMPLES = 12
ABSENT = None

NAMES = [
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("ISO_IR 144", "Люкceмбypг^Анна"),  # noqa: RUF001 - Cyrillic is meant
    ("ISO_IR 126", "Διονυσιος"),
    ("ISO_IR 127", "قباني^لنزار"),
    ("ISO_IR 138", "שרון^דבורה"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小东"),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ("ISO_IR 166", "นามสกุล"),
    (ABSENT, "Plain^Name"),
    (ABSENT, ""),
    ("ISO_IR 100", "^" * 5),
]


def code_item(value, scheme="SCT", meaning="something"):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def voi_table(bits):
    item = Dataset()
    item.LUTDescriptor = [256, 0, bits]
    item.LUTExplanation = "NORMAL"
    item.add_new("LUTData", "US", np.rint(np.linspace(0, (1 << bits) - 1, 256)).astype(int).tolist())
    return [item]


ELEMENTS = {
    "PatientID": [ABSENT, "", "CANARY7", "a" * 64],
    "PatientBirthDate": [ABSENT, "", "19500102", "1950.01.02"],
    "PatientSex": [ABSENT, "", "F", "male"],
    "PatientAge": [ABSENT, "074Y", "74"],
    "StudyDate": [ABSENT, "", "20240506", "2024.05.06"],
    "StudyTime": [ABSENT, "065000", "06:50"],
    "StudyID": [ABSENT, "", "S1"],
    "AccessionNumber": [ABSENT, "", "A1"],
    "ReferringPhysicianName": [ABSENT, "", "Doe^Jane"],
    "Manufacturer": [ABSENT, "", "Maker"],
    "InstitutionName": [ABSENT, "Test Hospital"],
    "BodyPartExamined": ["CHEST", "THORAX", "LUNG", ABSENT],
    "Laterality": [ABSENT, "", "R"],
    "ImageLaterality": [ABSENT, "L"],
    "PatientOrientation": [ABSENT, "", ["L", "F"], ["R", "H"], ["LH", "PF"]],
    "PixelSpacing": [ABSENT, ["0.2", "0.2"], ["0.000", "0.000"], ["0.2", "0.1"], ["-1", "-1"]],
    "ImagerPixelSpacing": [ABSENT, ["0.143", "0.143"]],
    "PixelSpacingCalibrationType": [ABSENT, "GEOMETRY"],
    "TimezoneOffsetFromUTC": [ABSENT, "+0900"],
    "PhotometricInterpretation": ["MONOCHROME1", "MONOCHROME2"],
    "PresentationLUTShape": [ABSENT, "IDENTITY", "INVERSE"],
    "VOILUTSequence": [ABSENT, voi_table(8), voi_table(12)],
    "WindowCenter": [ABSENT, "128", ["128", "40"], "1e9"],
    "WindowWidth": [ABSENT, "256", ["256", "10"], "0"],
    "RescaleSlope": [ABSENT, "1", "2"],
    "RescaleIntercept": [ABSENT, "0", "-1024"],
    "PixelPaddingValue": [ABSENT, 0],
    "LossyImageCompression": [ABSENT, "00", "01"],
    "ProcedureCodeSequence": [ABSENT, [code_item("399208008")]],
    "AnatomicRegionSequence": [ABSENT, [code_item("816094009")]],
    "PregnancyStatus": [ABSENT, 4],
    "DerivationDescription": [ABSENT, "edge enhanced"],
}


@st.composite
def films(draw):
    """A small radiograph of 8 to 16 bits, signed or not, with odd sides and an odd header."""
    rows, columns = draw(st.sampled_from([(129, 131), (140, 150), (131, 257)]))
    bits, signed = draw(st.sampled_from([8, 10, 12, 16])), draw(st.booleans())
    stored = np.rint(phantom(rows, columns) * ((1 << bits) - 1)).astype(np.int64)
    changes = {keyword: draw(st.sampled_from(values)) for keyword, values in ELEMENTS.items()}
    changes["SpecificCharacterSet"], changes["PatientName"] = draw(st.sampled_from(NAMES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = synthetic(stored - ((1 << bits - 1) if signed else 0), bits=bits, signed=signed, **changes)
        if draw(st.booleans()):
            ds.add_new((0x0009, 0x0010), "LO", "ACME")
            ds.add_new((0x0009, 0x1001), "OB", b"\1\2\3\4")
        return reread(ds)


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(film=films())
def test_every_object_of_any_odd_header_is_valid(film):
    found = every(film)
    assert "structured_report" in dict(found)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        folders = [Path(name) / str(number) for number in range(len(found))]
        for folder in folders:
            folder.mkdir()
        errors = list(pool.map(lambda one: errors_of(one[0][1], one[1]), zip(found, folders, strict=True)))
    assert [(kind, wrong) for (kind, _), wrong in zip(found, errors, strict=True) if wrong] == []
    assert set(dict(found)) >= set(plugins.available("dicom_node.results.objects")) - {
        "parametric_map",  # without plane geometry
        "segmentation",  # where there is no evidence
        "key_object",  # where nothing is called
    }
