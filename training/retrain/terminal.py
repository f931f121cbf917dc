"""What a job shows to the person who started it: a line of progress, and what became of it."""

import math
import sys
import time
from pathlib import Path

from explain_core.jobs import JobFolder, JobState


def summary(path: Path) -> str:
    """What became of a job, in a few lines."""
    job = JobFolder(path)
    state = job.told()
    lines = [f"{path}: {job.state}"]
    if state.get("version"):
        lines.append(f"version {state['version']} of the registry")
    if forced := state.get("verdict", {}).get("forced"):
        lines.append(f"passed by force: {forced}")
    lines += [str(state["error"])] if state.get("error") else []
    if (path / "report.html").is_file() and job.state in {JobState.DONE, JobState.REFUSED}:
        lines.append(f"report: {path / 'report.html'}")
    return "\n".join(lines)


class Line:
    """One line of progress that is written over on a terminal, and a line every few seconds elsewhere."""

    def __init__(self) -> None:
        self._terminal, self._said = sys.stderr.isatty(), -math.inf

    def __call__(self, text: str) -> None:
        """Show it."""
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text[:120]}")
            sys.stderr.flush()
        elif time.monotonic() - self._said > 5:  # noqa: PLR2004 - seconds
            self._said = time.monotonic()
            print(text, file=sys.stderr, flush=True)
