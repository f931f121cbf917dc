"""`python -m training benchmark`: train what is missing, explain with every method, score, and report.

Every stage keeps what it made under the output folder and goes on from there when started again: classifiers by
epoch, generators by checkpoint, maps by row, the slower figures by method.
"""

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from explain_core import plugins
from explain_core.bundles.bundle import load as load_bundle
from explain_core.classifier import need_gradients
from explain_core.engine import choose_device
from explain_core.errors import ExplainError
from explain_core.geometry import InputSpec
from explain_core.methods.adversarial import Adversarial
from explain_core.methods.similar_adversarial import SimilarAdversarialMethod
from training import cohort, datasets
from training.benchmark import figures, randomisation, report
from training.benchmark.keeping import or_absent, remembered
from training.benchmark.profiles import (
    BASELINES,
    BUNDLE_ROW,
    DELIVERED,
    FEATURE_ROWS,
    GENERATOR_ROWS,
    OURS,
    OWN_MAPS,
    PROFILES,
    Profile,
)
from training.benchmark.rows import (
    AUGMENTED,
    Row,
    control_rows,
    delivered_row,
    explain,
    method_fingerprint,
    method_rows,
    suffixes,
)
from training.benchmark.stages import Bench, floats
from training.checkpoints import fingerprint
from training.datasets import tables

