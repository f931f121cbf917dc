"""Whether an object is as the standard has its IOD: as dciodvfy of dicom3tools sees it, where it is installed."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final

_SECONDS: Final = 30
_MOST_LINES: Final = 20


class Validity(StrEnum):
    """Of an object."""

    VALID = "valid"
    WRONG = "wrong"
    UNKNOWN = "not checked"


@dataclass(frozen=True, slots=True)
class Validation:
    """What the validator says of an object.

    Attributes:
        validity: whether it found an error.
        said: its errors, or why it was not asked; they may quote values of the object.
    """

    validity: Validity
    said: tuple[str, ...]


def validate(path: Path) -> Validation:
    """Ask the validator about a file; a file whose name and time are the same is asked about once.

    Args:
        path: in the DICOM File Format.
    """
    try:
        return _asked(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return Validation(Validity.UNKNOWN, ("its file is gone: retention has removed it",))


@lru_cache(maxsize=1000)
def _asked(path: Path, _written: int) -> Validation:
    program = shutil.which("dciodvfy") or shutil.which("dciodvfy", path=str(Path(sys.executable).parent))
    if program is None:
        return Validation(Validity.UNKNOWN, ("dciodvfy is not installed: apt-get install dicom3tools",))
    try:
        done = subprocess.run(  # noqa: S603 - a program of the machine, a path of our own
            [program, str(path)], capture_output=True, text=True, check=False, errors="replace", timeout=_SECONDS
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        return Validation(Validity.UNKNOWN, (f"dciodvfy did not answer ({type(error).__name__})",))
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    if not lines:  # it names at least the IOD
        return Validation(Validity.UNKNOWN, ("dciodvfy said nothing",))
    errors = tuple(line for line in lines if line.startswith("Error"))[:_MOST_LINES]
    return Validation(Validity.WRONG if errors else Validity.VALID, errors)
