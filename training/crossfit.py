"""Decisions and localisation, each image by a model that never saw its patient: `python -m training crossfit`.

    python -m training crossfit --data nih:DIR --parts rsna_lungs:DIR --out DIR

The patients' folds are taken in groups. For each group a bundle is made as `python -m training bundle` makes it, with
fixed settings, from the patients of the other groups (those of the next group choose epochs and threshold); it decides
about all of the group's images, and its maps are scored on those with boxes, beside the mean of its own training boxes.
All groups together give four times the images that the test folds have. Nothing is chosen here. Every group's scores
stay in `out`; started again, it goes on where it was stopped.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from explain_core.bundles.files import SUMS, verify
from explain_core.errors import BundleError
from explain_core.explainer import BundleExplainer, open_bundle
from explain_core.files import write
from training import datasets
from training.bundle import RECIPES, Recipe, bundle
from training.cohort import TEST, TRAIN, VALIDATION
from training.datasets import loading, masks
from training.datasets.samples import Dataset, Sample
from training.errors import TrainingError
from training.measure import localisation
from training.measure.classification import classification
from training.measure.estimates import DRAWS
from training.measure.evaluate import boxed_images
from training.measure.localisation import Boxed, Columns
from training.report.evaluation import decision_rows, localisation_tables, table

Figures = dict[str, Any]
Say = Callable[[str], None]
Group = tuple[int, ...]
GROUPS: tuple[Group, ...] = ((0, 1), (2, 3), (4, 5), (6, 8))
KEPT = ("iou", "curve", "pointing")
_DECIMALS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossFit:
    """What is asked for.

    Attributes:
        data: whole images with folds by patient, a reader and folder.
        parts: images of which only a part is visible, or "".
        out: everything lies here, a folder a group.
        groups: of folds; each is held out once, and the next one chooses.
        bundles: ready ones by group, of a model that saw no patient of the group in training, nor in choosing.
        recipe: how large everything is.
        draws: of the intervals.
        say: told what is done.
    """

    data: str
    parts: str
    out: Path
    groups: Sequence[Group] = GROUPS
    bundles: Mapping[Group, Path]
    recipe: Recipe = RECIPES["cpu"]
    draws: int = DRAWS
    say: Say = print


def group_of(text: str) -> Group:
    """Folds of a group from "0,1".

    Raises:
        TrainingError: they are no numbers.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise TrainingError(f"a group of folds is written as 0,1; got {text!r}") from error


def resplit(dataset: Dataset, groups: Sequence[Group], held: Group) -> Dataset:
    """The dataset with `held` as test patients, the next group's for validation, and all other groups' for training.

    Images of folds in no group are in no split.

    Raises:
        TrainingError: fewer than three groups, a fold in two of them, or a split without patients.
    """
    folds = [fold for group in groups for fold in group]
    if len(groups) < 3 or len(folds) != len(set(folds)):  # noqa: PLR2004 - one each to test, choose and learn
        raise TrainingError(f"at least three groups of folds, none in two of them; got {list(groups)}")
    chooses = groups[(groups.index(held) + 1) % len(groups)]
    splits = dict.fromkeys(folds, TRAIN) | dict.fromkeys(chooses, VALIDATION) | dict.fromkeys(held, TEST)
    made = replace(dataset, samples=tuple(replace(s, split=splits.get(s.fold, "")) for s in dataset))
    for split in (TRAIN, VALIDATION, TEST):
        if not any(sample.boxes for sample in made.part(split)):
            raise TrainingError(f"folds {held} held out leave no image with boxes for {split}")
    return made


def crossfit(asked: CrossFit, only: Sequence[Group] = ()) -> Figures:
    """Train and score every group, or `only` some of them, and pool the groups that are done.

    Returns:
        "groups" with what each was measured with, "missing" those that are not done, and "classification" and
        "localisation" as `evaluate` gives them, of all images of the groups that are.

    Raises:
        DatasetError, TrainingError, BundleError: the data, a group or a ready bundle cannot be used.
    """
    dataset = datasets.read(asked.data)
    for group in [*asked.bundles, *only]:
        if group not in asked.groups:
            raise TrainingError(
                f"{_name(group)}: no such group of folds; there are {', '.join(map(_name, asked.groups))}"
            )
    done: dict[Group, Figures] = {}
    for group in asked.groups:
        split = resplit(dataset, asked.groups, group)
        if not only or group in only:
            done[group] = _group(asked, split, group)
        elif (kept := _kept(asked, group)) is not None:
            done[group] = kept
    figures: Figures = {
        "groups": {_name(group): {key: one[key] for key in ("bundle", "images")} for group, one in done.items()},
        "missing": [_name(group) for group in asked.groups if group not in done],
    }
    if done:
        figures["classification"] = _decisions(asked, dataset, done)
        figures["localisation"] = _pooled(asked, dataset, done)
    return figures


