"""Masks of a source's images: PNG files by the images' names in one ZIP archive."""

import io
import zipfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.datasets._tables import DatasetError

Mask = Callable[[], NDArray[np.bool_]]


def masks(archive: Path) -> dict[str, Mask]:
    """How to read each mask, on its own grid, by the image's name without its ending.

    Raises:
        DatasetError: no such archive, or it is none.
    """
    try:
        names = _opened(archive, archive.stat().st_mtime_ns).namelist()
    except FileNotFoundError as error:
        raise DatasetError(f"{archive.parent}: {archive.name} is missing") from error
    except zipfile.BadZipFile as error:
        raise DatasetError(f"{archive}: {error}") from error
    return {Path(name).stem: partial(_read, archive, name) for name in names if name.endswith(".png")}


@lru_cache(maxsize=4)
def _opened(archive: Path, changed: int) -> zipfile.ZipFile:  # noqa: ARG001 - another file is opened anew
    """Opened once: its list of ten thousand names takes longer to read than a mask."""
    return zipfile.ZipFile(archive)


def _read(archive: Path, name: str) -> NDArray[np.bool_]:
    with Image.open(io.BytesIO(_opened(archive, archive.stat().st_mtime_ns).read(name))) as image:
        return np.asarray(image.convert("L")) > 127  # noqa: PLR2004 - half of white
