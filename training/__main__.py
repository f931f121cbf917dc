"""`python -m training COMMAND`: bundles made, measured, compared and retrained; `--help` lists the commands."""

import argparse
import json
import os
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from explain_core.errors import ExplainError
from explain_core.processor import keep_memory, share_cores
from training import systems
from training.splits import TEST_FOLDS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    measures = _measures_parser(commands)
    controls = commands.add_parser("controls", help="localisation controls on RSNA's boxes, without images")
    controls.add_argument("folder", type=Path)
    calibrate = commands.add_parser("calibrate", help="set a bundle's heatmap scale, margin and outlier model anew")
    calibrate.add_argument("--bundle", type=Path, required=True)
    calibrate.add_argument("--data", required=True, help="with training and validation patients, as for evaluate")
    scale = commands.add_parser("scale", help="measure how a method's maps are shown, and let a bundle serve it")
    scale.add_argument("bundle", type=Path)
    scale.add_argument("--method", action="append", required=True, help="its name; may be given several times")
    scale.add_argument("--data", required=True, help="with validation patients, as for evaluate")
    scale.add_argument("--images", type=int, default=0, help="of the validation patients at most; default: all")
    scale.add_argument("--blur", type=float, help="of the maps, a fraction of their width; default: as it is, or 0.06")
    for command in (calibrate, scale):
        command.add_argument("--method-folder", type=Path, action="append", default=[], help="of methods of your own")
    bundle = commands.add_parser("bundle", help="from data to a model bundle: classifier, generators, calibration")
    bundle.add_argument("--data", required=True, help="whole images, with training and validation patients")
    bundle.add_argument("--parts", default="", help="images of lungs alone with boxes, e.g. rsna_lungs:FOLDER")
    bundle.add_argument("--preset", choices=("cpu", "gpu"), default="cpu", help="how large everything is")
    bundle.add_argument("--draws", type=int, default=1, help="of the classifier; the best on validation is kept")
    bundle.add_argument("--name", default="opacity-evidence")
    bundle.add_argument("--version", default="1.0.0")
    bundle.add_argument("--work", type=Path, default=Path("runs/bundle"), help="checkpoints; started again, it goes on")
    bundle.add_argument("--out", type=Path, required=True)
    _retrain_parser(commands)
    benchmark = _benchmark_parser(commands)
    further = systems.parser(commands)
    for command in (*further, *measures, calibrate, scale, controls, bundle, benchmark):
        command.add_argument("--json", type=Path, help="write the figures to this file")
    return parser


def _measures_parser(commands: Any) -> tuple[argparse.ArgumentParser, ...]:
    evaluate = commands.add_parser("evaluate", help="every figure of a bundle on held-out patients")
    evaluate.add_argument("--bundle", type=Path, required=True)
    evaluate.add_argument("--data", required=True, help="reader:folder, e.g. nih:../shared/data/nih_cxr14_subset")
    evaluate.add_argument("--folds", type=int, nargs="+", default=sorted(TEST_FOLDS))
    evaluate.add_argument("--second", type=Path, help="folder of `second`, or a bundle: do changes carry over to it")
    evaluate.add_argument("--optimum", action="store_true", help="the best change an image too, forty passes each")
    evaluate.add_argument("--draws", type=int, default=2000, help="resamples of the patients for each interval")
    evaluate.add_argument("--markdown", type=Path, help="write the tables to this file too")
    second = commands.add_parser("second", help="a classifier of another backbone, for `evaluate --second`")
    second.add_argument("--data", required=True, help="with labelled training and validation patients")
    second.add_argument("--parts", default="", help="as for bundle; only one that decides by maps learns from them")
    second.add_argument("--out", type=Path, required=True, help="of the run; started again, it goes on")
    second.add_argument("--architecture", help="evidence_lite2 (the default), evidence_lite0, resnet20, ...")
    second.add_argument("--size", type=int, help="rows and columns of its input; default: 224 with maps, else 112")
    second.add_argument("--epochs", type=int)
    crossfit = commands.add_parser("crossfit", help="every image with boxes by a model that never saw its patient")
    crossfit.add_argument("--data", required=True, help="whole images with folds by patient")
    crossfit.add_argument("--parts", default="", help="as for bundle")
    crossfit.add_argument("--out", type=Path, required=True, help="a folder a group; started again, it goes on")
    crossfit.add_argument("--groups", nargs="+", metavar="FOLDS", help="default: 0,1 2,3 4,5 6,8")
    crossfit.add_argument("--only", nargs="+", default=[], metavar="FOLDS", help="train these groups alone")
    crossfit.add_argument("--bundle", action="append", default=[], metavar="FOLDS=DIR", help="a group's ready bundle")
    crossfit.add_argument("--preset", choices=("cpu", "gpu"), default="cpu")
    crossfit.add_argument("--markdown", type=Path, help="write the tables to this file too")
    return evaluate, second, crossfit


