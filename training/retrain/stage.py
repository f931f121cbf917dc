"""What a stage of a job is, and what it is given and depends on; nothing here loads PyTorch."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explain_core.files import read_json
from explain_core.jobs import JobFolder
from training.retrain.job import Job


@dataclass
class Context:
    """What every stage is given.

    Attributes:
        job: what was asked.
        folder: of the job.
        progress: told how far the stage is; raises Cancelled.
    """

    job: Job
    folder: JobFolder
    progress: Callable[..., None]

    @property
    def forced(self) -> str:
        """Why this very verdict of the gate is passed over, "" where it is not."""
        state, gate = self.folder.told(), self.made("gate")
        meant = not gate.get("passed", True) and state.get("forced_for") == gate.get("verdict")
        return str(state.get("forced", "")) if meant else ""

    def made(self, stage: str) -> dict[str, Any]:
        """What an earlier stage says of what it made."""
        made: dict[str, Any] = read_json(self.folder.path / "stages" / stage / "done.json").get("made", {})
        return made


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a job.

    Attributes:
        name: of the step, and of its folder.
        inputs: everything that what is made depends on, as JSON.
        make: does it; returns what there is to say of the result, as JSON: later stages depend on that.
    """

    name: str
    inputs: Callable[[Context], Any]
    make: Callable[[Context], dict[str, Any]]


def inputs(context: Context, *stages: str, **own: Any) -> dict[str, Any]:
    """What a stage depends on: what earlier stages say of what they made, and its own settings."""
    plain: dict[str, Any] = json.loads(json.dumps(own, default=str))
    return {"made": {name: context.made(name) for name in stages}} | plain


def sha256(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
