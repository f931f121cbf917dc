"""The way to what matters: a Key Object Selection of the images that are called positive and of our objects on them.

It is made when at least one image is called positive, and not otherwise: an empty selection is not allowed, and one
of negative images would mark them. What was decided and not explained counts as well. It names a device as its
author, so that nobody takes it for a radiologist's choice, and leaves out the series with synthetic images, which
must not come up among a study's key images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import highdicom.ko as hd
from pydicom import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage, SecondaryCaptureImageStorage

from dicom_node.dicom.elements import referenced
from dicom_node.results import codes
from dicom_node.results.context import ResultContext, SourceReference, StudyContext
from dicom_node.results.header import DISCLAIMER, by_study, plain, start
from dicom_node.results.legend import digits_apart
from dicom_node.results.observer import device_observer
from explain_core.explanation import Prediction

_LONGEST_TEXT = 1024


@dataclass(frozen=True, slots=True)
class KeyObject:
    """Builds the Key Object Selection."""

    name: str = "key_object"
    sop_class_uids: tuple[str, ...] = (KeyObjectSelectionDocumentStorage,)
    series: int = 9
    fallback: str | None = "secondary_capture"

    def refuses(self, image: ResultContext) -> str | None:  # noqa: ARG002 - a negative image is only not selected
        """No image prevents it."""
        return None

    def build(self, study: StudyContext) -> tuple[Dataset, ...]:
        """One for the study, or none when no image is called positive."""
        positive = dict(_positive(study))
        if not positive:
            return ()
        chosen = {source.sop_instance_uid for source in positive}
        synthetic = {one.SeriesInstanceUID for one in study.made if one.get("SyntheticData") == "YES"}
        made = [
            one
            for one in study.made
            if one.SOPClassUID == SecondaryCaptureImageStorage  # what a destination may refuse would dangle
            and one.SeriesInstanceUID not in synthetic
            and not chosen.isdisjoint(referenced(one))
        ]
        references = (*positive, *map(SourceReference.of, made))
        ds = start(study, self.name, KeyObjectSelectionDocumentStorage, *(one.sop_instance_uid for one in references))
        ds.Modality = "KO"
        ds.SeriesNumber = study.series_number(self.series)
        ds.ReferencedPerformedProcedureStepSequence = []
        ds.CurrentRequestedProcedureEvidenceSequence = by_study(references)
        selection = hd.KeyObjectSelection(
            document_title=codes.OF_INTEREST,
            referenced_objects=[*map(_stub, positive), *made],
            observer_device_context=device_observer(study),
            description=_described(study, positive),
        )
        for element in selection[0]:
            if element.keyword != "RelationshipType":
                ds.add(element)
        return (ds,)


def _positive(study: StudyContext) -> Iterator[tuple[SourceReference, Prediction]]:
    """The images called positive, in their order."""
    for image in study.images:
        if image.explanation.prediction.positive:
            yield image.source, image.explanation.prediction
    for assessed in study.assessed:
        if assessed.assessment.prediction.positive:
            yield assessed.source, assessed.assessment.prediction


def _stub(source: SourceReference) -> Dataset:
    """What highdicom reads of an image that it refers to; only its having rows and columns counts."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = source.sop_class_uid, source.sop_instance_uid
    ds.Rows = ds.Columns = 1
    return ds


def _described(study: StudyContext, positive: dict[SourceReference, Prediction]) -> str:
    """Why these objects were chosen, and by whom."""
    called = [
        f"{plain(one.label)}: {one.probability:.{d}%}, called present (threshold {one.threshold:.{d}%})"
        for one in positive.values()
        for d in [digits_apart(one.probability, one.threshold, least=1)]
    ]
    model = study.model
    by = f"Chosen by {plain(f'{model.name} {model.version}')}, " if model is not None else "Chosen by software, "
    said = (f"{by}not by a person", DISCLAIMER, *dict.fromkeys(called))
    return plain(". ".join(said), _LONGEST_TEXT - 1) + "."


PLUGIN = KeyObject()