def _benchmark_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "benchmark", help="every method with and without augmentation, the paper's tables beside ours"
    )
    parser.add_argument("--data", required=True, help="phantom, or reader:folder, e.g. nih:../shared/data/...")
    parser.add_argument("--quick", action="store_true", help="minutes instead of hours: that everything runs")
    parser.add_argument("--out", type=Path, help="where everything is kept; default: runs/benchmark/READER-PROFILE")
    parser.add_argument("--html", type=Path, help="write the report to this file")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--size", type=int, help="rows and columns of the input grid")
    parser.add_argument("--steps", type=int, help="training steps of generators and mask generator")
    parser.add_argument("--filters", type=int, nargs="+", help="channels of the generators per level")
    parser.add_argument("--decisions", type=int, help="adversarial heads: 2 for one per decision, a named variant")
    parser.add_argument("--boxed", type=int, help="test images with boxes at most, 0 for all")
    parser.add_argument(
        "--decision-weights", type=float, nargs=2, metavar=("SIMILAR", "ADVERSARIAL"),
        help="of equation (7), instead of the profile's; Table I has 0.001 0.001",
    )  # fmt: skip
    parser.add_argument(
        "--decision-noise", type=float, help="of the paper's generators, e.g. 0.2 on a noise-trained net"
    )
    parser.add_argument("--architecture", help="a module of explain_core/classifiers")
    parser.add_argument("--epochs", type=int, help="of the classifiers")
    parser.add_argument("--attack", type=float, help="largest pixel change in the classifier's adversarial training")
    parser.add_argument("--augment-searching", action="store_true", help="augmented rows of bbmp and perceptual too")
    parser.add_argument("--bundle", type=Path, help="explain this bundle's classifier, train none")
    parser.add_argument("--classifier", type=Path, help="explain the classifier of this earlier run, train none")
    parser.add_argument("--second", type=Path, help="of `second`, or a bundle: for transfer, instead of training one")
    parser.add_argument("--rows", nargs="+", default=(), help="only these methods or presets")
    parser.add_argument("--plugins", type=Path, help="folder with further methods, one per file")
    parser.add_argument("--randomisation", action="store_true", help="only what a classifier of random weights leaves")
    parser.add_argument("--device", default="auto")
    return parser


def _retrain_parser(commands: Any) -> None:
    retrain = commands.add_parser("retrain", help="train, judge and register a new version as job.toml says")
    retrain.add_argument("job", type=Path, nargs="?", help="job.toml; without it the one in --folder")
    retrain.add_argument("--folder", type=Path, help="the job's folder; default: var/jobs/NAME")
    retrain.add_argument("--force", metavar="REASON", help="register as forced what the gate refuses")
    retrain.add_argument("--check", action="store_true", help="only check job.toml, and print it with every key")
    retrain.add_argument(
        "--default", action="append", default=[], metavar="TABLE.KEY=VALUE", help="where job.toml says nothing"
    )
    retrain.add_argument(
        "--defaults", action="store_true", help="read more of them from standard input, as a JSON object by TABLE.KEY"
    )
    retrain.add_argument("--source", action="append", default=[], help="a further source of data")
    retrain.add_argument("--quiet", action="store_true", help="no progress on the terminal")
    retrain.add_argument("--no-wait", action="store_true", help="end with status 75 where it would wait")
    retrain.add_argument("--retry-seconds", type=float, default=10, help="first wait for room or for the registry")
    retrain.add_argument("--nice", type=int, help="at least; 0 to 19")
    retrain.add_argument("--threads", type=int, help="at most")
    retrain.add_argument("--gpu-memory-fraction", type=float, help="at most; 0 to 1")


