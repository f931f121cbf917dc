"""The commands of the further systems, Mediffusion and DiffEx; each module is loaded by its command alone."""

import argparse
import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def _least(number: int) -> Callable[[str], int]:
    """The type of an option that is a whole number, `number` or more."""

    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < number:
            raise argparse.ArgumentTypeError(f"give a whole number, {number} or more, not {text!r}")
        return int(text)

    return whole


def _between(low: float, high: float) -> Callable[[str], float]:
    """The type of an option that is a number from `low` to `high`, neither infinite nor NaN."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low <= value <= high and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"give a number from {low:g} to {high:g}, not {text!r}")
        return value

    return number


COMMANDS = ("run", "claims", "synthesize")
_MODULES = {"mediffusion": "mediffusion", "diffex": "diffex.command", "claims": "claims", "synthesize": "synthesis"}
"""Systems that are run, and further commands, with their modules."""


def parser(commands: Any) -> tuple[argparse.ArgumentParser, ...]:
    """Add their commands; the parsers of those that return figures."""
    run = commands.add_parser("run", help="train and judge one of the further systems")
    which = run.add_subparsers(dest="system", required=True)
    joint = which.add_parser("mediffusion", help="one model that classifies, explains and makes labelled images")
    joint.add_argument("--preset", default="tiny", help="tiny, small, cpu, gpu or vce-testing")
    joint.add_argument("--data", default="phantom", help="reader:folder, e.g. nih:../shared/data/...")
    joint.add_argument("--out", type=Path, required=True, help="folder of the run; the same call again goes on")
    joint.add_argument("--weights", default="", help="of the autoencoder that the preset works with")
    joint.add_argument("--labels", type=float, default=1.0, help="part of the patients whose labels are used")
    joint.add_argument("--seed", type=int, default=0)
    joint.add_argument("--steps", type=_least(1), help="instead of the preset's")
    joint.add_argument("--unlabelled", choices=["none", "fixmatch"], help="instead of the preset's")
    joint.add_argument("--no-diffusion", action="store_true", help="the control: the same network, classifying alone")
    joint.add_argument("--size", type=_least(1), help="rows and columns of the images, instead of the preset's")
    joint.add_argument("--bundle", type=Path, help="make a model bundle of it there, with the oracle as second opinion")
    diffex = _diffex_parser(which)
    claims = commands.add_parser("claims", help="what joint diffusion promises, beside its controls, over seeds")
    claims.add_argument("--preset", default="tiny")
    claims.add_argument("--data", default="phantom")
    claims.add_argument("--out", type=Path, required=True, help="started again, it goes on")
    claims.add_argument("--weights", default="", help="of the autoencoder that the preset works with")
    claims.add_argument("--seeds", type=_least(1), default=3, help="how many")
    claims.add_argument("--labels", type=_between(0, 1), nargs="+", default=[0.01, 0.02, 0.05, 0.1, 1.0])
    claims.add_argument("--steps", type=_least(1), help="instead of the preset's")
    claims.add_argument("--processes", type=_least(1), default=2, help="trainings at once")
    synthesize = commands.add_parser("synthesize", help="labelled images that a joint diffusion model makes")
    synthesize.add_argument("--model", type=Path, required=True, help="model.safetensors of a run")
    synthesize.add_argument("--data", default="phantom", help="what the model has learnt from, to compare with")
    synthesize.add_argument("--out", type=Path, required=True, help="a new folder, for the reader `folder`")
    synthesize.add_argument("--count", type=_least(1), default=50, help="images of either label")
    synthesize.add_argument("--scale", type=_between(0, 1e6), default=300.0, help="of the guidance")
    synthesize.add_argument("--seed", type=int, default=0)
    return joint, diffex, claims, synthesize


def _diffex_parser(systems: Any) -> argparse.ArgumentParser:
    diffex: argparse.ArgumentParser = systems.add_parser("diffex", help="what a classifier looks at, as attributes")
    diffex.add_argument("--preset", default="phantom", help="phantom, cells, chest, folder or gpu")
    diffex.add_argument("--data", default="", help="reader:folder, e.g. pictures:DIR; drawn images need none")
    diffex.add_argument("--out", type=Path, required=True, help="folder of the run; the same call again goes on")
    diffex.add_argument("--classifier", type=Path, help="a bundle, or a .onnx or .pt file; default: one is trained")
    diffex.add_argument("--outputs", nargs="+", default=[], help="names of a file's outputs")
    diffex.add_argument("--exclusive", action="store_true", help="exactly one of a file's outputs holds (softmax)")
    diffex.add_argument(
        "--range", type=float, nargs=2, default=(0.0, 1.0), metavar=("LOW", "HIGH"), help="black and white of a file"
    )
    diffex.add_argument("--channels", type=int, default=1, choices=(1, 3), help="of a file's images")
    diffex.add_argument("--input-size", type=int, help="rows and columns of a file's images; default: --size")
    diffex.add_argument("--weights", default="", help="of the autoencoder that the preset works with")
    diffex.add_argument("--seed", type=int, default=0)
    diffex.add_argument("--seeds", type=_least(1), default=1, help="how many, from --seed on")
    diffex.add_argument("--processes", type=_least(1), default=1, help="seeds at once")
    diffex.add_argument("--attach", type=Path, help="a copy of the bundle with what was found, to explain studies by")
    diffex.add_argument("--no-gate", action="store_true", help="go on though the code is not used")
    diffex.add_argument("--unaware", action="store_true", help="the code is not told what the classifier says")
    instead = diffex.add_argument_group("instead of the preset's")
    for name in ("size", "steps", "attributes", "ranked", "decoding-steps", "direction-steps"):
        instead.add_argument(f"--{name}", type=_least(1))
    instead.add_argument("--directions", type=_least(2))
    instead.add_argument("--parts", type=_least(0))
    instead.add_argument("--pull-below", type=int)
    for name in ("pull", "effect", "dropped", "strength"):
        instead.add_argument(f"--{name}", type=float)
    instead.add_argument("--features", choices=("classifier", "image", "encoder", "projector"))
    instead.add_argument("--apart-by", choices=("place", "independence"), help="what tells parts apart")
    instead.add_argument("--candidates", choices=("parts", "learnt", "both"))
    instead.add_argument("--noise", choices=("inverted", "fixed"))
    instead.add_argument("--form", choices=("global", "mlp"))
    instead.add_argument("--predicts", choices=("v", "epsilon"))
    return diffex


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """One of the further systems; each module is loaded by its command alone."""
    name = arguments.system if arguments.command == "run" else arguments.command
    found: dict[str, Any] = import_module(f"training.{_MODULES[name]}").command(arguments)
    return found
