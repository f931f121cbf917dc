"""What the stages read of what was collected: the champion and the images."""

import tomllib
from pathlib import Path
from typing import Any

from explain_core.bundles.bundle import Bundle
from explain_core.bundles.bundle import load as load_bundle
from training.cohort import Cohort
from training.retrain import parts
from training.retrain.stage import Context


def champion_folder(context: Context) -> Path:
    """The champion's bundle, as collected."""
    return context.folder.stage("collect") / "champion"


def champion(context: Context) -> Bundle:
    """The champion.

    Raises:
        BundleError: it is damaged.
    """
    return load_bundle(champion_folder(context))


def champion_table(context: Context) -> dict[str, Any]:
    """The champion's bundle.toml."""
    return tomllib.loads((champion_folder(context) / "bundle.toml").read_text())


def cohort(context: Context, *splits: str) -> Cohort:
    """The collected images of some splits."""
    return parts.load(context.folder.stage("collect"), context.folder.stage("split"), *splits)
