"""`python -m training beside JOB.toml`: what a retraining on the same machine does to explanations.

They are timed alone, beside the job as a worker runs it, and beside the same job when it does not stand back. The last
is the peer: the job at niceness 0 with as many threads as the explanations have.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from explain_core.explainer import DEFAULT_METHOD, open_bundle
from explain_core.radiograph import Radiograph
from training.errors import TrainingError
from training.retrain.folder import read_json
from training.retrain.job import Job, load

ALONE, BESIDE, PEER = "alone", "beside a retraining", "beside one that does not stand back"
SIDE: Final = 2048
"""Rows and columns of the radiograph."""
EPOCHS: Final = 100_000
PATIENCE: Final = 600.0
"""Seconds that a job has to begin training."""


def beside(job: Path, bundle: Path, *, device: str, repeats: int) -> dict[str, Any]:
    """Seconds per explanation with the bundle's own augmentations, one image at a time.

    The job runs in a folder of its own, with its own book of splits and registry, until enough was measured. It starts
    from `bundle` and trains for more epochs than there is time for.

    Args:
        job: job.toml; its data and how it trains count, and its [resources] in the case `BESIDE`.
        bundle: whose explanations are timed.
        device: "auto", "cpu" or "cuda[:n]", of the explanations.
        repeats: explanations that are timed in each case, after one to warm up; alone, before and after the others.

    Returns:
        By case: seconds (median, lowest, highest) and ratio, the median over that of `ALONE`.

    Raises:
        JobError: job.toml is wrong.
        TrainingError: the job ended before its training began, which the message has the reason of.
    """
    explainer = open_bundle(bundle, device=device)
    pixels = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    radiograph = Radiograph(pixels=pixels, spacing=None, orientation=None, source_id="noise")

    def timed() -> list[float]:
        explainer.explain(radiograph, [DEFAULT_METHOD])
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            explainer.explain(radiograph, [DEFAULT_METHOD])
            seconds.append(time.perf_counter() - start)
        return seconds

    found = {ALONE: timed()}
    asked = load(job).resolved(Path.cwd())
    for case, resources in ((BESIDE, {}), (PEER, {"nice": 0, "threads": len(os.sched_getaffinity(0))})):
        with _training(asked, bundle, resources):
            found[case] = timed()
    found[ALONE] += timed()
    usual = statistics.median(found[ALONE])
    return {
        case: {
            "median": statistics.median(s),
            "lowest": min(s),
            "highest": max(s),
            "ratio": statistics.median(s) / usual,
        }
        for case, s in found.items()
    }


@contextmanager
def _training(asked: Job, bundle: Path, resources: dict[str, int]) -> Iterator[None]:
    """A job that trains for as long as the block runs, and leaves nothing."""
    with tempfile.TemporaryDirectory(prefix="beside-") as parent:
        folder, file = Path(parent) / "job", Path(parent) / "job.toml"
        own = {
            "champion": {"bundle": str(bundle.absolute())},
            "split": {"book": ""},
            "classifier": {"epochs": EPOCHS},
            "registry": {"uri": f"sqlite:///{parent}/mlflow.sqlite", "artifacts": f"{parent}/artifacts"},
            "resources": resources,
        }
        tables = {name: getattr(asked, name).model_copy(update=keys) for name, keys in own.items()}
        file.write_text(asked.model_copy(update=tables).text())
        command = [sys.executable, "-m", "training", "retrain", str(file), "--quiet", "--no-wait"]
        running = subprocess.Popen([*command, "--folder", str(folder)], stdout=subprocess.DEVNULL)  # noqa: S603 - our own program
        try:
            until = time.monotonic() + PATIENCE
            while not _trains(folder):
                if running.poll() is not None or time.monotonic() > until:
                    raise TrainingError(f"no training began: {read_json(folder / 'state.json').get('error')}")
                time.sleep(0.5)
            yield
            if running.poll() is not None:
                raise TrainingError("the training ended before enough was measured")
        finally:
            running.terminate()
            running.wait()


def _trains(folder: Path) -> bool:
    state = read_json(folder / "state.json")
    return state.get("stage") == "classifier" and state.get("done", 0) > 0


def table(figures: dict[str, Any]) -> str:
    """The figures in Markdown."""
    lines = ["| explanations | seconds, median | lowest to highest | ratio |", "|---|---|---|---|"]
    lines += [
        f"| {case} | {row['median']:.3f} | {row['lowest']:.3f} to {row['highest']:.3f} | {row['ratio']:.2f} |"
        for case, row in figures.items()
    ]
    return "\n".join(lines)