def _retrain(arguments: argparse.Namespace) -> int:
    from training.retrain import run, terminal  # noqa: PLC0415 - start quickly
    from training.retrain.job import load, value_of  # noqa: PLC0415

    if arguments.job is None and (arguments.folder is None or arguments.check):
        raise SystemExit("error: name a job.toml, or with --folder the folder of a job that goes on")
    if arguments.force is not None and not arguments.force.strip():
        raise SystemExit("error: --force needs a reason")
    job = None
    if arguments.job is not None:
        defaults = json.load(sys.stdin) if arguments.defaults else {}
        defaults |= {key: value_of(value) for key, _, value in (text.partition("=") for text in arguments.default)}
        job = load(arguments.job, defaults=defaults, sources=arguments.source).resolved(Path.cwd())
    if arguments.check:
        assert job is not None  # noqa: S101 - see above
        _known_architecture(arguments.job, job.classifier.architecture)
        print(job.text(), end="")
        return 0
    line = terminal.Line()
    folder = arguments.folder or Path("var/jobs") / (job.job.name if job else "")
    status = run.run(
        run.Request(
            path=folder,
            job=job,
            force=(arguments.force or "").strip(),
            wait=not arguments.no_wait,
            retry_seconds=arguments.retry_seconds,
            limits=vars(arguments),
            say=(lambda _: None) if arguments.quiet else line,
        )
    )
    if not arguments.quiet:
        print(terminal.summary(folder))
    return status


def _known_architecture(file: Path, name: str) -> None:
    """Refuse a classifier that there is not; "" is the champion's.

    Raises:
        JobError: there is none of that name; the message lists those that there are.
    """
    from explain_core import plugins, toml_files  # noqa: PLC0415 - start quickly
    from training.retrain.job import JobError  # noqa: PLC0415

    known = plugins.available("explain_core.classifiers")
    if name and name not in known:
        place, text = ("classifier", "architecture"), toml_files.read(file, "the job")[1]
        raise JobError(toml_files.located(file, text, place, f"there is no {name!r}; there is: {', '.join(known)}"))


def _benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    from training.benchmark import report  # noqa: PLC0415 - torch, and the extra "benchmark"
    from training.benchmark.run import Request, benchmark  # noqa: PLC0415

    profile = "quick" if arguments.quick else "full"
    arguments.out = arguments.out or Path("runs/benchmark") / f"{arguments.data.partition(':')[0]}-{profile}"
    for path in (arguments.out / "report.html", arguments.html, arguments.markdown, arguments.json):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    names = (
        "data",
        "out",
        "size",
        "epochs",
        "steps",
        "decisions",
        "decision_noise",
        "augment_searching",
        "boxed",
        "architecture",
        "attack",
        "bundle",
        "classifier",
        "second",
        "rows",
        "plugins",
        "randomisation",
    )
    figures = benchmark(
        Request(
            **{name: getattr(arguments, name) for name in names},
            filters=tuple(arguments.filters) if arguments.filters else None,
            profile=profile,
            decision_weights=tuple(arguments.decision_weights) if arguments.decision_weights else None,
            device=arguments.device,
            command=f"python -m training {shlex.join(sys.argv[1:])}",
        )
    )
    html = arguments.html or arguments.out / "report.html"
    html.write_text(report.html(figures, arguments.out))
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown(figures | {"figures": []}))
    print(html)
    return figures


def _calibrate(arguments: argparse.Namespace) -> dict[str, Any]:
    from explain_core import plugins  # noqa: PLC0415 - start quickly
    from training import calibration, scales  # noqa: PLC0415

    for folder in arguments.method_folder:
        try:
            plugins.add_folder(plugins.METHODS, folder)
        except (NotADirectoryError, ValueError) as error:
            raise SystemExit(f"error: --method-folder: {error}") from error
    if arguments.command == "calibrate":
        figures = calibration.calibrate(arguments.bundle, arguments.data)
        print(calibration.markdown(figures))
        return figures
    found = calibration.scale(arguments.bundle, arguments.data, arguments.method, arguments.blur, arguments.images)
    for name, scale in found.items():
        print(scales.markdown(name, scale))
    return {name: asdict(scale) for name, scale in found.items()}


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    others = {"benchmark": _benchmark} | dict.fromkeys(systems.COMMANDS, systems.run)
    if arguments.command in others:
        return others[arguments.command](arguments)
    if arguments.command == "controls":
        from training.controls import controls  # noqa: PLC0415 - start quickly

        return controls(arguments.folder)
    if arguments.command in {"calibrate", "scale"}:
        return _calibrate(arguments)
    if arguments.command in {"second", "crossfit"}:
        return {"second": _second, "crossfit": _crossfit}[arguments.command](arguments)
    if arguments.command == "bundle":
        from training.bundle import RECIPES, bundle  # noqa: PLC0415

        recipe = replace(RECIPES[arguments.preset], draws=arguments.draws)
        return bundle(
            arguments.out, arguments.work, arguments.data, parts=arguments.parts, recipe=recipe,
            name=arguments.name, version=arguments.version,
        )  # fmt: skip
    return _evaluate(arguments)


