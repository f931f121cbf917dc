"""What a report of ours says, read back from its content tree (TID 1500)."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_node.results.codes import DECISION, PERCENT, PROBABILITY

ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The headline of one decided image: probability (0 to 1), decision, model."""

    probability: float
    decision: str
    model: str


def read_summaries(ds: Dataset) -> list[Summary]:
    """The headlines of a structured report, in its order; none for another object or when nothing was decided."""
    if ds.get("Modality") != "SR":
        return []
    probabilities, decisions, names, versions = [], [], [], []
    for item in _walk(ds):
        if _is(item, PROBABILITY) and item.ValueType == "NUM":
            measured = item.MeasuredValueSequence[0]
            percent = measured.MeasurementUnitsCodeSequence[0].CodeValue == PERCENT.value
            probabilities.append(float(measured.NumericValue) / (100 if percent else 1))
        elif _is(item, DECISION) and item.ValueType == "CODE":
            decisions.append(str(item.ConceptCodeSequence[0].CodeMeaning))
        elif _is(item, ALGORITHM_NAME):
            names.append(str(item.TextValue))
        elif _is(item, ALGORITHM_VERSION):
            versions.append(str(item.TextValue))
    return [
        Summary(probability=probability, decision=decision, model=f"{names[0]} {_version(versions[0])}")
        for probability, decision in zip(probabilities, decisions, strict=True)
    ]


def _version(text: str) -> str:
    """The version with the first digits of the bundle's digest."""
    version, _, digest = text.partition("+")
    return f"{version} ({digest[:8]})" if digest else version


def _walk(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", ()):
        yield child
        yield from _walk(child)


def _is(item: Dataset, code: Code) -> bool:
    names = item.get("ConceptNameCodeSequence")
    return bool(names) and (names[0].CodeValue, names[0].CodingSchemeDesignator) == (code.value, code.scheme_designator)
