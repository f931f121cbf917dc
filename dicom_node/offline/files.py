"""DICOM files as people have them: paths and folders in, results out, without any server."""

import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmwrite
from rich.table import Table

from dicom_node.dicom import elements, reading
from dicom_node.errors import DatasetUnreadable, OutOfResources
from dicom_node.explain.building import Result, build
from dicom_node.explain.pipeline import Analysis, analyse
from dicom_node.nouns import (
    AETitle,
    Instance,
    SeriesInstanceUID,
    SOPInstanceUID,
    Study,
    StudyInstanceUID,
    Task,
    TaskState,
)
from dicom_node.offline import preview
from dicom_node.results import AssessedImage, ExplainedImage, ResultOptions, result_options
from dicom_node.route.rules import decide_study
from dicom_node.settings.sections import Settings
from explain_core.explanation import Explainer, Prediction

_NAMESPACE = uuid.UUID("b3a3f0a5-9a0c-5e0e-8d8f-0f6a3a0b7c55")


def instance_of(path: Path, calling_ae_title: str, now: datetime) -> Instance:
    """The file at `path` as the listener would record it.

    Raises:
        DatasetUnreadable: it is no DICOM file or lacks the UIDs that name it.
    """
    try:
        ds = reading.read_header(path)
        uids = [str(ds[keyword].value) for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")]
        sop_class, syntax = str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)
    except OutOfResources as error:
        raise DatasetUnreadable(f"{path}: {error}") from error
    except (DatasetUnreadable, KeyError, AttributeError, ValueError) as error:
        raise DatasetUnreadable(f"{path}: no DICOM file with the UIDs that name an instance") from error
    data = path.read_bytes()
    return Instance(
        sop_instance_uid=SOPInstanceUID(uids[0]),
        sop_class_uid=sop_class,
        series_instance_uid=SeriesInstanceUID(uids[1]),
        study_instance_uid=StudyInstanceUID(uids[2]),
        transfer_syntax_uid=syntax,
        association_id="",
        calling_ae_title=AETitle(calling_ae_title),
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        received_at=now,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What became of one study given as files."""

    study_instance_uid: str
    analysis: Analysis
    objects: tuple[Path, ...]
    previews: tuple[Path, ...]

    def table(self) -> Table:
        """The same for people."""
        out = Table(title=f"Study {self.study_instance_uid}", show_header=False, title_justify="left")
        out.add_column(no_wrap=True)
        out.add_column(overflow="fold")
        analysis = self.analysis
        out.add_row("state", analysis.state.value + (f": {analysis.reason}" if analysis.reason else ""))
        for prediction in _predictions(analysis):
            decided = "present" if prediction.positive else "absent"
            out.add_row(prediction.label, f"{decided}, probability {prediction.probability:.3f}")
        for refusal in analysis.refused:
            out.add_row("not analysed", f"{len(refusal.sources)} image(s): {refusal.reason}")
        for path in (*self.objects, *self.previews):
            out.add_row(path.suffix[1:], str(path))
        return out

    def as_json(self) -> dict[str, Any]:
        """Plain values for --json."""
        images: tuple[AssessedImage, ...] = (*self.analysis.explained, *self.analysis.assessed)
        return {
            "study_instance_uid": self.study_instance_uid,
            "state": self.analysis.state.value,
            "reason": self.analysis.reason,
            "images": [_image_as_json(one) for one in images],
            "not_analysed": [
                {"sop_instance_uid": source.sop_instance_uid, "code": refusal.code.value, "reason": refusal.reason}
                for refusal in self.analysis.refused
                for source in refusal.sources
            ],
            "objects": [str(path) for path in self.objects],
            "previews": [str(path) for path in self.previews],
        }


def _image_as_json(image: AssessedImage) -> dict[str, Any]:
    explanations = image.explanations if isinstance(image, ExplainedImage) else ()
    prediction, model = image.assessment.prediction, image.assessment.provenance.model
    return {
        "sop_instance_uid": image.source.sop_instance_uid,
        "label": prediction.label,
        "probability": round(prediction.probability, 4),
        "positive": prediction.positive,
        "explained": bool(explanations),
        "methods": {
            one.provenance.method: {"decision_changed": one.decision_changed, "deletion": one.deletion}
            for one in explanations
        },
        "model": f"{model.name} {model.version}",
    }


def explain_files(
    paths: Iterable[Path],
    out: Path,
    settings: Settings,
    explainer: Explainer,
    objects: Sequence[str] = (),
    methods: Sequence[str] = (),
) -> tuple[list[Explained], list[str]]:
    """Explain DICOM files by the same rules and pipeline as the node, without any server.

    Args:
        paths: files and folders.
        out: folder for the objects, named <kind>-<end of the SOP Instance UID>.dcm, and their previews as PNG.
        settings: rules, [results].
        explainer: the loaded model.
        objects: names of the result objects, instead of those in the settings.
        methods: names of the explanation methods, instead of those in the settings.

    Returns:
        one entry per study, and one line per file that could not be read.
    """
    now, options = datetime.now(UTC), result_options(settings)
    if objects:
        options = replace(options, objects=tuple(objects))
    if methods:
        options = replace(options, methods=tuple(methods), method_order=tuple(methods))
    studies: dict[str, dict[str, Instance]] = {}
    unreadable: list[str] = []
    for path in reading.find(paths):
        try:
            instance = instance_of(path, settings.node.ae_title, now)
        except DatasetUnreadable as error:
            unreadable.append(str(error))
        else:
            studies.setdefault(instance.study_instance_uid, {}).setdefault(instance.sop_instance_uid, instance)
    results = []
    for uid, instances in studies.items():
        study = Study(study_instance_uid=StudyInstanceUID(uid), revision=1, instances=tuple(instances.values()))
        results.append(_explain_study(study, out, settings, explainer, options, now))
    return results, unreadable


def _explain_study(
    study: Study, out: Path, settings: Settings, explainer: Explainer, options: ResultOptions, now: datetime
) -> Explained:
    images = [(one.sop_instance_uid, reading.read_header(one.path), one.calling_ae_title) for one in study.instances]
    decision = decide_study(images, settings.rules)
    selected = tuple(uid for uids in decision.routes.values() for uid in uids)
    task = Task(
        task_id=str(uuid.uuid5(_NAMESPACE, study.study_instance_uid)),
        study_instance_uid=study.study_instance_uid,
        revision=study.revision,
        route=",".join(route.name for route in decision.routes),
        destinations=(),
        results=(),
        selected=selected,
        passed_by=decision.ignored,
        reason=decision.reason,
        state=TaskState.LEASED,
        attempts=1,
        created_at=now,
    )

    def read(instance: Instance) -> Dataset:
        return reading.read(instance.path)

    analysis = analyse(
        task,
        study,
        read,
        explainer,
        methods=options.methods,
        negatives=options.explain == "always",
    )
    results = [one for one in build(analysis, options) if not one.standby]
    sources = {one.sop_instance_uid: one for one in study.instances}
    paths = [_save(one, out, read, sources) for one in results]
    return Explained(
        study_instance_uid=study.study_instance_uid,
        analysis=analysis,
        objects=tuple(path for path, _ in paths),
        previews=tuple(picture for _, picture in paths if picture is not None),
    )


def _predictions(analysis: Analysis) -> Iterator[Prediction]:
    yield from (one.assessment.prediction for one in analysis.explained)
    yield from (one.assessment.prediction for one in analysis.assessed)


def _save(
    result: Result, out: Path, read: Callable[[Instance], Dataset], sources: Mapping[SOPInstanceUID, Instance]
) -> tuple[Path, Path | None]:
    """Write one object and, if there is something to see, its preview."""
    out.mkdir(parents=True, exist_ok=True)
    ds = result.dataset
    path = out / f"{result.kind}-{ds.SOPInstanceUID[-12:]}.dcm"
    dcmwrite(path, ds, enforce_file_format=True)
    picture = path.with_suffix(".png")
    about = next((sources[SOPInstanceUID(uid)] for uid in elements.referenced(ds) if uid in sources), None)
    try:
        source = None if about is None else read(about)
    except DatasetUnreadable:  # a report that says so needs no picture under it
        source = None
    return path, picture if preview.save_png(ds, picture, source) else None