def _second(arguments: argparse.Namespace) -> dict[str, Any]:
    from training.runs import second_classifier  # noqa: PLC0415 - start quickly

    named = {name: getattr(arguments, name) for name in ("architecture", "epochs")}
    given = {name: value for name, value in named.items() if value is not None}
    maps = given.get("architecture", second_classifier.MAPS.architecture).startswith("evidence")
    settings = replace(second_classifier.MAPS if maps else second_classifier.SETTINGS, **given)
    made = second_classifier.train(
        arguments.data, arguments.out, settings=settings, parts=arguments.parts, size=arguments.size
    )
    print(json.dumps(made, indent=1))
    return dict(made)


def _crossfit(arguments: argparse.Namespace) -> dict[str, Any]:
    from training.bundle import RECIPES  # noqa: PLC0415 - start quickly
    from training.crossfit import GROUPS, CrossFit, crossfit, group_of, markdown  # noqa: PLC0415

    ready = [text.partition("=")[::2] for text in arguments.bundle]
    asked = CrossFit(
        data=arguments.data,
        parts=arguments.parts,
        out=arguments.out,
        groups=tuple(map(group_of, arguments.groups)) if arguments.groups else GROUPS,
        bundles={group_of(folds): Path(folder) for folds, folder in ready},
        recipe=RECIPES[arguments.preset],
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    figures = crossfit(asked, [group_of(text) for text in arguments.only])
    if arguments.markdown:
        made = f"# Cross-fitted localisation\n\nMade by `python -m training {shlex.join(sys.argv[1:])}`."
        arguments.markdown.write_text(f"{made}\n\n{markdown(figures)}")
    print(markdown(figures))
    return figures


def _evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    from training.calibration import section_of  # noqa: PLC0415 - start quickly
    from training.measure.evaluate import evaluate  # noqa: PLC0415
    from training.report.evaluation import markdown  # noqa: PLC0415

    figures = evaluate(
        arguments.bundle, arguments.data, folds=frozenset(arguments.folds), second=arguments.second,
        optimum=arguments.optimum, draws=arguments.draws, say=lambda text: print(text, file=sys.stderr, flush=True),
    )  # fmt: skip
    if arguments.markdown:
        command = f"python -m training {shlex.join(sys.argv[1:])}"
        lines = [
            f"# Model: {figures['bundle']['name']} {figures['bundle']['version']}",
            f"Made by `{command}`.",
            f"Bundle digest `{figures['bundle']['digest']}`.",
            markdown(figures),
            section_of((arguments.bundle / "model_card.md").read_text()),
        ]
        arguments.markdown.write_text("\n\n".join(lines).rstrip() + "\n")
    print(markdown(figures))
    return figures


def main() -> None:
    """Run one command; errors of input are one line and exit status 1."""
    os.umask(0o077)  # labels and films of patients
    share_cores()
    keep_memory()
    parser = _parser()
    arguments = parser.parse_args()
    for name in ("json", "markdown"):
        path: Path | None = getattr(arguments, name, None)
        if path and (path.is_dir() or not (path.parent.is_dir() or arguments.command == "benchmark")):
            parser.error(f"--{name} {path}: no file can be written there")
    try:
        if arguments.command == "retrain":
            raise SystemExit(_retrain(arguments))
        figures = _run(arguments)
        if arguments.json:
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    except ExplainError as error:
        raise SystemExit(f"error: {error}") from error
    except OSError as error:
        if error.filename is None:
            raise
        raise SystemExit(f"error: {error.filename}: {error.strerror}") from error
    if arguments.command == "controls":
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