Figures = dict[str, Any]
SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a benchmark was asked for.

    Attributes:
        data: a dataset, `reader:folder?options`, or "phantom".
        profile: "quick" or "full".
        out: folder for everything trained and computed.
        command: the command line, for the report.
        size, architecture, epochs, steps, decisions, attack, filters, boxed: instead of the profile's, None to keep
            them.
        decision_weights: of the similar and the adversarial image, instead of the profile's.
        decision_noise: largest standard deviation of the noise under which the paper's generators are trained.
        augment_searching: augmented rows of the methods that search anew for each image too.
        bundle: explain this bundle's classifier instead of a trained one.
        classifier: explain the classifier of an earlier run of `image_classifier`.
        second: of `python -m training second`, or a bundle, for transfer; None trains one.
        rows: only these methods, empty for all.
        plugins: a folder with further methods; each of its files is a row.
        randomisation: measure the model-randomisation test alone.
        device: "auto", "cpu" or "cuda[:n]".
    """

    data: str
    profile: str = "full"
    out: Path
    command: str = ""
    size: int | None = None
    architecture: str | None = None
    epochs: int | None = None
    steps: int | None = None
    decisions: int | None = None
    attack: float | None = None
    filters: tuple[int, ...] | None = None
    boxed: int | None = None
    decision_weights: tuple[float, float] | None = None
    decision_noise: float | None = None
    augment_searching: bool = False
    bundle: Path | None = None
    classifier: Path | None = None
    second: Path | None = None
    rows: Sequence[str] = ()
    plugins: Path | None = None
    randomisation: bool = False
    device: str = "auto"


def benchmark(request: Request) -> Figures:
    """Run it and return the figures; figures of cases lie in `request.out`/figures.

    Raises:
        ExplainError: the data, a row's name or a bundle is wrong, or a training diverged; the message says what to do.
    """
    profile = _profile(request)
    spec = f"phantom?{profile.phantom}&size={profile.size}" if request.data == "phantom" else request.data
    images, problems = cohort.load(datasets.read(spec), _input_spec(request, profile))
    _check(images, request)
    console = Console(stderr=True)
    names = _names(request)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        steps = progress.add_task("benchmark", total=3 * len(names) + 3)

        def say(text: str) -> None:
            progress.update(steps, description=text)
            progress.console.print(text)

        bench = Bench(
            profile, images, request.out, choose_device(request.device), say, request.bundle, request.classifier,
            request.second,
        )  # fmt: skip
        result: Figures = {
            "command": request.command,
            "profile": profile.name,
            "commit": _commit(),
            "settings": json.loads(json.dumps(asdict(profile), default=str)),
            "data": _data(spec, bench, problems),
            "classifier": figures.classifier_figures(bench),
            "absent": {},
        }
        progress.advance(steps)
        if request.randomisation:
            result |= randomisation.measure(bench, names, result["absent"], lambda: progress.advance(steps))
        else:
            measured, usable = _measure(bench, names, result["absent"], lambda: progress.advance(steps))
            say("drawing cases")
            result |= measured | {"figures": _cases(bench, usable)}
        progress.advance(steps, 2)
        say(f"done: {request.out}")
    return result


def _profile(request: Request) -> Profile:
    """The profile with what the request has in its place."""
    profile = PROFILES[request.profile]
    generators, masks = profile.generators, profile.mask_generator
    if request.steps is not None:
        share = generators.reconstruction_steps / generators.steps
        generators = replace(generators, steps=request.steps, reconstruction_steps=round(share * request.steps))
    similar, adversarial = request.decision_weights or (None, None)
    return _given(
        profile,
        size=request.size,
        boxed=request.boxed,
        augment_searching=request.augment_searching or None,
        decision_similar=similar,
        decision_adversarial=adversarial,
        decision_noise=request.decision_noise,
        classifier=_given(
            profile.classifier, architecture=request.architecture, epochs=request.epochs, attack=request.attack
        ),
        generators=_given(generators, decisions=request.decisions, filters=request.filters),
        mask_generator=_given(masks, steps=request.steps, filters=request.filters),
    )


def _given(settings: SettingsT, **changes: Any) -> SettingsT:
    """`settings` with the changes that are not None."""
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[type-var]


def _input_spec(request: Request, profile: Profile) -> InputSpec:
    """The bundle's own input grid where one is explained, else the profile's.

    Raises:
        ExplainError: the size is not the bundle's, or the generators' levels cannot halve it.
    """
    spec = InputSpec(size=profile.size) if request.bundle is None else load_bundle(request.bundle).input_spec
    if request.size is not None and request.size != spec.size:
        raise ExplainError(f"--size {request.size}: the bundle's input has {spec.size} pixels a side; leave --size out")
    levels = len(profile.generators.filters)
    if spec.size % 2 ** (levels - 1):
        raise ExplainError(f"--size {spec.size}: {levels} levels of filters need a multiple of {2 ** (levels - 1)}")
    return spec


def _names(request: Request) -> list[str]:
    """The rows to run: Table I's, those on features, maps without generators, the baselines, and a folder's own.

    Raises:
        ExplainError: no such row.
    """
    every = [BUNDLE_ROW] if request.bundle is not None else []
    every += [*FEATURE_ROWS, *OWN_MAPS, *GENERATOR_ROWS, *BASELINES]
    if request.plugins is not None:
        try:
            plugins.add_folder("explain_core.methods", request.plugins)
        except (NotADirectoryError, ValueError) as error:
            raise ExplainError(f"--plugins {request.plugins}: {error}") from error
        every += sorted(path.stem for path in request.plugins.glob("*.py") if not path.stem.startswith("_"))
    unknown = [name for name in request.rows if name not in every]
    if unknown:
        raise ExplainError(f"--rows {' '.join(unknown)}: no such row; there is: {', '.join(every)}")
    return [name for name in every if not request.rows or name in request.rows]


def _check(images: cohort.Cohort, request: Request) -> None:
    """Refuse data without which nothing can be trained or tested.

    Raises:
        ExplainError: a split is empty.
    """
    for split in (cohort.TRAIN, cohort.VALIDATION, cohort.TEST):
        if split not in images.splits:
            raise ExplainError(f"--data {request.data}: no image in the {split} split; every split needs patients")


def _data(spec: str, bench: Bench, problems: Sequence[tables.Problem]) -> Figures:
    images = bench.cohort
    return {
        "spec": spec,
        "size": images.size,
        "images": len(images),
        "patients": len(set(images.patients)),
        "boxed": sum(truth is not None for truth in bench.test.truths),
        "boxed_used": len(bench.boxed),
        "train": len(bench.training),
        "validation": len(bench.validation),
        "test": len(bench.test),
        "classes": list(images.classes),
        "problem_counts": tables.counted(problems),
        "problems": [[str(problem.kind), problem.where, problem.detail] for problem in problems],
    }


def _commit() -> str:
    """The commit that ran, with "+" where files were changed since; empty outside a repository."""
    commands = (["git", "rev-parse", "--short", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
    try:
        head, changed = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
            for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed else "")


def _measure(
    bench: Bench, names: Sequence[str], absent: dict[str, str], advance: Callable[[], object]
) -> tuple[Figures, list[str]]:
    """Every figure of every row, and the rows that could be run; of the others `absent` gets the reason."""
    rows: dict[str, Row] = {}
    result: Figures = {"generators": {}, "localisation": None, "faithfulness": {}, "timing": {}}
    usable = []
    for name in names:
        with or_absent(bench, name, absent):
            method = bench.method(name)
            if method.needs_gradients:
                need_gradients(bench.classifier, name)
            if isinstance(method, SimilarAdversarialMethod | Adversarial):
                result["generators"][name] = remembered(
                    bench,
                    f"generators-{name}",
                    fingerprint(method_fingerprint(bench, method), bench.second_mark),
                    partial(figures.generator_figures, bench, name, method.network),
                )
            if len(bench.boxed):
                rows |= _rows(bench, name)
            usable.append(name)
            if AUGMENTED not in suffixes(bench, name):
                absent[name + AUGMENTED] = "ten searches per image; --augment-searching runs them"
        advance()
    if rows:
        compared = next(row for row in (DELIVERED, OURS + AUGMENTED, *rows) if row in rows)
        rows |= control_rows(bench, rows[compared])
        rows |= randomisation.chance_rows(bench, usable, absent)
        bench.say("scoring")
        result["localisation"] = figures.localisation_figures(bench, rows, compared)
    if usable and bench.profile.faithfulness:
        result["faithfulness"] = _faithfulness(bench, usable, absent, advance)
    bench.say("timing")
    if BUNDLE_ROW in usable:
        result["timing"][DELIVERED] = figures.delivered_timing(bench)
    for name in usable:
        result["timing"] |= figures.timing_figures(bench, name)
        advance()
    return result, usable


def _faithfulness(bench: Bench, names: Sequence[str], absent: dict[str, str], advance: Callable[[], object]) -> Figures:
    """Of every method, what is left of it when the classifier is random too, and of a random ranking."""
    found: Figures = {}
    for name in names:
        bench.say(f"faithfulness of {name}")
        with or_absent(bench, f"faithfulness of {name}", absent):
            found[name] = remembered(
                bench,
                f"faithfulness-{name}",
                fingerprint(method_fingerprint(bench, bench.method(name))),
                partial(figures.faithfulness_figures, bench, name),
            )
            found[name] |= randomisation.similarity(bench, name)
        advance()
    return found | {"random": figures.random_ranking_figures(bench)}


def _rows(bench: Bench, name: str) -> dict[str, Row]:
    """Every row of a method; before those of a bundle's generators the map that it delivers."""
    delivered = {DELIVERED: delivered_row(bench)} if name == BUNDLE_ROW else {}
    return delivered | method_rows(bench, name, lambda row: bench.say(f"explained with {row}"))


