"""The training of `image_classifier` from files, so that torchrun can start it in several processes.

    python -m training.runs.cohort_classifier --folder F
    python -m torch.distributed.run --standalone --nproc-per-node 2 -m training.runs.cohort_classifier --folder F

`write_request` fills the folder and `launch` does the running; classifier.pt and classifier.json remain. In the
folder lie, beside what `image_classifier.train` writes there:

    request.json          the settings, the classes, whether they are exclusive, and what all processes may claim
    training.npz, validation.npz    images (uint8) and targets
    initial.safetensors   optional: weights to start from
    progress.json         how far the run is: {"done": 0.25, "epoch": 3, ...}
    cancel                its presence asks the run to stop; it then ends with status 3
    lock                  held by the process that works here; another one waits for it
"""

import argparse
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from explain_core.errors import ExplainError
from explain_core.files import write
from explain_core.geometry import AffineRange
from training.cohort import TRAIN, VALIDATION, Cohort
from training.errors import TrainingError
from training.progress import Cancelled, Progress, silent
from training.runs import image_classifier
from training.runs.image_classifier import ImageClassifierSettings
from training.runs.weights import Initial, read_weights

CANCELLED = 3
_LAUNCHER = "COHORT_CLASSIFIER_LAUNCHER"  # environment variable: the process that launched torchrun
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_LOOK = 0.5  # seconds between two looks at progress.json
_PATIENCE = 120.0  # seconds that a cancelled run has to end by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the run may claim of the machine.

    Attributes:
        nice: at least, 0 to 19.
        threads: of all processes together; 0: as PyTorch has it.
        gpu_memory_fraction: of the memory of each process's GPU, 0 to 1.
    """

    nice: int = 0
    threads: int = 0
    gpu_memory_fraction: float = 1.0


NO_LIMITS = Limits()


def write_request(
    folder: Path,
    settings: ImageClassifierSettings,
    training: Cohort,
    validation: Cohort,
    initial: Initial | None = None,
    limits: Limits = NO_LIMITS,
) -> None:
    """Write what `image_classifier.train` needs to files; request.json comes last.

    Args:
        folder: is made; an earlier request there is replaced, its checkpoint stays.
        settings: of the run.
        training: labelled images to learn from.
        validation: labelled images that choose the epoch.
        initial: weights to start from; see `weights.start_from`.
        limits: what the run may claim.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cancel").unlink(missing_ok=True)
    for name, images in (("training", training), ("validation", validation)):
        fresh = folder / f"{name}.new.npz"
        marked = [index for index, truth in enumerate(images.truths) if truth is not None]
        truths = np.array([np.packbits(truth) for truth in images.truths if truth is not None], np.uint8)
        np.savez(
            fresh,
            images=images.images.numpy(),
            targets=images.targets,
            sources=np.array(images.sources),
            marked=np.array(marked, np.int64),
            truths=truths,
        )
        fresh.replace(folder / f"{name}.npz")
    if initial is not None:
        weights = {name: value.contiguous() for name, value in read_weights(initial).items()}
        save_file(weights, folder / "initial.new")
        (folder / "initial.new").replace(folder / "initial.safetensors")
    else:
        (folder / "initial.safetensors").unlink(missing_ok=True)
    request = {
        "settings": asdict(settings),
        "classes": training.classes,
        "exclusive": training.exclusive,
        "limits": asdict(limits),
    }
    write(folder / "request.json", json.dumps(request, indent=1))


