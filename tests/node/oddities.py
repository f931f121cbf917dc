"""Odd sources that every result object must come through, and what is checked of each object alike."""

import dataclasses
import io
import re

import numpy as np
from contexts import film
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from radiographs import encode, phantom

from dicom_node.results.header import TYPE_2
from explain_core.explanation import Prediction

PLANE = {
    "FrameOfReferenceUID": "1.2.3.9",
    "ImagePositionPatient": ["-12.5", "3", "140.25"],
    "ImageOrientationPatient": ["1", "0", "0", "0", "0", "-1"],
}


def _grey(rows, columns):
    return np.rint(phantom(rows, columns) * 4095).astype(np.int64)


ODD = {
    "usual": {},
    "no type 2": dict.fromkeys(TYPE_2),
    "no PatientID": {"PatientID": None},
    "no StudyDate": {"StudyDate": None},
    "no StudyID": {"StudyID": None},
    "no PatientOrientation": {"PatientOrientation": None},
    "four-footed PatientOrientation": {"PatientOrientation": ["LE", "VCD"]},
    "no body part": {"BodyPartExamined": None},
    "one side": {"BodyPartExamined": "LUNG", "Laterality": "R"},
    "one side of the image": {"BodyPartExamined": "LUNG", "ImageLaterality": "R"},
    "no equipment": {"Manufacturer": None, "InstitutionName": None, "SpecificCharacterSet": None},
    "no PixelSpacing": {"PixelSpacing": None},
    "detector spacing": {"PixelSpacing": None, "ImagerPixelSpacing": ["0.143", "0.143"]},
    "spacing 0": {"PixelSpacing": ["0.000", "0.000"]},
    "not square": {"PixelSpacing": ["0.1", "0.2"]},
    "endless digits": {"PixelSpacing": ["0.13888888888889", "0.13888888888889"]},
    "MONOCHROME1": {"PhotometricInterpretation": "MONOCHROME1", "stored": 4095 - _grey(240, 200)},
    "signed": {"signed": True, "stored": _grey(240, 200) - 2048, "WindowCenter": "0"},
    "8 bit": {"bits": 8},
    "odd columns": {"stored": _grey(241, 203)},
    "3 to 1": {"stored": _grey(390, 130)},
    "1 to 3": {"stored": _grey(130, 390)},
    "lossy": {"LossyImageCompression": "01", "LossyImageCompressionRatio": "12"},
}
PAIRED = {"a paired body part": {"BodyPartExamined": "LUNG"}}
"""Of a side that nobody states."""

NAMES = {
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "iso2022_jp"),
    "cyrillic": ("ISO_IR 144", "Люкceмбypг^Анна", "iso8859_5"),  # noqa: RUF001 - Cyrillic is meant
    "utf-8": ("ISO_IR 192", "Wang^XiaoDong=王^小东", "utf_8"),
    "undeclared": (None, "Müller^Jérôme", "latin_1"),
}
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def named(kind, syntax, **changes):
    """A source with a foreign name, as read from a file, and the bytes of its texts."""
    charset, name, codec = NAMES[kind]
    texts = {
        keyword: name.replace("^", between).encode(codec)
        for keyword, between in (("PatientName", "^"), ("StudyDescription", " "), ("InstitutionName", "-"))
    }
    texts = {keyword: text + b" " * (len(text) % 2) for keyword, text in texts.items()}
    marks = {keyword: mark * len(text) for (keyword, text), mark in zip(texts.items(), "PSI", strict=True)}
    ds = film(SpecificCharacterSet=charset, **marks | changes)
    ds.file_meta.TransferSyntaxUID = syntax
    data = encode(ds)
    for keyword, text in texts.items():
        data = data.replace(marks[keyword].encode(), text)
    return dcmread(io.BytesIO(data)), texts


def assert_names_kept(made, source, texts):
    result = dcmread(io.BytesIO(encode(made)))
    assert {keyword: result.get_item(keyword).value for keyword in texts} == texts
    assert result.get("SpecificCharacterSet") == source.get("SpecificCharacterSet")


def with_prediction(context, **changes):
    """The same image with another decision."""
    explanation = context.explanation
    prediction = dataclasses.replace(explanation.prediction, **changes)
    assert isinstance(prediction, Prediction)
    return dataclasses.replace(context, explanation=dataclasses.replace(explanation, prediction=prediction))


def with_attribution(context, **changes):
    """The same image with another heatmap."""
    explanation = context.explanation
    attribution = dataclasses.replace(explanation.attribution, **changes)
    return dataclasses.replace(context, explanation=dataclasses.replace(explanation, attribution=attribution))


def uids(ds):
    """Every UID of our own root or of chance in a data set, at any depth."""
    return re.findall(rb"(?:2\.25|1\.2\.826\.0\.1\.3680043)\.[0-9.]+", encode(ds))


def assert_repeatable(build, context, *more):
    """`build` gives the same bytes for equal contexts, other UIDs for another outcome, and UIDs not by chance."""
    first, again = build(context), build(context)
    assert [encode(one) for one in first] == [encode(one) for one in again]
    assert not [uid for one in first for uid in uids(one) if uid.startswith(b"1.2.826.0.1.3680043.10.511")]
    for other in (with_prediction(context, probability=0.987), *more):
        changed = build(other)
        assert {one.SOPInstanceUID for one in first}.isdisjoint(one.SOPInstanceUID for one in changed)
        assert {one.SeriesInstanceUID for one in first} == {one.SeriesInstanceUID for one in changed}
