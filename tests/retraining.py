"""A champion and a job so small that a whole retraining takes seconds."""

import contextlib
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RULES = """
[[rule]]
name = "AUC"
kind = "at least"
figure = "auc"
limit = {auc}
groups = ["all"]
"""


@contextlib.contextmanager
def few_films() -> Iterator[None]:
    """Calibrations draw two films that show nothing of each kind, not fifty, which take half a minute."""
    from training import calibration

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "FILMS", 2)
        yield


@few_films()
def make_champion(folder: Path) -> Path:
    """An untrained ResNet-20 of 32 x 32 pixels with generators of two levels."""
    import torch

    from explain_core.classifiers.resnet20 import PLUGIN
    from explain_core.geometry import AffineRange, InputSpec
    from training import cohort, datasets, making
    from training.runs.generators import GeneratorSettings

    torch.manual_seed(0)
    spec, settings = InputSpec(size=32), GeneratorSettings(filters=(4, 8))
    images, _ = cohort.load(datasets.read("phantom?size=32&train=8&validation=6&test=1"), spec)
    making.make(
        folder,
        classifier=PLUGIN(1).eval(),
        architecture="resnet20",
        outputs=["Lung opacity"],
        generators=settings.network().eval(),
        generator_settings=settings,
        spec=spec,
        label="Lung opacity",
        name="toy",
        version="0",
        threshold=0.5,
        temperature=1.0,
        augmentation=AffineRange(),
        dataset_summary="phantoms",
        training=images.part("train"),
        validation=images.part("validation"),
    )
    making.finish(folder, (folder / "model_card.md").read_text())
    return folder


def job_text(folder: Path, champion: Path, /, *, auc: float = 0.0, **changes: dict[str, object]) -> str:
    """A job whose book, rules and registry lie in `folder`; `changes` are keys of tables instead of these."""
    (folder / "rules.toml").write_text(RULES.format(auc=auc))
    tables: dict[str, dict[str, object]] = {
        "job": {"name": "tiny"},
        "data": {"sources": ["phantom?size=32&train=32&validation=6&test=12"]},
        "limits": {"min_patients": 40, "min_positives": 1, "min_negatives": 1},
        "split": {"book": str(folder / "splits.csv")},
        "champion": {"bundle": str(champion)},
        "classifier": {"epochs": 2, "batch": 8, "learning_rate": 1e-3, "checkpoint_every": 1},
        "generators": {"steps": 4, "batch": 4, "report_every": 2},
        "evaluation": {"cases": 2, "localisation_images": 2, "draws": 200},
        "gate": {"rules": str(folder / "rules.toml")},
        "registry": {"uri": f"sqlite:///{folder}/mlflow.sqlite", "artifacts": str(folder / "artifacts")},
        "resources": {"nice": 0, "threads": 1, "device": "cpu"},
        "bundle": {"version": "1"},
    }
    for name, keys in changes.items():
        tables[name] = {key: value for key, value in (tables.get(name, {}) | keys).items() if value is not None}
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        for name, keys in tables.items()
    )


def films(folder: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """A dataset of the folder reader: (file, patient, target, split), each image of its own noise."""
    folder.mkdir()
    for name in {row[0] for row in rows}:
        generator = np.random.default_rng(int.from_bytes(name.encode()[:4]))
        Image.fromarray(generator.integers(0, 255, (40, 36), np.uint8)).save(folder / name)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "patient_id", "target", "split"])
        writer.writerows(rows)
    return folder


def plenty(count: int = 60) -> list[tuple[str, str, str, str]]:
    return [(f"{n:04d}.png", f"p{n}", str(n % 2), "") for n in range(count)]


def run_job(path: Path, *, job: Path | None = None, die_in: str = "", when: str = "", **request: object) -> None:
    """Run a job in this process, which it ends with the job's exit status, or kills.

    Args:
        path: the job's folder.
        job: job.toml.
        die_in: stage in which the process kills itself (SIGKILL).
        when: "begun" before the stage does anything, "middle" when half of it is reported, "made" after it has made
            everything and before it has said so.
        request: further fields of `training.retrain.run.Request`.
    """
    import os
    import signal
    import sys
    from dataclasses import replace

    from training.retrain import run
    from training.retrain.job import load
    from training.retrain.stages import STAGES

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def deadly(make):
        def made(context):
            if when == "begun":
                die()
            progress = context.progress

            def tell(done, **figures):
                progress(done, **figures)
                if when == "middle" and done >= 0.5:
                    die()

            context.progress = tell
            result = make(context)
            if when == "made":
                die()
            return result

        return made

    asked = load(job).resolved(job.parent) if job is not None else None
    stages = {
        kind: tuple(replace(one, make=deadly(one.make)) if one.name == die_in else one for one in of_kind)
        for kind, of_kind in STAGES.items()
    }
    with few_films():
        sys.exit(run.run(run.Request(path=path, job=asked, **request), stages))


def processes():
    """Processes with everything imported already: a job in one of them starts at once."""
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.retrain.stages", "training.retrain.run", "training.runs", "mlflow"])
    return context


def started(path: Path, **how: object):
    """A job in a process of its own; see `run_job`."""
    process = processes().Process(target=run_job, args=(path,), kwargs=how)
    process.start()
    return process


def finished(path: Path, within: float = 600, **how: object) -> int:
    """Exit status of a job that was run in a process of its own, within seconds; -9 where it killed itself."""
    process = started(path, **how)
    process.join(within)
    assert process.exitcode is not None, (path / "job.log").read_text()
    return process.exitcode