def _cases(bench: Bench, names: Sequence[str]) -> list[Figures]:
    """Figures like the paper's Figures 2 to 4: original, similar, adversarial, difference and every method's map."""
    shown = bench.boxed if len(bench.boxed) else bench.test
    chosen = np.linspace(0, len(shown) - 1, min(bench.profile.cases, len(shown))).astype(int)
    part = shown.take(chosen)
    panels: list[list[tuple[str, Any]]] = [[("original", image[0].numpy() / 255)] for image in part.images]
    ours = BUNDLE_ROW if BUNDLE_ROW in names else OURS
    if ours in names:
        network = bench.method(ours).network  # type: ignore[attr-defined]
        decided = bench.decisions(part.images).to(bench.device)
        made = bench.generated(network, floats(part.images, bench.device), decided)
        x_s, x_a = (image.cpu().numpy()[:, 0] for image in made)
        for index, panel in enumerate(panels):
            panel += [("similar", x_s[index]), ("adversarial", x_a[index]), ("difference", x_s[index] - x_a[index])]
    for name in names:
        for suffix in ("", AUGMENTED) if name == ours else ("",):
            maps = explain(bench, bench.method(name), part.images, augmented=bool(suffix))
            for index, panel in enumerate(panels):
                panel.append((name + suffix, maps[index]))
    folder = bench.out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for index, panel in enumerate(panels):
        truth = part.truths[index]
        report.draw_case(folder / f"{index}.png", panel, truth if truth is not None else ())
        drawn.append({"file": f"figures/{index}.png", "caption": f"Test image {part.patients[index]}"})
    return drawn
