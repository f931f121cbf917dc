"""`python -m training beside JOB.toml`: what a retraining on the same machine does to explanations.

They are timed alone, beside the job as a worker runs it, and beside the same job when it does not stand back. The last
is the peer: the job at niceness 0 with as many threads as the explanations have.
"""

import json
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

from explain_core.bundle import open_bundle
from explain_core.radiograph import Radiograph
from training.errors import TrainingError

ALONE, BESIDE, PEER = "alone", "beside a retraining", "beside one that does not stand back"
SIDE: Final = 2048
"""Rows and columns of the radiograph."""
TRAINS: Final = frozenset({"classifier", "generators"})
PATIENCE: Final = 600.0
"""Seconds that a job has to begin training."""


def beside(job: Path, bundle: Path, *, device: str, repeats: int) -> dict[str, Any]:
    """Seconds per explanation with the bundle's own augmentations, one image at a time.

    The job runs in a folder of its own until enough was measured; nothing is registered.

    Args:
        job: job.toml with a training long enough to be measured beside, and no [resources].
        bundle: whose explanations are timed.
        device: "auto", "cpu" or "cuda[:n]", of the explanations.
        repeats: explanations that are timed in each case, after one to warm up; alone, before and after the others.

    Returns:
        By case: seconds (median, lowest, highest) and ratio, the median over that of `ALONE`.

    Raises:
        TrainingError: the job ended before its training began, which the message has the reason of.
    """
    explainer = open_bundle(bundle, device=device)
    pixels = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    radiograph = Radiograph(pixels=pixels, spacing=None, orientation=None, source_id="noise")

    def timed() -> list[float]:
        explainer.explain(radiograph)
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            explainer.explain(radiograph)
            seconds.append(time.perf_counter() - start)
        return seconds

    found = {ALONE: timed()}
    for case, resources in ((BESIDE, {}), (PEER, {"nice": 0, "threads": len(os.sched_getaffinity(0))})):
        with _training(job, resources):
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
def _training(job: Path, resources: dict[str, int]) -> Iterator[None]:
    """A job that trains for as long as the block runs."""
    command = [sys.executable, "-m", "training", "retrain", str(job), "--quiet", "--no-wait"]
    for key, value in resources.items():
        command += ["--default", f"resources.{key}={value}"]
    with tempfile.TemporaryDirectory(prefix="beside-") as parent:
        folder = Path(parent) / "job"
        running = subprocess.Popen([*command, "--folder", str(folder)], stdout=subprocess.DEVNULL)  # noqa: S603 - our own
        try:
            until = time.monotonic() + PATIENCE
            while not _trains(folder):
                if running.poll() is not None or time.monotonic() > until:
                    raise TrainingError(f"{job}: no training began: {_state(folder).get('error') or 'see above'}")
                time.sleep(0.5)
            yield
            if running.poll() is not None:
                raise TrainingError(f"{job}: its training ended before enough was measured; ask for more epochs")
        finally:
            running.terminate()
            running.wait()


def _trains(folder: Path) -> bool:
    state = _state(folder)
    return state.get("stage") in TRAINS and state.get("done", 0) > 0


def _state(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def table(figures: dict[str, Any]) -> str:
    """The figures in Markdown."""
    lines = ["| explanations | seconds, median | lowest to highest | ratio |", "|---|---|---|---|"]
    lines += [
        f"| {case} | {row['median']:.3f} | {row['lowest']:.3f} to {row['highest']:.3f} | {row['ratio']:.2f} |"
        for case, row in figures.items()
    ]
    return "\n".join(lines)
