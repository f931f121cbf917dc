"""All stages in their order, with what each depends on: from files of the job folder to files of the job folder."""

import hashlib
from collections.abc import Callable, Mapping
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


def book(context: Context) -> Path:
    """The book of splits: that of the job, else splits.csv beside the job folders."""
    return Path(context.job.split.book) if context.job.split.book else context.folder.path.parent / "splits.csv"


def _validated(context: Context) -> dict[str, Any]:
    tables = _table(context, "limits", "split", "rehearsal", "gate")
    return tables | {"model": _table(context, "job", "classifier", "generators", "mediffusion", "diffex")}


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


def _rules(context: Context) -> dict[str, Any]:
    file = judging.rules(context)
    return {"rules": "" if file is None else file.read_text()}


def _forced(context: Context) -> dict[str, Any]:
    return {"forced": context.forced}


def _stage(
    name: str,
    make: Callable[[Context], dict[str, Any]],
    after: str,
    tables: str = "",
    own: Callable[[Context], dict[str, Any]] = lambda _: {},
    without: frozenset[str] = frozenset(),
) -> Stage:
    """A stage that depends on what those `after` which it comes made, on tables of the job, and on its `own`."""

    def depends(context: Context) -> Any:
        return inputs(context, *after.split(), **_table(context, *tables.split(), without=without), **own(context))

    return Stage(name, depends, make)


_DATA = (
    Stage(
        "collect",
        _collect_inputs,
        lambda context: collect.collect(context.job, context.folder.stage("collect"), context.progress),
    ),
    _stage("validate", _validate, "collect", own=_validated),
    _stage("split", _split, "collect", "split rehearsal"),
)
_TRAINING = (
    *_DATA,
    _stage("classifier", training.train_classifier, "collect split", "classifier mediffusion job", without=_HOW),
    _stage(
        "calibrate", training.calibrate, "collect split classifier",
        own=lambda context: {"threshold": context.job.classifier.threshold},
    ),
    _stage(
        "generators", training.train_generators, "collect split classifier calibrate", "generators mediffusion job"
    ),
    _stage("bundle", training.make_bundle, "collect split classifier calibrate generators", "bundle data"),
    _stage("evaluate", judging.evaluate, "collect split bundle", "evaluation job"),
    _stage("gate", judging.judge, "evaluate", own=_rules),
    _stage("report", judging.report, "evaluate gate bundle", own=_forced),
    _stage("register", judging.register, "gate report", "registry", own=_forced),
)  # fmt: skip
_EXPLAINING = (
    *_DATA,
    _stage("attributes", attributes.explain, "collect split", "diffex job"),
    _stage("attach", attributes.attach, "collect attributes", "registry"),
)
STAGES: Mapping[str, tuple[Stage, ...]] = {
    "classifier": _TRAINING, joint.KIND: _TRAINING, attributes.KIND: _EXPLAINING,
}  # fmt: skip
"""By the kind of the job."""
for _stages in STAGES.values():
    _places = [NAMES.index(stage.name) for stage in _stages]
    assert _places == sorted(_places)  # noqa: S101 - state.json and the pages that read it rely on it
