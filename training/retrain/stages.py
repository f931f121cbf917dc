"""All stages in their order, with what each depends on: from files of the job folder to files of the job folder."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from explain_core.files import write
from explain_core.jobs import STAGES as NAMES
from training.cohort import TRAIN
from training.errors import TrainingError
from training.gate import Rules
from training.retrain import attributes, collect, joint, judging, parts, splits_book, training
from training.retrain.material import champion_table
from training.retrain.stage import Context, Stage, inputs, sha256


def _table(context: Context, *names: str, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    job = context.job.model_dump(mode="json")
    return {name: {key: value for key, value in job[name].items() if key not in without} for name in names}


def _collect_inputs(context: Context) -> Any:
    found = {"champion": collect.champion_digest(context.job), "files": collect.sources_state(context.job)}
    return _table(context, "data") | found


def _collect(context: Context) -> dict[str, Any]:
    return collect.collect(context.job, context.folder.stage("collect"), context.progress)


def book(context: Context) -> Path:
    """The book of splits: that of the job, else splits.csv beside the job folders."""
    return Path(context.job.split.book) if context.job.split.book else context.folder.path.parent / "splits.csv"


def _validate_inputs(context: Context) -> Any:
    tables = _table(context, "limits", "split", "rehearsal", "gate") | {
        "model": _table(context, "job", "classifier", "generators", "mediffusion", "diffex")
    }
    return inputs(context, "collect", **tables)


def _validate(context: Context) -> dict[str, Any]:
    """Refuse what cannot come to a good end, before anything is trained.

    Raises:
        TrainingError: every reason, with the number that is needed.
    """
    size, own = context.made("collect")["size"], champion_table(context)["input"]["size"]
    explains = context.job.job.kind == attributes.KIND
    if size != own:
        raise TrainingError(
            f"[data] size: {size}, but the champion sees {own} x {own} pixels, and both are compared on one grid; "
            "leave it out"
        )
    rows = collect.manifest(context.folder.stage("collect"))
    splits_book.need(book(context), context.folder.path.parent)
    patients = parts.assigned(context.job, rows, splits_book.read(book(context)))
    splits, targets = parts.rehearsed(rows, parts.split_rows(rows, patients).splits, context.job.rehearsal)
    counts = parts.counts(rows, splits, targets)
    reasons = parts.refusals(counts, context.job.limits, context.folder.stage("collect"))
    if reasons:
        text = "\n".join(reasons)
        write(context.folder.stage("validate") / "problems.txt", text + "\n")
        raise TrainingError(f"nothing is trained: {text}")
    if explains:
        attributes.settings(context)
        return {"counts": counts}
    Rules.load(judging.rules(context))
    if training.is_joint(context):
        named = zip(rows, splits, targets, strict=True)
        joint.check(context, [(row["patient"], target) for row, split, target in named if split == TRAIN])
        return {"counts": counts}
    training.architecture(context)
    training.generator_settings(context)
    smallest = counts["train"]["positives"] + counts["train"]["negatives"]
    if smallest < context.job.classifier.batch:
        raise TrainingError(
            f"{smallest} labelled training images are fewer than one batch of {context.job.classifier.batch}; "
            "lower [classifier] batch"
        )
    return {"counts": counts}


def _split_inputs(context: Context) -> Any:
    return inputs(context, "collect", **_table(context, "split", "rehearsal"))


def _split(context: Context) -> dict[str, Any]:
    """Enter new patients into the book and write splits.csv.

    Raises:
        TrainingError: the book is damaged.
    """
    rows, out = collect.manifest(context.folder.stage("collect")), context.folder.stage("split")
    path = book(context)
    before = splits_book.read(path)
    patients = splits_book.commit(path, parts.assigned(context.job, rows, before), context.folder.name)
    found = parts.split_rows(rows, patients)
    splits, targets = parts.rehearsed(rows, found.splits, context.job.rehearsal)
    parts.write_splits(out, rows, splits, targets)
    context.folder.log(f"{sum(patient not in before for patient in patients)} new patients in {path}")
    collected = context.made("collect")["data_sha256"]
    moved = sum(row["split"] not in ("", patients[row["patient"]]) for row in rows)
    return {
        "counts": parts.counts(rows, splits, targets),
        "flipped_labels": sum(target not in ("", row["target"]) for row, target in zip(rows, targets, strict=True)),
        "against_the_reader": moved,
        "repeated_files_left_out": found.repeated,
        "data_sha256": hashlib.sha256(f"{collected} {sha256(out / 'splits.csv')}".encode()).hexdigest(),
    }


_HOW = frozenset({"processes", "checkpoint_every", "threshold"})
"""Of [classifier]: how it is computed, not what; and what is decided after it."""


def _classifier_inputs(context: Context) -> Any:
    return inputs(context, "collect", "split", **_table(context, "classifier", "mediffusion", "job", without=_HOW))


def _calibrate_inputs(context: Context) -> Any:
    return inputs(context, "collect", "split", "classifier", threshold=context.job.classifier.threshold)


def _generators_inputs(context: Context) -> Any:
    return inputs(
        context, "collect", "split", "classifier", "calibrate", **_table(context, "generators", "mediffusion", "job")
    )


def _bundle_inputs(context: Context) -> Any:
    tables = _table(context, "bundle", "data")
    return inputs(context, "collect", "split", "classifier", "calibrate", "generators", **tables)


def _evaluate_inputs(context: Context) -> Any:
    return inputs(context, "collect", "split", "bundle", **_table(context, "evaluation", "job"))


def _gate_inputs(context: Context) -> Any:
    file = judging.rules(context)
    return inputs(context, "evaluate", rules="" if file is None else file.read_text())


def _report_inputs(context: Context) -> Any:
    return inputs(context, "evaluate", "gate", "bundle", forced=context.forced)


def _register_inputs(context: Context) -> Any:
    return inputs(context, "gate", "report", forced=context.forced, **_table(context, "registry"))


def _attributes_inputs(context: Context) -> Any:
    return inputs(context, "collect", "split", **_table(context, "diffex", "job"))


def _attach_inputs(context: Context) -> Any:
    return inputs(context, "collect", "attributes", **_table(context, "registry"))


_DATA = (
    Stage("collect", _collect_inputs, _collect),
    Stage("validate", _validate_inputs, _validate),
    Stage("split", _split_inputs, _split),
)
_TRAINING = (
    *_DATA,
    Stage("classifier", _classifier_inputs, training.train_classifier),
    Stage("calibrate", _calibrate_inputs, training.calibrate),
    Stage("generators", _generators_inputs, training.train_generators),
    Stage("bundle", _bundle_inputs, training.make_bundle),
    Stage("evaluate", _evaluate_inputs, judging.evaluate),
    Stage("gate", _gate_inputs, judging.judge),
    Stage("report", _report_inputs, judging.report),
    Stage("register", _register_inputs, judging.register),
)
_EXPLAINING = (
    *_DATA,
    Stage("attributes", _attributes_inputs, attributes.explain),
    Stage("attach", _attach_inputs, attributes.attach),
)
STAGES: Mapping[str, tuple[Stage, ...]] = {
    "classifier": _TRAINING, joint.KIND: _TRAINING, attributes.KIND: _EXPLAINING,
}  # fmt: skip
"""By the kind of the job."""
for _stages in STAGES.values():
    _places = [NAMES.index(stage.name) for stage in _stages]
    assert _places == sorted(_places)  # noqa: S101 - state.json and the pages that read it rely on it
