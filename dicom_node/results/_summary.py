"""What a report of ours says, read back from its content tree (TID 1500)."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_node.results._codes import DECISION, PERCENT, PROBABILITY

ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The headline of one report; probability (0 to 1) and decision are None when nothing was analysed."""

    probability: float | None
    decision: str | None
    model: str


def read_summary(ds: Dataset) -> Summary | None:
    """The headline of a structured report, or None when `ds` is no structured report."""
    if ds.get("Modality") != "SR":
        return None
    probability = decision = None
    name = version = ""
    for item in _walk(ds):
        if _is(item, PROBABILITY) and item.ValueType == "NUM" and probability is None:
            measured = item.MeasuredValueSequence[0]
            percent = measured.MeasurementUnitsCodeSequence[0].CodeValue == PERCENT.value
            probability = float(measured.NumericValue) / (100 if percent else 1)
        elif _is(item, DECISION) and item.ValueType == "CODE":
            decision = str(item.ConceptCodeSequence[0].CodeMeaning)
        elif _is(item, ALGORITHM_NAME) and not name:
            name = str(item.TextValue)
        elif _is(item, ALGORITHM_VERSION) and not version:
            version = str(item.TextValue)
    return Summary(probability=probability, decision=decision, model=f"{name} {version}".strip())


def _walk(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", ()):
        yield child
        yield from _walk(child)


def _is(item: Dataset, code: Code) -> bool:
    names = item.get("ConceptNameCodeSequence")
    return bool(names) and (names[0].CodeValue, names[0].CodingSchemeDesignator) == (code.value, code.scheme_designator)
