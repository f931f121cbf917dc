"""`python -m training run diffex --preset phantom --out DIR`: what a classifier looks at, as ranked attributes.

Half of the training patients train the diffusion autoencoder and its directions (and the classifier, where none is
given), the other half the oracle and the factors' meter, which judge. Directions are ranked on validation images; test
images are opened last and choose nothing. Every stage resumes; a model whose code is not used stops the run.
"""

import json
import multiprocessing
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from explain_core.bundles.files import SUMS, digest_of
from explain_core.files import read_json, write, write_json
from training import checkpoints, subjects
from training.diffex.attach import attach
from training.diffex.explain import FILE, CodeUnused, explain, within
from training.diffex.figures import figures, markdown
from training.diffex.judge import JUDGED, judge
from training.diffex.page import page
from training.diffex.request import Request, materials, request
from training.errors import TrainingError
from training.progress import Progress, silent
from training.runs.diffex.settings import HOW

REPORT, CLAIM = "report.html", "request.json"


def run(asked: Request, progress: Progress = silent) -> dict[str, Any]:
    """One seed, in its own folder: train, rank, judge, and write its page; what is there already is taken.

    Raises:
        CodeUnused: see `explain`.
        DatasetError, TrainingError, BundleError: see `materials` and `explain`.
    """
    mark = own(asked)
    if (asked.out / JUDGED).is_file() and (asked.out / REPORT).is_file():
        return read_json(asked.out / JUDGED)
    given = materials(asked)
    write_json(asked.out / CLAIM, {"request": mark})  # only now: what was refused has no folder
    found = explain(asked, given, within(progress, 0.0, 0.9))
    judged = judge(asked, given, found, within(progress, 0.9, 1.0))
    write(asked.out / REPORT, page(asked, given, found, judged, figures([judged])))
    return judged


def own(asked: Request) -> str:
    """What stands for this request in its folder; refused where the folder is another's.

    Raises:
        TrainingError: it was made with other data, settings or classifier.
    """
    settings = {name: value for name, value in asdict(asked.settings).items() if name not in HOW}
    request = {"data": asked.data, "classifier": str(asked.classifier), "gate": asked.gate}
    mark = checkpoints.fingerprint(request, settings, _digest(asked.classifier))
    if read_json(asked.out / CLAIM).get("request", mark) != mark:
        raise TrainingError(f"{asked.out} was made with other data, settings or classifier; use another folder")
    return mark


def _digest(classifier: Path | subjects.File | None) -> str:
    """Of a classifier that is given: the same name may hold another one tomorrow; "" where its file is not there."""
    if classifier is None:
        return ""
    path = classifier.path if isinstance(classifier, subjects.File) else classifier / SUMS
    return digest_of(path) if path.is_file() else ""


def seeds(asked: Request, count: int, processes: int = 1, progress: Progress = silent) -> dict[str, Any]:
    """Several seeds, each in a folder `seed-N` of the request's; figures.json and figures.md of all of them.

    Args:
        asked: with the first seed.
        count: how many.
        processes: at once.
        progress: told by the first one, where there is one process.

    Raises:
        CodeUnused: by every seed; where only some are refused, the figures name them and are of the others.
    """
    runs = [
        replace(
            asked,
            out=asked.out / f"seed-{asked.settings.seed + number}",
            settings=replace(asked.settings, seed=asked.settings.seed + number),
        )
        for number in range(count)
    ]
    if processes > 1 and count > 1:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            tried = list(pool.map(_tried, runs))
    else:
        tried = [_tried(one, progress) for one in runs]
    judged = [one for one in tried if not isinstance(one, CodeUnused)]
    refused = {one.out.name: why for one, why in zip(runs, tried, strict=True) if isinstance(why, CodeUnused)}
    if not judged:
        raise next(iter(refused.values()))
    found = figures(judged) | {"refused": {name: str(why) for name, why in refused.items()}}
    if len(judged) > 1:
        first = next(one for one in runs if one.out.name not in refused)
        given = materials(first)  # its page says how alike the seeds' attributes are
        write(first.out / REPORT, page(first, given, explain(first, given), judged[0], found))
    write_json(asked.out / "figures.json", found)
    write(asked.out / "figures.md", markdown(found))
    return found


def _tried(asked: Request, progress: Progress = silent) -> dict[str, Any] | CodeUnused:
    """What `run` returns, or why the gate refused."""
    try:
        return run(asked, progress)
    except CodeUnused as error:
        return error


def command(arguments: Namespace) -> dict[str, Any]:
    """What `python -m training run diffex` does."""
    names = (
        "steps", "size", "features", "form", "pull", "dropped", "directions", "attributes", "strength", "predicts",
        "effect", "parts", "apart_by", "candidates", "noise", "ranked", "pull_below", "decoding_steps",
        "direction_steps",
    )  # fmt: skip
    asked = request(
        arguments.preset, arguments.data, arguments.out, weights=arguments.weights, seed=arguments.seed,
        **{name: getattr(arguments, name) for name in names}, aware=False if arguments.unaware else None,
    )  # fmt: skip
    asked = replace(asked, classifier=_classifier(arguments), gate=not arguments.no_gate)

    def told(done: float, **values: float | str) -> None:
        print(json.dumps({"done": round(done, 4)} | values), flush=True)

    if arguments.attach is not None and not isinstance(asked.classifier, Path):
        raise TrainingError("--attach makes a copy of the bundle that is explained: name it with --classifier")
    found = seeds(asked, arguments.seeds, arguments.processes, told)
    print(markdown(found))
    if arguments.attach is not None and isinstance(asked.classifier, Path):
        first = asked.out / f"seed-{asked.settings.seed}" / FILE
        print(f"{arguments.attach}: {attach(asked.classifier, first, arguments.attach, asked.data)}")
    return found


def _classifier(arguments: Namespace) -> Path | subjects.File | None:
    if arguments.classifier is None or arguments.classifier.is_dir():
        return arguments.classifier  # type: ignore[no-any-return]
    low, high = arguments.range
    return subjects.File(
        path=arguments.classifier,
        outputs=tuple(arguments.outputs),
        size=arguments.input_size or arguments.size or 224,
        exclusive=arguments.exclusive,
        low=low,
        high=high,
        channels=arguments.channels,
    )