def launch(folder: Path, processes: int, progress: Progress = silent, prefix: Sequence[str] = ()) -> None:
    """Run the request in `folder` in processes of its own and wait for it, telling `progress` what it tells.

    Args:
        folder: that `write_request` filled.
        processes: how many.
        progress: told how far it is.
        prefix: a command that the run's is appended to, such as one that kills it when this process dies; torchrun's
            processes always die with torchrun.

    Raises:
        TrainingError: the run failed; the message has its last lines.
        Cancelled: `progress` said so; the run was asked to stop, and its last checkpoint stays.
    """
    command = [sys.executable, "-m", "training.runs.cohort_classifier", "--folder", str(folder)]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command[1:1] = launcher
    command[:0] = prefix
    environment = os.environ | {_LAUNCHER: str(os.getpid())}
    (folder / "cancel").unlink(missing_ok=True)
    (folder / "progress.json").unlink(missing_ok=True)
    stop = None
    with (folder / "run.log").open("w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)  # noqa: S603 - our own module
        try:
            while running.poll() is None and stop is None:
                stop = _pass_on(folder, progress)
                time.sleep(_LOOK)
            if stop is not None:
                (folder / "cancel").touch()
                with suppress(subprocess.TimeoutExpired):  # busy for longer; its last checkpoint stays
                    running.wait(_PATIENCE)
        finally:
            if running.poll() is None:
                running.terminate()
                running.wait()
    if running.returncode and stop is None:
        stop = _pass_on(folder, progress)  # a signal to the whole group ends torchrun first
    if stop is not None:
        raise stop
    if running.returncode:
        lines = (folder / "run.log").read_text().strip().splitlines()
        said = [line for line in lines if line.startswith("error: ")] or lines[-3:]
        raise TrainingError(f"{folder}: {said[-1].removeprefix('error: ') if said else 'the run failed'}")
    _pass_on(folder, progress)


def _pass_on(folder: Path, progress: Progress) -> Cancelled | None:
    """Tell `progress` what the run said last, be it nothing yet; returns its wish to stop."""
    path = folder / "progress.json"
    figures = json.loads(path.read_text()) if path.is_file() else {"done": 0.0}
    try:
        progress(figures.pop("done"), **figures)
    except Cancelled as error:
        return error
    return None


def _request(folder: Path) -> tuple[ImageClassifierSettings, tuple[str, ...], bool]:
    path = folder / "request.json"
    if not path.is_file():
        raise TrainingError(f"{folder}: no request.json; write_request makes it")
    request = json.loads(path.read_text())
    affine = AffineRange(**request["settings"].pop("affine"))
    settings = ImageClassifierSettings(**request["settings"], affine=affine)
    return settings, tuple(request["classes"]), request["exclusive"]


def _cohort(path: Path, split: str, classes: tuple[str, ...], *, exclusive: bool) -> Cohort:
    with np.load(path) as arrays:
        images, targets, sources = torch.from_numpy(arrays["images"]), arrays["targets"], arrays["sources"].tolist()
        size, count = images.shape[-1], len(images)
        truths: list[NDArray[np.bool_] | None] = [None] * count
        for place, packed in zip(arrays["marked"].tolist(), arrays["truths"], strict=True):
            truths[place] = np.unpackbits(packed, count=size * size).reshape(size, size).astype(np.bool_)
    return Cohort(
        images=images,
        targets=targets,
        truths=tuple(truths),
        boxes=np.zeros(count, np.int64),
        views=("",) * count,
        patients=("",) * count,
        splits=(split,) * count,
        classes=classes,
        exclusive=exclusive,
        sources=tuple(sources),
    )


def run(folder: Path) -> None:
    """Train what the request in `folder` asks for, in this process.

    Raises:
        TrainingError: as `image_classifier.train`, or there is no request.
        Cancelled: the file "cancel" is there.
    """
    settings, classes, exclusive = _request(folder)
    _limit(Limits(**json.loads((folder / "request.json").read_text()).get("limits", {})), settings.device)
    training = _cohort(folder / "training.npz", TRAIN, classes, exclusive=exclusive)
    validation = _cohort(folder / "validation.npz", VALIDATION, classes, exclusive=exclusive)
    initial = folder / "initial.safetensors"

    def note(done: float, **figures: float | str) -> None:
        if (folder / "cancel").exists():
            raise Cancelled(f"{folder}: cancelled")
        write(folder / "progress.json", json.dumps({"done": done} | figures), durable=False)

    start = initial if initial.is_file() else None
    image_classifier.train(settings, training, validation, folder, start, note)


def _limit(limits: Limits, device: str) -> None:
    """Keep this process within its part of the limits; torchrun gives each process the GPU of its local rank."""
    with suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) < limits.nice:
            os.setpriority(os.PRIO_PROCESS, 0, limits.nice)
    if limits.threads:
        torch.set_num_threads(max(1, limits.threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if device != "cpu" and torch.cuda.is_available():
        number = int(os.environ.get("LOCAL_RANK") or device.partition(":")[2] or 0)
        torch.cuda.set_per_process_memory_fraction(limits.gpu_memory_fraction, number)


def _die_with_torchrun() -> None:
    """Be killed with torchrun, however that dies; end where it, or the process that launched it, is gone already."""
    if "LOCAL_RANK" not in os.environ:
        return
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, int(signal.SIGKILL))
    launcher = os.environ.get(_LAUNCHER)
    with suppress(OSError):
        above = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]
        if launcher in (None, above):
            return
    raise SystemExit("error: torchrun, or what launched it, is gone")


def main() -> None:
    """Entry point: `python -m training.runs.cohort_classifier --help`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="what write_request filled")
    folder = parser.parse_args().folder
    _die_with_torchrun()
    with ExitStack() as stack:
        if os.environ.get("RANK", "0") == "0":
            lock = stack.enter_context((folder / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            run(folder)
        except Cancelled as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(CANCELLED) from error
        except ExplainError as error:
            raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
