"""`python -m training evaluate | controls | export`: numbers and bundles. Runs are in `python -m training.runs.*`."""

import argparse
import json
from pathlib import Path
from typing import Any

from explain_core.errors import ExplainError
from training.splits import TEST_FOLDS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    evaluate = commands.add_parser("evaluate", help="every figure of a bundle on held-out patients")
    evaluate.add_argument("--bundle", type=Path, required=True)
    evaluate.add_argument("--data", required=True, help="reader:folder, e.g. nih:../shared/data/nih_cxr14_subset")
    evaluate.add_argument("--folds", type=int, nargs="+", default=sorted(TEST_FOLDS))
    evaluate.add_argument("--augmentations", type=int, default=10)
    evaluate.add_argument("--markdown", type=Path, help="write the tables to this file too")
    controls = commands.add_parser("controls", help="localisation controls on RSNA's boxes, without images")
    controls.add_argument("folder", type=Path)
    export = commands.add_parser("export", help="make a bundle of two training runs")
    export.add_argument("--classifier", type=Path, required=True)
    export.add_argument("--generators", type=Path, required=True)
    export.add_argument("--data", required=True)
    export.add_argument("--name", required=True)
    export.add_argument("--version", required=True)
    export.add_argument("--out", type=Path, required=True)
    for command in (evaluate, controls, export):
        command.add_argument("--json", type=Path, help="write the figures to this file")
    return parser


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.command == "controls":
        from training.controls import controls  # noqa: PLC0415 - needs no torch

        return controls(arguments.folder)
    from training.report import markdown  # noqa: PLC0415

    if arguments.command == "export":
        from training.export import export  # noqa: PLC0415

        return export(
            arguments.classifier, arguments.generators, arguments.data, arguments.name, arguments.version,
            arguments.out,
        )  # fmt: skip
    from training.evaluate import evaluate  # noqa: PLC0415

    figures = evaluate(
        arguments.bundle, arguments.data, folds=frozenset(arguments.folds), augmentations=arguments.augmentations
    )
    if arguments.markdown:
        heading = f"# Model: {figures['bundle']['name']} {figures['bundle']['version']}\n\n"
        command = f"Made by `python -m training evaluate --bundle {arguments.bundle} --data {arguments.data}"
        command += f" --markdown {arguments.markdown}`.\n\nBundle digest `{figures['bundle']['digest']}`.\n\n"
        arguments.markdown.write_text(heading + command + markdown(figures))
    print(markdown(figures))
    return figures


def main() -> None:
    """Run one command; errors of input are one line and exit status 1."""
    arguments = _parser().parse_args()
    try:
        figures = _run(arguments)
    except ExplainError as error:
        raise SystemExit(f"error: {error}") from error
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.command == "controls":
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
