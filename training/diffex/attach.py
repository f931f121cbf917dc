"""Put what was found of a bundle's classifier into a copy of the bundle, which then serves the method `diffex`."""

import shutil
from pathlib import Path

from explain_core.bundles.files import ATTRIBUTES, verify, write_sums
from training import calibration
from training.errors import TrainingError

IMAGES = 64
"""Validation images that the scale of the maps is measured on: each takes a while."""


def attach(bundle: Path, found: Path, out: Path, data: str) -> str:
    """Copy the bundle, add the attributes, and measure the scale of their maps on validation patients.

    Args:
        bundle: folder of the bundle that was explained.
        found: the file of the run.
        out: folder of the new bundle, which is not there.
        data: with validation patients.

    Returns:
        the new bundle's digest.

    Raises:
        TrainingError: the folder is there already.
        BundleError: the attributes were found of another classifier; nothing is left in `out`.
    """
    if out.exists():
        raise TrainingError(f"--attach {out}: the folder is there already; name another one")
    verify(bundle)
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        shutil.copytree(bundle, aside)
        shutil.copy(found, aside / ATTRIBUTES)
        write_sums(aside)
        calibration.scale(aside, data, ["diffex"], images=IMAGES)
        digest = verify(aside)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return digest