def _group(asked: CrossFit, split: Dataset, group: Group) -> Figures:
    """A group's scores, from its file or made anew."""
    folder, ready = asked.out / _name(group), asked.bundles.get(group)
    made = folder / "bundle" if ready is None else ready
    if ready is None and not _complete(made):
        asked.say(f"folds {_name(group)}: training on the other folds")
        bundle(
            made, folder / "work", asked.data, parts=asked.parts, recipe=asked.recipe, name=f"held-out-{_name(group)}",
            version="0.0.0", test=False, dataset=split,
        )  # fmt: skip
    explainer = open_bundle(made)
    kept = _kept(asked, group)
    if kept is not None and kept["bundle"] == explainer.identity.digest:
        return kept
    asked.say(f"folds {_name(group)}: scoring")
    scored = _scored(asked, explainer, split)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "scores.json", json.dumps(scored))
    return scored


def _complete(folder: Path) -> bool:
    """Whether a bundle is there, with the card that is written last."""
    try:
        verify(folder)
    except BundleError:
        return False
    return (folder / SUMS).is_file() and "In the making" not in (folder / "model_card.md").read_text()


def _kept(asked: CrossFit, group: Group) -> Figures | None:
    path = asked.out / _name(group) / "scores.json"
    if not path.is_file():
        return None
    found: Figures = json.loads(path.read_text())
    return found


def _scored(asked: CrossFit, explainer: BundleExplainer, split: Dataset) -> Figures:
    """What the model says of a group's images, and the scores of those with boxes, by row and image."""
    every = split.part(TEST)
    images = loading.load_inputs(every, explainer.bundle.input_spec)
    with torch.no_grad():
        chances = torch.cat([explainer.probabilities(one[None].to(explainer.device).float() / 255) for one in images])
    marked = [index for index, sample in enumerate(every) if sample.boxes]
    samples = [every[index] for index in marked]
    training = [sample for sample in split.part(TRAIN) if sample.boxes]
    boxed = boxed_images(samples, images[marked], training)
    rows = localisation.scored(localisation.maps_of(explainer, boxed.images), boxed)
    return {
        "decisions": {
            _named(asked, sample): round(float(x), _DECIMALS) for sample, x in zip(every, chances, strict=True)
        },
        "bundle": explainer.identity.digest,
        "size": explainer.bundle.input_spec.size,
        "images": len(samples),
        "training_boxed": len(training),
        "names": [_named(asked, sample) for sample in samples],
        "called": explainer.decisions(chances[marked]).tolist(),
        "rows": {
            name: {key: np.round(values[key], _DECIMALS).tolist() for key in KEPT} for name, values in rows.items()
        },
    }


def _named(asked: CrossFit, sample: Sample) -> str:
    """An image's path within the data: two of one file name in two folders are two."""
    return os.path.relpath(sample.path, next(iter(datasets.places(asked.data)), None))


def _decisions(asked: CrossFit, dataset: Dataset, done: Mapping[Group, Figures]) -> Figures:
    """How well the models tell images with the finding from others; each image is held against its own model's."""
    known = {_named(asked, sample): sample for sample in dataset}
    said = [(known[name], x, judge) for judge, one in enumerate(done.values()) for name, x in one["decisions"].items()]
    samples, chances, judges = zip(*said, strict=True)
    return classification(samples, np.array(chances), draws=asked.draws, judges=np.array(judges))


def _pooled(asked: CrossFit, dataset: Dataset, done: Mapping[Group, Figures]) -> Figures:
    """Localisation over the images of all groups, each scored against the prior of its own group's training boxes."""
    known = {_named(asked, sample): sample for sample in dataset}
    samples: list[Sample] = [known[name] for one in done.values() for name in one["names"]]
    size = max(one["size"] for one in done.values())
    names = [name for name in next(iter(done.values()))["rows"] if all(name in one["rows"] for one in done.values())]
    rows: dict[str, Columns] = {
        name: {key: np.concatenate([np.array(one["rows"][name][key]) for one in done.values()]) for key in KEPT}
        for name in names
    }
    boxed = Boxed(
        images=torch.zeros(0),
        truths=[masks.box_mask(sample, size) for sample in samples],
        patients=np.array([sample.patient_id for sample in samples]),
        views=[sample.view for sample in samples],
        boxes=[len(sample.boxes) for sample in samples],
        prior=np.zeros((size, size)),
    )
    called = np.array([called > 0 for one in done.values() for called in one["called"]])
    training = round(float(np.mean([one["training_boxed"] for one in done.values()])))
    return localisation.localisation(rows, boxed, called, training, asked.draws)


def _name(group: Group) -> str:
    return ",".join(map(str, group))


def markdown(figures: Mapping[str, Any]) -> str:
    """The pooled tables, and which groups they are of."""
    missing = f" (not yet: {'; '.join(figures['missing'])})" if figures["missing"] else ""
    folds = f"folds {'; '.join(figures['groups'])}{missing}"
    lines = [f"Each image by a model that never saw its patient, settings fixed: {folds}.", ""]
    if not figures["groups"]:
        return "\n".join([*lines, "No group is done.", ""])
    lines += table(
        "Decisions, each held against those of its own model",
        ["", "all"],
        decision_rows({"all": figures["classification"]}),
    )
    lines += ["", *localisation_tables(figures["localisation"])]
    return "\n".join(lines) + "\n"
